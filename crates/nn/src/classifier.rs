//! A small image classifier: what samples are judged with.
//!
//! Its last hidden layer is the feature space of the Frechet distance, and its accuracy after training on samples
//! alone says how much of the data's structure the samples hold. It is a plain perceptron on purpose: it trains
//! in a minute, and only comparisons between data sets seen through the same classifier are ever reported.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::initialize::Initial;
use crate::layer::Linear;
use crate::{ConfigError, require_positive};

/// The shape of a [`Classifier`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierConfig {
    /// Values per image.
    pub inputs: usize,
    /// Width of the first hidden layer.
    pub hidden_size: usize,
    /// Width of the second hidden layer, whose activations are the features.
    pub features: usize,
    /// Number of classes.
    pub classes: usize,
}

/// `Linear(gelu(Linear(gelu(Linear(x)))))`.
#[derive(Module, Debug)]
pub struct Classifier {
    first: Linear,
    second: Linear,
    head: Linear,
}

impl Classifier {
    /// Fresh weights drawn from `rng`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Zero`] for a size of zero.
    pub fn new<R: Rng>(config: &ClassifierConfig, rng: &mut R, device: &Device) -> Result<Self, ConfigError> {
        for (name, value) in [
            ("inputs", config.inputs),
            ("hidden_size", config.hidden_size),
            ("features", config.features),
            ("classes", config.classes),
        ] {
            require_positive(name, value)?;
        }
        Ok(Self {
            first: Linear::new([config.inputs, config.hidden_size], Initial::Glorot, rng, device),
            second: Linear::new([config.hidden_size, config.features], Initial::Glorot, rng, device),
            head: Linear::new([config.features, config.classes], Initial::Glorot, rng, device),
        })
    }

    /// Activations of the last hidden layer, [batch, features], for images [batch, inputs].
    pub fn features(&self, images: Tensor<2>) -> Tensor<2> {
        ops::gelu(self.second.forward(ops::gelu(self.first.forward(images))))
    }

    /// Logits [batch, classes] for images [batch, inputs].
    pub fn forward(&self, images: Tensor<2>) -> Tensor<2> {
        self.head.forward(self.features(images))
    }
}
