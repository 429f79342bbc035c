//! A residual connection with a gate for each sample.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

/// `x + gate * y`, one gate per sample and channel, shared by the sample's tokens.
///
/// The residual connection of adaLN-zero blocks (Peebles & Xie 2023, section 3.2), where the gate starts at zero.
///
/// # Shapes
///
/// - `x`, `y` and result: `[batch, tokens, width]`
/// - `gate`: `[batch, width]`
///
/// # Panics
///
/// When the shapes do not fit.
pub fn gated_residual(x: Tensor<3>, gate: Tensor<2>, y: Tensor<3>) -> Tensor<3> {
    let [batch, _, width] = x.dims();
    assert_eq!(x.dims(), y.dims(), "gated_residual: x and y must have one shape");
    assert_eq!(
        gate.dims(),
        [batch, width],
        "gated_residual: the gate must be [batch, width]"
    );
    Tensor::from_dispatch(<Dispatch as ResidualOps>::gated_residual(
        x.into_dispatch(),
        gate.into_dispatch(),
        y.into_dispatch(),
    ))
}

/// [`gated_residual`] as a backend provides it.
#[backend_extension(Flex, Autodiff)]
pub trait ResidualOps: Backend {
    /// `x + gate * y`.
    fn gated_residual(x: FloatTensor<Self>, gate: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        let shape = x.shape();
        let gate = Self::float_reshape(gate, Shape::new([shape[0], 1, shape[2]]));
        Self::float_add(x, Self::float_mul(gate, y))
    }
}

impl ResidualOps for Flex {}

impl<B: ResidualOps, C: CheckpointStrategy> ResidualOps for Autodiff<B, C> {}
