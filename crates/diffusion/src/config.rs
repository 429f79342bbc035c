//! What a training run is, in full: every key of `config.toml`, with its default, checked.

mod made;

use exact::prediction::PredictionError;
use exact::schedule::BetaShape;
use serde::{Deserialize, Serialize};
use train::adamw::AdamWConfig;
use train::schedule::Decay;

use crate::data::{PointScaling, Shape, ValueRange};
use crate::objective::Parameterization;

/// The noise process, which decides where sampling starts and which levels `uniform` training draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessKind {
    /// Variance exploding: t in [0, 1], sigma = sqrt(t).
    Ve,
    /// Variance preserving on 1,000 training timesteps.
    Vp,
}

/// The betas of the variance-preserving process, with diffusers' defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Linear from 1e-4 to 0.02.
    Linear,
    /// Linear in sqrt(beta) between the same ends.
    ScaledLinear,
    /// squaredcos_cap_v2.
    Cosine,
}

impl ScheduleKind {
    /// The betas' shape.
    pub fn shape(self) -> BetaShape {
        match self {
            Self::Linear => BetaShape::LINEAR,
            Self::ScaledLinear => BetaShape::SCALED_LINEAR,
            Self::Cosine => BetaShape::Cosine,
        }
    }
}

/// The distribution of training levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LevelsKind {
    /// Uniform in the process's own time: t, or the training timestep.
    Uniform,
    /// ln(sigma) normal (EDM).
    LogNormal,
    /// The angle arctan(sigma) uniform.
    Cosine,
}

/// How errors count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightingKind {
    /// The network's output error, unweighted.
    Plain,
    /// min(SNR, gamma) on the estimate.
    MinSnr,
    /// EDM's weights on the estimate.
    Edm,
}

/// Which network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkKind {
    /// A perceptron with residual layers; for points.
    Mlp,
    /// A diffusion transformer; for images.
    Dit,
}

/// A training run. Keys are the command line's flags; what is not given has the default that stands here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrainConfig {
    /// The data: a path, `digits`, or `points:NAME`.
    pub data: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Resize and centre-crop the images of a folder to this many pixels a side.
    pub image_size: Option<u32>,
    /// Shape of images that stand in rows: `1x8x8`.
    pub image_shape: Option<Shape>,
    /// Declared range of the values: `low,high`.
    pub range: Option<ValueRange>,
    /// Label column of a CSV file.
    pub label_column: Option<String>,
    /// How points are scaled.
    pub scaling: Option<PointScaling>,
    /// Use so many samples only, spread evenly over the data.
    pub limit: Option<usize>,
    /// Samples kept out of training to measure it with; a tenth of the data, at most 1,000, if not given.
    pub held_out: Option<usize>,

    /// The network; by the data's kind if not given.
    pub network: Option<NetworkKind>,
    /// Width of the network.
    pub hidden_size: Option<usize>,
    /// Number of its blocks or layers.
    pub depth: Option<usize>,
    /// Attention heads (dit).
    pub heads: Option<usize>,
    /// Side of the patches (dit).
    pub patch_size: Option<usize>,
    /// Inner width of a block in widths of the network (dit).
    pub mlp_ratio: Option<usize>,
    /// Whether the network is told the class; by whether the data have labels if not given.
    pub class_conditional: Option<bool>,
    /// Share of examples whose class is hidden, so that guidance has something to guide away from.
    pub class_dropout: f64,

    /// The noise process.
    pub process: ProcessKind,
    /// The betas of a variance-preserving process.
    pub schedule: Option<ScheduleKind>,
    /// Rescale the betas so that the last timestep is pure noise.
    pub zero_terminal_snr: bool,
    /// What the network puts out.
    pub prediction: Parameterization,
    /// Which levels it is trained on.
    pub levels: LevelsKind,
    /// Mean of ln(sigma) under log-normal levels.
    pub log_normal_mean: Option<f64>,
    /// Standard deviation of ln(sigma) under log-normal levels.
    pub log_normal_std: Option<f64>,
    /// How errors count.
    pub weighting: WeightingKind,
    /// The cap of min-SNR weights.
    pub min_snr_gamma: Option<f64>,

    /// Examples per optimiser step.
    pub batch_size: usize,
    /// Parts in which a step's batch goes through the network, to save memory.
    pub accumulate: usize,
    /// Passes over the data, unless `max-steps` is given.
    pub epochs: u64,
    /// Optimiser steps.
    pub max_steps: Option<u64>,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises to it.
    pub warmup_steps: u64,
    /// How it falls afterwards.
    pub learning_rate_schedule: Decay,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// AdamW's decay of the first moment.
    pub adam_beta1: f64,
    /// AdamW's decay of the second moment.
    pub adam_beta2: f64,
    /// AdamW's epsilon.
    pub adam_epsilon: f64,
    /// Longest gradient; 0 for no limit.
    pub max_grad_norm: f64,
    /// Decay of the average of the weights that is sampled from.
    pub ema_decay: f64,

    /// Steps between lines of metrics.
    pub log_every: u64,
    /// Steps between evaluations on the held-out samples; 0 for none.
    pub eval_every: u64,
    /// Steps between checkpoints; 0 for one at the end only.
    pub save_every: u64,
    /// Newest checkpoints kept.
    pub keep: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        let adamw = AdamWConfig::default();
        Self {
            data: String::new(),
            seed: 0,
            image_size: None,
            image_shape: None,
            range: None,
            label_column: None,
            scaling: None,
            limit: None,
            held_out: None,
            network: None,
            hidden_size: None,
            depth: None,
            heads: None,
            patch_size: None,
            mlp_ratio: None,
            class_conditional: None,
            class_dropout: 0.1,
            process: ProcessKind::Vp,
            schedule: None,
            zero_terminal_snr: false,
            prediction: Parameterization::Edm,
            levels: LevelsKind::LogNormal,
            log_normal_mean: None,
            log_normal_std: None,
            weighting: WeightingKind::Plain,
            min_snr_gamma: None,
            batch_size: 128,
            accumulate: 1,
            epochs: 10,
            max_steps: None,
            learning_rate: 1e-3,
            warmup_steps: 100,
            learning_rate_schedule: Decay::Cosine,
            weight_decay: adamw.weight_decay,
            adam_beta1: adamw.beta1,
            adam_beta2: adamw.beta2,
            adam_epsilon: adamw.epsilon,
            max_grad_norm: 1.0,
            ema_decay: 0.999,
            log_every: 20,
            eval_every: 0,
            save_every: 500,
            keep: 2,
        }
    }
}

/// Keys that may change when a run is resumed: how long and how watchfully it trains, not what it is.
pub const MAY_CHANGE: &[&str] = &["max-steps", "epochs", "log-every", "eval-every", "save-every", "keep"];

/// Why a configuration makes no run.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value out of its range.
    #[error("{key} is {value}; {remedy}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        remedy: &'static str,
    },
    /// A key that nothing reads with the other settings.
    #[error("{key} has no effect {circumstance}; leave it out")]
    NoEffect {
        /// The key.
        key: &'static str,
        /// With what it has none.
        circumstance: &'static str,
    },
    /// The data have no labels to condition on.
    #[error("class-conditional is true, but the data have no labels; give labels, or leave it out")]
    NoLabels,
    /// The network's sizes do not fit together.
    #[error(transparent)]
    Network(#[from] nn::ConfigError),
    /// The prediction is not defined on all levels.
    #[error(transparent)]
    Prediction(#[from] PredictionError),
    /// The betas make no schedule.
    #[error(transparent)]
    Schedule(#[from] exact::schedule::ScheduleError),
}

impl TrainConfig {
    /// Checks what can be checked without the data.
    ///
    /// # Errors
    /// [`ConfigError`] for a value out of range, or a key without effect.
    pub fn check(&self) -> Result<(), ConfigError> {
        let value = |key, value: String, remedy| Err(ConfigError::Value { key, value, remedy });
        if self.data.is_empty() {
            return value("data", "empty".to_owned(), "give a path, `digits`, or `points:NAME`");
        }
        for (key, share) in [
            ("class-dropout", self.class_dropout),
            ("ema-decay", self.ema_decay),
            ("adam-beta1", self.adam_beta1),
            ("adam-beta2", self.adam_beta2),
        ] {
            if !(0.0..1.0).contains(&share) {
                return value(key, share.to_string(), "it lies in [0, 1)");
            }
        }
        for (key, number) in [
            ("weight-decay", self.weight_decay),
            ("max-grad-norm", self.max_grad_norm),
            ("adam-epsilon", self.adam_epsilon),
            ("min-snr-gamma", self.min_snr_gamma.unwrap_or(1.0)),
            ("log-normal-std", self.log_normal_std.unwrap_or(1.0)),
        ] {
            if !(number.is_finite() && number >= 0.0) {
                return value(key, number.to_string(), "it is a finite number of at least 0");
            }
        }
        let no_effect = |key, circumstance| Err(ConfigError::NoEffect { key, circumstance });
        if self.process == ProcessKind::Ve && self.schedule.is_some() {
            return no_effect("schedule", "with process = \"ve\"");
        }
        if self.process == ProcessKind::Ve && self.zero_terminal_snr {
            return no_effect("zero-terminal-snr", "with process = \"ve\"");
        }
        if self.levels != LevelsKind::LogNormal {
            if self.log_normal_mean.is_some() {
                return no_effect("log-normal-mean", "without levels = \"log-normal\"");
            }
            if self.log_normal_std.is_some() {
                return no_effect("log-normal-std", "without levels = \"log-normal\"");
            }
        }
        if self.weighting != WeightingKind::MinSnr && self.min_snr_gamma.is_some() {
            return no_effect("min-snr-gamma", "without weighting = \"min-snr\"");
        }
        self.prediction.check(self.noise()?.sigma_max())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TrainConfig {
        TrainConfig {
            data: "digits".to_owned(),
            ..TrainConfig::default()
        }
    }

    #[test]
    fn a_configuration_survives_its_file_and_unknown_keys_do_not() {
        let text = toml::to_string(&config()).unwrap();
        assert_eq!(toml::from_str::<TrainConfig>(&text).unwrap(), config());
        let error = toml::from_str::<TrainConfig>("data = 'digits'\nlearning-rat = 1.0").unwrap_err();
        assert!(error.to_string().contains("learning-rat"), "{error}");
    }

    #[test]
    fn keys_without_effect_are_errors() {
        for (toml, key) in [
            ("process = 've'\nschedule = 'linear'", "schedule"),
            ("levels = 'uniform'\nlog-normal-mean = 0.0", "log-normal-mean"),
            ("min-snr-gamma = 3.0", "min-snr-gamma"),
        ] {
            let config: TrainConfig = toml::from_str(&format!("data = 'digits'\n{toml}")).unwrap();
            let error = config.check().unwrap_err();
            assert!(
                matches!(&error, ConfigError::NoEffect { key: found, .. } if *found == key),
                "{error}"
            );
        }
    }

    #[test]
    fn epsilon_with_zero_terminal_snr_is_refused_when_the_configuration_is_built() {
        let config = TrainConfig {
            zero_terminal_snr: true,
            prediction: Parameterization::Epsilon,
            ..config()
        };
        assert!(matches!(config.check(), Err(ConfigError::Prediction(_))));
        let velocity = TrainConfig {
            prediction: Parameterization::V,
            ..config
        };
        assert!(velocity.check().is_ok());
    }
}
