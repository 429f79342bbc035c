//! The settings of training on preferences.

use std::fmt;

use exact::ranking::pair_loss::PairLoss;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::tuning::config::{ADAM_EPSILON, ConfigError, Defaults, TrainerConfig, Truncation, TuningConfig};

/// What is tuned, on what, and how. The keys of `config.toml`, and the command's flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct DpoConfig {
    /// How much a nat of difference from the reference counts: high stays close to it.
    pub beta: f64,
    /// The loss of a pair; rankings of more have the likelihood of Plackett and Luce.
    #[serde(serialize_with = "write_loss", deserialize_with = "read_loss")]
    pub loss: PairLoss,
    /// Share of pairs whose label is wrong.
    pub label_smoothing: f64,
    /// How many places of a ranking are learned, from the best on; all where absent.
    pub places: Option<usize>,
    /// The model that the tuned one stays close to; the weights that it starts from where absent.
    pub reference: Option<String>,
    /// Whether the reference's log-probabilities are worked out before the first step, rather than in each step.
    pub precompute: bool,
    /// Whether a prompt goes through the network once for all its responses.
    pub share_prompts: bool,
    /// How many held-out prompts are answered at an evaluation to see how far the model is from its reference.
    pub kl_prompts: usize,
    /// Most tokens of such an answer.
    pub kl_max_new_tokens: usize,
    /// What it shares with other trainers.
    #[serde(flatten)]
    pub tuning: TuningConfig,
}

fn write_loss<S: Serializer>(loss: &PairLoss, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(loss)
}

fn read_loss<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PairLoss, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            loss: PairLoss::Sigmoid,
            label_smoothing: 0.0,
            places: None,
            reference: None,
            precompute: true,
            share_prompts: true,
            kl_prompts: 16,
            kl_max_new_tokens: 64,
            tuning: TuningConfig::default(),
        }
    }
}

impl TrainerConfig for DpoConfig {
    const DEFAULTS: Defaults = Defaults {
        learning_rate: 1e-6,
        adapter_learning_rate: 1e-5,
        adam_epsilon: ADAM_EPSILON,
        // A response that is cut is not the response that was judged.
        truncation: Truncation::Completion,
    };

    fn tuning(&self) -> &TuningConfig {
        &self.tuning
    }

    fn tuning_mut(&mut self) -> &mut TuningConfig {
        &mut self.tuning
    }

    fn check(&self) -> Result<(), ConfigError> {
        let value = |key, value: &dyn fmt::Display, remedy| {
            Err(ConfigError::Value {
                key,
                value: value.to_string(),
                remedy,
            })
        };
        if !(self.beta.is_finite() && self.beta > 0.0) {
            return value("beta", &self.beta, "it is a positive number");
        }
        let smoothing = self.label_smoothing;
        if !(0.0..0.5).contains(&smoothing) {
            return value("label-smoothing", &smoothing, "it is a share below one half");
        }
        if smoothing > 0.0 && !self.loss.smooths() {
            return Err(ConfigError::NoEffect {
                key: "label-smoothing",
                circumstance: "with this loss; sigmoid, robust and exo-pair have it",
            });
        }
        if smoothing == 0.0 && matches!(self.loss, PairLoss::Robust | PairLoss::ExoPair) {
            return value(
                "label-smoothing",
                &smoothing,
                "robust and exo-pair need the share of labels that are wrong: give one above 0",
            );
        }
        if self.places == Some(0) {
            return value("places", &0, "at least 1 is learned");
        }
        self.tuning.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_survives_its_file() {
        let text = "model = 'm'\ndata = 'd'\nloss = 'exo-pair'\nlabel-smoothing = 0.1\nplaces = 2\nlora-rank = 4";
        let config: DpoConfig = toml::from_str(text).unwrap();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(
            toml::from_str::<DpoConfig>(&toml::to_string(&config).unwrap()).unwrap(),
            config
        );
        let error = toml::from_str::<DpoConfig>("loss = 'sigmoids'")
            .unwrap_err()
            .to_string();
        assert!(error.contains("nca-pair"), "{error}");
    }

    #[test]
    fn settings_that_make_no_run_are_named() {
        for (text, expected) in [
            ("beta = 0.0", "beta"),
            ("beta = nan", "beta"),
            ("label-smoothing = 0.5", "label-smoothing"),
            ("label-smoothing = 0.1\nloss = 'hinge'", "no effect"),
            ("loss = 'robust'", "robust and exo-pair need"),
            ("places = 0", "places"),
            ("epochs = 0", "epochs"),
        ] {
            let config: DpoConfig = toml::from_str(&format!("model = 'm'\ndata = 'd'\n{text}")).unwrap();
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
