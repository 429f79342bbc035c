//! A residual connection with a gate for each sample.

use std::mem::MaybeUninit;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

use crate::cpu::buffer::{self, all_f32, contiguous, for_each_block, for_each_block_pair};
use crate::cpu::vector::{self, Kernel, multiply_add};

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
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait ResidualOps: Backend {
    /// `x + gate * y`.
    fn gated_residual(x: FloatTensor<Self>, gate: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::forward::<Self>(x, gate, y)
    }

    /// The gradients of the gate, `sum over the tokens of g y`, and of `y`, `gate * g`. That of `x` is `g` itself.
    fn gated_residual_gradients(
        gate: FloatTensor<Self>,
        y: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::gradients::<Self>(gate, y, gradient)
    }
}

/// The default bodies that an override falls back to.
mod portable {
    use super::*;

    pub(super) fn forward<B: Backend>(x: FloatTensor<B>, gate: FloatTensor<B>, y: FloatTensor<B>) -> FloatTensor<B> {
        let shape = x.shape();
        let gate = B::float_reshape(gate, Shape::new([shape[0], 1, shape[2]]));
        B::float_add(x, B::float_mul(gate, y))
    }

    pub(super) fn gradients<B: Backend>(
        gate: FloatTensor<B>,
        y: FloatTensor<B>,
        gradient: FloatTensor<B>,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let (shape, gate_shape) = (y.shape(), gate.shape());
        let gate = B::float_reshape(gate, Shape::new([shape[0], 1, shape[2]]));
        let gate_gradient = B::float_sum_dim(B::float_mul(gradient.clone(), y), 1);
        (
            B::float_reshape(gate_gradient, gate_shape),
            B::float_mul(gate, gradient),
        )
    }
}

impl ResidualOps for Flex {
    fn gated_residual(x: FlexTensor, gate: FlexTensor, y: FlexTensor) -> FlexTensor {
        if !all_f32(&[&x, &gate, &y]) {
            return portable::forward::<Self>(x, gate, y);
        }
        let shape = x.shape();
        let (x, gate, y) = (contiguous(x), contiguous(gate), contiguous(y));
        let (x, gate, y) = (buffer::values(&x), buffer::values(&gate), buffer::values(&y));
        let (width, sample) = (shape[2], shape[1] * shape[2]);
        // SAFETY: the kernel writes every row of every sample.
        #[expect(unsafe_code, reason = "skips zeroing")]
        let values = unsafe {
            buffer::written(x.len(), |values| {
                for_each_block(values, sample, |index, sum| {
                    let (gate, tokens) = (&gate[index * width..][..width], index * sample..(index + 1) * sample);
                    vector::run(Forward {
                        x: &x[tokens.clone()],
                        gate,
                        y: &y[tokens],
                        sum,
                    });
                });
            })
        };
        buffer::tensor(values, shape)
    }

    fn gated_residual_gradients(gate: FlexTensor, y: FlexTensor, gradient: FlexTensor) -> (FlexTensor, FlexTensor) {
        if !all_f32(&[&gate, &y, &gradient]) {
            return portable::gradients::<Self>(gate, y, gradient);
        }
        let (shape, gate_shape) = (y.shape(), gate.shape());
        let (gate, y, gradient) = (contiguous(gate), contiguous(y), contiguous(gradient));
        let (gate, y, gradient) = (buffer::values(&gate), buffer::values(&y), buffer::values(&gradient));
        let (width, sample) = (shape[2], shape[1] * shape[2]);
        let mut gate_gradient = vec![0.0; gate.len()];
        // SAFETY: the kernel writes every row of every sample.
        #[expect(unsafe_code, reason = "skips zeroing")]
        let y_gradient = unsafe {
            buffer::written(y.len(), |y_gradient| {
                for_each_block_pair(
                    (y_gradient, sample),
                    (&mut gate_gradient, width),
                    |index, y_gradient, gate_gradient| {
                        let (gate, tokens) = (&gate[index * width..][..width], index * sample..(index + 1) * sample);
                        let (y, gradient) = (&y[tokens.clone()], &gradient[tokens]);
                        vector::run(Backwards {
                            gate,
                            y,
                            gradient,
                            y_gradient,
                            gate_gradient,
                        });
                    },
                );
            })
        };
        (
            buffer::tensor(gate_gradient, gate_shape),
            buffer::tensor(y_gradient, shape),
        )
    }
}

/// One sample.
struct Forward<'a> {
    x: &'a [f32],
    gate: &'a [f32],
    y: &'a [f32],
    sum: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let width = self.gate.len();
        let rows = self.x.chunks_exact(width).zip(self.y.chunks_exact(width));
        for (sum, (x, y)) in self.sum.chunks_exact_mut(width).zip(rows) {
            for (((sum, &x), &y), &gate) in sum.iter_mut().zip(x).zip(y).zip(self.gate) {
                sum.write(multiply_add::<FUSED>(gate, y, x));
            }
        }
    }
}

/// One sample.
struct Backwards<'a> {
    gate: &'a [f32],
    y: &'a [f32],
    gradient: &'a [f32],
    y_gradient: &'a mut [MaybeUninit<f32>],
    gate_gradient: &'a mut [f32],
}

impl Kernel for Backwards<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let width = self.gate.len();
        let rows = self.y.chunks_exact(width).zip(self.gradient.chunks_exact(width));
        for (y_gradient, (y, gradient)) in self.y_gradient.chunks_exact_mut(width).zip(rows) {
            let inputs = y.iter().zip(gradient).zip(self.gate);
            for ((y_gradient, gate_gradient), ((&y, &gradient), &gate)) in
                y_gradient.iter_mut().zip(self.gate_gradient.iter_mut()).zip(inputs)
            {
                y_gradient.write(gate * gradient);
                *gate_gradient = multiply_add::<FUSED>(gradient, y, *gate_gradient);
            }
        }
    }
}

impl<B: ResidualOps, C: CheckpointStrategy> ResidualOps for Autodiff<B, C> {
    fn gated_residual(x: FloatTensor<Self>, gate: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        let parents = [x.node(), gate.node(), y.node()];
        let (gate, y) = (gate.into_primitive(), y.into_primitive());
        let output = B::gated_residual(x.into_primitive(), gate.clone(), y.clone());
        match ResidualBackward.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((gate, y), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}

#[derive(Debug)]
struct ResidualBackward;

impl<B: ResidualOps> Backward<B, 3> for ResidualBackward {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let [x, gate, y] = ops.parents;
        if gate.is_some() || y.is_some() {
            let (gate_value, y_value) = ops.state;
            let (gate_gradient, y_gradient) = B::gated_residual_gradients(gate_value, y_value, gradient.clone());
            if let Some(gate) = gate {
                gradients.register::<B>(gate.id, gate_gradient);
            }
            if let Some(y) = y {
                gradients.register::<B>(y.id, y_gradient);
            }
        }
        if let Some(x) = x {
            gradients.register::<B>(x.id, gradient);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, check_gradients, numbers, random, strided, values, with_threads};

    #[test]
    fn gradients_are_those_of_the_definition() {
        let [batch, tokens, width] = [2, 3, 5];
        let sample = tokens * width;
        check_gradients(
            [
                numbers(1, batch * sample),
                numbers(2, batch * width),
                numbers(3, batch * sample),
            ],
            |[x, gate, y]| {
                let shape = [batch, tokens, width];
                gated_residual(x.reshape(shape), gate.reshape([batch, width]), y.reshape(shape)).reshape([-1])
            },
            |[x, gate, y]| {
                let gate = |index: usize| gate[index / sample * width + index % width];
                x.iter()
                    .zip(y)
                    .enumerate()
                    .map(|(index, (x, y))| x + gate(index) * y)
                    .collect()
            },
        );
    }

    proptest! {
        #[test]
        fn fused_is_portable(batch in 1..5_usize, tokens in 0..9_usize, width in 1..70_usize, plain: [bool; 3]) {
            let stored = |tensor: FlexTensor, plain: bool| if plain { tensor } else { strided(&tensor) };
            let x = stored(random(1, [batch, tokens, width]), plain[0]);
            let y = stored(random(2, [batch, tokens, width]), plain[1]);
            let gradient = stored(random(3, [batch, tokens, width]), plain[2]);
            let gate = strided(&random(4, [batch, width]));
            let fused = Flex::gated_residual(x.clone(), gate.clone(), y.clone());
            assert_close(&fused, &portable::forward::<Flex>(x, gate.clone(), y.clone()), 1e-6);
            let fused = Flex::gated_residual_gradients(gate.clone(), y.clone(), gradient.clone());
            let expected = portable::gradients::<Flex>(gate, y, gradient);
            assert_close(&fused.0, &expected.0, 1e-5);
            assert_close(&fused.1, &expected.1, 1e-6);
        }
    }

    #[test]
    fn neither_threads_nor_other_samples_change_anything() {
        let (x, y, gate) = (random(1, [9, 49, 100]), random(2, [9, 49, 100]), random(3, [9, 100]));
        let run = |sample: std::ops::Range<usize>| {
            let part = |tensor: &FlexTensor| tensor.narrow(0, sample.start, sample.len());
            let sum = Flex::gated_residual(part(&x), part(&gate), part(&y));
            let (gate, y) = Flex::gated_residual_gradients(part(&gate), part(&y), part(&x));
            [sum, gate, y].map(|tensor| values(&tensor))
        };
        let expected = with_threads(1, || run(0..9));
        for threads in 2..=4 {
            assert_eq!(with_threads(threads, || run(0..9)), expected, "{threads} threads");
        }
        for (alone, batch) in run(4..5).into_iter().zip(expected) {
            assert_eq!(alone, batch[batch.len() / 9 * 4..][..alone.len()]);
        }
    }

    /// As in an adaLN-zero network whose gates are frozen, or whose first residual is data.
    #[test]
    fn only_tracked_inputs_get_gradients() {
        let device = burn::tensor::Device::flex().autodiff();
        for tracked in 1..8 {
            let track = |bit: usize| tracked & (1 << bit) != 0;
            let x = Tensor::<3>::ones([2, 3, 4], &device).set_require_grad(track(0));
            let gate = Tensor::<2>::ones([2, 4], &device).set_require_grad(track(1));
            let y = Tensor::<3>::ones([2, 3, 4], &device).set_require_grad(track(2));
            let gradients = gated_residual(x.clone(), gate.clone(), y.clone()).sum().backward();
            assert_eq!(x.grad(&gradients).is_some(), track(0));
            assert_eq!(gate.grad(&gradients).is_some(), track(1));
            assert_eq!(y.grad(&gradients).is_some(), track(2));
        }
    }
}
