//! One step of AdamW.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

/// The numbers of one AdamW step. [`AdamwStep::default`] has PyTorch's defaults at the first step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamwStep {
    /// Which step this is, the first being 1.
    pub step: u64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second moment.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, multiplied by the learning rate.
    pub weight_decay: f64,
    /// Factor on the gradient before anything else: clipping by the global norm in the same pass.
    pub gradient_scale: f64,
}

impl Default for AdamwStep {
    fn default() -> Self {
        Self {
            step: 1,
            learning_rate: 1e-3,
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            weight_decay: 1e-2,
            gradient_scale: 1.0,
        }
    }
}

/// The scalars that the update of every element shares, worked out once in f64.
#[derive(Clone, Copy, Debug)]
struct Coefficients {
    gradient_scale: f64,
    decay: f64,
    first_weight: f64,
    second_decay: f64,
    second_weight: f64,
    second_correction_sqrt: f64,
    epsilon: f64,
    step_size: f64,
}

impl Coefficients {
    fn of(step: &AdamwStep) -> Self {
        let count = step.step as f64;
        Self {
            gradient_scale: step.gradient_scale,
            decay: 1.0 - step.learning_rate * step.weight_decay,
            first_weight: 1.0 - step.beta_1,
            second_decay: step.beta_2,
            second_weight: 1.0 - step.beta_2,
            second_correction_sqrt: (1.0 - step.beta_2.powf(count)).sqrt(),
            epsilon: step.epsilon,
            step_size: step.learning_rate / (1.0 - step.beta_1.powf(count)),
        }
    }
}

/// One AdamW step: the new parameter, first moment and second moment.
///
/// Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (2019), algorithm 2, in the order in which PyTorch's
/// single-tensor implementation computes it (`c` the gradient scale, `k` the step):
///
/// ```text
/// g <- c g
/// p <- (1 - lr wd) p
/// m <- m + (1 - beta1) (g - m)
/// v <- beta2 v + (1 - beta2) g g
/// p <- p - lr / (1 - beta1^k) * m / (sqrt(v) / sqrt(1 - beta2^k) + epsilon)
/// ```
///
/// Works in place on every tensor whose storage nobody else holds, so pass the tensors themselves and not clones.
/// The update is not differentiable: pass tensors without automatic differentiation (`Tensor::inner`).
///
/// # Panics
///
/// When the four shapes differ, or the step is 0.
pub fn adamw<const D: usize>(
    parameter: Tensor<D>,
    gradient: Tensor<D>,
    first_moment: Tensor<D>,
    second_moment: Tensor<D>,
    step: AdamwStep,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    let dims = parameter.dims();
    assert_eq!(
        gradient.dims(),
        dims,
        "adamw: the gradient must have the parameter's shape"
    );
    assert_eq!(
        first_moment.dims(),
        dims,
        "adamw: the first moment must have the parameter's shape"
    );
    assert_eq!(
        second_moment.dims(),
        dims,
        "adamw: the second moment must have the parameter's shape"
    );
    assert!(step.step > 0, "adamw: steps are counted from 1");
    let (parameter, first_moment, second_moment) = <Dispatch as AdamwOps>::adamw(
        parameter.into_dispatch(),
        gradient.into_dispatch(),
        first_moment.into_dispatch(),
        second_moment.into_dispatch(),
        step,
    );
    (
        Tensor::from_dispatch(parameter),
        Tensor::from_dispatch(first_moment),
        Tensor::from_dispatch(second_moment),
    )
}

/// [`adamw`] as a backend provides it.
#[backend_extension(Flex, Autodiff)]
pub trait AdamwOps: Backend {
    /// One AdamW step.
    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first_moment: FloatTensor<Self>,
        second_moment: FloatTensor<Self>,
        step: AdamwStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let c = Coefficients::of(&step);
        let gradient = Self::float_mul_scalar(gradient, c.gradient_scale.into());
        let parameter = Self::float_mul_scalar(parameter, c.decay.into());
        let toward = Self::float_sub(gradient.clone(), first_moment.clone());
        let first_moment = Self::float_add(first_moment, Self::float_mul_scalar(toward, c.first_weight.into()));
        let square = Self::float_mul_scalar(Self::float_mul(gradient.clone(), gradient), c.second_weight.into());
        let second_moment = Self::float_add(Self::float_mul_scalar(second_moment, c.second_decay.into()), square);
        let root = Self::float_div_scalar(Self::float_sqrt(second_moment.clone()), c.second_correction_sqrt.into());
        let denominator = Self::float_add_scalar(root, c.epsilon.into());
        let direction = Self::float_div(first_moment.clone(), denominator);
        let parameter = Self::float_sub(parameter, Self::float_mul_scalar(direction, c.step_size.into()));
        (parameter, first_moment, second_moment)
    }
}

impl AdamwOps for Flex {}

impl<B: AdamwOps, C: CheckpointStrategy> AdamwOps for Autodiff<B, C> {}
