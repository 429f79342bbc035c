//! Texts and conversations become examples.
//!
//! TRL 1.16 (`SFTTrainer`, `DPOTrainer`) encodes the prompt alone and the prompt with its completion, and lets the
//! completion begin where the two differ. Where a token reaches across the boundary, or a template renders the prompt
//! alone differently, the end of the prompt is then missing from training (its issues #2054, #1679, #6105). Here the
//! ids agree with TRL's wherever the boundary holds, and where it does not, the prompt stays whole: see
//! [`Encoder::completion`] and [`Divergence`].

use std::borrow::Cow;
use std::ops::Range;

use serde_json::Value as Json;

use super::error::TextError;
use super::example::{Example, Ranked, Trace};
use super::template::{ChatTemplate, Conversation};
use super::tokenizer::Tokenizer;

/// What to do when a conversation does not begin with its prompt as rendered for generation.
///
/// So it is with templates whose generation prompt opens a thought (`<think>`) that a finished answer does not show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Divergence {
    /// An error.
    #[default]
    Refuse,
    /// The prompt stays as generation has it; the response is what the conversation has from the difference on.
    KeepPrompt,
    /// The prompt ends at the difference, as in TRL: training sees another context than generation.
    ShortenPrompt,
}

/// Which tokens of a conversation are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trained {
    /// All, whoever wrote them: TRL's default for `messages`.
    Everything,
    /// What the assistant wrote, in every turn: TRL's `assistant_only_loss`.
    #[default]
    Assistant,
    /// What the assistant wrote last: TRL's `prompt` and `completion`.
    LastAnswer,
}

/// Encodes examples with a tokenizer and, for conversations, a chat template.
#[derive(Clone, Debug)]
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
    divergence: Divergence,
    keeps_trailing_text: bool,
}

impl<'a> Encoder<'a> {
    /// An encoder for plain texts.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            template: None,
            divergence: Divergence::default(),
            keeps_trailing_text: false,
        }
    }

    /// With a template for conversations.
    #[must_use]
    pub fn with_template(mut self, template: ChatTemplate) -> Self {
        self.template = Some(template);
        self
    }

    /// With a choice for templates that render a prompt differently once it is answered.
    #[must_use]
    pub fn with_divergence(mut self, divergence: Divergence) -> Self {
        self.divergence = divergence;
        self
    }

    /// Whether a response keeps the white space that a template puts after its end token (ChatML's line break), as TRL
    /// does. Otherwise a response ends in its end token, as generated ones do.
    #[must_use]
    pub fn with_trailing_text(mut self, keep: bool) -> Self {
        self.keeps_trailing_text = keep;
        self
    }

    /// A plain text for language modelling, with the tokens that are added before a text and an end token at its end.
    ///
    /// # Errors
    /// [`TextError`] from the tokenizer, or if there is no end token.
    pub fn text(&self, text: &str) -> Result<Trace, TextError> {
        let mut ids = self.tokenizer.encode_prompt(text)?;
        self.end(&mut ids)?;
        Ok(Trace::whole(ids))
    }

    /// A prompt and its completion, as texts that follow each other directly.
    ///
    /// The prompt is encoded by itself. The completion's ids are what follows when both are encoded as one text, if
    /// that leaves the prompt's ids as they are, or else those of the completion encoded by itself. An end token is
    /// appended where the completion has none.
    ///
    /// # Errors
    /// As [`Encoder::text`].
    pub fn completion(&self, prompt: &str, completion: &str) -> Result<Example, TextError> {
        self.completions(prompt, &[completion]).and_then(only)
    }

    /// A prompt and several completions of it.
    ///
    /// # Errors
    /// As [`Encoder::text`].
    pub fn completions(&self, prompt: &str, completions: &[&str]) -> Result<Ranked, TextError> {
        let own = self.tokenizer.encode(prompt, false)?;
        let mut responses = Vec::with_capacity(completions.len());
        for completion in completions {
            let mut response = self.tokenizer.follow(prompt, &own, completion)?;
            self.end(&mut response)?;
            responses.push(response);
        }
        Ok(Ranked {
            prompt: self.tokenizer.encode_prompt(prompt)?,
            responses,
        })
    }

    /// The ids that generation starts from: the conversation rendered up to where the assistant answers.
    ///
    /// # Errors
    /// [`TextError`] from the template or the tokenizer.
    pub fn chat_prompt(&self, conversation: &Conversation) -> Result<Vec<u32>, TextError> {
        let text = self.render(conversation, true)?;
        self.tokenizer.encode(&text, false)
    }

    /// A conversation and the messages that answer it.
    ///
    /// # Errors
    /// [`TextError::Diverged`] if the whole conversation does not begin with the prompt as rendered for generation
    /// (unless another [`Divergence`] was chosen); others from the template and the tokenizer.
    pub fn chat(&self, prompt: &Conversation, response: &[Json]) -> Result<Example, TextError> {
        self.chats(prompt, &[response]).and_then(only)
    }

    /// A conversation and several answers to it.
    ///
    /// # Errors
    /// As [`Encoder::chat`].
    pub fn chats(&self, prompt: &Conversation, responses: &[&[Json]]) -> Result<Ranked, TextError> {
        let prompt_text = self.render(prompt, true)?;
        let mut kept = prompt_text.as_str();
        let mut texts = Vec::with_capacity(responses.len());
        for response in responses {
            let messages = [prompt.messages, response].concat();
            let whole = Conversation {
                messages: &messages,
                ..*prompt
            };
            let text = self.render(&whole, false)?;
            let same = common_prefix(&prompt_text, &text);
            if same < prompt_text.len() {
                self.check_divergence(prompt, &prompt_text, &text, same)?;
            }
            if same < kept.len() && self.divergence == Divergence::ShortenPrompt {
                kept = prompt_text.get(..same).unwrap_or_default();
            }
            texts.push((text, same));
        }
        let prompt_ids = self.tokenizer.encode(kept, false)?;
        let mut encoded = Vec::with_capacity(texts.len());
        for (text, same) in &texts {
            let from = match self.divergence {
                Divergence::ShortenPrompt => kept.len(),
                Divergence::KeepPrompt | Divergence::Refuse => *same,
            };
            let mut response = self
                .tokenizer
                .follow(kept, &prompt_ids, text.get(from..).unwrap_or_default())?;
            self.end_turn(&mut response)?;
            encoded.push(response);
        }
        Ok(Ranked {
            prompt: prompt_ids,
            responses: encoded,
        })
    }

    /// A whole conversation.
    ///
    /// What the assistant wrote is told by the template's `{% generation %}` blocks or, where it has none, by rendering
    /// the conversation up to each answer and with it. If the assistant has the last word, an end token is there at the
    /// end of what is learned, appended if the template wrote none.
    ///
    /// # Errors
    /// [`TextError::NothingToLearn`] if the assistant wrote nothing; [`TextError::Diverged`] if the assistant's part
    /// cannot be told; others from the template and the tokenizer.
    pub fn messages(&self, conversation: &Conversation, trained: Trained) -> Result<Trace, TextError> {
        match trained {
            Trained::Everything => {
                let text = self.render(conversation, false)?;
                Ok(Trace::whole(self.tokenizer.encode(&text, false)?))
            }
            Trained::LastAnswer => match conversation.messages.split_last() {
                Some((last, before)) if is_assistant(last) && !before.is_empty() => {
                    let prompt = Conversation {
                        messages: before,
                        ..*conversation
                    };
                    self.chat(&prompt, std::slice::from_ref(last)).map(Trace::from)
                }
                _ => Err(TextError::NothingToLearn {
                    problem: "the conversation does not end in an answer of the assistant".to_owned(),
                    remedy: "leave out the messages after it, or train on every assistant turn".to_owned(),
                }),
            },
            Trained::Assistant => self.assistant_turns(conversation),
        }
    }

    fn assistant_turns(&self, conversation: &Conversation) -> Result<Trace, TextError> {
        let template = self.template()?;
        let variables = self.tokenizer.template_variables();
        let (text, written) = if template.has_generation_blocks() {
            let whole = Conversation {
                add_generation_prompt: false,
                ..*conversation
            };
            let rendered = template.render_with_spans(&whole, &variables)?;
            (rendered.text, rendered.generated)
        } else {
            let text = self.render(conversation, false)?;
            let written = self.turns(conversation, &text)?;
            (text, written)
        };
        if written.is_empty() {
            return Err(TextError::NothingToLearn {
                problem: "the assistant wrote nothing in a conversation".to_owned(),
                remedy: "leave such conversations out, or train on everything".to_owned(),
            });
        }
        let cuts: Vec<usize> = written.iter().map(|range| range.start).collect();
        let tokens = self.tokenizer.encode_at_cuts(&text, &cuts)?;
        let mut ranges = written.iter().peekable();
        let mut trace = Trace::default();
        for (id, start, end) in tokens {
            while ranges.next_if(|range| range.end <= start).is_some() {}
            // A token without extent belongs to what surrounds it.
            let learned = ranges.peek().is_some_and(|range| {
                start < range.end && end > range.start || (start == end && range.contains(&start))
            });
            trace.ids.push(id);
            trace.learned.push(learned);
        }
        if !template.has_generation_blocks() {
            self.forget_trailing_text(&mut trace)?;
        }
        if conversation.messages.last().is_some_and(is_assistant) {
            let learned: Vec<u32> = trace
                .ids
                .iter()
                .zip(&trace.learned)
                .filter(|(_, l)| **l)
                .map(|(id, _)| *id)
                .collect();
            if !self.has_ended(&learned)? {
                trace.ids.push(self.tokenizer.end_id()?);
                trace.learned.push(true);
            }
        }
        Ok(trace)
    }

    /// Where the assistant's turns are in a conversation's text: what rendering each adds to the prompt before it.
    fn turns(&self, conversation: &Conversation, text: &str) -> Result<Vec<Range<usize>>, TextError> {
        let mut turns: Vec<Range<usize>> = Vec::new();
        for (at, message) in conversation.messages.iter().enumerate() {
            if !is_assistant(message) || at == 0 {
                continue;
            }
            let up_to = |end: usize, add_generation_prompt| {
                let part = Conversation {
                    messages: conversation.messages.get(..end).unwrap_or_default(),
                    ..*conversation
                };
                let text_of_part = self.render(&part, add_generation_prompt)?;
                let same = common_prefix(&text_of_part, text);
                if same < text_of_part.len() {
                    let remedy = "or learn the last answer alone";
                    return Err(self.diverged(&text_of_part, text, same, remedy));
                }
                Ok(same)
            };
            // An assistant turn after another (a tool call without result) may be part of the same rendered turn.
            let start = up_to(at, true)?;
            let end = if at + 1 == conversation.messages.len() {
                text.len()
            } else {
                up_to(at + 1, false)?
            };
            if start < end {
                turns.push(start..end);
            }
        }
        Ok(turns)
    }

    /// White space that the template wrote after an end token is not the assistant's.
    fn forget_trailing_text(&self, trace: &mut Trace) -> Result<(), TextError> {
        if self.keeps_trailing_text {
            return Ok(());
        }
        let ends = self.tokenizer.end_ids();
        let mut after_end = false;
        for (id, learned) in trace.ids.iter().zip(&mut trace.learned) {
            if !*learned {
                after_end = false;
            } else if ends.contains(id) {
                after_end = true;
            } else if after_end {
                after_end = self.is_space(&[*id])?;
                *learned = !after_end;
            }
        }
        Ok(())
    }

    /// Puts an end token at the end of a text that has none.
    fn end(&self, ids: &mut Vec<u32>) -> Result<(), TextError> {
        let ends = self.tokenizer.end_ids();
        while let [.., before, last] = ids.as_slice()
            && before == last
            && ends.contains(last)
        {
            ids.pop();
        }
        if !ids.last().is_some_and(|last| ends.contains(last)) {
            ids.push(self.tokenizer.end_id()?);
        }
        Ok(())
    }

    /// Puts an end token at the end of a rendered turn that has none, and takes off white space after one.
    fn end_turn(&self, ids: &mut Vec<u32>) -> Result<(), TextError> {
        if !self.has_ended(ids)? {
            return self.end(ids);
        }
        let ends = self.tokenizer.end_ids();
        if !self.keeps_trailing_text
            && let Some(last) = ids.iter().rposition(|id| ends.contains(id))
        {
            ids.truncate(last + 1);
        }
        Ok(())
    }

    /// Whether the ids end in an end token, but for white space after it.
    fn has_ended(&self, ids: &[u32]) -> Result<bool, TextError> {
        let ends = self.tokenizer.end_ids();
        match ids.iter().rposition(|id| ends.contains(id)) {
            Some(at) => self.is_space(ids.get(at + 1..).unwrap_or_default()),
            None => Ok(false),
        }
    }

    fn is_space(&self, ids: &[u32]) -> Result<bool, TextError> {
        let text = self.tokenizer.decode(ids, true)?;
        Ok(text.chars().all(char::is_whitespace))
    }

    fn template(&self) -> Result<Cow<'_, ChatTemplate>, TextError> {
        match &self.template {
            Some(template) => Ok(Cow::Borrowed(template)),
            None => self.tokenizer.chat_template(None, false).map(Cow::Owned),
        }
    }

    fn render(&self, conversation: &Conversation, add_generation_prompt: bool) -> Result<String, TextError> {
        let conversation = Conversation {
            add_generation_prompt,
            ..*conversation
        };
        self.template()?
            .render(&conversation, &self.tokenizer.template_variables())
    }

    /// An error unless the difference lies in what the generation prompt added and the caller chose what to do.
    fn check_divergence(
        &self,
        prompt: &Conversation,
        prompt_text: &str,
        text: &str,
        same: usize,
    ) -> Result<(), TextError> {
        // A difference further up (a thought left out of an earlier turn) would put the user's words into the answer.
        let plain = self.render(prompt, false)?;
        let within = prompt_text.starts_with(&plain) && same >= plain.len();
        match (self.divergence, within) {
            (Divergence::KeepPrompt | Divergence::ShortenPrompt, true) => Ok(()),
            (Divergence::Refuse, true) => Err(self.diverged(
                prompt_text,
                text,
                same,
                "or choose what to do: keep the prompt as it is, or shorten it as TRL does",
            )),
            (_, false) => Err(self.diverged(prompt_text, text, same, "or leave the example out")),
        }
    }

    fn diverged(&self, prompt: &str, conversation: &str, same: usize, remedy: &'static str) -> TextError {
        let shorten = |text: &str| text.get(same..).unwrap_or_default().chars().take(40).collect();
        TextError::Diverged {
            origin: self
                .template()
                .map_or_else(|_| String::new(), |template| template.origin().to_owned()),
            prompt: shorten(prompt),
            conversation: shorten(conversation),
            remedy,
        }
    }
}

fn is_assistant(message: &Json) -> bool {
    // Gemma's own name for the role is `model`.
    matches!(message.get("role").and_then(Json::as_str), Some("assistant" | "model"))
}

/// Bytes that two texts have in common at their start, ending between characters.
fn common_prefix(a: &str, b: &str) -> usize {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    same.map(|(character, _)| character.len_utf8()).sum()
}

/// The one response of a prompt.
fn only(ranked: Ranked) -> Result<Example, TextError> {
    let response = ranked.responses.into_iter().next();
    let response = response.ok_or_else(|| TextError::NothingToLearn {
        problem: "no response".to_owned(),
        remedy: "give at least one".to_owned(),
    })?;
    Ok(Example {
        prompt: ranked.prompt,
        response,
    })
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
