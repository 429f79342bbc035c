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
    /// A file of responses over which that is, those of the reference policy; absent for those of the training data.
    pub normalize_data: Option<String>,
    /// What it shares with other trainers.
    #[serde(flatten)]
    pub tuning: TuningConfig,
}

/// What becomes of the scores after training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalize {
    /// Their mean over the responses becomes 0.
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
        if self.normalize == Normalize::Nothing && self.normalize_data.is_some() {
            return Err(ConfigError::NoEffect {
                key: "normalize-data",
                circumstance: "with normalize nothing",
            });
        }
        self.tuning.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_make_no_run_are_named() {
        for (toml, expected) in [
            ("label-smoothing = 0.5", "label-smoothing is 0.5"),
            ("center = -1.0", "center is -1"),
            ("places = 0", "places is 0"),
            (
                "normalize = 'nothing'\nnormalize-data = 'f'",
                "normalize-data has no effect with normalize nothing",
            ),
        ] {
            let config: RewardConfig = toml::from_str(&format!("model = 'm'\ndata = 'd'\n{toml}")).unwrap();
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{toml}: {error}");
        }
        let config: RewardConfig = toml::from_str("model = 'm'\ndata = 'd'\nnormalize-data = 'f'").unwrap();
        assert_eq!(config.check(), Ok(()));
    }
}
