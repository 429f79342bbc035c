//! The settings of a reward model's training.

use serde::{Deserialize, Serialize};

use crate::tuning::config::{ADAM_EPSILON, ConfigError, Defaults, TrainerConfig, Truncation, TuningConfig};

/// What is tuned, on what, and how. The keys of `config.toml`, and the command's flags.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct RewardConfig {
    /// Share of pairs whose label is wrong.
    pub label_smoothing: f64,
    /// How many places of a ranking are learned, from the best on; all where absent.
    pub places: Option<usize>,
    /// How much the square of twice a prompt's mean score counts in the loss.
    pub center: f64,
    /// What becomes of the scores after training.
    pub normalize: Normalize,
    /// What it shares with other trainers.
    #[serde(flatten)]
    pub tuning: TuningConfig,
}

/// What becomes of the scores after training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalize {
    /// Their mean over the responses of the training data becomes 0.
    #[default]
    Mean,
    /// And their variance 1.
    Variance,
    /// Nothing.
    Nothing,
}

impl TrainerConfig for RewardConfig {
    const DEFAULTS: Defaults = Defaults {
        learning_rate: 1e-5,
        adapter_learning_rate: 1e-4,
        adam_epsilon: ADAM_EPSILON,
        truncation: Truncation::Completion,
    };

    fn tuning(&self) -> &TuningConfig {
        &self.tuning
    }

    fn tuning_mut(&mut self) -> &mut TuningConfig {
        &mut self.tuning
    }

    fn check(&self) -> Result<(), ConfigError> {
        let value = |key, value: f64, remedy| {
            Err(ConfigError::Value {
                key,
                value: value.to_string(),
                remedy,
            })
        };
        if !(0.0..0.5).contains(&self.label_smoothing) {
            return value("label-smoothing", self.label_smoothing, "it is a share below one half");
        }
        if !(self.center.is_finite() && self.center >= 0.0) {
            return value("center", self.center, "it is a finite number of at least 0");
        }
        if self.places == Some(0) {
            return value("places", 0.0, "at least 1 is learned");
        }
        self.tuning.check()
    }
}
