//! The exponential moving average of parameters.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

/// `average + (1 - decay) (parameter - average)`.
///
/// Works in place when nobody else holds the average's storage. Not meant to be differentiated: pass tensors without
/// automatic differentiation.
///
/// # Panics
///
/// When the shapes differ.
pub fn ema<const D: usize>(average: Tensor<D>, parameter: Tensor<D>, decay: f64) -> Tensor<D> {
    assert_eq!(
        average.dims(),
        parameter.dims(),
        "ema: the average must have the parameter's shape"
    );
    Tensor::from_dispatch(<Dispatch as EmaOps>::ema(
        average.into_dispatch(),
        parameter.into_dispatch(),
        decay,
    ))
}

/// [`ema`] as a backend provides it.
#[backend_extension(Flex, Autodiff)]
pub trait EmaOps: Backend {
    /// `average + (1 - decay) (parameter - average)`.
    fn ema(average: FloatTensor<Self>, parameter: FloatTensor<Self>, decay: f64) -> FloatTensor<Self> {
        let toward = Self::float_sub(parameter, average.clone());
        Self::float_add(average, Self::float_mul_scalar(toward, (1.0 - decay).into()))
    }
}

impl EmaOps for Flex {}

impl<B: EmaOps, C: CheckpointStrategy> EmaOps for Autodiff<B, C> {}
