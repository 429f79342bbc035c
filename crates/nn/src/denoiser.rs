//! The one face all denoisers show: noisy samples and their conditions in, the raw output out.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::{ConfigError, Dit, DitConfig, Mlp, MlpConfig};

/// What a denoiser knows of each sample of a batch besides its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditions {
    /// The noise coordinate of each sample, ln(sigma) / 4 (Karras et al. 2022, table 1). Length: batch.
    pub noise: Vec<f64>,
    /// The class of each sample; `None` asks for the unconditional output. Length: batch. A denoiser built
    /// without classes ignores it.
    pub classes: Vec<Option<u32>>,
}

/// A denoiser's architecture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DenoiserConfig {
    /// A multi-layer perceptron, for points.
    Mlp(MlpConfig),
    /// A diffusion transformer, for images.
    Dit(DitConfig),
}

impl DenoiserConfig {
    /// Builds the network with fresh weights drawn from `rng`.
    ///
    /// # Errors
    ///
    /// A size of zero, or one that does not divide another as it must.
    pub fn build<R: Rng>(&self, rng: &mut R, device: &Device) -> Result<Denoiser, ConfigError> {
        Ok(match self {
            Self::Mlp(config) => Denoiser::Mlp(Mlp::new(config, rng, device)?),
            Self::Dit(config) => Denoiser::Dit(Dit::new(config, rng, device)?),
        })
    }

    /// Values per sample.
    pub fn sample_size(&self) -> usize {
        match self {
            Self::Mlp(config) => config.dimensions,
            Self::Dit(config) => config.channels * config.height * config.width,
        }
    }

    /// Number of classes; 0 for an unconditional denoiser.
    pub fn classes(&self) -> usize {
        match self {
            Self::Mlp(config) => config.classes,
            Self::Dit(config) => config.classes,
        }
    }
}

/// A denoiser with its weights.
#[derive(Module, Debug)]
pub enum Denoiser {
    /// For points.
    Mlp(Mlp),
    /// For images.
    Dit(Dit),
}

impl Denoiser {
    /// The raw output, [batch, values], for the scaled noisy samples `input`, [batch, values].
    pub fn forward(&self, input: Tensor<2>, conditions: &Conditions) -> Tensor<2> {
        match self {
            Self::Mlp(network) => network.forward(input, conditions),
            Self::Dit(network) => network.forward(input, conditions),
        }
    }
}
