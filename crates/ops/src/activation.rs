//! Smooth activations: GELU and SiLU.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;

use crate::cpu::buffer::{self, ELEMENT_BLOCK, all_f32, contiguous, for_each_block};
use crate::cpu::vector::{self, Kernel, exp, multiply_add};

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
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait ActivationOps: Backend {
    /// GELU by its tanh approximation.
    fn gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::gelu_tanh::<Self>(x)
    }

    /// The gradient of the argument of [`ActivationOps::gelu_tanh`].
    fn gelu_tanh_gradient(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::gelu_tanh_gradient::<Self>(x, gradient)
    }

    /// `x / (1 + exp(-x))`.
    fn silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::silu::<Self>(x)
    }

    /// The gradient of the argument of [`ActivationOps::silu`].
    fn silu_gradient(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::silu_gradient::<Self>(x, gradient)
    }
}

/// The default bodies that an override falls back to.
pub(crate) mod portable {
    use super::*;

    /// `tanh(u)` with `u = sqrt(2/pi) x (1 + 0.044715 x^2)`.
    fn gelu_tanh_of_u<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
        let square = B::float_mul(x.clone(), x.clone());
        let cubic = B::float_add_scalar(B::float_mul_scalar(square, GELU_CUBIC.into()), 1.0.into());
        B::float_tanh(B::float_mul_scalar(B::float_mul(x, cubic), GELU_SCALE.into()))
    }

    pub(crate) fn gelu_tanh<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
        let gate = B::float_add_scalar(gelu_tanh_of_u::<B>(x.clone()), 1.0.into());
        B::float_mul_scalar(B::float_mul(x, gate), 0.5.into())
    }

    /// `g/2 (1 + tanh(u) + x (1 - tanh(u)^2) u')` with `u' = sqrt(2/pi) (1 + 3 * 0.044715 x^2)`.
    pub(crate) fn gelu_tanh_gradient<B: Backend>(x: FloatTensor<B>, gradient: FloatTensor<B>) -> FloatTensor<B> {
        let tanh = gelu_tanh_of_u::<B>(x.clone());
        let square = B::float_mul(x.clone(), x.clone());
        let slope = B::float_mul_scalar(square, (3.0 * GELU_CUBIC).into());
        let slope = B::float_mul_scalar(B::float_add_scalar(slope, 1.0.into()), GELU_SCALE.into());
        let bell = B::float_add_scalar(B::float_neg(B::float_mul(tanh.clone(), tanh.clone())), 1.0.into());
        let curved = B::float_mul(B::float_mul(x, bell), slope);
        let derivative = B::float_add(B::float_add_scalar(tanh, 1.0.into()), curved);
        B::float_mul_scalar(B::float_mul(gradient, derivative), 0.5.into())
    }

    pub(crate) fn silu<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
        B::float_mul(x.clone(), B::sigmoid(x))
    }

    /// `g s (1 + x (1 - s))` with `s = 1 / (1 + exp(-x))`.
    pub(crate) fn silu_gradient<B: Backend>(x: FloatTensor<B>, gradient: FloatTensor<B>) -> FloatTensor<B> {
        let sigmoid = B::sigmoid(x.clone());
        let rest = B::float_add_scalar(B::float_neg(sigmoid.clone()), 1.0.into());
        let curved = B::float_add_scalar(B::float_mul(x, rest), 1.0.into());
        B::float_mul(gradient, B::float_mul(sigmoid, curved))
    }
}

impl ActivationOps for Flex {
    fn gelu_tanh(x: FlexTensor) -> FlexTensor {
        if all_f32(&[&x]) {
            apply::<Gelu>(x)
        } else {
            portable::gelu_tanh::<Self>(x)
        }
    }

    fn gelu_tanh_gradient(x: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        if all_f32(&[&x, &gradient]) {
            differentiate::<Gelu>(x, gradient)
        } else {
            portable::gelu_tanh_gradient::<Self>(x, gradient)
        }
    }

    fn silu(x: FlexTensor) -> FlexTensor {
        if all_f32(&[&x]) {
            apply::<Silu>(x)
        } else {
            portable::silu::<Self>(x)
        }
    }

    fn silu_gradient(x: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        if all_f32(&[&x, &gradient]) {
            differentiate::<Silu>(x, gradient)
        } else {
            portable::silu_gradient::<Self>(x, gradient)
        }
    }
}

/// An activation `x s` with the gate `s = 1 / (1 + exp(-t(x)))`.
///
/// SiLU has `t = x`. GELU's `(1 + tanh(u)) / 2` is the same gate at `t = 2u`, which needs one exponential and no
/// difference of nearly equal numbers.
pub(crate) trait Gated: Sync {
    /// `t(x)`.
    fn argument<const FUSED: bool>(x: f32) -> f32;
    /// `t'(x)`.
    fn slope<const FUSED: bool>(x: f32) -> f32;
}

pub(crate) struct Gelu;

impl Gated for Gelu {
    #[inline(always)]
    fn argument<const FUSED: bool>(x: f32) -> f32 {
        const LINEAR: f32 = (2.0 * GELU_SCALE) as f32;
        const CUBIC: f32 = (2.0 * GELU_SCALE * GELU_CUBIC) as f32;
        x * multiply_add::<FUSED>(x * x, CUBIC, LINEAR)
    }

    #[inline(always)]
    fn slope<const FUSED: bool>(x: f32) -> f32 {
        const LINEAR: f32 = (2.0 * GELU_SCALE) as f32;
        const CUBIC: f32 = (6.0 * GELU_SCALE * GELU_CUBIC) as f32;
        multiply_add::<FUSED>(x * x, CUBIC, LINEAR)
    }
}

pub(crate) struct Silu;

impl Gated for Silu {
    #[inline(always)]
    fn argument<const FUSED: bool>(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn slope<const FUSED: bool>(_: f32) -> f32 {
        1.0
    }
}

fn apply<A: Gated>(x: FlexTensor) -> FlexTensor {
    let shape = x.shape();
    let x = contiguous(x);
    let x = buffer::values(&x);
    // SAFETY: the kernel writes every element.
    #[expect(unsafe_code, reason = "skips zeroing")]
    let values = unsafe {
        buffer::written(x.len(), |values| {
            for_each_block(values, ELEMENT_BLOCK, |index, y| {
                let x = &x[index * ELEMENT_BLOCK..][..y.len()];
                vector::run(Values::<A> {
                    x,
                    y,
                    activation: PhantomData,
                });
            });
        })
    };
    buffer::tensor(values, shape)
}

fn differentiate<A: Gated>(x: FlexTensor, gradient: FlexTensor) -> FlexTensor {
    let (x, mut gradient) = (contiguous(x), contiguous(gradient));
    let x = buffer::values(&x);
    for_each_block(gradient.storage_mut::<f32>(), ELEMENT_BLOCK, |index, gradient| {
        let x = &x[index * ELEMENT_BLOCK..][..gradient.len()];
        vector::run(Derivatives::<A> {
            x,
            gradient,
            activation: PhantomData,
        });
    });
    gradient
}

struct Values<'a, A> {
    x: &'a [f32],
    y: &'a mut [MaybeUninit<f32>],
    activation: PhantomData<A>,
}

impl<A: Gated> Kernel for Values<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            y.write(x / (1.0 + exp::<FUSED>(-A::argument::<FUSED>(x))));
        }
    }
}

/// Multiplies the gradient by `s + x s (1 - s) t'(x)` in place.
struct Derivatives<'a, A> {
    x: &'a [f32],
    gradient: &'a mut [f32],
    activation: PhantomData<A>,
}

impl<A: Gated> Kernel for Derivatives<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for (gradient, &x) in self.gradient.iter_mut().zip(self.x) {
            let gate = 1.0 / (1.0 + exp::<FUSED>(-A::argument::<FUSED>(x)));
            let curved = (x * A::slope::<FUSED>(x)) * (gate * (1.0 - gate));
            *gradient *= gate + curved;
        }
    }
}

impl<B: ActivationOps, C: CheckpointStrategy> ActivationOps for Autodiff<B, C> {
    fn gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let parent = x.node();
        let x = x.into_primitive();
        let output = B::gelu_tanh(x.clone());
        match GeluBackward.prepare::<C>([parent]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(x, output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let parent = x.node();
        let x = x.into_primitive();
        let output = B::silu(x.clone());
        match SiluBackward.prepare::<C>([parent]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(x, output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}

#[derive(Debug)]
struct GeluBackward;

impl<B: ActivationOps> Backward<B, 1> for GeluBackward {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        unary::<B, _>(ops.parents, ops.node, gradients, |gradient| {
            B::gelu_tanh_gradient(ops.state, gradient)
        });
    }
}

#[derive(Debug)]
struct SiluBackward;

impl<B: ActivationOps> Backward<B, 1> for SiluBackward {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        unary::<B, _>(ops.parents, ops.node, gradients, |gradient| {
            B::silu_gradient(ops.state, gradient)
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, check_gradients, random, strided, values, with_threads};

    #[test]
    fn gradients_are_those_of_the_definition() {
        let x: Vec<f32> = (-50..50).map(|i| i as f32 * 0.17).collect();
        check_gradients(
            [x.clone()],
            |[x]| gelu(x),
            |[x]| {
                let gelu = |&x: &f64| x / 2.0 * (1.0 + (GELU_SCALE * (x + GELU_CUBIC * x * x * x)).tanh());
                x.iter().map(gelu).collect()
            },
        );
        check_gradients(
            [x],
            |[x]| silu(x),
            |[x]| x.iter().map(|x| x / (1.0 + (-x).exp())).collect(),
        );
    }

    /// Expected values by Python: `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))` and `x / (1 + exp(-x))`.
    #[test]
    fn values_are_those_of_the_formulas_far_out() {
        let x = Tensor::<1>::from_floats([-20.0, -1.0, 0.0, 1.0, 20.0], &burn::tensor::Device::flex());
        let values = |y: Tensor<1>| y.into_data().try_to_vec::<f32>().unwrap();
        let gelu = values(gelu(x.clone()));
        assert!(gelu[0].abs() < 1e-30 && gelu[2] == 0.0 && gelu[4] == 20.0, "{gelu:?}");
        assert!(
            (gelu[1] + 0.158_808_01).abs() < 1e-7 && (gelu[3] - 0.841_192).abs() < 1e-7,
            "{gelu:?}"
        );
        let silu = values(silu(x));
        assert!((silu[0] + 4.122_307e-8).abs() < 1e-14 && silu[4] == 20.0, "{silu:?}");
        assert!(
            (silu[1] + 0.268_941_42).abs() < 1e-7 && (silu[3] - 0.731_058_6).abs() < 1e-7,
            "{silu:?}"
        );
    }

    proptest! {
        #[test]
        fn fused_is_portable(rows in 0..40_usize, columns in 0..40_usize, plain: bool) {
            let x = random(1, [rows, columns]);
            let x = if plain { x } else { strided(&x) };
            let gradient = strided(&random(2, [rows, columns]));
            assert_close(&Flex::gelu_tanh(x.clone()), &portable::gelu_tanh::<Flex>(x.clone()), 2e-6);
            assert_close(&Flex::silu(x.clone()), &portable::silu::<Flex>(x.clone()), 2e-6);
            let fused = Flex::gelu_tanh_gradient(x.clone(), gradient.clone());
            assert_close(&fused, &portable::gelu_tanh_gradient::<Flex>(x.clone(), gradient.clone()), 2e-6);
            let fused = Flex::silu_gradient(x.clone(), gradient.clone());
            assert_close(&fused, &portable::silu_gradient::<Flex>(x, gradient), 2e-6);
        }
    }

    #[test]
    fn neither_threads_nor_other_elements_change_anything() {
        let (x, gradient) = (random(1, [50_007]), random(2, [50_007]));
        let run = |from: usize, length: usize| {
            let (x, gradient) = (x.narrow(0, from, length), gradient.narrow(0, from, length));
            [
                Flex::gelu_tanh(x.clone()),
                Flex::silu(x.clone()),
                Flex::gelu_tanh_gradient(x.clone(), gradient.clone()),
            ]
            .map(|tensor| values(&tensor))
        };
        let expected = with_threads(1, || run(0, 50_007));
        for threads in 2..=4 {
            assert_eq!(with_threads(threads, || run(0, 50_007)), expected, "{threads} threads");
        }
        for (part, whole) in run(13, 5).into_iter().zip(expected) {
            assert_eq!(part, whole[13..18]);
        }
    }
}
