//! Smooth activations: GELU and SiLU.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

/// sqrt(2 / pi).
const GELU_SCALE: f64 = 0.797_884_560_802_865_4;
/// The cubic coefficient of GELU's tanh approximation.
const GELU_CUBIC: f64 = 0.044_715;

/// The Gaussian error linear unit by its tanh approximation:
/// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
///
/// Hendrycks & Gimpel, "Gaussian Error Linear Units" (2016), section 2; the form that DiT and GPT-2 use, and
/// PyTorch's `GELU(approximate="tanh")`.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as ActivationOps>::gelu_tanh(x.into_dispatch()))
}

/// The sigmoid linear unit `x / (1 + exp(-x))`.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as ActivationOps>::silu(x.into_dispatch()))
}

/// [`gelu`] and [`silu`] as a backend provides them.
#[backend_extension(Flex, Autodiff)]
pub trait ActivationOps: Backend {
    /// GELU by its tanh approximation.
    fn gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let square = Self::float_mul(x.clone(), x.clone());
        let cubic = Self::float_add_scalar(Self::float_mul_scalar(square, GELU_CUBIC.into()), 1.0.into());
        let argument = Self::float_mul_scalar(Self::float_mul(x.clone(), cubic), GELU_SCALE.into());
        let gate = Self::float_add_scalar(Self::float_tanh(argument), 1.0.into());
        Self::float_mul_scalar(Self::float_mul(x, gate), 0.5.into())
    }

    /// `x / (1 + exp(-x))`.
    fn silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_mul(x.clone(), Self::sigmoid(x))
    }
}

impl ActivationOps for Flex {}

impl<B: ActivationOps, C: CheckpointStrategy> ActivationOps for Autodiff<B, C> {}
