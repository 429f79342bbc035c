//! One step of AdamW.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

use crate::cpu::buffer::{self, ELEMENT_BLOCK, all_f32, contiguous, for_each_block_triple};
use crate::cpu::vector::{self, Kernel, multiply_add};

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
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait AdamwOps: Backend {
    /// One AdamW step.
    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first_moment: FloatTensor<Self>,
        second_moment: FloatTensor<Self>,
        step: AdamwStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable::<Self>(
            parameter,
            gradient,
            first_moment,
            second_moment,
            &Coefficients::of(&step),
        )
    }
}

/// The default body that an override falls back to.
fn portable<B: Backend>(
    parameter: FloatTensor<B>,
    gradient: FloatTensor<B>,
    first_moment: FloatTensor<B>,
    second_moment: FloatTensor<B>,
    c: &Coefficients,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let gradient = B::float_mul_scalar(gradient, c.gradient_scale.into());
    let parameter = B::float_mul_scalar(parameter, c.decay.into());
    let toward = B::float_sub(gradient.clone(), first_moment.clone());
    let first_moment = B::float_add(first_moment, B::float_mul_scalar(toward, c.first_weight.into()));
    let square = B::float_mul_scalar(B::float_mul(gradient.clone(), gradient), c.second_weight.into());
    let second_moment = B::float_add(B::float_mul_scalar(second_moment, c.second_decay.into()), square);
    let root = B::float_div_scalar(B::float_sqrt(second_moment.clone()), c.second_correction_sqrt.into());
    let denominator = B::float_add_scalar(root, c.epsilon.into());
    let direction = B::float_div(first_moment.clone(), denominator);
    let parameter = B::float_sub(parameter, B::float_mul_scalar(direction, c.step_size.into()));
    (parameter, first_moment, second_moment)
}

impl AdamwOps for Flex {
    fn adamw(
        parameter: FlexTensor,
        gradient: FlexTensor,
        first_moment: FlexTensor,
        second_moment: FlexTensor,
        step: AdamwStep,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let coefficients = Coefficients::of(&step);
        if !all_f32(&[&parameter, &gradient, &first_moment, &second_moment]) {
            return portable::<Self>(parameter, gradient, first_moment, second_moment, &coefficients);
        }
        let gradient = contiguous(gradient);
        let gradient = buffer::values(&gradient);
        let [mut parameter, mut first_moment, mut second_moment] =
            [parameter, first_moment, second_moment].map(contiguous);
        // `storage_mut` copies what somebody else holds too.
        for_each_block_triple(
            (parameter.storage_mut::<f32>(), ELEMENT_BLOCK),
            (first_moment.storage_mut::<f32>(), ELEMENT_BLOCK),
            (second_moment.storage_mut::<f32>(), ELEMENT_BLOCK),
            |index, parameter, first_moment, second_moment| {
                let gradient = &gradient[index * ELEMENT_BLOCK..][..parameter.len()];
                vector::run(Update {
                    parameter,
                    gradient,
                    first_moment,
                    second_moment,
                    coefficients,
                });
            },
        );
        (parameter, first_moment, second_moment)
    }
}

/// One block of the parameter.
struct Update<'a> {
    parameter: &'a mut [f32],
    gradient: &'a [f32],
    first_moment: &'a mut [f32],
    second_moment: &'a mut [f32],
    coefficients: Coefficients,
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let c = self.coefficients;
        let (gradient_scale, decay) = (c.gradient_scale as f32, c.decay as f32);
        let (first_weight, second_decay, second_weight) =
            (c.first_weight as f32, c.second_decay as f32, c.second_weight as f32);
        let (second_correction_sqrt, epsilon, step_size) =
            (c.second_correction_sqrt as f32, c.epsilon as f32, c.step_size as f32);
        let moments = self.first_moment.iter_mut().zip(self.second_moment);
        for ((p, &g), (m, v)) in self.parameter.iter_mut().zip(self.gradient).zip(moments) {
            let g = g * gradient_scale;
            *m = multiply_add::<FUSED>(first_weight, g - *m, *m);
            *v = multiply_add::<FUSED>(second_weight * g, g, *v * second_decay);
            let denominator = v.sqrt() / second_correction_sqrt + epsilon;
            *p = *p * decay - step_size * (*m / denominator);
        }
    }
}

impl<B: AdamwOps, C: CheckpointStrategy> AdamwOps for Autodiff<B, C> {}

#[cfg(test)]
mod tests {
    use burn::backend::ops::FloatTensorOps;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, numbers, random, strided, values, with_threads};

    /// The update as PyTorch's documentation of `AdamW` writes it, in f64, for one element.
    fn reference(mut p: f64, [mut m, mut v]: [f64; 2], gradients: &[f64], step: AdamwStep) -> [f64; 3] {
        for (count, g) in gradients.iter().enumerate() {
            let count = count as f64 + 1.0;
            let g = g * step.gradient_scale;
            p -= step.learning_rate * step.weight_decay * p;
            m = step.beta_1 * m + (1.0 - step.beta_1) * g;
            v = step.beta_2 * v + (1.0 - step.beta_2) * g * g;
            let (m, v) = (m / (1.0 - step.beta_1.powf(count)), v / (1.0 - step.beta_2.powf(count)));
            p -= step.learning_rate * m / (v.sqrt() + step.epsilon);
        }
        [p, m, v]
    }

    #[test]
    fn fifty_steps_follow_the_definition() {
        let (length, steps) = (37, 50);
        let device = burn::tensor::Device::flex();
        let tensor = |values: &[f32]| Tensor::<1>::from_floats(values, &device);
        let start = numbers(1, length);
        let gradients: Vec<Vec<f32>> = (0..steps).map(|step| numbers(2 + step, length)).collect();
        let mut hyper = AdamwStep {
            learning_rate: 1e-2,
            gradient_scale: 0.3,
            ..AdamwStep::default()
        };
        let (mut p, mut m, mut v) = (tensor(&start), tensor(&vec![0.0; length]), tensor(&vec![0.0; length]));
        for (index, gradient) in gradients.iter().enumerate() {
            hyper.step = index as u64 + 1;
            (p, m, v) = adamw(p, tensor(gradient), m, v, hyper);
        }
        let [p, m, v] = [p, m, v].map(|tensor| tensor.into_data().try_to_vec::<f32>().unwrap());
        for index in 0..length {
            let gradients: Vec<f64> = gradients.iter().map(|gradient| f64::from(gradient[index])).collect();
            let expected = reference(f64::from(start[index]), [0.0; 2], &gradients, hyper);
            // A hundred roundings of numbers up to 2, each by at most 1.2e-7.
            for (actual, expected) in [p[index], m[index], v[index]].into_iter().zip(expected) {
                assert!(
                    (f64::from(actual) - expected).abs() < 1.2e-5,
                    "{actual} instead of {expected}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn fused_is_portable(rows in 0..9_usize, columns in 0..9_usize, step in 1..1000_u64, plain: bool) {
            let tensors = [1, 2, 3, 4].map(|seed| random(seed, [rows, columns]));
            let [p, g, m, v] = if plain { tensors } else { tensors.map(|tensor| strided(&tensor)) };
            let v = Flex::float_abs(v);
            let hyper = AdamwStep { step, gradient_scale: 0.7, ..AdamwStep::default() };
            let fused = Flex::adamw(p.clone(), g.clone(), m.clone(), v.clone(), hyper);
            let expected = portable::<Flex>(p, g, m, v, &Coefficients::of(&hyper));
            assert_close(&fused.0, &expected.0, 1e-6);
            assert_close(&fused.1, &expected.1, 1e-6);
            assert_close(&fused.2, &expected.2, 1e-6);
        }
    }

    #[test]
    fn works_in_place_on_what_nobody_else_holds() {
        let [p, g, m, v] = [1, 2, 3, 4].map(|seed| random(seed, [300]));
        let address = |tensor: &FlexTensor| tensor.storage::<f32>().as_ptr();
        let (p_before, m_before, kept) = (address(&p), address(&m), m.clone());
        let kept_values = values(&kept);
        let (p, m, _) = Flex::adamw(p, g, m, v, AdamwStep::default());
        assert_eq!(address(&p), p_before);
        assert_ne!(address(&m), m_before);
        assert_eq!(values(&kept), kept_values);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let run = || {
            let [p, g, m, v] = [1, 2, 3, 4].map(|seed| random(seed, [70_001]));
            let (p, m, v) = Flex::adamw(p, g, m, Flex::float_abs(v), AdamwStep::default());
            [p, m, v].map(|tensor| values(&tensor))
        };
        let expected = with_threads(1, run);
        for threads in 2..=4 {
            assert_eq!(with_threads(threads, run), expected, "{threads} threads");
        }
    }
}
