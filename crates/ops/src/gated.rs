//! Gated activations of the feed-forward layer.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;

use crate::activation::{self, Gated, Gelu, Silu};
use crate::cpu::buffer::{self, ELEMENT_BLOCK, all_f32, contiguous, for_each_block};
use crate::cpu::vector::{self, Kernel, exp};
use crate::linear::LinearOps;
use crate::rewrite::rewrite_pair;

/// `silu(gate) * up`.
///
/// Shazeer, "GLU Variants Improve Transformer" (2020), equation 6, between its products.
///
/// # Panics
///
/// When the shapes differ.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    assert_eq!(gate.dims(), up.dims(), "swiglu: gate and up must have one shape");
    Tensor::from_dispatch(<Dispatch as GatedOps>::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// `gelu(gate) * up`, with GELU's tanh approximation.
///
/// Shazeer (2020), equation 6 likewise, as Gemma has it.
///
/// # Panics
///
/// When the shapes differ.
pub fn geglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    assert_eq!(gate.dims(), up.dims(), "geglu: gate and up must have one shape");
    Tensor::from_dispatch(<Dispatch as GatedOps>::geglu(gate.into_dispatch(), up.into_dispatch()))
}

/// `swiglu(gate, up) W`: the same bits as by [`swiglu`] and [`crate::linear`], and for the way back what is between them
/// is not kept but worked out again, which takes a moment and saves a third of a feed-forward layer's memory.
///
/// # Shapes
///
/// - `gate`, `up`: `[rows, inner]`
/// - `weight`: `[inner, outputs]`
///
/// # Panics
///
/// When the shapes do not fit.
pub fn swiglu_linear(gate: Tensor<2>, up: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    check("swiglu_linear", &gate, &up, &weight);
    let (gate, up, weight) = (gate.into_dispatch(), up.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(<Dispatch as GatedOps>::swiglu_linear(gate, up, weight))
}

/// `geglu(gate, up) W`, otherwise as [`swiglu_linear`].
///
/// # Panics
///
/// When the shapes do not fit.
pub fn geglu_linear(gate: Tensor<2>, up: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    check("geglu_linear", &gate, &up, &weight);
    let (gate, up, weight) = (gate.into_dispatch(), up.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(<Dispatch as GatedOps>::geglu_linear(gate, up, weight))
}

fn check(name: &str, gate: &Tensor<2>, up: &Tensor<2>, weight: &Tensor<2>) {
    assert_eq!(gate.dims(), up.dims(), "{name}: gate and up must have one shape");
    let ([_, inner], [inputs, _]) = (gate.dims(), weight.dims());
    assert_eq!(
        inner, inputs,
        "{name}: rows of {inner} values meet a weight for {inputs}"
    );
}

/// [`swiglu`], [`geglu`] and the layers after them as a backend provides them.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait GatedOps: LinearOps {
    /// `silu(gate) * up`.
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::swiglu::<Self>(gate, up)
    }

    /// The gradients of `gate` and `up` in [`GatedOps::swiglu`].
    fn swiglu_gradients(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::swiglu_gradients::<Self>(gate, up, gradient)
    }

    /// `gelu(gate) * up`.
    fn geglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::geglu::<Self>(gate, up)
    }

    /// The gradients of `gate` and `up` in [`GatedOps::geglu`].
    fn geglu_gradients(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::geglu_gradients::<Self>(gate, up, gradient)
    }

    /// `swiglu(gate, up) W`.
    fn swiglu_linear(gate: FloatTensor<Self>, up: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::linear_without_bias(Self::swiglu(gate, up), weight)
    }

    /// `geglu(gate, up) W`.
    fn geglu_linear(gate: FloatTensor<Self>, up: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::linear_without_bias(Self::geglu(gate, up), weight)
    }
}

/// The default bodies that an override falls back to.
mod portable {
    use super::activation::portable as activation;
    use super::*;

    pub(super) fn swiglu<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
        B::float_mul(activation::silu::<B>(gate), up)
    }

    pub(super) fn swiglu_gradients<B: Backend>(
        gate: FloatTensor<B>,
        up: FloatTensor<B>,
        gradient: FloatTensor<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let of_up = B::float_mul(gradient.clone(), activation::silu::<B>(gate.clone()));
        let of_gate = activation::silu_gradient::<B>(gate, B::float_mul(gradient, up));
        (of_gate, of_up)
    }

    pub(super) fn geglu<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
        B::float_mul(activation::gelu_tanh::<B>(gate), up)
    }

    pub(super) fn geglu_gradients<B: Backend>(
        gate: FloatTensor<B>,
        up: FloatTensor<B>,
        gradient: FloatTensor<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let of_up = B::float_mul(gradient.clone(), activation::gelu_tanh::<B>(gate.clone()));
        let of_gate = activation::gelu_tanh_gradient::<B>(gate, B::float_mul(gradient, up));
        (of_gate, of_up)
    }
}

impl GatedOps for Flex {
    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        if !all_f32(&[&gate, &up]) {
            return portable::swiglu::<Self>(gate, up);
        }
        apply::<Silu>(gate, up)
    }

    fn swiglu_gradients(gate: FlexTensor, up: FlexTensor, gradient: FlexTensor) -> (FlexTensor, FlexTensor) {
        if !all_f32(&[&gate, &up, &gradient]) {
            return portable::swiglu_gradients::<Self>(gate, up, gradient);
        }
        differentiate::<Silu>(gate, up, gradient)
    }

    fn geglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        if !all_f32(&[&gate, &up]) {
            return portable::geglu::<Self>(gate, up);
        }
        apply::<Gelu>(gate, up)
    }

    fn geglu_gradients(gate: FlexTensor, up: FlexTensor, gradient: FlexTensor) -> (FlexTensor, FlexTensor) {
        if !all_f32(&[&gate, &up, &gradient]) {
            return portable::geglu_gradients::<Self>(gate, up, gradient);
        }
        differentiate::<Gelu>(gate, up, gradient)
    }
}

fn apply<A: Gated>(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
    let shape = gate.shape();
    let (gate, up) = (contiguous(gate), contiguous(up));
    let (gate, up) = (buffer::values(&gate), buffer::values(&up));
    // SAFETY: the kernel writes every element.
    #[expect(unsafe_code, reason = "skips zeroing")]
    let values = unsafe {
        buffer::written(gate.len(), |values| {
            for_each_block(values, ELEMENT_BLOCK, |index, y| {
                let block = index * ELEMENT_BLOCK..index * ELEMENT_BLOCK + y.len();
                vector::run(Values::<A> {
                    gate: &gate[block.clone()],
                    up: &up[block],
                    y,
                    activation: PhantomData,
                });
            });
        })
    };
    buffer::tensor(values, shape)
}

/// The gradients of `gate`, in its own place where nobody else holds it, and of `up`, in that of the result's.
fn differentiate<A: Gated>(gate: FlexTensor, up: FlexTensor, gradient: FlexTensor) -> (FlexTensor, FlexTensor) {
    let (up, mut gradient) = (contiguous(up), contiguous(gradient));
    let up = buffer::values(&up);
    let second = (gradient.storage_mut::<f32>(), ELEMENT_BLOCK);
    let gate = rewrite_pair(gate, ELEMENT_BLOCK, second, |index, gate, gradient| {
        let up = &up[index * ELEMENT_BLOCK..][..gate.len()];
        vector::run(Derivatives::<A> {
            gate,
            up,
            gradient,
            activation: PhantomData,
        });
    });
    (gate, gradient)
}

struct Values<'a, A> {
    gate: &'a [f32],
    up: &'a [f32],
    y: &'a mut [MaybeUninit<f32>],
    activation: PhantomData<A>,
}

impl<A: Gated> Kernel for Values<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for ((y, &gate), &up) in self.y.iter_mut().zip(self.gate).zip(self.up) {
            y.write(gate / (1.0 + exp::<FUSED>(-A::argument::<FUSED>(gate))) * up);
        }
    }
}

/// Puts the gradients of `gate` and `up` in the places of `gate` and of the result's gradient `g`:
/// `g up (s + gate s (1 - s) t'(gate))` and `g gate s`, with the activation `gate s`.
struct Derivatives<'a, A> {
    gate: &'a mut [f32],
    up: &'a [f32],
    gradient: &'a mut [f32],
    activation: PhantomData<A>,
}

impl<A: Gated> Kernel for Derivatives<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for ((gate, gradient), &up) in self.gate.iter_mut().zip(self.gradient).zip(self.up) {
            let (x, g) = (*gate, *gradient);
            let s = 1.0 / (1.0 + exp::<FUSED>(-A::argument::<FUSED>(x)));
            let curved = (x * A::slope::<FUSED>(x)) * (s * (1.0 - s));
            *gate = (g * up) * (s + curved);
            *gradient = g * (x * s);
        }
    }
}

impl<B: GatedOps, C: CheckpointStrategy> GatedOps for Autodiff<B, C> {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        GatedBackward(Activation::Silu).track::<B, C>(gate, up)
    }

    fn geglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        GatedBackward(Activation::Gelu).track::<B, C>(gate, up)
    }

    fn swiglu_linear(gate: FloatTensor<Self>, up: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        GatedBackward(Activation::Silu).track_linear::<B, C>([gate, up, weight])
    }

    fn geglu_linear(gate: FloatTensor<Self>, up: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        GatedBackward(Activation::Gelu).track_linear::<B, C>([gate, up, weight])
    }
}

/// Which of the two operations is meant.
#[derive(Clone, Copy, Debug)]
enum Activation {
    Silu,
    Gelu,
}

impl Activation {
    fn apply<B: GatedOps>(self, gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
        match self {
            Self::Silu => B::swiglu(gate, up),
            Self::Gelu => B::geglu(gate, up),
        }
    }
}

#[derive(Debug)]
struct GatedBackward(Activation);

impl GatedBackward {
    fn track<B: GatedOps, C: CheckpointStrategy>(
        self,
        gate: FloatTensor<Autodiff<B, C>>,
        up: FloatTensor<Autodiff<B, C>>,
    ) -> FloatTensor<Autodiff<B, C>> {
        let parents = [gate.node(), up.node()];
        let inputs = [gate.into_primitive(), up.into_primitive()];
        let [gate, up] = inputs.clone();
        let output = self.0.apply::<B>(gate, up);
        match self.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(inputs, output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn track_linear<B: GatedOps, C: CheckpointStrategy>(
        self,
        inputs: [FloatTensor<Autodiff<B, C>>; 3],
    ) -> FloatTensor<Autodiff<B, C>> {
        let parents = inputs.each_ref().map(|input| input.node());
        let inputs = inputs.map(|input| input.into_primitive());
        let [gate, up, weight] = inputs.clone();
        let output = B::linear_without_bias(self.0.apply::<B>(gate, up), weight);
        match self.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(inputs, output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    /// Registers the gradients of those of `gate` and `up` that are tracked.
    fn register<B: GatedOps>(
        &self,
        parents: [Option<NodeId>; 2],
        [gate, up]: [FloatTensor<B>; 2],
        gradient: FloatTensor<B>,
        gradients: &mut Gradients,
    ) {
        let (of_gate, of_up) = match self.0 {
            Activation::Silu => B::swiglu_gradients(gate, up, gradient),
            Activation::Gelu => B::geglu_gradients(gate, up, gradient),
        };
        for (parent, gradient) in parents.into_iter().zip([of_gate, of_up]) {
            if let Some(parent) = parent {
                gradients.register::<B>(parent, gradient);
            }
        }
    }
}

impl<B: GatedOps> Backward<B, 2> for GatedBackward {
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|parent| parent.id));
        self.register::<B>(parents, ops.state, gradient, gradients);
    }
}

impl<B: GatedOps> Backward<B, 3> for GatedBackward {
    type State = [FloatTensor<B>; 3];

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let [gate, up, weight] = ops.state;
        let [gate_parent, up_parent, weight_parent] = ops.parents.map(|parent| parent.map(|parent| parent.id));
        if let Some(parent) = weight_parent {
            let inner = self.0.apply::<B>(gate.clone(), up.clone());
            gradients.register::<B>(parent, B::linear_weight_gradient(inner, gradient.clone()));
        }
        if gate_parent.is_some() || up_parent.is_some() {
            let gradient = B::linear_input_gradient(gradient, weight);
            self.register::<B>([gate_parent, up_parent], [gate, up], gradient, gradients);
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, FloatDType, TensorData};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, check_gradients, numbers, random, strided, values, with_threads};

    fn check(operation: fn(Tensor<2>, Tensor<2>) -> Tensor<2>, activation: fn(f64) -> f64) {
        check_gradients(
            [numbers(1, 63), numbers(2, 63)],
            |[gate, up]| operation(gate.reshape([3, 21]), up.reshape([3, 21])).reshape([63]),
            |[gate, up]| gate.iter().zip(up).map(|(gate, up)| activation(*gate) * up).collect(),
        );
    }

    #[test]
    fn swiglu_is_its_formula_with_its_gradients() {
        check(swiglu, |x| x / (1.0 + (-x).exp()));
    }

    #[test]
    fn geglu_is_its_formula_with_its_gradients() {
        check(geglu, |x| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        });
    }

    /// A layer behind the activation: the values and all gradients of the two operations that it stands for.
    fn check_linear(
        together: fn(Tensor<2>, Tensor<2>, Tensor<2>) -> Tensor<2>,
        activation: fn(Tensor<2>, Tensor<2>) -> Tensor<2>,
    ) {
        let device = Device::flex().autodiff();
        let leaf = |seed, shape: [usize; 2], tracked: bool| {
            let values = TensorData::new(numbers(seed, shape[0] * shape[1]), shape);
            Tensor::<2>::from_data(values, &device).set_require_grad(tracked)
        };
        for tracked in [[true, true, true], [true, true, false], [false, false, true]] {
            let run = |operation: &dyn Fn([Tensor<2>; 3]) -> Tensor<2>| {
                let leaves = [
                    leaf(1, [5, 21], tracked[0]),
                    leaf(2, [5, 21], tracked[1]),
                    leaf(3, [21, 7], tracked[2]),
                ];
                let y = operation(leaves.clone());
                let gradients = (y.clone() * leaf(4, [5, 7], false)).sum().backward();
                let values = |tensor: Tensor<2>| tensor.into_data().try_into_vec::<f32>().expect("f32 values");
                (values(y), leaves.map(|leaf| leaf.grad(&gradients).map(values)))
            };
            let expected = run(&|[gate, up, weight]| crate::linear(activation(gate, up), weight, None));
            let found = run(&|[gate, up, weight]| together(gate, up, weight));
            assert_eq!(found, expected, "{tracked:?}");
            assert_eq!(found.1.map(|gradient| gradient.is_some()), tracked);
        }
    }

    #[test]
    fn a_layer_behind_the_activation_is_both() {
        check_linear(swiglu_linear, swiglu);
        check_linear(geglu_linear, geglu);
    }

    /// Both operations with their gradients, by the CPU's bodies.
    fn fused(gate: &FlexTensor, up: &FlexTensor, gradient: &FlexTensor) -> [FlexTensor; 6] {
        let [gate, up, gradient] = [gate, up, gradient].map(|tensor| move || tensor.clone());
        let swiglu = Flex::swiglu_gradients(gate(), up(), gradient());
        let geglu = Flex::geglu_gradients(gate(), up(), gradient());
        [
            Flex::swiglu(gate(), up()),
            swiglu.0,
            swiglu.1,
            Flex::geglu(gate(), up()),
            geglu.0,
            geglu.1,
        ]
    }

    proptest! {
        #[test]
        fn fused_is_portable(rows in 0..40_usize, width in 0..40_usize, plain: [bool; 3]) {
            let stored = |tensor: FlexTensor, plain: bool| if plain { tensor } else { strided(&tensor) };
            let gate = stored(random(1, [rows, width]), plain[0]);
            let up = stored(random(2, [rows, width]), plain[1]);
            let gradient = stored(random(3, [rows, width]), plain[2]);
            let fused = fused(&gate, &up, &gradient);
            let [gate, up, gradient] = [gate, up, gradient].map(|tensor| move || tensor.clone());
            let swiglu = portable::swiglu_gradients::<Flex>(gate(), up(), gradient());
            let geglu = portable::geglu_gradients::<Flex>(gate(), up(), gradient());
            let portable = [
                portable::swiglu::<Flex>(gate(), up()),
                swiglu.0,
                swiglu.1,
                portable::geglu::<Flex>(gate(), up()),
                geglu.0,
                geglu.1,
            ];
            for (fused, portable) in fused.iter().zip(&portable) {
                assert_close(fused, portable, 2e-6);
            }
        }
    }

    #[test]
    fn neither_threads_nor_other_rows_change_anything() {
        let [gate, up, gradient] = [1, 2, 3].map(|seed| random(seed, [501, 101]));
        let run = |from: usize, rows: usize| {
            let [gate, up, gradient] = [&gate, &up, &gradient].map(|tensor| tensor.narrow(0, from, rows));
            fused(&gate, &up, &gradient).map(|tensor| values(&tensor))
        };
        let expected = with_threads(1, || run(0, 501));
        for threads in 2..=4 {
            assert_eq!(with_threads(threads, || run(0, 501)), expected, "{threads} threads");
        }
        for (alone, batch) in run(170, 1).into_iter().zip(expected) {
            assert_eq!(alone, batch[170 * 101..171 * 101]);
        }
    }

    #[test]
    fn other_types_take_the_portable_body() {
        let device = Device::flex();
        let tensor = |value: f32| Tensor::<2>::from_floats([[value]], &device).cast(FloatDType::F64);
        let y = swiglu(tensor(1.0), tensor(3.0));
        assert_eq!(y.dtype(), DType::F64);
        assert!((y.into_scalar::<f64>() - 3.0 / (1.0 + (-1.0_f64).exp())).abs() < 1e-15);
        assert_eq!(geglu(tensor(0.0), tensor(3.0)).dtype(), DType::F64);
    }

    #[test]
    fn only_tracked_inputs_get_gradients() {
        let device = Device::flex().autodiff();
        for (operation, tracked) in [swiglu, geglu]
            .into_iter()
            .flat_map(|by| (1..4).map(move |bits| (by, bits)))
        {
            let track = |bit: usize| tracked & (1 << bit) != 0;
            let gate = Tensor::<2>::ones([2, 4], &device).set_require_grad(track(0));
            let up = Tensor::<2>::ones([2, 4], &device).set_require_grad(track(1));
            let gradients = operation(gate.clone(), up.clone()).sum().backward();
            assert_eq!(gate.grad(&gradients).is_some(), track(0));
            assert_eq!(up.grad(&gradients).is_some(), track(1));
        }
    }
}
