//! The settings of proximal policy optimisation.

use std::fmt;
use std::path::PathBuf;

use exact::policy::divergence::{KlController, Steering};
use serde::{Deserialize, Serialize};

use crate::tuning::config::{ConfigError, Defaults, TrainerConfig, Truncation, TuningConfig};

/// What is tuned, on what, and how. The keys of `config.toml`, and the command's flags.
///
/// `batch-size` counts prompts; a prompt has `samples` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct PpoConfig {
    /// A reward model.
    pub reward_model: Option<String>,
    /// Instead, a file of words and their valences.
    pub reward_lexicon: Option<PathBuf>,
    /// Instead, a command that reads a line of JSON and writes a number for each answer.
    pub reward_program: Option<String>,
    /// Seconds that the command may take for an answer.
    pub reward_timeout: f64,
    /// What an answer loses that did not come to its end.
    pub missing_end_penalty: f64,

    /// Answers to each prompt.
    pub samples: usize,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Fewest tokens of an answer.
    pub min_new_tokens: usize,
    /// The temperature at which answers are drawn, and at which every log-probability is taken.
    pub temperature: f64,
    /// Answers that are drawn together.
    pub rollout_batch: usize,

    /// The model that the tuned one stays close to; the weights that it starts from where absent.
    pub reference: Option<String>,
    /// The price of a nat of divergence from it, at first where `kl_target` is given.
    pub kl_coefficient: f64,
    /// Steers the price so that an answer's divergence comes near this, in nats.
    pub kl_target: Option<f64>,
    /// Answers over which the price follows.
    pub kl_horizon: Option<f64>,

    /// What tells good decisions from bad ones.
    pub advantage: Advantage,
    /// How much later rewards count.
    pub discount: f64,
    /// How far advantages look beyond the value.
    pub gae_lambda: Option<f64>,
    /// Whether rewards are given a variance of 1.
    pub whiten_rewards: Option<bool>,
    /// Whether advantages are given a mean of 0 and a variance of 1.
    pub whiten_advantages: Option<bool>,

    /// Passes over the answers of a step.
    pub ppo_epochs: usize,
    /// Updates of each pass.
    pub minibatches: usize,
    /// How far a probability may move from the old one, as a share of it, and still gain.
    pub clip_range: f64,
    /// How far a value may move from the old one.
    pub value_clip_range: Option<f64>,
    /// What the value's loss counts.
    pub value_coefficient: Option<f64>,
    /// Ends a step's passes once the policy has moved this far from the one that answered, in nats a token.
    pub stop_divergence: Option<f64>,
    /// Steps between answers that are kept and shown; 0 for none.
    pub show_every: u64,
    /// Prompts of such a step whose answers are kept.
    pub show_prompts: usize,
    /// What it shares with other trainers.
    #[serde(flatten)]
    pub tuning: TuningConfig,
}

/// What tells good decisions from bad ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Advantage {
    /// Generalised advantages over learned values.
    #[default]
    Gae,
    /// What an answer earned beyond the mean of the other answers to its prompt.
    LeaveOneOut,
    /// What it earned beyond the mean of all answers to its prompt, in their deviations.
    GroupRelative,
}

impl Default for PpoConfig {
    fn default() -> Self {
        Self {
            reward_model: None,
            reward_lexicon: None,
            reward_program: None,
            reward_timeout: 60.0,
            missing_end_penalty: 1.0,
            samples: 4,
            max_new_tokens: 64,
            min_new_tokens: 0,
            temperature: 1.0,
            rollout_batch: 32,
            reference: None,
            kl_coefficient: 0.05,
            kl_target: None,
            kl_horizon: None,
            advantage: Advantage::Gae,
            discount: 1.0,
            gae_lambda: None,
            whiten_rewards: None,
            whiten_advantages: None,
            ppo_epochs: 4,
            minibatches: 1,
            clip_range: 0.2,
            value_clip_range: None,
            value_coefficient: None,
            stop_divergence: None,
            show_every: 10,
            show_prompts: 4,
            tuning: TuningConfig::default(),
        }
    }
}

/// Responses over which the price of divergence follows its target.
const HORIZON: f64 = 10_000.0;

impl PpoConfig {
    /// The price of divergence as a run begins.
    #[must_use]
    pub fn controller(&self) -> KlController {
        KlController {
            coefficient: self.kl_coefficient,
            steering: self.kl_target.map(|target| Steering {
                target,
                horizon: self.kl_horizon.unwrap_or(HORIZON),
            }),
        }
    }

    /// How far advantages look beyond the value.
    #[must_use]
    pub fn lambda(&self) -> f64 {
        self.gae_lambda.unwrap_or(0.95)
    }

    /// Whether rewards are given a variance of 1.
    #[must_use]
    pub fn whitens_rewards(&self) -> bool {
        self.whiten_rewards.unwrap_or(self.advantage == Advantage::Gae)
    }

    /// Whether advantages are given a mean of 0 and a variance of 1.
    #[must_use]
    pub fn whitens_advantages(&self) -> bool {
        self.whiten_advantages.unwrap_or(self.advantage == Advantage::Gae)
    }

    /// How far a value may move from the old one.
    #[must_use]
    pub fn value_range(&self) -> f64 {
        self.value_clip_range.unwrap_or(0.2)
    }

    /// What the value's loss counts.
    #[must_use]
    pub fn value_weight(&self) -> f64 {
        self.value_coefficient.unwrap_or(0.1)
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let unit = |value: f64| (0.0..=1.0).contains(&value);
        let numbers: [(&'static str, f64, bool, &'static str); 10] = [
            (
                "reward-timeout",
                self.reward_timeout,
                positive(self.reward_timeout),
                "it is a positive number of seconds",
            ),
            (
                "missing-end-penalty",
                self.missing_end_penalty,
                self.missing_end_penalty.is_finite() && self.missing_end_penalty >= 0.0,
                "it is a finite number of at least 0",
            ),
            (
                "temperature",
                self.temperature,
                positive(self.temperature),
                "answers are drawn at a positive temperature",
            ),
            (
                "kl-coefficient",
                self.kl_coefficient,
                self.kl_coefficient.is_finite() && self.kl_coefficient >= 0.0,
                "it is a finite number of at least 0",
            ),
            (
                "kl-target",
                self.kl_target.unwrap_or(1.0),
                positive(self.kl_target.unwrap_or(1.0)),
                "it is a positive number of nats",
            ),
            (
                "kl-horizon",
                self.kl_horizon.unwrap_or(1.0),
                positive(self.kl_horizon.unwrap_or(1.0)),
                "it is a positive number of answers",
            ),
            ("discount", self.discount, unit(self.discount), "it lies in [0, 1]"),
            ("gae-lambda", self.lambda(), unit(self.lambda()), "it lies in [0, 1]"),
            (
                "clip-range",
                self.clip_range,
                positive(self.clip_range),
                "it is a positive number",
            ),
            (
                "stop-divergence",
                self.stop_divergence.unwrap_or(1.0),
                positive(self.stop_divergence.unwrap_or(1.0)),
                "it is a positive number of nats",
            ),
        ];
        for (key, number, fits, remedy) in numbers {
            if !fits {
                return value(key, &number, remedy);
            }
        }
        for (key, number) in [
            ("value-clip-range", self.value_range()),
            ("value-coefficient", self.value_weight()),
        ] {
            if !positive(number) {
                return value(key, &number, "it is a positive number");
            }
        }
        for (key, count) in [
            ("samples", self.samples),
            ("max-new-tokens", self.max_new_tokens),
            ("rollout-batch", self.rollout_batch),
            ("ppo-epochs", self.ppo_epochs),
            ("minibatches", self.minibatches),
            ("show-prompts", self.show_prompts),
        ] {
            if count == 0 {
                return value(key, &0, "at least 1");
            }
        }
        Ok(())
    }
}

fn value(key: &'static str, value: &dyn fmt::Display, remedy: &'static str) -> Result<(), ConfigError> {
    Err(ConfigError::Value {
        key,
        value: value.to_string(),
        remedy,
    })
}

impl TrainerConfig for PpoConfig {
    const DEFAULTS: Defaults = Defaults {
        learning_rate: 3e-6,
        adapter_learning_rate: 3e-5,
        adam_epsilon: 1e-5,
        truncation: Truncation::LeaveOut,
    };

    fn tuning(&self) -> &TuningConfig {
        &self.tuning
    }

    fn tuning_mut(&mut self) -> &mut TuningConfig {
        &mut self.tuning
    }

    fn check(&self) -> Result<(), ConfigError> {
        let given = [
            ("reward-model", self.reward_model.is_some()),
            ("reward-lexicon", self.reward_lexicon.is_some()),
            ("reward-program", self.reward_program.is_some()),
        ];
        let given: Vec<&'static str> = given.iter().filter(|(_, given)| *given).map(|(key, _)| *key).collect();
        // None is for whoever brings a judge along.
        if let [one, other, ..] = given[..] {
            return Err(ConfigError::Both(one, other));
        }
        let no_effect = |key, circumstance| Err(ConfigError::NoEffect { key, circumstance });
        if self.kl_horizon.is_some() && self.kl_target.is_none() {
            return no_effect("kl-horizon", "without kl-target");
        }
        if self.kl_target.is_some() && self.kl_coefficient == 0.0 {
            return value(
                "kl-coefficient",
                &0,
                "a price of nothing cannot be steered: give a positive one with kl-target",
            );
        }
        if self.advantage != Advantage::Gae {
            for (key, given) in [
                ("gae-lambda", self.gae_lambda.is_some()),
                ("value-clip-range", self.value_clip_range.is_some()),
                ("value-coefficient", self.value_coefficient.is_some()),
                ("whiten-rewards", self.whiten_rewards.is_some()),
                ("discount", self.discount != 1.0),
            ] {
                if given {
                    return no_effect(key, "with an advantage of whole answers, which has no values");
                }
            }
            if self.samples < 2 {
                return value(
                    "samples",
                    &self.samples,
                    "answers are compared with each other: give at least 2 a prompt",
                );
            }
        }
        if self.reward_program.is_none() && self.reward_timeout != Self::default().reward_timeout {
            return no_effect("reward-timeout", "without reward-program");
        }
        if self.tuning.lora_dropout > 0.0 {
            return value(
                "lora-dropout",
                &self.tuning.lora_dropout,
                "with dropout a policy is not the one that answered; leave it out",
            );
        }
        if self.min_new_tokens > self.max_new_tokens {
            return value("min-new-tokens", &self.min_new_tokens, "at most max-new-tokens");
        }
        self.check_numbers()?;
        self.tuning.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> PpoConfig {
        toml::from_str(&format!("model = 'm'\ndata = 'd'\n{text}")).unwrap()
    }

    #[test]
    fn a_configuration_survives_its_file() {
        let config = config("reward-lexicon = 'l'\nadvantage = 'leave-one-out'\nkl-target = 6.0\nlora-rank = 4");
        assert_eq!(config.check(), Ok(()));
        assert_eq!(
            toml::from_str::<PpoConfig>(&toml::to_string(&config).unwrap()).unwrap(),
            config
        );
        assert!(!config.whitens_advantages());
    }

    #[test]
    fn settings_that_make_no_run_are_named() {
        for (text, expected) in [
            (
                "reward-model = 'r'\nreward-lexicon = 'l'",
                "reward-model and reward-lexicon",
            ),
            (
                "reward-model = 'r'\nreward-timeout = 5.0",
                "reward-timeout has no effect",
            ),
            ("reward-program = 'r'\nreward-timeout = 0.0", "reward-timeout"),
            ("reward-model = 'r'\nkl-horizon = 5.0", "kl-horizon has no effect"),
            (
                "reward-model = 'r'\nkl-target = 5.0\nkl-coefficient = 0.0",
                "cannot be steered",
            ),
            ("reward-model = 'r'\ntemperature = 0.0", "temperature"),
            ("reward-model = 'r'\ndiscount = 1.5", "discount"),
            ("reward-model = 'r'\nminibatches = 0", "minibatches"),
            ("reward-model = 'r'\nmin-new-tokens = 90", "min-new-tokens"),
            ("reward-model = 'r'\nlora-rank = 4\nlora-dropout = 0.1", "lora-dropout"),
            (
                "reward-model = 'r'\nadvantage = 'leave-one-out'\ngae-lambda = 0.9",
                "gae-lambda has no effect",
            ),
            (
                "reward-model = 'r'\nadvantage = 'group-relative'\nsamples = 1",
                "samples",
            ),
            ("reward-model = 'r'\nepochs = 0", "epochs"),
        ] {
            let error = config(text).check().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
