//! The diffusion transformer (Peebles & Xie 2023): an image is a sequence of patches.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::denoiser::Conditions;
use crate::embedding::ConditionEmbedding;
use crate::initialize::Initial;
use crate::layer::Linear;
use crate::{ConfigError, require_divides, require_positive};

/// Added to variances before the square root, as in the published model.
const EPSILON: f64 = 1e-6;

/// The shape of a [`Dit`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DitConfig {
    /// Colour channels of the image.
    pub channels: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// Side of the square patches; divides both image sides.
    pub patch_size: usize,
    /// Width of a token; divisible by 4 and by `heads`.
    pub hidden_size: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of a block's inner layer, in token widths.
    pub mlp_ratio: usize,
    /// Number of classes; 0 for none.
    pub classes: usize,
}

/// Patches in, `depth` blocks of attention and perceptron, patches out.
///
/// Each block is told noise level and class by adaLN-zero: they choose the shift, scale and gate of its two
/// halves, and all gates start at 0, so a fresh network outputs 0 and every block starts as the identity.
#[derive(Module, Debug)]
pub struct Dit {
    conditions: ConditionEmbedding,
    patch_in: Linear,
    blocks: Vec<Block>,
    modulation: Linear,
    patch_out: Linear,
    #[module(skip)]
    config: DitConfig,
}

/// One block: attention, then a perceptron, both modulated and gated by the conditions.
#[derive(Module, Debug)]
struct Block {
    /// Conditions to shift, scale and gate of attention, then of the perceptron: [width, 6 · width].
    modulation: Linear,
    qkv: Linear,
    projection: Linear,
    expand: Linear,
    contract: Linear,
    #[module(skip)]
    heads: usize,
}

impl Dit {
    /// Fresh weights drawn from `rng`.
    ///
    /// # Errors
    ///
    /// A size of zero, or one that does not divide another as [`DitConfig`] says.
    pub fn new<R: Rng>(config: &DitConfig, rng: &mut R, device: &Device) -> Result<Self, ConfigError> {
        require_divides(("patch_size", config.patch_size), ("height", config.height))?;
        require_divides(("patch_size", config.patch_size), ("width", config.width))?;
        require_divides(("heads", config.heads), ("hidden_size", config.hidden_size))?;
        // Half of a position's code is for the row, half for the column; each is sines and cosines.
        require_divides(("four", 4), ("hidden_size", config.hidden_size))?;
        for (name, value) in [
            ("channels", config.channels),
            ("depth", config.depth),
            ("mlp_ratio", config.mlp_ratio),
        ] {
            require_positive(name, value)?;
        }
        let width = config.hidden_size;
        let patch_values = config.channels * config.patch_size * config.patch_size;
        let mut glorot = |shape| Linear::new(shape, Initial::Glorot, rng, device);
        let patch_in = glorot([patch_values, width]);
        let blocks = (0..config.depth)
            .map(|_| Block::new(config, &mut glorot, device))
            .collect();
        Ok(Self {
            patch_in,
            blocks,
            conditions: ConditionEmbedding::new(width, config.classes, rng, device),
            modulation: Linear::silent([width, 2 * width], device),
            patch_out: Linear::silent([width, patch_values], device),
            config: config.clone(),
        })
    }

    /// [batch, channels · height · width] to the same shape; channels outermost, rows before columns.
    pub fn forward(&self, input: Tensor<2>, conditions: &Conditions) -> Tensor<2> {
        let device = input.device();
        let condition = ops::silu(self.conditions.forward(conditions, &device));
        let mut tokens = self.patch_in.forward_tokens(self.to_patches(input)) + self.positions(&device);
        for block in &self.blocks {
            tokens = block.forward(tokens, condition.clone());
        }
        let [shift, scale] = columns(self.modulation.forward(condition));
        let tokens = ops::layer_norm_modulated(tokens, shift, scale, EPSILON);
        self.to_image(self.patch_out.forward_tokens(tokens))
    }

    /// [batch, values] to [batch, patches, channels · patch_size²].
    fn to_patches(&self, image: Tensor<2>) -> Tensor<3> {
        let [batch, _] = image.dims();
        let DitConfig {
            channels,
            patch_size: patch,
            ..
        } = self.config;
        let [rows, columns] = self.grid();
        image
            .reshape([batch, channels, rows, patch, columns, patch])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, rows * columns, channels * patch * patch])
    }

    /// The inverse of [`Self::to_patches`].
    fn to_image(&self, patches: Tensor<3>) -> Tensor<2> {
        let [batch, ..] = patches.dims();
        let DitConfig {
            channels,
            patch_size: patch,
            height,
            width,
            ..
        } = self.config;
        let [rows, columns] = self.grid();
        patches
            .reshape([batch, rows, columns, channels, patch, patch])
            .permute([0, 3, 1, 4, 2, 5])
            .reshape([batch, channels * height * width])
    }

    /// Patches down and across.
    fn grid(&self) -> [usize; 2] {
        [
            self.config.height / self.config.patch_size,
            self.config.width / self.config.patch_size,
        ]
    }

    /// The fixed code of each patch's place, [1, patches, width].
    fn positions(&self, device: &Device) -> Tensor<3> {
        let [rows, columns] = self.grid();
        let width = self.config.hidden_size;
        Tensor::from_data(
            TensorData::new(position_codes(rows, columns, width), [1, rows * columns, width]),
            device,
        )
    }
}

impl Block {
    fn new(config: &DitConfig, glorot: &mut impl FnMut([usize; 2]) -> Linear, device: &Device) -> Self {
        let width = config.hidden_size;
        let inner = config.mlp_ratio * width;
        Self {
            modulation: Linear::silent([width, 6 * width], device),
            qkv: glorot([width, 3 * width]),
            projection: glorot([width, width]),
            expand: glorot([width, inner]),
            contract: glorot([inner, width]),
            heads: config.heads,
        }
    }

    /// [batch, tokens, hidden_size] and the conditions [batch, width] to the next tokens.
    fn forward(&self, tokens: Tensor<3>, condition: Tensor<2>) -> Tensor<3> {
        let [
            attention_shift,
            attention_scale,
            attention_gate,
            mlp_shift,
            mlp_scale,
            mlp_gate,
        ] = columns(self.modulation.forward(condition));

        let normed = ops::layer_norm_modulated(tokens.clone(), attention_shift, attention_scale, EPSILON);
        let attended = ops::self_attention(self.qkv.forward_tokens(normed), self.heads);
        let tokens = ops::gated_residual(tokens, attention_gate, self.projection.forward_tokens(attended));

        let normed = ops::layer_norm_modulated(tokens.clone(), mlp_shift, mlp_scale, EPSILON);
        let [batch, length, width] = normed.dims();
        let inner = ops::gelu(self.expand.forward(normed.reshape([batch * length, width])));
        let update = self.contract.forward(inner).reshape([batch, length, width]);
        ops::gated_residual(tokens, mlp_gate, update)
    }
}

/// The columns of [batch, N · width] in N equal parts.
fn columns<const N: usize>(x: Tensor<2>) -> [Tensor<2>; N] {
    let width = x.dims()[1] / N;
    std::array::from_fn(|i| x.clone().narrow(1, i * width, width))
}

/// Sines and cosines of row and column at wavelengths from 2 pi to 10,000 · 2 pi patches (Vaswani et al. 2017),
/// in two dimensions as He et al. 2022 (MAE) and the published DiT have it: [rows · columns, width] row-major.
fn position_codes(rows: usize, columns: usize, width: usize) -> Vec<f32> {
    let quarter = width / 4;
    let mut codes = Vec::with_capacity(rows * columns * width);
    let mut code = |place: usize| {
        let angle = |i: usize| place as f64 / 10_000_f64.powf(i as f64 / quarter as f64);
        codes.extend((0..quarter).map(|i| angle(i).sin() as f32));
        codes.extend((0..quarter).map(|i| angle(i).cos() as f32));
    };
    for row in 0..rows {
        for column in 0..columns {
            // The published model codes the column first.
            code(column);
            code(row);
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn patches_are_squares_of_the_image_and_go_back() {
        let device = Device::flex();
        let config = DitConfig {
            channels: 2,
            height: 4,
            width: 6,
            patch_size: 2,
            hidden_size: 4,
            depth: 1,
            heads: 1,
            mlp_ratio: 1,
            classes: 0,
        };
        let dit = Dit::new(&config, &mut rand_chacha::ChaCha8Rng::seed_from_u64(0), &device).unwrap();
        let values: Vec<f32> = (0..96).map(|i| i as f32).collect();
        let image = Tensor::<2>::from_data(TensorData::new(values.clone(), [2, 48]), &device);
        let patches = dit.to_patches(image);
        assert_eq!(patches.dims(), [2, 6, 8]);
        let flat: Vec<f32> = patches.clone().into_data().try_into_vec().unwrap();
        // The second patch of the first image: columns 2 and 3 of rows 0 and 1, of channel 0 and then of channel 1.
        assert_eq!(flat[8..16], [2.0, 3.0, 8.0, 9.0, 26.0, 27.0, 32.0, 33.0]);
        let back: Vec<f32> = dit.to_image(patches).into_data().try_into_vec().unwrap();
        assert_eq!(back, values);
    }

    #[test]
    fn every_place_has_its_own_code() {
        let codes = position_codes(3, 4, 8);
        let rows: Vec<&[f32]> = codes.chunks(8).collect();
        assert_eq!(rows.len(), 12);
        assert!((0..12).all(|i| (0..i).all(|j| rows[i] != rows[j])));
        // Place (row 0, column 0): sines 0, cosines 1.
        assert_eq!(rows[0], [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
    }
}
