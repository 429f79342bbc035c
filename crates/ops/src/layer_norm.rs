//! Layer normalisation whose shift and scale come from a condition.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

/// `(x - mean) / sqrt(variance + epsilon) * (1 + scale) + shift`, each token normalised over its width.
///
/// The adaptive layer normalisation of Peebles & Xie, "Scalable Diffusion Models with Transformers" (2023), section
/// 3.2: the variance is the biased one and there is no affine part of its own; `shift` and `scale` are shared by all
/// tokens of one sample.
///
/// # Shapes
///
/// - `x` and result: `[batch, tokens, width]`
/// - `shift`, `scale`: `[batch, width]`
///
/// # Panics
///
/// When the shapes do not fit.
pub fn layer_norm_modulated(x: Tensor<3>, shift: Tensor<2>, scale: Tensor<2>, epsilon: f64) -> Tensor<3> {
    let [batch, _, width] = x.dims();
    assert_eq!(
        shift.dims(),
        [batch, width],
        "layer_norm_modulated: the shift must be [batch, width]"
    );
    assert_eq!(
        scale.dims(),
        [batch, width],
        "layer_norm_modulated: the scale must be [batch, width]"
    );
    Tensor::from_dispatch(<Dispatch as LayerNormOps>::layer_norm_modulated(
        x.into_dispatch(),
        shift.into_dispatch(),
        scale.into_dispatch(),
        epsilon,
    ))
}

/// [`layer_norm_modulated`] as a backend provides it.
#[backend_extension(Flex, Autodiff)]
pub trait LayerNormOps: Backend {
    /// Normalises, scales and shifts.
    fn layer_norm_modulated(
        x: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let shape = x.shape();
        let per_sample = Shape::new([shape[0], 1, shape[2]]);
        let mean = Self::float_mean_dim(x.clone(), 2);
        let centered = Self::float_sub(x, mean);
        let variance = Self::float_mean_dim(Self::float_mul(centered.clone(), centered.clone()), 2);
        let std = Self::float_sqrt(Self::float_add_scalar(variance, epsilon.into()));
        let normalized = Self::float_div(centered, std);
        let factor = Self::float_add_scalar(Self::float_reshape(scale, per_sample.clone()), 1.0.into());
        Self::float_add(
            Self::float_mul(normalized, factor),
            Self::float_reshape(shift, per_sample),
        )
    }
}

impl LayerNormOps for Flex {}

impl<B: LayerNormOps, C: CheckpointStrategy> LayerNormOps for Autodiff<B, C> {}
