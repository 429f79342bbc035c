//! The settings that every tuning of a language model has.

use nn::decoder::{LoraConfig, LoraError, Targets};
use nn::weights::Precision;
use serde::{Deserialize, Serialize};
use train::adamw::{AdamWConfig, Decayed};
use train::schedule::Decay;

use super::plan::{Cut, Length, StepSize};
use crate::text::Keep;

/// Settings that may change when a run is resumed.
pub const MAY_CHANGE: &[&str] = &[
    "epochs",
    "max-steps",
    "accumulate",
    "micro-batch-tokens",
    "recompute",
    "log-every",
    "eval-every",
    "save-every",
    "keep",
    "save-dtype",
];

/// What is tuned, on what, and how. The keys of `config.toml`, and the command's flags; a trainer adds its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct TuningConfig {
    /// Decides the order of the data, fresh adapters and dropout.
    pub seed: u64,
    /// The model that is tuned: a directory (of a model, or of an adapter to train on), a `.gguf` file, or a Hub name.
    pub model: String,
    /// The examples.
    pub data: String,
    /// Examples to evaluate on.
    pub eval_data: Option<String>,
    /// How many examples are kept out of training to evaluate on.
    pub held_out: usize,
    /// How many examples are used at most, from the beginning of the data.
    pub limit: Option<usize>,
    /// Longer examples, in tokens, are cut or left out.
    pub max_length: usize,
    /// What becomes of examples that are too long.
    pub truncation: Option<Truncation>,
    /// Whether responses keep the white space that a chat template puts after their end token.
    pub keep_trailing_text: bool,
    /// Whether each epoch has an order of its own, rather than that of the data.
    pub shuffle: bool,
    /// Rank of low-rank adapters; 0 to train all weights.
    pub lora_rank: usize,
    /// Their scale is this over the rank; twice the rank where absent.
    pub lora_alpha: Option<f64>,
    /// Share of a layer's inputs that its adapter does not see.
    pub lora_dropout: f64,
    /// Scale by alpha over the root of the rank.
    pub lora_rslora: bool,
    /// The layers that are adapted; `all-linear` for all of the blocks.
    pub lora_target_modules: Vec<String>,
    /// Layers that are trained whole beside the adapters.
    pub lora_modules_to_save: Vec<String>,
    /// Examples per optimiser step, where `batch_tokens` is not given.
    pub batch_size: Option<usize>,
    /// Tokens per optimiser step, instead.
    pub batch_tokens: Option<usize>,
    /// Parts in which a step goes through the network; 1 where neither this nor `micro_batch_tokens` is given.
    pub accumulate: Option<usize>,
    /// Tokens per part, instead.
    pub micro_batch_tokens: Option<usize>,
    /// Passes over the data.
    pub epochs: u64,
    /// Optimiser steps, instead.
    pub max_steps: Option<u64>,
    /// Highest learning rate.
    pub learning_rate: Option<f64>,
    /// Steps over which the learning rate rises.
    pub warmup_steps: u64,
    /// How it falls.
    pub learning_rate_schedule: Decay,
    /// AdamW's weight decay, of matrices only.
    pub weight_decay: f64,
    /// AdamW's decay of the first moment.
    pub adam_beta1: f64,
    /// AdamW's decay of the second moment.
    pub adam_beta2: f64,
    /// AdamW's epsilon.
    pub adam_epsilon: Option<f64>,
    /// Longest gradient; 0 for no limit.
    pub max_grad_norm: f64,
    /// Keep only what enters each block and work the rest out again on the way back.
    pub recompute: bool,
    /// Steps between lines of metrics.
    pub log_every: u64,
    /// Steps between evaluations; 0 for none.
    pub eval_every: u64,
    /// Steps between checkpoints; 0 for one at the end only.
    pub save_every: u64,
    /// Newest checkpoints kept.
    pub keep: usize,
    /// Keep the checkpoint with the lowest `eval_loss`, too, and make the model of it.
    pub best: bool,
    /// The type of numbers of a model that is tuned whole, in its files.
    pub save_dtype: SaveDtype,
}

impl Default for TuningConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            model: String::new(),
            data: String::new(),
            eval_data: None,
            held_out: 0,
            limit: None,
            max_length: 1024,
            truncation: None,
            keep_trailing_text: false,
            shuffle: true,
            lora_rank: 0,
            lora_alpha: None,
            lora_dropout: 0.0,
            lora_rslora: false,
            lora_target_modules: vec![ALL_LINEAR.to_owned()],
            lora_modules_to_save: Vec::new(),
            batch_size: None,
            batch_tokens: None,
            accumulate: None,
            micro_batch_tokens: None,
            epochs: 1,
            max_steps: None,
            learning_rate: None,
            warmup_steps: 0,
            learning_rate_schedule: Decay::Linear,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: None,
            max_grad_norm: 1.0,
            recompute: false,
            log_every: 10,
            eval_every: 0,
            save_every: 500,
            keep: 2,
            best: false,
            save_dtype: SaveDtype::F32,
        }
    }
}

/// AdamW's own epsilon (Kingma & Ba 2015).
pub const ADAM_EPSILON: f64 = 1e-8;

/// Stands for all linear layers of the blocks.
const ALL_LINEAR: &str = "all-linear";

/// What becomes of examples that are too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncation {
    /// The start is kept; the end token goes first.
    Start,
    /// The start is kept, and the end token put at its end.
    StartAndEnd,
    /// A completion is kept whole, and its prompt loses its oldest tokens; texts and conversations keep their start.
    Completion,
    /// They are left out.
    LeaveOut,
}

impl Truncation {
    /// The same for the functions that cut.
    #[must_use]
    pub fn keep(self) -> Keep {
        match self {
            Self::Start => Keep::Start,
            Self::StartAndEnd => Keep::StartAndEnd,
            Self::Completion => Keep::Responses,
            Self::LeaveOut => Keep::Whole,
        }
    }
}

/// The type of numbers in the files of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SaveDtype {
    /// As it was trained.
    F32,
    /// Half the size.
    Bf16,
}

impl From<SaveDtype> for Precision {
    fn from(dtype: SaveDtype) -> Self {
        match dtype {
            SaveDtype::F32 => Self::F32,
            SaveDtype::Bf16 => Self::Bf16,
        }
    }
}

/// What a trainer puts in the place of settings that were not given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    /// Highest learning rate of all weights.
    pub learning_rate: f64,
    /// Highest learning rate of adapters.
    pub adapter_learning_rate: f64,
    /// AdamW's epsilon.
    pub adam_epsilon: f64,
    /// What becomes of examples that are too long.
    pub truncation: Truncation,
}

/// The settings of a trainer.
pub trait TrainerConfig {
    /// What stands where nothing was given.
    const DEFAULTS: Defaults;

    /// What it shares with the others.
    fn tuning(&self) -> &TuningConfig;

    /// The same, to be changed.
    fn tuning_mut(&mut self) -> &mut TuningConfig;

    /// Checks what can be checked without model and data.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the key.
    fn check(&self) -> Result<(), ConfigError>;
}

/// Settings that make no run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A value that makes no sense.
    #[error("{key} is {value}; {remedy}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        remedy: &'static str,
    },
    /// A key that would change nothing.
    #[error("{key} has no effect {circumstance}; leave it out")]
    NoEffect {
        /// The key.
        key: &'static str,
        /// When.
        circumstance: &'static str,
    },
    /// Two keys of which one makes the other idle.
    #[error("{0} and {1} say the same thing in two ways; give one of them")]
    Both(&'static str, &'static str),
}

impl TuningConfig {
    /// Checks what can be checked without model and data.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let value = |key, value: String, remedy| Err(ConfigError::Value { key, value, remedy });
        for (key, text, remedy) in [
            ("model", &self.model, "give a directory, a .gguf file, or org/name"),
            (
                "data",
                &self.data,
                "give a file or a folder of JSON Lines, JSON, Parquet or text",
            ),
        ] {
            if text.is_empty() {
                return value(key, "empty".to_owned(), remedy);
            }
        }
        for (key, share) in [("adam-beta1", self.adam_beta1), ("adam-beta2", self.adam_beta2)] {
            if !(0.0..1.0).contains(&share) {
                return value(key, share.to_string(), "it lies in [0, 1)");
            }
        }
        for (key, number) in [
            ("weight-decay", self.weight_decay),
            ("max-grad-norm", self.max_grad_norm),
            ("adam-epsilon", self.adam_epsilon.unwrap_or(ADAM_EPSILON)),
            ("learning-rate", self.learning_rate.unwrap_or(0.0)),
        ] {
            if !(number.is_finite() && number >= 0.0) {
                return value(key, number.to_string(), "it is a finite number of at least 0");
            }
        }
        for (key, count) in [
            ("max-length", self.max_length.saturating_sub(1) as u64),
            ("epochs", self.epochs),
            ("max-steps", self.max_steps.unwrap_or(1)),
            ("limit", self.limit.unwrap_or(1) as u64),
            ("log-every", self.log_every),
            ("keep", self.keep as u64),
        ] {
            if count == 0 {
                let least = if key == "max-length" {
                    "at least 2"
                } else {
                    "at least 1"
                };
                return value(key, "too small".to_owned(), least);
            }
        }
        for (one, other, both) in [
            (
                "batch-size",
                "batch-tokens",
                self.batch_size.is_some() && self.batch_tokens.is_some(),
            ),
            (
                "accumulate",
                "micro-batch-tokens",
                self.accumulate.is_some() && self.micro_batch_tokens.is_some(),
            ),
            ("eval-data", "held-out", self.eval_data.is_some() && self.held_out > 0),
        ] {
            if both {
                return Err(ConfigError::Both(one, other));
            }
        }
        self.check_evaluation()?;
        self.check_lora()
    }

    fn check_evaluation(&self) -> Result<(), ConfigError> {
        let evaluates = self.eval_data.is_some() || self.held_out > 0;
        if self.eval_every > 0 && !evaluates {
            return Err(ConfigError::Value {
                key: "eval-every",
                value: self.eval_every.to_string(),
                remedy: "there is nothing to evaluate on: give eval-data or held-out, too",
            });
        }
        if evaluates && self.eval_every == 0 {
            let key = if self.held_out > 0 { "held-out" } else { "eval-data" };
            return Err(ConfigError::NoEffect {
                key,
                circumstance: "without eval-every",
            });
        }
        if self.best && self.eval_every == 0 {
            return Err(ConfigError::NoEffect {
                key: "best",
                circumstance: "without eval-every",
            });
        }
        if self.best && (self.save_every == 0 || !self.save_every.is_multiple_of(self.eval_every)) {
            return Err(ConfigError::Value {
                key: "save-every",
                value: self.save_every.to_string(),
                remedy: "with best it must be a multiple of eval-every, so that each checkpoint is evaluated",
            });
        }
        Ok(())
    }

    fn check_lora(&self) -> Result<(), ConfigError> {
        if self.lora_rank > 0 {
            if self.save_dtype == SaveDtype::Bf16 {
                return Err(ConfigError::NoEffect {
                    key: "save-dtype",
                    circumstance: "with adapters, which are small and kept in f32",
                });
            }
            return Ok(());
        }
        let default = Self::default();
        for (key, given) in [
            ("lora-alpha", self.lora_alpha.is_some()),
            ("lora-dropout", self.lora_dropout != default.lora_dropout),
            ("lora-rslora", self.lora_rslora),
            (
                "lora-target-modules",
                self.lora_target_modules != default.lora_target_modules,
            ),
            ("lora-modules-to-save", !self.lora_modules_to_save.is_empty()),
        ] {
            if given {
                return Err(ConfigError::NoEffect {
                    key,
                    circumstance: "without lora-rank",
                });
            }
        }
        Ok(())
    }

    /// Fills in what was not given, so that a run's file says it. `accumulate` stays as it is: a resumed run may give
    /// `micro_batch_tokens` in its place.
    pub fn resolve(&mut self, defaults: &Defaults, adapters: bool) {
        let rate = if adapters {
            defaults.adapter_learning_rate
        } else {
            defaults.learning_rate
        };
        self.learning_rate.get_or_insert(rate);
        self.adam_epsilon.get_or_insert(defaults.adam_epsilon);
        self.truncation.get_or_insert(defaults.truncation);
        if self.batch_tokens.is_none() {
            self.batch_size.get_or_insert(8);
        }
        if self.lora_rank > 0 {
            self.lora_alpha.get_or_insert(2.0 * self.lora_rank as f64);
        }
    }

    /// The fresh adapters, if adapters are asked for.
    ///
    /// # Errors
    ///
    /// [`LoraError::Value`].
    pub fn lora(&self) -> Result<Option<LoraConfig>, LoraError> {
        if self.lora_rank == 0 {
            return Ok(None);
        }
        let targets = match &self.lora_target_modules[..] {
            [one] if one == ALL_LINEAR => Targets::AllLinear,
            names => Targets::Named(names.to_vec()),
        };
        let config = LoraConfig {
            rank: self.lora_rank,
            alpha: self.lora_alpha.unwrap_or(2.0 * self.lora_rank as f64),
            dropout: self.lora_dropout,
            rank_stabilized: self.lora_rslora,
            targets,
            modules_to_save: self.lora_modules_to_save.clone(),
        };
        config.check()?;
        Ok(Some(config))
    }

    /// The optimiser.
    #[must_use]
    pub fn adamw(&self) -> AdamWConfig {
        AdamWConfig {
            beta1: self.adam_beta1,
            beta2: self.adam_beta2,
            epsilon: self.adam_epsilon.unwrap_or(ADAM_EPSILON),
            weight_decay: self.weight_decay,
            decayed: Decayed::Matrices,
            max_grad_norm: Some(self.max_grad_norm).filter(|limit| *limit > 0.0),
        }
    }

    /// How much an optimiser step sees.
    #[must_use]
    pub fn step_size(&self) -> StepSize {
        match self.batch_tokens {
            Some(tokens) => StepSize::Tokens(tokens),
            None => StepSize::Examples(self.batch_size.unwrap_or(8)),
        }
    }

    /// How a step is cut.
    #[must_use]
    pub fn cut(&self) -> Cut {
        match self.micro_batch_tokens {
            Some(tokens) => Cut::Tokens(tokens),
            None => Cut::Parts(self.accumulate.unwrap_or(1)),
        }
    }

    /// How long the run is.
    #[must_use]
    pub fn length(&self) -> Length {
        self.max_steps.map_or(Length::Epochs(self.epochs), Length::Steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(toml: &str) -> TuningConfig {
        toml::from_str(&format!("model = 'm'\ndata = 'd'\n{toml}")).unwrap()
    }

    #[test]
    fn a_configuration_survives_its_file() {
        let config = config("lora-rank = 4\nlora-target-modules = ['q_proj']\nsave-dtype = 'f32'");
        assert_eq!(
            toml::from_str::<TuningConfig>(&toml::to_string(&config).unwrap()).unwrap(),
            config
        );
    }

    #[test]
    fn what_was_not_given_is_filled_in() {
        let defaults = Defaults {
            learning_rate: 1e-5,
            adapter_learning_rate: 1e-4,
            adam_epsilon: 1e-5,
            truncation: Truncation::Start,
        };
        let mut given = config("batch-tokens = 100\nlora-rank = 4");
        given.resolve(&defaults, true);
        assert_eq!((given.learning_rate, given.lora_alpha), (Some(1e-4), Some(8.0)));
        assert_eq!(given.batch_size, None);
        let before = given.clone();
        given.resolve(&defaults, false);
        assert_eq!(given, before);
    }

    #[test]
    fn settings_that_make_no_run_are_named() {
        for (toml, expected) in [
            ("model = ''", "model is empty"),
            ("adam-beta2 = 1.0", "adam-beta2"),
            ("weight-decay = -1.0", "weight-decay"),
            ("max-length = 1", "max-length"),
            ("epochs = 0", "epochs"),
            ("batch-size = 4\nbatch-tokens = 100", "batch-size and batch-tokens"),
            ("accumulate = 4\nmicro-batch-tokens = 100", "micro-batch-tokens"),
            ("eval-every = 5", "nothing to evaluate on"),
            ("held-out = 5", "without eval-every"),
            ("best = true", "best has no effect"),
            (
                "best = true\nheld-out = 5\neval-every = 10\nsave-every = 15",
                "save-every is 15",
            ),
            ("lora-alpha = 3.0", "lora-alpha has no effect without lora-rank"),
            ("lora-target-modules = ['q_proj']", "lora-target-modules has no effect"),
            ("lora-rank = 3\nsave-dtype = 'bf16'", "save-dtype has no effect"),
        ] {
            let toml = if toml.starts_with("model") {
                "data = 'd'\n".to_owned() + toml
            } else {
                format!("model = 'm'\ndata = 'd'\n{toml}")
            };
            let error = toml::from_str::<TuningConfig>(&toml)
                .unwrap()
                .check()
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{toml}: {error}");
        }
        assert_eq!(
            config("best = true\nheld-out = 5\neval-every = 5\nsave-every = 15").check(),
            Ok(())
        );
    }

    #[test]
    fn adapters_have_their_defaults() {
        assert_eq!(config("").lora(), Ok(None));
        let lora = config("lora-rank = 8").lora().unwrap().unwrap();
        assert_eq!((lora.alpha, &lora.targets), (16.0, &Targets::AllLinear));
        let named = config("lora-rank = 8\nlora-target-modules = ['q_proj', 'v_proj']");
        assert!(matches!(named.lora().unwrap().unwrap().targets, Targets::Named(names) if names.len() == 2));
        assert!(config("lora-rank = 8\nlora-dropout = 1.0").lora().is_err());
    }
}
