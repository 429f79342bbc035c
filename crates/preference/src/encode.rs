//! Rows of a data set in a model's tokens.

use serde_json::Value;

use crate::data::{Conversation, Row, Text};
use crate::text::{self, Encoder, Example, Ranked, TextError, Tokenizer, Trace, Trained};

/// Turns rows into tokens with a tokenizer and, where it has one, its chat template.
#[derive(Clone, Debug)]
pub struct RowEncoder<'a> {
    tokenizer: &'a Tokenizer,
    encoder: Encoder<'a>,
}

impl<'a> RowEncoder<'a> {
    /// An encoder with the tokenizer's default template.
    ///
    /// # Errors
    ///
    /// [`TextError`] for a template that is not valid.
    pub fn new(tokenizer: &'a Tokenizer) -> Result<Self, TextError> {
        let mut encoder = Encoder::new(tokenizer);
        if tokenizer.template_names().next().is_some() {
            encoder = encoder.with_template(tokenizer.chat_template(None, false)?);
        }
        Ok(Self { tokenizer, encoder })
    }

    /// Whether responses keep the white space that a template puts after their end token.
    #[must_use]
    pub fn with_trailing_text(mut self, keep: bool) -> Self {
        self.encoder = self.encoder.with_trailing_text(keep);
        self
    }

    /// The tokens that generation starts from: plain text as it is, or a conversation up to where the assistant answers.
    ///
    /// # Errors
    ///
    /// [`TextError`] from the template or the tokenizer.
    pub fn prompt(&self, prompt: &Text) -> Result<Vec<u32>, TextError> {
        match prompt {
            Text::Plain(text) => self.tokenizer.encode_prompt(text),
            Text::Messages(conversation) => {
                let messages = messages(conversation);
                self.encoder.chat_prompt(&template_input(conversation, &messages))
            }
        }
    }

    /// A prompt and its responses, each with its end token.
    ///
    /// # Errors
    ///
    /// [`TextError`] from the template or the tokenizer.
    pub fn responses(&self, prompt: &Text, responses: &[&Text]) -> Result<Ranked, TextError> {
        match prompt {
            Text::Plain(prompt) => {
                let texts = responses.iter().map(|response| match response {
                    Text::Plain(text) => text.clone(),
                    Text::Messages(conversation) => {
                        conversation.messages.iter().map(|message| message.content()).collect()
                    }
                });
                let texts: Vec<String> = texts.collect();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                self.encoder.completions(prompt, &texts)
            }
            Text::Messages(conversation) => {
                let prompt_messages = messages(conversation);
                let answers = responses.iter().map(|response| match response {
                    Text::Plain(text) => vec![serde_json::json!({ "role": "assistant", "content": text })],
                    Text::Messages(answer) => messages(answer),
                });
                let answers: Vec<Vec<Value>> = answers.collect();
                let answers: Vec<&[Value]> = answers.iter().map(Vec::as_slice).collect();
                self.encoder
                    .chats(&template_input(conversation, &prompt_messages), &answers)
            }
        }
    }

    /// What supervised fine-tuning learns of a row: of a text all, of a conversation what `trained` says, of a prompt
    /// with its completion the completion, or both under [`Trained::Everything`].
    ///
    /// # Errors
    ///
    /// [`TextError`] from the template or the tokenizer, or for a row with nothing to learn.
    pub fn example(&self, row: &Row, trained: Trained) -> Result<SftExample, TextError> {
        match row {
            Row::Text { text } => self.encoder.text(text).map(SftExample::Trace),
            Row::Conversation(conversation) => {
                let messages = messages(conversation);
                let given = template_input(conversation, &messages);
                self.encoder.messages(&given, trained).map(SftExample::Trace)
            }
            Row::Completion { prompt, completion } => {
                let ranked = self.responses(prompt, &[completion])?;
                Ok(match trained {
                    Trained::Everything => {
                        SftExample::Trace(Trace::whole([ranked.prompt, ranked.responses.concat()].concat()))
                    }
                    Trained::Assistant | Trained::LastAnswer => SftExample::Completion(ranked),
                })
            }
            other => Err(TextError::NothingToLearn {
                problem: format!("a row of the shape \"{}\" is no example to learn", other.shape()),
                remedy: "give text, messages, or prompt and completion".to_owned(),
            }),
        }
    }
}

/// A row for supervised fine-tuning in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SftExample {
    /// A prompt and the one response that is learned.
    Completion(Ranked),
    /// A sequence of which some tokens are learned.
    Trace(Trace),
}

impl SftExample {
    /// How many tokens are learned: nothing foretells the first.
    #[must_use]
    pub fn learned_tokens(&self) -> usize {
        match self {
            Self::Trace(trace) => trace.learned.iter().skip(1).filter(|learned| **learned).count(),
            Self::Completion(ranked) => {
                let tokens = ranked.responses.iter().map(Vec::len).sum::<usize>();
                tokens.saturating_sub(usize::from(ranked.prompt.is_empty()))
            }
        }
    }
}

impl From<SftExample> for Trace {
    fn from(example: SftExample) -> Self {
        match example {
            SftExample::Trace(trace) => trace,
            SftExample::Completion(mut ranked) => Self::from(Example {
                prompt: ranked.prompt,
                response: ranked.responses.pop().unwrap_or_default(),
            }),
        }
    }
}

/// The messages of a conversation as templates read them.
fn messages(conversation: &Conversation) -> Vec<Value> {
    let messages = conversation.messages.iter();
    messages.map(|message| Value::Object(message.keys().clone())).collect()
}

/// What a template is given of a conversation.
fn template_input<'a>(conversation: &'a Conversation, messages: &'a [Value]) -> text::Conversation<'a> {
    text::Conversation {
        tools: Some(&conversation.tools[..]).filter(|tools| !tools.is_empty()),
        variables: Some(&conversation.template_arguments).filter(|variables| !variables.is_empty()),
        ..text::Conversation::new(messages)
    }
}
