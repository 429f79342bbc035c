//! The implicit prompt: what a chosen and a rejected response have in common at their beginning.
//!
//! The rule is that of TRL's `extract_prompt` (`trl/data_utils.py`): up to the first difference, of messages in whole
//! messages and of text in characters; a space at the end of a text prompt goes to the responses, where most tokenizers
//! want it. If one response begins with the whole of the other, the last message or character of the shorter is no part
//! of the prompt, so no response is empty.

use super::message::{Conversation, Message, Text};

/// A prompt and the two responses to it.
pub(super) struct Split {
    pub prompt: Text,
    pub chosen: Text,
    pub rejected: Text,
}

/// Takes the implicit prompt out of two responses of the same form. `None` if they are messages that differ from the
/// first one on (two texts may: their prompt is then empty).
pub(super) fn implicit(chosen: Text, rejected: Text) -> Option<Split> {
    match (chosen, rejected) {
        (Text::Plain(chosen), Text::Plain(rejected)) => {
            let at = text_prompt(&chosen, &rejected);
            Some(Split {
                prompt: Text::Plain(chosen[..at].to_owned()),
                chosen: Text::Plain(chosen[at..].to_owned()),
                rejected: Text::Plain(rejected[at..].to_owned()),
            })
        }
        (Text::Messages(mut chosen), Text::Messages(mut rejected)) => {
            let at = message_prompt(&chosen.messages, &rejected.messages);
            if at == 0 {
                return None;
            }
            let rest = Conversation::new(chosen.messages.split_off(at));
            rejected.messages.drain(..at);
            Some(Split {
                prompt: Text::Messages(chosen),
                chosen: Text::Messages(rest),
                rejected: Text::Messages(rejected),
            })
        }
        _ => None,
    }
}

/// The length in bytes of the common prompt of two texts.
fn text_prompt(chosen: &str, rejected: &str) -> usize {
    let mut before = None;
    for ((at, ours), theirs) in chosen.char_indices().zip(rejected.chars()) {
        if ours != theirs {
            return match before {
                Some((start, ' ')) => start,
                _ => at,
            };
        }
        before = Some((at, ours));
    }
    before.map_or(0, |(at, _)| at)
}

/// The number of messages in common.
fn message_prompt(chosen: &[Message], rejected: &[Message]) -> usize {
    let least = chosen.len().min(rejected.len());
    let difference = chosen.iter().zip(rejected).position(|(ours, theirs)| ours != theirs);
    difference.unwrap_or(least.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(chosen: &str, rejected: &str) -> [String; 3] {
        let Some(Split {
            prompt: Text::Plain(prompt),
            chosen: Text::Plain(chosen),
            rejected: Text::Plain(rejected),
        }) = implicit(Text::Plain(chosen.to_owned()), Text::Plain(rejected.to_owned()))
        else {
            panic!("two texts give texts");
        };
        [prompt, chosen, rejected]
    }

    /// `from trl import extract_prompt; extract_prompt({"chosen": c, "rejected": r})` of TRL 1.16.0 gives these, but
    /// for the last two: from `a` and `b ` it takes the prompt from the end of the text (index -1), and it fails on
    /// empty text.
    #[test]
    fn text_is_split_as_trl_does() {
        for (chosen, rejected, expected) in [
            (
                "The sky is blue.",
                "The sky is green.",
                ["The sky is", " blue.", " green."],
            ),
            (
                "The sun is yellow",
                "The sun is yellowish",
                ["The sun is yello", "w", "wish"],
            ),
            ("same", "same", ["sam", "e", "e"]),
            ("déjà vu", "déjà lu", ["déjà", " vu", " lu"]),
            ("a  b", "a  c", ["a ", " b", " c"]),
            ("ab", "cd", ["", "ab", "cd"]),
            (" a", " b", ["", " a", " b"]),
            ("a ", "b ", ["", "a ", "b "]),
            ("", "x", ["", "", "x"]),
        ] {
            assert_eq!(texts(chosen, rejected), expected, "{chosen:?} {rejected:?}");
        }
    }

    #[test]
    fn messages_are_split_as_trl_does() {
        let messages = |messages| Text::Messages(Conversation::new(messages));
        let question = || Message::new("user", "Where?");
        let here = || Message::new("assistant", "Here.");
        let there = || Message::new("assistant", "There.");
        let split = |chosen: Vec<Message>, rejected: Vec<Message>| {
            implicit(messages(chosen), messages(rejected)).map(|split| (split.prompt, split.chosen, split.rejected))
        };
        assert_eq!(
            split(vec![question(), here()], vec![question(), there(), question()]),
            Some((
                messages(vec![question()]),
                messages(vec![here()]),
                messages(vec![there(), question()])
            ))
        );
        assert_eq!(
            split(vec![question(), here()], vec![question(), here()]),
            Some((
                messages(vec![question()]),
                messages(vec![here()]),
                messages(vec![here()])
            ))
        );
        assert_eq!(split(vec![here()], vec![there()]), None);
        assert_eq!(split(vec![here()], vec![here()]), None);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(chosen in "[ ab\u{e9}]{0,6}", rejected in "[ ab\u{e9}]{0,6}") {
            let [prompt, left, right] = texts(&chosen, &rejected);
            prop_assert_eq!(prompt.clone() + &left, chosen);
            prop_assert_eq!(prompt.clone() + &right, rejected);
        }
    }
}
