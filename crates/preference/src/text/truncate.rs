//! Examples that are too long, made shorter or left out, and never silently: every function says what it did.

use super::error::TextError;
use super::example::{Ranked, Trace};

/// What is kept of an example that is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// All or nothing: the example is left out.
    Whole,
    /// The responses: the prompt loses its oldest tokens (but not a leading token that begins texts), and if a response
    /// has no room even so, the example is left out. No response is ever cut, so each ends as its author meant.
    #[default]
    Responses,
    /// The start, as TRL's `keep_start`: responses lose their last tokens, the end token first. If the prompt leaves no
    /// room, the example is left out.
    Start,
    /// The start, with the end token put at the end of a response that was cut, so that responses still end.
    StartAndEnd,
}

/// What was done to an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it was.
    Whole,
    /// It lost tokens.
    Cut {
        /// Tokens that the prompt lost.
        prompt: usize,
        /// Tokens that the responses lost, all together.
        response: usize,
    },
    /// It cannot be used: it is too long in a way that `keep` does not mend, or has nothing left to learn. It was not
    /// changed.
    LeftOut,
}

/// Makes a prompt with its responses fit into `length` tokens, prompt and each response together.
///
/// `begin` is the token that begins texts, if there is one: a prompt that starts with it keeps it. All responses keep
/// the same prompt. An [`Example`](super::Example) is treated as one with a single response.
///
/// # Errors
/// [`TextError::Length`] if `length` has no room for a prompt token and a response token.
pub fn truncate_example(
    example: &mut Ranked,
    length: usize,
    keep: Keep,
    begin: Option<u32>,
) -> Result<Outcome, TextError> {
    if length < 2 {
        return Err(TextError::Length {
            length,
            needed: "a token of the prompt and one of the response",
        });
    }
    let longest = example.responses.iter().map(Vec::len).max().unwrap_or(0);
    if example.responses.iter().any(Vec::is_empty) || longest == 0 {
        return Ok(Outcome::LeftOut);
    }
    let excess = (example.prompt.len() + longest).saturating_sub(length);
    if excess == 0 {
        return Ok(Outcome::Whole);
    }
    match keep {
        Keep::Whole => Ok(Outcome::LeftOut),
        Keep::Responses => {
            let begins = usize::from(begin.is_some() && example.prompt.first().copied() == begin);
            // What begins the text is no context by itself: one more token must stay.
            if example.prompt.len() < excess + begins + 1 {
                return Ok(Outcome::LeftOut);
            }
            example.prompt.drain(begins..begins + excess);
            Ok(Outcome::Cut {
                prompt: excess,
                response: 0,
            })
        }
        Keep::Start | Keep::StartAndEnd => {
            let room = length.saturating_sub(example.prompt.len());
            let least = if keep == Keep::StartAndEnd { 2 } else { 1 };
            if room < least {
                return Ok(Outcome::LeftOut);
            }
            let mut lost = 0;
            for response in &mut example.responses {
                if response.len() <= room {
                    continue;
                }
                lost += response.len() - room;
                let end = response.last().copied();
                response.truncate(room);
                if let (Keep::StartAndEnd, Some(end), Some(last)) = (keep, end, response.last_mut()) {
                    *last = end;
                }
            }
            Ok(Outcome::Cut {
                prompt: 0,
                response: lost,
            })
        }
    }
}

/// Makes a sequence fit into `length` tokens: all or nothing under [`Keep::Whole`], otherwise it loses its last tokens,
/// counted as the response's where they were learned and as the prompt's where not. [`Keep::StartAndEnd`] puts the
/// last token in the place of the last one kept, learned or not as it was.
///
/// # Errors
/// [`TextError::Length`] if `length` is 0.
pub fn truncate_trace(trace: &mut Trace, length: usize, keep: Keep) -> Result<Outcome, TextError> {
    if length == 0 {
        return Err(TextError::Length {
            length,
            needed: "a token",
        });
    }
    // The first token is predicted from nothing: it is not learned by any model.
    let learns = |learned: &[bool]| learned.iter().skip(1).any(|learned| *learned);
    if !learns(&trace.learned) {
        return Ok(Outcome::LeftOut);
    }
    if trace.ids.len() <= length {
        return Ok(Outcome::Whole);
    }
    let stays = trace.learned.get(..length).is_some_and(learns);
    if keep == Keep::Whole || !stays {
        return Ok(Outcome::LeftOut);
    }
    let end = trace.ids.last().copied().zip(trace.learned.last().copied());
    let lost = trace.learned.split_off(length);
    trace.ids.truncate(length);
    if let (Keep::StartAndEnd, Some((id, learned))) = (keep, end)
        && let (Some(last_id), Some(last)) = (trace.ids.last_mut(), trace.learned.last_mut())
    {
        (*last_id, *last) = (id, learned);
    }
    let response = lost.iter().filter(|learned| **learned).count();
    Ok(Outcome::Cut {
        prompt: lost.len() - response,
        response,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Ranked {
        Ranked {
            prompt: vec![1, 10, 11, 12],
            responses: vec![vec![20, 21, 2], vec![30, 2]],
        }
    }

    fn cut(length: usize, keep: Keep) -> (Outcome, Ranked) {
        let mut example = example();
        let outcome = truncate_example(&mut example, length, keep, Some(1)).unwrap();
        (outcome, example)
    }

    #[test]
    fn each_way_of_cutting_says_what_it_did() {
        for keep in [Keep::Whole, Keep::Responses, Keep::Start, Keep::StartAndEnd] {
            assert_eq!(cut(7, keep), (Outcome::Whole, example()));
        }
        assert_eq!(cut(6, Keep::Whole), (Outcome::LeftOut, example()));
        let (outcome, got) = cut(5, Keep::Responses);
        assert_eq!(
            (outcome, got.prompt),
            (Outcome::Cut { prompt: 2, response: 0 }, vec![1, 12])
        );
        assert_eq!(got.responses, example().responses);
        assert_eq!(cut(4, Keep::Responses), (Outcome::LeftOut, example()));
        let (outcome, got) = cut(5, Keep::Start);
        assert_eq!(outcome, Outcome::Cut { prompt: 0, response: 3 });
        assert_eq!(
            (got.prompt, got.responses),
            (vec![1, 10, 11, 12], vec![vec![20], vec![30]])
        );
        let (outcome, got) = cut(6, Keep::StartAndEnd);
        assert_eq!(outcome, Outcome::Cut { prompt: 0, response: 1 });
        assert_eq!(got.responses, [vec![20, 2], vec![30, 2]]);
        assert_eq!(cut(4, Keep::Start), (Outcome::LeftOut, example()));
        assert_eq!(cut(5, Keep::StartAndEnd), (Outcome::LeftOut, example()));
        let mut empty = Ranked::default();
        assert_eq!(
            truncate_example(&mut empty, 9, Keep::Start, None).unwrap(),
            Outcome::LeftOut
        );
        assert!(truncate_example(&mut empty, 1, Keep::Start, None).is_err());
    }

    #[test]
    fn sequences_are_cut_at_the_end() {
        let trace = || Trace {
            ids: vec![1, 5, 6, 7, 2],
            learned: vec![false, false, true, false, true],
        };
        let cut = |length, keep| {
            let mut cut = trace();
            (truncate_trace(&mut cut, length, keep).unwrap(), cut)
        };
        assert_eq!(cut(5, Keep::Whole), (Outcome::Whole, trace()));
        assert_eq!(cut(4, Keep::Whole), (Outcome::LeftOut, trace()));
        assert_eq!(cut(2, Keep::Start), (Outcome::LeftOut, trace()));
        let (outcome, got) = cut(3, Keep::Start);
        assert_eq!(
            (outcome, got.ids),
            (Outcome::Cut { prompt: 1, response: 1 }, vec![1, 5, 6])
        );
        let (_, got) = cut(3, Keep::StartAndEnd);
        assert_eq!((got.ids, got.learned), (vec![1, 5, 2], vec![false, false, true]));
        let mut nothing = Trace {
            ids: vec![1, 2],
            learned: vec![true, false],
        };
        assert_eq!(truncate_trace(&mut nothing, 9, Keep::Start).unwrap(), Outcome::LeftOut);
        assert!(truncate_trace(&mut nothing, 0, Keep::Start).is_err());
    }

    proptest! {
        #[test]
        fn what_is_kept_fits_and_what_is_lost_is_counted(
            prompt in proptest::collection::vec(0u32..5, 0..9),
            responses in proptest::collection::vec(proptest::collection::vec(0u32..5, 0..9), 0..4),
            length in 2usize..20,
            keep in prop_oneof![Just(Keep::Whole), Just(Keep::Responses), Just(Keep::Start), Just(Keep::StartAndEnd)],
        ) {
            let before = Ranked { prompt, responses };
            let mut after = before.clone();
            let tokens = |example: &Ranked| example.responses.iter().map(Vec::len).sum::<usize>();
            match truncate_example(&mut after, length, keep, Some(0)).unwrap() {
                Outcome::Whole | Outcome::LeftOut => prop_assert_eq!(&after, &before),
                Outcome::Cut { prompt, response } => {
                    prop_assert_eq!(after.prompt.len() + prompt, before.prompt.len());
                    prop_assert_eq!(tokens(&after) + response, tokens(&before));
                    prop_assert!(prompt + response > 0);
                    prop_assert!(after.responses.iter().all(|r| !r.is_empty() && after.prompt.len() + r.len() <= length));
                }
            }
        }
    }
}
