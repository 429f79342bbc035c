//! A prompt and what the policy made of it.

use serde::Serialize;

use crate::data::{Row, Text};
use crate::encode::RowEncoder;
use crate::text::{Ranked, TextError};
use crate::tuning::examples::{LeftOut, Made, Room, Sample};

/// A prompt, and once the policy answered it, the answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Episode {
    /// The prompt as the data have it.
    pub prompt: Text,
    /// Prompt and answers in tokens.
    #[serde(skip)]
    pub tokens: Ranked,
    /// What is known of each answer.
    pub answers: Vec<Answer>,
}

/// An answer, token by token.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Whether it came to its end.
    pub ended: bool,
    /// The log-probability of each token under the policy that wrote it,
    pub log_probs: Vec<f64>,
    /// and under the reference.
    pub reference: Vec<f64>,
    /// What was expected to come, before each token.
    pub values: Vec<f64>,
    /// What it is worth, without the price of divergence.
    pub score: f64,
    /// How much better each token was than expected.
    pub advantages: Vec<f64>,
    /// What the values should have been.
    pub returns: Vec<f64>,
}

impl Answer {
    /// The sum of log-ratios: the answer's estimate of the divergence from the reference, in nats.
    #[must_use]
    pub fn divergence(&self) -> f64 {
        let pairs = self.log_probs.iter().zip(&self.reference);
        pairs.map(|(policy, reference)| policy - reference).sum()
    }
}

impl Episode {
    /// The prompt of a row.
    ///
    /// # Errors
    ///
    /// [`TextError`] from the template or the tokenizer, or for a row without a prompt.
    pub fn of(encoder: &RowEncoder<'_>, row: &Row, room: Room, answer: usize) -> Result<Made<Self>, TextError> {
        let Some(prompt) = row.prompt() else {
            return Err(TextError::NothingToLearn {
                problem: format!("a row of the shape \"{}\" has no prompt", row.shape()),
                remedy: "give prompt".to_owned(),
            });
        };
        let ids = encoder.prompt(prompt)?;
        if ids.is_empty() {
            return Ok(Made::LeftOut(LeftOut::NothingToLearn));
        }
        if ids.len() + answer > room.length {
            return Ok(Made::LeftOut(LeftOut::TooLong));
        }
        let episode = Self {
            prompt: prompt.clone(),
            tokens: Ranked {
                prompt: ids,
                responses: Vec::new(),
            },
            answers: Vec::new(),
        };
        Ok(Made::Example(episode, crate::text::Outcome::Whole))
    }
}

impl Sample for Episode {
    fn tokens(&self) -> usize {
        self.tokens.prompt.len() + self.learned()
    }

    fn learned(&self) -> usize {
        self.tokens.responses.iter().map(Vec::len).sum()
    }

    fn ids(&self) -> impl Iterator<Item = u32> {
        let responses = self.tokens.responses.iter().flatten();
        self.tokens.prompt.iter().chain(responses).copied()
    }
}
