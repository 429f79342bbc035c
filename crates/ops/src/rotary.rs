//! Rotary position embedding.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Device, Shape, Slice, Tensor, TensorData};

use crate::cpu::buffer::{self, all_f32, contiguous};
use crate::cpu::vector::{self, Kernel, LANES, multiply_add};
use crate::rewrite::{rewrite, row_block};

/// The cosines and sines of a batch's positions: worked out once and used by all layers.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `[tokens, head_size / 2]`.
    cosine: Tensor<2>,
    /// Likewise.
    sine: Tensor<2>,
}

impl Rotation {
    /// The rotation of each position by `position * frequency`, radians, and the factor on its result.
    #[must_use]
    pub fn new(positions: &[usize], frequencies: &[f64], factor: f64, device: &Device) -> Self {
        let tensor = |function: fn(f64) -> f64| {
            let values: Vec<f32> = positions
                .iter()
                .flat_map(|&position| frequencies.iter().map(move |frequency| position as f64 * frequency))
                .map(|angle| (function(angle) * factor) as f32)
                .collect();
            Tensor::from_data(TensorData::new(values, [positions.len(), frequencies.len()]), device)
        };
        Self {
            cosine: tensor(f64::cos),
            sine: tensor(f64::sin),
        }
    }
}

/// Rotates the two halves of each head against each other: `(a cos - b sin, b cos + a sin)`.
///
/// Su et al., "RoFormer" (2021), equation 34, with the two coordinates of a pair half a head apart, as Llama's published
/// weights in Hugging Face's layout have them.
///
/// # Shapes
///
/// - `x` and result: `[tokens, heads * head_size]`
///
/// # Panics
///
/// When the width is not a multiple of twice the number of frequencies, or there are other tokens than positions.
pub fn rotary(x: Tensor<2>, rotation: &Rotation) -> Tensor<2> {
    let [tokens, width] = x.dims();
    let [positions, half] = rotation.cosine.dims();
    assert_eq!(tokens, positions, "rotary: {tokens} tokens, {positions} positions");
    assert!(
        half > 0 && width.is_multiple_of(2 * half),
        "rotary: a width of {width} does not split into heads of {}",
        2 * half
    );
    Tensor::from_dispatch(<Dispatch as RotaryOps>::rotary(
        x.into_dispatch(),
        rotation.cosine.clone().into_dispatch(),
        rotation.sine.clone().into_dispatch(),
    ))
}

/// [`rotary`] as a backend provides it.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait RotaryOps: Backend {
    /// The rotation, in place when nobody else holds `x`.
    fn rotary(x: FloatTensor<Self>, cosine: FloatTensor<Self>, sine: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::rotate::<Self>(x, cosine, sine)
    }

    /// The gradient of `x`: that of the result, rotated by the negative angles.
    fn rotary_gradient(
        gradient: FloatTensor<Self>,
        cosine: FloatTensor<Self>,
        sine: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        portable::gradient::<Self>(gradient, cosine, sine)
    }
}

/// The default bodies that an override falls back to.
mod portable {
    use super::*;

    /// Cosines and sines get the type of `x`.
    pub(super) fn rotate<B: Backend>(
        x: FloatTensor<B>,
        cosine: FloatTensor<B>,
        sine: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let (shape, half) = (x.shape(), cosine.shape()[1]);
        let (tokens, width, dtype) = (shape[0], shape[1], x.dtype());
        let for_all_heads = |tensor| {
            let tensor = B::float_cast(tensor, dtype.into());
            B::float_reshape(tensor, Shape::new([tokens, 1, half]))
        };
        let (cosine, sine) = (for_all_heads(cosine), for_all_heads(sine));
        let x = B::float_reshape(x, Shape::new([tokens, width / (2 * half), 2 * half]));
        let part = |from| {
            let slices = [Slice::full(), Slice::full(), Slice::from(from..from + half)];
            B::float_slice(x.clone(), &slices)
        };
        let (a, b) = (part(0), part(half));
        let first = B::float_sub(
            B::float_mul(a.clone(), cosine.clone()),
            B::float_mul(b.clone(), sine.clone()),
        );
        let second = B::float_add(B::float_mul(b, cosine), B::float_mul(a, sine));
        B::float_reshape(B::float_cat(vec![first, second], 2), shape)
    }

    pub(super) fn gradient<B: Backend>(
        gradient: FloatTensor<B>,
        cosine: FloatTensor<B>,
        sine: FloatTensor<B>,
    ) -> FloatTensor<B> {
        rotate::<B>(gradient, cosine, B::float_neg(sine))
    }
}

impl RotaryOps for Flex {
    fn rotary(x: FlexTensor, cosine: FlexTensor, sine: FlexTensor) -> FlexTensor {
        if !all_f32(&[&x, &cosine, &sine]) {
            return portable::rotate::<Self>(x, cosine, sine);
        }
        rotate(x, cosine, sine, 1.0)
    }

    fn rotary_gradient(gradient: FlexTensor, cosine: FlexTensor, sine: FlexTensor) -> FlexTensor {
        if !all_f32(&[&gradient, &cosine, &sine]) {
            return portable::gradient::<Self>(gradient, cosine, sine);
        }
        rotate(gradient, cosine, sine, -1.0)
    }
}

/// Rotates, backwards where `direction` is -1.
fn rotate(x: FlexTensor, cosine: FlexTensor, sine: FlexTensor, direction: f32) -> FlexTensor {
    let (width, half) = (x.shape()[1], cosine.shape()[1]);
    let (cosine, sine) = (contiguous(cosine), contiguous(sine));
    let (cosine, sine) = (buffer::values(&cosine), buffer::values(&sine));
    let block = row_block(width);
    rewrite(x, block, |index, rows| {
        let first = index * (block / width);
        let angles = first * half..(first + rows.len() / width) * half;
        vector::run(Rotate {
            rows,
            width,
            cosine: &cosine[angles.clone()],
            sine: &sine[angles],
            half,
            direction,
        });
    })
}

/// Whole rows, in place.
struct Rotate<'a> {
    rows: &'a mut [f32],
    width: usize,
    cosine: &'a [f32],
    sine: &'a [f32],
    half: usize,
    direction: f32,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let half = self.half;
        let angles = self.cosine.chunks_exact(half).zip(self.sine.chunks_exact(half));
        for (row, (cosine, sine)) in self.rows.chunks_exact_mut(self.width).zip(angles) {
            let (cosines, last_cosines) = cosine.as_chunks::<LANES>();
            let (sines, last_sines) = sine.as_chunks::<LANES>();
            for head in row.chunks_exact_mut(2 * half) {
                let (a, b) = head.split_at_mut(half);
                // Blocks of fixed length, read before they are written: else this is not vector code, since a head is
                // short and, as far as the compiler can see, `b` may overlap `a`.
                let (a, last_a) = a.as_chunks_mut::<LANES>();
                let (b, last_b) = b.as_chunks_mut::<LANES>();
                for ((a, b), (cosine, sine)) in a.iter_mut().zip(b).zip(cosines.iter().zip(sines)) {
                    let (before_a, before_b) = (*a, *b);
                    let mut after = [[0.0; LANES]; 2];
                    for lane in 0..LANES {
                        let pair = [before_a[lane], before_b[lane]];
                        let sine = self.direction * sine[lane];
                        (after[0][lane], after[1][lane]) = turned::<FUSED>(pair, cosine[lane], sine);
                    }
                    [*a, *b] = after;
                }
                for ((a, b), (&cosine, &sine)) in last_a.iter_mut().zip(last_b).zip(last_cosines.iter().zip(last_sines))
                {
                    (*a, *b) = turned::<FUSED>([*a, *b], cosine, self.direction * sine);
                }
            }
        }
    }
}

#[inline(always)]
fn turned<const FUSED: bool>([a, b]: [f32; 2], cosine: f32, sine: f32) -> (f32, f32) {
    (
        multiply_add::<FUSED>(a, cosine, -(b * sine)),
        multiply_add::<FUSED>(b, cosine, a * sine),
    )
}

impl<B: RotaryOps, C: CheckpointStrategy> RotaryOps for Autodiff<B, C> {
    fn rotary(x: FloatTensor<Self>, cosine: FloatTensor<Self>, sine: FloatTensor<Self>) -> FloatTensor<Self> {
        let parent = x.node();
        let (cosine, sine) = (cosine.into_primitive(), sine.into_primitive());
        let output = B::rotary(x.into_primitive(), cosine.clone(), sine.clone());
        match RotaryBackward.prepare::<C>([parent]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((cosine, sine), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}

#[derive(Debug)]
struct RotaryBackward;

impl<B: RotaryOps> Backward<B, 1> for RotaryBackward {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (cosine, sine) = ops.state;
        unary::<B, _>(ops.parents, ops.node, gradients, |gradient| {
            B::rotary_gradient(gradient, cosine, sine)
        });
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, FloatDType};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, check_gradients, numbers, random, strided, values, with_threads};

    /// Three tokens, two heads.
    fn check(frequencies: &[f64]) {
        let positions = [0_usize, 7, 3];
        let half = frequencies.len();
        check_gradients(
            [numbers(1, 12 * half)],
            |[x]| {
                let rotation = Rotation::new(&positions, frequencies, 1.5, &x.device());
                rotary(x.reshape([3, 4 * half]), &rotation).reshape([-1])
            },
            |[x]| {
                let mut y = vec![0.0; x.len()];
                for (token, &position) in positions.iter().enumerate() {
                    for head in 0..2 {
                        for (pair, frequency) in frequencies.iter().enumerate() {
                            let at = (token * 2 + head) * 2 * half + pair;
                            let (sine, cosine) = (position as f64 * frequency).sin_cos();
                            y[at] = 1.5 * (x[at] * cosine - x[at + half] * sine);
                            y[at + half] = 1.5 * (x[at + half] * cosine + x[at] * sine);
                        }
                    }
                }
                y
            },
        );
    }

    #[test]
    fn pairs_turn_by_position_times_frequency() {
        check(&[1.0, 0.1]);
        let many: Vec<f64> = (0..19).map(|pair| 0.8_f64.powi(pair)).collect();
        check(&many);
    }

    /// The rotation and its gradient, by the CPU's bodies.
    fn fused(x: &FlexTensor, cosine: &FlexTensor, sine: &FlexTensor) -> [FlexTensor; 2] {
        [
            Flex::rotary(x.clone(), cosine.clone(), sine.clone()),
            Flex::rotary_gradient(x.clone(), cosine.clone(), sine.clone()),
        ]
    }

    proptest! {
        #[test]
        fn fused_is_portable(tokens in 1..30_usize, heads in 1..5_usize, half in 1..40_usize, plain: bool) {
            let x = random(1, [tokens, heads * 2 * half]);
            let x = if plain { x } else { strided(&x) };
            let (cosine, sine) = (random(2, [tokens, half]), strided(&random(3, [tokens, half])));
            let [y, gradient] = fused(&x, &cosine, &sine);
            assert_close(&y, &portable::rotate::<Flex>(x.clone(), cosine.clone(), sine.clone()), 1e-6);
            assert_close(&gradient, &portable::gradient::<Flex>(x, cosine, sine), 1e-6);
        }
    }

    /// The portable body cannot be asked: burn-flex fails at slices of a tensor without elements.
    #[test]
    fn no_tokens_stay_none() {
        let (x, angles) = (random(1, [0, 12]), random(2, [0, 3]));
        for y in fused(&x, &angles, &angles) {
            assert_eq!(y.shape(), x.shape());
        }
        let rotation = Rotation::new(&[], &[1.0, 0.5], 1.0, &Device::flex());
        assert_eq!(rotary(Tensor::zeros([0, 8], &Device::flex()), &rotation).dims(), [0, 8]);
    }

    #[test]
    fn neither_threads_nor_other_tokens_change_anything() {
        let (x, cosine, sine) = (random(1, [401, 152]), random(2, [401, 19]), random(3, [401, 19]));
        let run = |from: usize, tokens: usize| {
            let part = |tensor: &FlexTensor| tensor.narrow(0, from, tokens);
            fused(&part(&x), &part(&cosine), &part(&sine)).map(|tensor| values(&tensor))
        };
        let expected = with_threads(1, || run(0, 401));
        for threads in 2..=4 {
            assert_eq!(with_threads(threads, || run(0, 401)), expected, "{threads} threads");
        }
        for (alone, batch) in run(170, 1).into_iter().zip(expected) {
            assert_eq!(alone, batch[170 * 152..171 * 152]);
        }
    }

    #[test]
    fn other_types_take_the_portable_body() {
        let device = Device::flex();
        let rotation = Rotation::new(&[0], &[1.0], 2.0, &device);
        let x = Tensor::<2>::from_floats([[3.0, 5.0]], &device).cast(FloatDType::F64);
        let y = rotary(x, &rotation);
        assert_eq!(y.dtype(), DType::F64);
        assert_eq!(y.into_data().try_to_vec::<f64>().unwrap(), [6.0, 10.0]);
    }

    /// Data keeps what it is, and its rotation is not tracked either.
    #[test]
    fn only_a_tracked_input_gets_a_gradient() {
        let device = Device::flex().autodiff();
        let rotation = Rotation::new(&[1, 2], &[1.0], 1.0, &device);
        for tracked in [false, true] {
            let x = Tensor::<2>::ones([2, 4], &device).set_require_grad(tracked);
            let scale = Tensor::<2>::ones([2, 4], &device).require_grad();
            let gradients = (rotary(x.clone(), &rotation) * scale.clone()).sum().backward();
            assert_eq!(x.grad(&gradients).is_some(), tracked);
            assert!(scale.grad(&gradients).is_some());
            assert!(
                x.into_data()
                    .try_to_vec::<f32>()
                    .unwrap()
                    .iter()
                    .all(|&value| value == 1.0)
            );
        }
    }
}
