//! What is made of a run's settings: the noise process, the objective, the network, the optimiser.

use exact::recipe::Noise;
use exact::schedule::Schedule;
use nn::{DenoiserConfig, DitConfig, MlpConfig};
use train::adamw::{AdamWConfig, Decayed};

use super::{ConfigError, LevelsKind, NetworkKind, ProcessKind, ScheduleKind, TrainConfig, WeightingKind};
use crate::data::{self, Shape};
use crate::objective::{Levels, Objective, Weighting};

impl TrainConfig {
    /// How to read the data.
    pub fn data_options(&self) -> data::Options {
        data::Options {
            image_size: self.image_size,
            image_shape: self.image_shape,
            range: self.range,
            label_column: self.label_column.clone(),
            scaling: self.scaling,
            seed: self.seed,
            ..data::Options::default()
        }
    }

    /// The noise process.
    ///
    /// # Errors
    /// [`ConfigError::Schedule`].
    pub fn noise(&self) -> Result<Noise, ConfigError> {
        Ok(match self.process {
            ProcessKind::Ve => Noise::VarianceExploding { sigma_max: 1.0 },
            ProcessKind::Vp => {
                let shape = self.schedule.unwrap_or(ScheduleKind::Linear).shape();
                let schedule = Schedule::new(&shape, 1000)?;
                Noise::Discrete(match self.zero_terminal_snr {
                    true => schedule.rescaled_to_zero_terminal_snr()?,
                    false => schedule,
                })
            }
        })
    }

    /// The training objective, for data of standard deviation `data_std`.
    ///
    /// # Errors
    /// [`ConfigError::Prediction`] for noise prediction with zero terminal signal-to-noise ratio.
    pub fn objective(&self, data_std: f64) -> Result<Objective, ConfigError> {
        let noise = self.noise()?;
        let levels = match (self.levels, noise) {
            (LevelsKind::Uniform, Noise::Discrete(schedule)) => Levels::UniformTimestep(schedule),
            (LevelsKind::Uniform, _) => Levels::UniformVariance,
            (LevelsKind::LogNormal, _) => Levels::LogNormal {
                mean: self.log_normal_mean.unwrap_or(-0.8),
                std: self.log_normal_std.unwrap_or(1.4),
            },
            (LevelsKind::Cosine, _) => Levels::Cosine,
        };
        self.prediction.check(levels.sigma_max())?;
        let weighting = match self.weighting {
            WeightingKind::Plain => Weighting::Plain,
            WeightingKind::MinSnr => Weighting::MinSnr {
                gamma: self.min_snr_gamma.unwrap_or(5.0),
            },
            WeightingKind::Edm => Weighting::Edm,
        };
        Ok(Objective {
            parameterization: self.prediction,
            levels,
            weighting,
            data_std,
        })
    }

    /// The network for samples of this shape with `classes` labels (0 for none).
    ///
    /// # Errors
    /// [`ConfigError`] for sizes that do not fit, keys of the other network, or classes that are not there.
    pub fn denoiser(&self, shape: Shape, classes: usize) -> Result<DenoiserConfig, ConfigError> {
        let classes = match self.class_conditional {
            Some(true) if classes == 0 => return Err(ConfigError::NoLabels),
            Some(false) => 0,
            Some(true) | None => classes,
        };
        let kind = self.network.unwrap_or(if shape.is_image() {
            NetworkKind::Dit
        } else {
            NetworkKind::Mlp
        });
        match (kind, shape) {
            (NetworkKind::Mlp, _) => {
                for (key, given) in [
                    ("heads", self.heads.is_some()),
                    ("patch-size", self.patch_size.is_some()),
                    ("mlp-ratio", self.mlp_ratio.is_some()),
                ] {
                    if given {
                        return Err(ConfigError::NoEffect {
                            key,
                            circumstance: "with network = \"mlp\"",
                        });
                    }
                }
                Ok(DenoiserConfig::Mlp(MlpConfig {
                    dimensions: shape.values(),
                    hidden_size: self.hidden_size.unwrap_or(128),
                    depth: self.depth.unwrap_or(3),
                    classes,
                }))
            }
            (NetworkKind::Dit, Shape::Points { .. }) => Err(ConfigError::Value {
                key: "network",
                value: "dit".to_owned(),
                remedy: "a transformer over patches needs images; for points use mlp",
            }),
            (
                NetworkKind::Dit,
                Shape::Image {
                    channels,
                    height,
                    width,
                },
            ) => Ok(DenoiserConfig::Dit(DitConfig {
                channels,
                height,
                width,
                patch_size: self.patch_size.unwrap_or_else(|| usual_patch(height, width)),
                hidden_size: self.hidden_size.unwrap_or(192),
                depth: self.depth.unwrap_or(6),
                heads: self.heads.unwrap_or(4),
                mlp_ratio: self.mlp_ratio.unwrap_or(4),
                classes,
            })),
        }
    }

    /// The optimiser's settings.
    pub fn adamw(&self) -> AdamWConfig {
        AdamWConfig {
            beta1: self.adam_beta1,
            beta2: self.adam_beta2,
            epsilon: self.adam_epsilon,
            weight_decay: self.weight_decay,
            decayed: Decayed::Everything,
            max_grad_norm: (self.max_grad_norm > 0.0).then_some(self.max_grad_norm),
        }
    }

    /// Samples kept out of training, of `examples` in all.
    pub fn held_out_count(&self, examples: usize) -> usize {
        self.held_out.unwrap_or((examples / 10).min(1000))
    }

    /// Optimiser steps for `examples` training examples.
    pub fn steps(&self, examples: usize) -> u64 {
        let per_epoch = (examples as u64).div_ceil(self.batch_size.max(1) as u64);
        self.max_steps.unwrap_or(self.epochs.saturating_mul(per_epoch))
    }
}

/// The smallest patch of 1, 2, 4 or 8 pixels that divides the image and leaves at most 64 tokens; the largest that divides
/// it where none leaves so few.
fn usual_patch(height: usize, width: usize) -> usize {
    let divides = |patch: &usize| height.is_multiple_of(*patch) && width.is_multiple_of(*patch);
    let sizes = [1, 2, 4, 8];
    let fits = |patch: &usize| divides(patch) && (height / patch) * (width / patch) <= 64;
    sizes
        .into_iter()
        .find(fits)
        .or_else(|| sizes.into_iter().rev().find(divides))
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_get_a_transformer_of_a_sensible_patch_and_points_a_perceptron() {
        let image = |side| Shape::Image {
            channels: 1,
            height: side,
            width: side,
        };
        let config = || TrainConfig {
            data: "digits".to_owned(),
            ..TrainConfig::default()
        };
        let patch = |side| match config().denoiser(image(side), 0).unwrap() {
            DenoiserConfig::Dit(dit) => dit.patch_size,
            DenoiserConfig::Mlp(_) => 0,
        };
        assert_eq!([patch(8), patch(28), patch(32), patch(64), patch(7)], [1, 4, 4, 8, 1]);
        let points = config().denoiser(Shape::Points { dimensions: 2 }, 0).unwrap();
        assert!(matches!(points, DenoiserConfig::Mlp(_)));
        let conditional = TrainConfig {
            class_conditional: Some(true),
            ..config()
        };
        assert!(matches!(conditional.denoiser(image(8), 0), Err(ConfigError::NoLabels)));
    }
}
