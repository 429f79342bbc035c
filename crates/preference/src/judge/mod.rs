//! What gives a response its reward: a reward model, a lexicon of words, or a program.

mod lexicon;
mod program;

use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use nn::decoder::Decoder;

use crate::data::Text;
use crate::encode::RowEncoder;
use crate::model::LanguageModel;
use crate::reward::scores_of;
use crate::text::{Ranked, TextError, Tokenizer};

pub use lexicon::Lexicon;
pub use program::Program;

/// A prompt with responses to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// The prompt as the data have it.
    pub prompt: &'a Text,
    /// Prompt and responses in the tokens of the model that wrote them.
    pub tokens: &'a Ranked,
    /// The responses as texts, without special tokens.
    pub texts: &'a [String],
}

/// Gives responses their rewards.
#[derive(Debug)]
pub enum Judge {
    /// A reward model.
    Model(Box<RewardModel>),
    /// The valences of words.
    Lexicon(Lexicon),
    /// Any program.
    Program(Program),
    /// A function, of whoever uses this as a library.
    Function(Function),
}

/// A function from a prompt and a response to a reward.
pub struct Function(Box<Reward>);

type Reward = dyn Fn(&Text, &str) -> f64 + Send;

impl Function {
    /// Of this function, which gives finite numbers.
    pub fn new(reward: impl Fn(&Text, &str) -> f64 + Send + 'static) -> Self {
        Self(Box::new(reward))
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Function")
    }
}

/// A reward model with what it reads.
#[derive(Debug)]
pub struct RewardModel {
    model: LanguageModel,
    /// Whether its tokens are those of the model that writes, once that was asked.
    same_tokens: OnceLock<bool>,
}

/// A response has no reward.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The lexicon cannot be read.
    #[error("{}: {problem}", path.display())]
    Lexicon {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// A model without rewards.
    #[error("{model} gives no rewards; give a reward model, which posterior reward makes")]
    NoRewardModel {
        /// The model.
        model: String,
    },
    /// The reward model cannot read a response.
    #[error("the reward model cannot read a response: {0}")]
    Text(#[from] TextError),
    /// The reward model has fewer positions than a response needs.
    #[error(
        "prompt and response have {length} tokens for the reward model, which has {positions} positions; shorten them"
    )]
    TooLong {
        /// Tokens.
        length: usize,
        /// Positions.
        positions: usize,
    },
    /// The reward is infinite or not a number.
    #[error("the reward model gives {reward} for a response; its weights are damaged")]
    NotFinite {
        /// The reward.
        reward: f64,
    },
    /// The program cannot be started.
    #[error("the reward program `{command}` cannot be started: {cause}; it is given to sh -c")]
    Start {
        /// The command.
        command: String,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// The program ended, or closed its output.
    #[error(
        "the reward program `{command}` {how} before it gave a reward to every response; it reads a line and writes a number, \
         until its input ends{said}"
    )]
    Ended {
        /// The command.
        command: String,
        /// How it ended.
        how: String,
        /// What it wrote to standard error at last.
        said: String,
    },
    /// The program takes too long.
    #[error(
        "the reward program `{command}` gave no reward within {} s; does it flush its output after each line? If it needs \
         longer, raise reward-timeout{said}", timeout.as_secs_f64()
    )]
    TimeOut {
        /// The command.
        command: String,
        /// How long was waited.
        timeout: Duration,
        /// What it wrote to standard error at last.
        said: String,
    },
    /// The program wrote something else.
    #[error("the reward program `{command}` wrote {line:?}, which is no finite number{said}")]
    Rubbish {
        /// The command.
        command: String,
        /// Its line.
        line: String,
        /// What it wrote to standard error at last.
        said: String,
    },
}

impl RewardModel {
    /// A model that judges.
    ///
    /// # Errors
    ///
    /// [`JudgeError::NoRewardModel`] for one that writes.
    pub fn new(model: LanguageModel) -> Result<Self, JudgeError> {
        if !model.decoder.config().scores {
            return Err(JudgeError::NoRewardModel {
                model: model.path.display().to_string(),
            });
        }
        Ok(Self {
            model,
            same_tokens: OnceLock::new(),
        })
    }

    fn rewards(&self, judged: &[Judged<'_>], tokenizer: &Tokenizer) -> Result<Vec<Vec<f64>>, JudgeError> {
        let same_tokens = *self
            .same_tokens
            .get_or_init(|| self.model.tokenizer.has_tokens_of(tokenizer));
        let encoder = RowEncoder::new(&self.model.tokenizer)?;
        let decoder: &Decoder = &self.model.decoder;
        let positions = decoder.config().learned_positions();
        let mut all = Vec::with_capacity(judged.len());
        for judged in judged {
            let own;
            let ranked = if same_tokens {
                judged.tokens
            } else {
                let texts: Vec<Text> = judged.texts.iter().map(|text| Text::Plain(text.clone())).collect();
                let mut encoded = encoder.responses(judged.prompt, &texts.iter().collect::<Vec<_>>())?;
                // What did not come to its end is read as it stands, as it is in the writer's own tokens.
                for (written, read) in judged.tokens.responses.iter().zip(&mut encoded.responses) {
                    if !written.last().is_some_and(|last| tokenizer.end_ids().contains(last)) && read.len() > 1 {
                        read.pop();
                    }
                }
                own = encoded;
                &own
            };
            let length = ranked.prompt.len() + ranked.responses.iter().map(Vec::len).max().unwrap_or(0);
            if let Some(positions) = positions.filter(|positions| length > *positions) {
                return Err(JudgeError::TooLong { length, positions });
            }
            let scores = scores_of(decoder, [ranked]).into_iter();
            let rewards: Vec<f64> = scores.map(|score| self.model.reward.reward(score)).collect();
            if let Some(&reward) = rewards.iter().find(|reward| !reward.is_finite()) {
                return Err(JudgeError::NotFinite { reward });
            }
            all.push(rewards);
        }
        Ok(all)
    }
}

impl Judge {
    /// The reward of each response to each prompt; `tokenizer` is that of the model that wrote them.
    ///
    /// # Errors
    ///
    /// [`JudgeError`] for the first response that has none.
    pub fn rewards(&mut self, judged: &[Judged<'_>], tokenizer: &Tokenizer) -> Result<Vec<Vec<f64>>, JudgeError> {
        match self {
            Self::Model(model) => model.rewards(judged, tokenizer),
            Self::Lexicon(lexicon) => {
                let rewards = |judged: &Judged<'_>| judged.texts.iter().map(|text| lexicon.reward(text)).collect();
                Ok(judged.iter().map(rewards).collect())
            }
            Self::Program(program) => program.rewards(judged),
            Self::Function(Function(reward)) => {
                let rewards =
                    |judged: &Judged<'_>| judged.texts.iter().map(|text| reward(judged.prompt, text)).collect();
                Ok(judged.iter().map(rewards).collect())
            }
        }
    }
}
