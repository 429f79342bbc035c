//! Layer normalisation whose shift and scale come from a condition.

use std::mem::MaybeUninit;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

use crate::cpu::buffer::{self, all_f32, contiguous, for_each_block, for_each_block_triple};
use crate::cpu::vector::{self, Kernel, multiply_add, sum};
use crate::norm::moments;

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
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait LayerNormOps: Backend {
    /// Normalises, scales and shifts.
    fn layer_norm_modulated(
        x: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        portable::forward::<Self>(x, shift, scale, epsilon)
    }

    /// The gradients of `x`, `shift` and `scale`.
    ///
    /// With `n = (x - mean) / std`, `std = sqrt(variance + epsilon)` and `h = g (1 + scale)`: the gradient of `x` is
    /// `(h - mean(h) - n mean(h n)) / std`, that of `shift` the sum over the tokens of `g`, that of `scale` the sum of
    /// `g n`.
    fn layer_norm_modulated_gradients(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        portable::gradients::<Self>(x, scale, gradient, epsilon)
    }
}

/// The default bodies that an override falls back to.
mod portable {
    use super::*;

    pub(super) fn forward<B: Backend>(
        x: FloatTensor<B>,
        shift: FloatTensor<B>,
        scale: FloatTensor<B>,
        epsilon: f64,
    ) -> FloatTensor<B> {
        let per_sample = per_sample::<B>(&x);
        let (normalized, _) = normalize::<B>(x, epsilon);
        let factor = B::float_add_scalar(B::float_reshape(scale, per_sample.clone()), 1.0.into());
        B::float_add(B::float_mul(normalized, factor), B::float_reshape(shift, per_sample))
    }

    pub(super) fn gradients<B: Backend>(
        x: FloatTensor<B>,
        scale: FloatTensor<B>,
        gradient: FloatTensor<B>,
        epsilon: f64,
    ) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
        let per_sample = per_sample::<B>(&x);
        let modulation = scale.shape();
        let (normalized, std) = normalize::<B>(x, epsilon);
        let over_tokens = |tensor| B::float_reshape(B::float_sum_dim(tensor, 1), modulation.clone());
        let shift_gradient = over_tokens(gradient.clone());
        let scale_gradient = over_tokens(B::float_mul(gradient.clone(), normalized.clone()));
        let factor = B::float_add_scalar(B::float_reshape(scale, per_sample), 1.0.into());
        let h = B::float_mul(gradient, factor);
        let along = B::float_mean_dim(B::float_mul(h.clone(), normalized.clone()), 2);
        let rest = B::float_sub(
            B::float_sub(h.clone(), B::float_mean_dim(h, 2)),
            B::float_mul(normalized, along),
        );
        (B::float_div(rest, std), shift_gradient, scale_gradient)
    }

    fn per_sample<B: Backend>(x: &FloatTensor<B>) -> Shape {
        let shape = x.shape();
        Shape::new([shape[0], 1, shape[2]])
    }

    /// `(x - mean) / std` and `std`.
    fn normalize<B: Backend>(x: FloatTensor<B>, epsilon: f64) -> (FloatTensor<B>, FloatTensor<B>) {
        let mean = B::float_mean_dim(x.clone(), 2);
        let centered = B::float_sub(x, mean);
        let variance = B::float_mean_dim(B::float_mul(centered.clone(), centered.clone()), 2);
        let std = B::float_sqrt(B::float_add_scalar(variance, epsilon.into()));
        (B::float_div(centered, std.clone()), std)
    }
}

impl LayerNormOps for Flex {
    fn layer_norm_modulated(x: FlexTensor, shift: FlexTensor, scale: FlexTensor, epsilon: f64) -> FlexTensor {
        if !all_f32(&[&x, &shift, &scale]) {
            return portable::forward::<Self>(x, shift, scale, epsilon);
        }
        let shape = x.shape();
        let (x, shift, scale) = (contiguous(x), contiguous(shift), contiguous(scale));
        let (x, shift, scale) = (buffer::values(&x), buffer::values(&shift), buffer::values(&scale));
        let (width, sample) = (shape[2], shape[1] * shape[2]);
        // SAFETY: the kernel writes every row of every sample.
        #[expect(unsafe_code, reason = "skips zeroing")]
        let values = unsafe {
            buffer::written(x.len(), |values| {
                for_each_block(values, sample, |index, y| {
                    let modulation = index * width..(index + 1) * width;
                    let x = &x[index * sample..(index + 1) * sample];
                    let (shift, scale) = (&shift[modulation.clone()], &scale[modulation]);
                    vector::run(Forward {
                        x,
                        shift,
                        scale,
                        epsilon: epsilon as f32,
                        y,
                    });
                });
            })
        };
        buffer::tensor(values, shape)
    }

    fn layer_norm_modulated_gradients(
        x: FlexTensor,
        scale: FlexTensor,
        gradient: FlexTensor,
        epsilon: f64,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if !all_f32(&[&x, &scale, &gradient]) {
            return portable::gradients::<Self>(x, scale, gradient, epsilon);
        }
        let (shape, modulation) = (x.shape(), scale.shape());
        let (x, scale, mut gradient) = (contiguous(x), contiguous(scale), contiguous(gradient));
        let (x, scale) = (buffer::values(&x), buffer::values(&scale));
        let (width, sample) = (shape[2], shape[1] * shape[2]);
        let mut shift_gradient = vec![0.0; scale.len()];
        let mut scale_gradient = vec![0.0; scale.len()];
        for_each_block_triple(
            (gradient.storage_mut::<f32>(), sample),
            (&mut shift_gradient, width),
            (&mut scale_gradient, width),
            |index, gradient, shift_gradient, scale_gradient| {
                let x = &x[index * sample..(index + 1) * sample];
                let scale = &scale[index * width..(index + 1) * width];
                let epsilon = epsilon as f32;
                vector::run(Backwards {
                    x,
                    scale,
                    epsilon,
                    gradient,
                    shift_gradient,
                    scale_gradient,
                });
            },
        );
        let [shift_gradient, scale_gradient] =
            [shift_gradient, scale_gradient].map(|values| buffer::tensor(values, modulation.clone()));
        (gradient, shift_gradient, scale_gradient)
    }
}

/// One sample.
struct Forward<'a> {
    x: &'a [f32],
    shift: &'a [f32],
    scale: &'a [f32],
    epsilon: f32,
    y: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let width = self.scale.len();
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width)) {
            let (mean, inverse_std) = moments::<true>(x, self.epsilon);
            for (((y, &x), &scale), &shift) in y.iter_mut().zip(x).zip(self.scale).zip(self.shift) {
                let normalized = (x - mean) * inverse_std;
                y.write(multiply_add::<FUSED>(normalized, 1.0 + scale, shift));
            }
        }
    }
}

/// One sample, its gradient rewritten in place.
struct Backwards<'a> {
    x: &'a [f32],
    scale: &'a [f32],
    epsilon: f32,
    gradient: &'a mut [f32],
    shift_gradient: &'a mut [f32],
    scale_gradient: &'a mut [f32],
}

impl Kernel for Backwards<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let width = self.scale.len();
        for (x, gradient) in self.x.chunks_exact(width).zip(self.gradient.chunks_exact_mut(width)) {
            let (mean, inverse_std) = moments::<true>(x, self.epsilon);
            let normalized = |x: f32| (x - mean) * inverse_std;
            for (((&x, &gradient), shift_gradient), scale_gradient) in x
                .iter()
                .zip(gradient.iter())
                .zip(self.shift_gradient.iter_mut())
                .zip(self.scale_gradient.iter_mut())
            {
                *shift_gradient += gradient;
                *scale_gradient = multiply_add::<FUSED>(gradient, normalized(x), *scale_gradient);
            }
            let mean_h = sum([gradient, self.scale], |[g, scale]| g * (1.0 + scale)) / width as f32;
            let along = sum([x, gradient, self.scale], |[x, g, scale]| {
                normalized(x) * (g * (1.0 + scale))
            }) / width as f32;
            for ((gradient, &x), &scale) in gradient.iter_mut().zip(x).zip(self.scale) {
                let h = *gradient * (1.0 + scale);
                *gradient = (h - mean_h - normalized(x) * along) * inverse_std;
            }
        }
    }
}

impl<B: LayerNormOps, C: CheckpointStrategy> LayerNormOps for Autodiff<B, C> {
    fn layer_norm_modulated(
        x: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let parents = [x.node(), shift.node(), scale.node()];
        let (x, scale) = (x.into_primitive(), scale.into_primitive());
        let output = B::layer_norm_modulated(x.clone(), shift.into_primitive(), scale.clone(), epsilon);
        match LayerNormBackward.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((x, scale, epsilon), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}

#[derive(Debug)]
struct LayerNormBackward;

impl<B: LayerNormOps> Backward<B, 3> for LayerNormBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (x, scale, epsilon) = ops.state;
        let (x, shift, scale) = B::layer_norm_modulated_gradients(x, scale, gradient, epsilon);
        for (parent, gradient) in ops.parents.into_iter().zip([x, shift, scale]) {
            if let Some(parent) = parent {
                gradients.register::<B>(parent.id, gradient);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, check_gradients, numbers, random, strided, values, with_threads};

    const EPSILON: f64 = 1e-6;

    #[test]
    fn gradients_are_those_of_the_definition() {
        let [batch, tokens, width] = [2, 3, 19];
        check_gradients(
            [
                numbers(1, batch * tokens * width),
                numbers(2, batch * width),
                numbers(3, batch * width),
            ],
            |[x, shift, scale]| {
                let (shift, scale) = (shift.reshape([batch, width]), scale.reshape([batch, width]));
                layer_norm_modulated(x.reshape([batch, tokens, width]), shift, scale, EPSILON).reshape([-1])
            },
            |[x, shift, scale]| {
                let mut y = Vec::new();
                for (token, x) in x.chunks_exact(width).enumerate() {
                    let mean = x.iter().sum::<f64>() / width as f64;
                    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / width as f64;
                    let start = token / tokens * width;
                    for (index, x) in x.iter().enumerate() {
                        let normalized = (x - mean) / (variance + EPSILON).sqrt();
                        y.push(normalized * (1.0 + scale[start + index]) + shift[start + index]);
                    }
                }
                y
            },
        );
    }

    proptest! {
        #[test]
        fn fused_is_portable(batch in 1..5_usize, tokens in 0..9_usize, width in 2..70_usize, plain: [bool; 2]) {
            let stored = |tensor: FlexTensor, plain: bool| if plain { tensor } else { strided(&tensor) };
            let x = stored(random(1, [batch, tokens, width]), plain[0]);
            let gradient = stored(random(2, [batch, tokens, width]), plain[1]);
            let (shift, scale) = (strided(&random(3, [batch, width])), random(4, [batch, width]));
            let fused = Flex::layer_norm_modulated(x.clone(), shift.clone(), scale.clone(), EPSILON);
            let expected = portable::forward::<Flex>(x.clone(), shift, scale.clone(), EPSILON);
            assert_close(&fused, &expected, 1e-5);
            let fused = Flex::layer_norm_modulated_gradients(x.clone(), scale.clone(), gradient.clone(), EPSILON);
            let expected = portable::gradients::<Flex>(x, scale, gradient, EPSILON);
            assert_close(&fused.0, &expected.0, 1e-4);
            assert_close(&fused.1, &expected.1, 1e-5);
            assert_close(&fused.2, &expected.2, 1e-5);
        }
    }

    #[test]
    fn neither_threads_nor_other_samples_change_anything() {
        let (x, gradient) = (random(1, [9, 49, 100]), random(2, [9, 49, 100]));
        let (shift, scale) = (random(3, [9, 100]), random(4, [9, 100]));
        let run = |sample: std::ops::Range<usize>| {
            let part = |tensor: &FlexTensor| tensor.narrow(0, sample.start, sample.len());
            let y = Flex::layer_norm_modulated(part(&x), part(&shift), part(&scale), EPSILON);
            let (x, shift, scale) =
                Flex::layer_norm_modulated_gradients(part(&x), part(&scale), part(&gradient), EPSILON);
            [y, x, shift, scale].map(|tensor| values(&tensor))
        };
        let expected = with_threads(1, || run(0..9));
        for threads in 2..=4 {
            assert_eq!(with_threads(threads, || run(0..9)), expected, "{threads} threads");
        }
        for (alone, batch) in run(4..5).into_iter().zip(expected) {
            assert_eq!(alone, batch[batch.len() / 9 * 4..][..alone.len()]);
        }
    }

    #[test]
    fn only_tracked_inputs_get_gradients() {
        let device = burn::tensor::Device::flex().autodiff();
        for tracked in 1..8 {
            let track = |bit: usize| tracked & (1 << bit) != 0;
            let x = Tensor::<3>::ones([2, 3, 4], &device).set_require_grad(track(0));
            let shift = Tensor::<2>::ones([2, 4], &device).set_require_grad(track(1));
            let scale = Tensor::<2>::ones([2, 4], &device).set_require_grad(track(2));
            let y = layer_norm_modulated(x.clone(), shift.clone(), scale.clone(), EPSILON);
            let gradients = y.sum().backward();
            assert_eq!(x.grad(&gradients).is_some(), track(0));
            assert_eq!(shift.grad(&gradients).is_some(), track(1));
            assert_eq!(scale.grad(&gradients).is_some(), track(2));
        }
    }
}
