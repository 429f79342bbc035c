//! The settings of a fine-tuning run.

use serde::{Deserialize, Serialize};

use crate::text::Trained;
use crate::tuning::config::{ADAM_EPSILON, ConfigError, Defaults, TrainerConfig, Truncation, TuningConfig};

/// What is tuned, on what, and how. The keys of `config.toml`, and the command's flags.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct SftConfig {
    /// What is learned.
    pub train_on: TrainOn,
    /// What it shares with other trainers.
    #[serde(flatten)]
    pub tuning: TuningConfig,
}

/// What is learned of an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainOn {
    /// Completions, and every answer of the assistant; all of a plain text.
    #[default]
    Completion,
    /// Completions, and the assistant's last answer; all of a plain text.
    LastAnswer,
    /// Every token, prompts included.
    Everything,
}

impl TrainOn {
    /// The same for the encoder.
    #[must_use]
    pub fn trained(self) -> Trained {
        match self {
            Self::Completion => Trained::Assistant,
            Self::LastAnswer => Trained::LastAnswer,
            Self::Everything => Trained::Everything,
        }
    }
}

impl TrainerConfig for SftConfig {
    const DEFAULTS: Defaults = Defaults {
        learning_rate: 2e-5,
        adapter_learning_rate: 2e-4,
        adam_epsilon: ADAM_EPSILON,
        truncation: Truncation::Start,
    };

    fn tuning(&self) -> &TuningConfig {
        &self.tuning
    }

    fn tuning_mut(&mut self) -> &mut TuningConfig {
        &mut self.tuning
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.tuning.check()
    }
}
