//! One row of a data set.

use serde::Serialize;

use super::message::{Conversation, Text};

/// What the data are wanted for. A row may have the keys of several shapes; those of the wanted kind count, the others
/// are kept aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Supervised fine-tuning: `text`, `messages`, or `prompt` with `completion`.
    LanguageModelling,
    /// DPO and reward models: `chosen` and `rejected`, or `completions` with ranks.
    Preference,
    /// Generation and PPO: `prompt`, or what a pair has in common.
    Prompts,
    /// Scoring of given responses: `responses`, pairs, rankings, one `completion`, or the last answer of `messages`.
    Score,
    /// Whatever is there, for a look at a file.
    Any,
}

/// One row of a data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "shape", rename_all = "snake_case")]
pub enum Row {
    /// Plain text to be modelled.
    Text {
        /// The text, not empty.
        text: String,
    },
    /// A conversation to be modelled.
    Conversation(Conversation),
    /// A prompt and the one completion to learn.
    Completion {
        /// What comes before.
        prompt: Text,
        /// What is learned; as `prompt` is, text or messages. Empty text means to say nothing.
        completion: Text,
    },
    /// Two responses, one preferred.
    Pair {
        /// What both respond to. Empty text if the responses have nothing in common and no prompt is given.
        prompt: Text,
        /// The better response, in the form of the prompt.
        chosen: Text,
        /// The worse response, in the form of the prompt.
        rejected: Text,
        /// By how much the reward should differ, if given (finite).
        #[serde(skip_serializing_if = "Option::is_none")]
        margin: Option<f64>,
    },
    /// Two or more ranked responses, not all of the same rank.
    Ranking {
        /// What all respond to.
        prompt: Text,
        /// The responses in the order of the file.
        responses: Vec<Ranked>,
    },
    /// A prompt to be continued, not empty.
    Prompt {
        /// The prompt.
        prompt: Text,
    },
    /// A prompt and responses without an order, at least one.
    Responses {
        /// What all respond to.
        prompt: Text,
        /// The responses in the order of the file, in the form of the prompt.
        responses: Vec<Text>,
    },
}

/// A response with its rank.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranked {
    /// Lower is better, equal is a tie. Finite.
    pub rank: f64,
    /// The response, in the form of the prompt.
    pub completion: Text,
}

impl Row {
    /// The name of its shape, as the errors and [`super::Summary`] have it.
    #[must_use]
    pub fn shape(&self) -> &'static str {
        match self {
            Self::Text { .. } => "text",
            Self::Conversation(_) => "messages",
            Self::Completion { .. } => "prompt and completion",
            Self::Pair { .. } => "pair",
            Self::Ranking { .. } => "ranking",
            Self::Prompt { .. } => "prompt",
            Self::Responses { .. } => "prompt and responses",
        }
    }

    /// The prompt, of the shapes that have one.
    #[must_use]
    pub fn prompt(&self) -> Option<&Text> {
        match self {
            Self::Text { .. } | Self::Conversation(_) => None,
            Self::Completion { prompt, .. }
            | Self::Pair { prompt, .. }
            | Self::Ranking { prompt, .. }
            | Self::Prompt { prompt }
            | Self::Responses { prompt, .. } => Some(prompt),
        }
    }

    /// The responses in the order of the file; of a pair the chosen one first.
    #[must_use]
    pub fn responses(&self) -> Vec<&Text> {
        match self {
            Self::Text { .. } | Self::Conversation(_) | Self::Prompt { .. } => Vec::new(),
            Self::Completion { completion, .. } => vec![completion],
            Self::Pair { chosen, rejected, .. } => vec![chosen, rejected],
            Self::Ranking { responses, .. } => responses.iter().map(|response| &response.completion).collect(),
            Self::Responses { responses, .. } => responses.iter().collect(),
        }
    }
}
