//! A denoiser for points: residual layers, each scaled and shifted by the conditions.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::denoiser::Conditions;
use crate::embedding::ConditionEmbedding;
use crate::initialize::Initial;
use crate::layer::Linear;
use crate::{ConfigError, require_positive};

/// The shape of an [`Mlp`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    /// Values per point.
    pub dimensions: usize,
    /// Width of the hidden layers.
    pub hidden_size: usize,
    /// Number of residual layers.
    pub depth: usize,
    /// Number of classes; 0 for none.
    pub classes: usize,
}

/// `h = Linear(x)`; `depth` times `h = h + silu(Linear(h) · (1 + scale) + shift)`; `Linear(h · (1 + scale))`.
///
/// Scale and shift come from the conditions (Perez et al. 2018), so a map that is linear in the point with a gain
/// that depends on the noise level, the optimum on Gaussian data, is easy to express. The last layer and all
/// scales and shifts start at zero: the fresh network outputs 0.
#[derive(Module, Debug)]
pub struct Mlp {
    conditions: ConditionEmbedding,
    input: Linear,
    layers: Vec<Layer>,
    output_scale: Linear,
    output: Linear,
}

/// One residual layer and the map from conditions to its scale and shift.
#[derive(Module, Debug)]
struct Layer {
    modulation: Linear,
    linear: Linear,
}

impl Mlp {
    /// Fresh weights drawn from `rng`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Zero`] for a size of zero.
    pub fn new<R: Rng>(config: &MlpConfig, rng: &mut R, device: &Device) -> Result<Self, ConfigError> {
        require_positive("dimensions", config.dimensions)?;
        require_positive("hidden_size", config.hidden_size)?;
        require_positive("depth", config.depth)?;
        let width = config.hidden_size;
        Ok(Self {
            conditions: ConditionEmbedding::new(width, config.classes, rng, device),
            input: Linear::new([config.dimensions, width], Initial::Uniform, rng, device),
            layers: (0..config.depth)
                .map(|_| Layer {
                    modulation: Linear::silent([width, 2 * width], device),
                    linear: Linear::new([width, width], Initial::Uniform, rng, device),
                })
                .collect(),
            output_scale: Linear::silent([width, width], device),
            output: Linear::silent([width, config.dimensions], device),
        })
    }

    /// [batch, dimensions] to [batch, dimensions].
    pub fn forward(&self, input: Tensor<2>, conditions: &Conditions) -> Tensor<2> {
        let condition = ops::silu(self.conditions.forward(conditions, &input.device()));
        let mut hidden = self.input.forward(input);
        for layer in &self.layers {
            let [scale, shift] = halves(layer.modulation.forward(condition.clone()));
            let update = layer.linear.forward(hidden.clone());
            hidden = hidden + ops::silu(update.clone() + update * scale + shift);
        }
        let scale = self.output_scale.forward(condition);
        self.output.forward(hidden.clone() + hidden * scale)
    }
}

/// The left and right half of the columns.
fn halves(x: Tensor<2>) -> [Tensor<2>; 2] {
    let half = x.dims()[1] / 2;
    [x.clone().narrow(1, 0, half), x.narrow(1, half, half)]
}
