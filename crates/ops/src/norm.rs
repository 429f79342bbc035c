//! Normalisation of rows with learned weights.

use std::mem::MaybeUninit;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

use crate::cpu::buffer::{self, all_f32, contiguous, for_each_block};
use crate::cpu::vector::{self, Kernel, multiply_add, sum};
use crate::rewrite::{rewrite, row_block};

/// Rows whose gradients of weight and bias are summed up before they join the rest, on any number of threads.
const AFFINE_ROWS: usize = 64;

/// `x / sqrt(mean(x²) + epsilon) * weight`, row by row.
///
/// Zhang & Sennrich, "Root Mean Square Layer Normalization" (2019), equation 4, with Llama's epsilon.
///
/// # Shapes
///
/// - `x` and result: `[rows, width]`
/// - `weight`: `[width]`
///
/// # Panics
///
/// When the shapes do not fit.
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let [_, width] = x.dims();
    assert_eq!(
        weight.dims(),
        [width],
        "rms_norm: the weight must have a value per column"
    );
    Tensor::from_dispatch(<Dispatch as NormOps>::rms_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        epsilon,
    ))
}

/// `(x - mean) / sqrt(variance + epsilon) * weight + bias`, row by row, with the biased variance.
///
/// Ba et al., "Layer Normalization" (2016), equation 4.
///
/// # Shapes
///
/// - `x` and result: `[rows, width]`
/// - `weight`, `bias`: `[width]`
///
/// # Panics
///
/// When the shapes do not fit.
pub fn layer_norm(x: Tensor<2>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let [_, width] = x.dims();
    assert_eq!(
        weight.dims(),
        [width],
        "layer_norm: the weight must have a value per column"
    );
    assert_eq!(
        bias.dims(),
        [width],
        "layer_norm: the bias must have a value per column"
    );
    Tensor::from_dispatch(<Dispatch as NormOps>::layer_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        epsilon,
    ))
}

/// [`rms_norm`] and [`layer_norm`] as a backend provides them.
///
/// In the gradients, `n` is the normalised row before weight and bias, `std` what it was divided by, `g` the gradient
/// of the result and `h = g weight`.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait NormOps: Backend {
    /// Divides by the root mean square and scales.
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        portable::forward::<Self, false>(x, weight, None, epsilon)
    }

    /// The gradient of `x`, `(h - n mean(h n)) / std`.
    fn rms_norm_input_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        portable::input_gradient::<Self, false>(x, weight, gradient, epsilon)
    }

    /// The gradient of the weight, the sum over the rows of `g n`.
    fn rms_norm_weight_gradient(x: FloatTensor<Self>, gradient: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        portable::weight_gradient::<Self, false>(x, gradient, epsilon)
    }

    /// Subtracts the mean, divides by the standard deviation, scales and shifts.
    fn layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        portable::forward::<Self, true>(x, weight, Some(bias), epsilon)
    }

    /// The gradient of `x`, `(h - mean(h) - n mean(h n)) / std`.
    fn layer_norm_input_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        portable::input_gradient::<Self, true>(x, weight, gradient, epsilon)
    }

    /// The gradients of the weight, the sum over the rows of `g n`, and of the bias, that of `g`.
    fn layer_norm_affine_gradients(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let bias = portable::row_sum::<Self>(gradient.clone());
        (portable::weight_gradient::<Self, true>(x, gradient, epsilon), bias)
    }
}

/// The default bodies that an override falls back to. `CENTERED` tells the layer norm from the RMS norm.
mod portable {
    use super::*;

    pub(super) fn forward<B: Backend, const CENTERED: bool>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        bias: Option<FloatTensor<B>>,
        epsilon: f64,
    ) -> FloatTensor<B> {
        let (normalized, _) = normalize::<B, CENTERED>(x, epsilon);
        let scaled = B::float_mul(normalized, as_row::<B>(weight));
        match bias {
            None => scaled,
            Some(bias) => B::float_add(scaled, as_row::<B>(bias)),
        }
    }

    pub(super) fn input_gradient<B: Backend, const CENTERED: bool>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        gradient: FloatTensor<B>,
        epsilon: f64,
    ) -> FloatTensor<B> {
        let (normalized, std) = normalize::<B, CENTERED>(x, epsilon);
        let h = B::float_mul(gradient, as_row::<B>(weight));
        let along = B::float_mean_dim(B::float_mul(h.clone(), normalized.clone()), 1);
        let rest = B::float_sub(h.clone(), B::float_mul(normalized, along));
        let rest = if CENTERED {
            B::float_sub(rest, B::float_mean_dim(h, 1))
        } else {
            rest
        };
        B::float_div(rest, std)
    }

    pub(super) fn weight_gradient<B: Backend, const CENTERED: bool>(
        x: FloatTensor<B>,
        gradient: FloatTensor<B>,
        epsilon: f64,
    ) -> FloatTensor<B> {
        let (normalized, _) = normalize::<B, CENTERED>(x, epsilon);
        row_sum::<B>(B::float_mul(gradient, normalized))
    }

    /// The sum of the rows.
    pub(super) fn row_sum<B: Backend>(rows: FloatTensor<B>) -> FloatTensor<B> {
        let width = rows.shape()[1];
        B::float_reshape(B::float_sum_dim(rows, 0), Shape::new([width]))
    }

    fn as_row<B: Backend>(values: FloatTensor<B>) -> FloatTensor<B> {
        let width = values.shape()[0];
        B::float_reshape(values, Shape::new([1, width]))
    }

    /// The rows normalised, and what they were divided by.
    fn normalize<B: Backend, const CENTERED: bool>(
        x: FloatTensor<B>,
        epsilon: f64,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let x = if CENTERED {
            B::float_sub(x.clone(), B::float_mean_dim(x, 1))
        } else {
            x
        };
        let square = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), 1);
        let std = B::float_sqrt(B::float_add_scalar(square, epsilon.into()));
        (B::float_div(x, std.clone()), std)
    }
}

impl NormOps for Flex {
    fn rms_norm(x: FlexTensor, weight: FlexTensor, epsilon: f64) -> FlexTensor {
        if !all_f32(&[&x, &weight]) {
            return portable::forward::<Self, false>(x, weight, None, epsilon);
        }
        forward::<false>(x, weight, None, epsilon)
    }

    fn rms_norm_input_gradient(x: FlexTensor, weight: FlexTensor, gradient: FlexTensor, epsilon: f64) -> FlexTensor {
        if !all_f32(&[&x, &weight, &gradient]) {
            return portable::input_gradient::<Self, false>(x, weight, gradient, epsilon);
        }
        input_gradient::<false>(x, weight, gradient, epsilon)
    }

    fn rms_norm_weight_gradient(x: FlexTensor, gradient: FlexTensor, epsilon: f64) -> FlexTensor {
        if !all_f32(&[&x, &gradient]) {
            return portable::weight_gradient::<Self, false>(x, gradient, epsilon);
        }
        let [weight] = affine_gradients::<false, 1>(x, gradient, epsilon);
        weight
    }

    fn layer_norm(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, epsilon: f64) -> FlexTensor {
        if !all_f32(&[&x, &weight, &bias]) {
            return portable::forward::<Self, true>(x, weight, Some(bias), epsilon);
        }
        forward::<true>(x, weight, Some(bias), epsilon)
    }

    fn layer_norm_input_gradient(x: FlexTensor, weight: FlexTensor, gradient: FlexTensor, epsilon: f64) -> FlexTensor {
        if !all_f32(&[&x, &weight, &gradient]) {
            return portable::input_gradient::<Self, true>(x, weight, gradient, epsilon);
        }
        input_gradient::<true>(x, weight, gradient, epsilon)
    }

    fn layer_norm_affine_gradients(x: FlexTensor, gradient: FlexTensor, epsilon: f64) -> (FlexTensor, FlexTensor) {
        if !all_f32(&[&x, &gradient]) {
            let bias = portable::row_sum::<Self>(gradient.clone());
            return (portable::weight_gradient::<Self, true>(x, gradient, epsilon), bias);
        }
        let [weight, bias] = affine_gradients::<true, 2>(x, gradient, epsilon);
        (weight, bias)
    }
}

fn forward<const CENTERED: bool>(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    epsilon: f64,
) -> FlexTensor {
    let shape = x.shape();
    let (x, weight, bias) = (contiguous(x), contiguous(weight), bias.map(contiguous));
    let (x, weight) = (buffer::values(&x), buffer::values(&weight));
    let bias = bias.as_ref().map(buffer::values);
    let block = row_block(shape[1]);
    // SAFETY: the kernel writes every row.
    #[expect(unsafe_code, reason = "skips zeroing")]
    let values = unsafe {
        buffer::written(x.len(), |values| {
            for_each_block(values, block, |index, y| {
                let x = &x[index * block..][..y.len()];
                vector::run(Forward::<CENTERED> {
                    x,
                    weight,
                    bias,
                    epsilon: epsilon as f32,
                    y,
                });
            });
        })
    };
    buffer::tensor(values, shape)
}

fn input_gradient<const CENTERED: bool>(
    x: FlexTensor,
    weight: FlexTensor,
    gradient: FlexTensor,
    epsilon: f64,
) -> FlexTensor {
    let (x, weight) = (contiguous(x), contiguous(weight));
    let (x, weight) = (buffer::values(&x), buffer::values(&weight));
    let block = row_block(weight.len());
    rewrite(gradient, block, |index, gradient| {
        let x = &x[index * block..][..gradient.len()];
        vector::run(InputGradient::<CENTERED> {
            x,
            weight,
            epsilon: epsilon as f32,
            gradient,
        });
    })
}

/// The gradient of the weight and, where `N` is 2, that of the bias: first over [`AFFINE_ROWS`] rows each, then over
/// these partial sums in order.
fn affine_gradients<const CENTERED: bool, const N: usize>(
    x: FlexTensor,
    gradient: FlexTensor,
    epsilon: f64,
) -> [FlexTensor; N] {
    let shape = x.shape();
    let (rows, width) = (shape[0], shape[1]);
    let (x, gradient) = (contiguous(x), contiguous(gradient));
    let (x, gradient) = (buffer::values(&x), buffer::values(&gradient));
    let mut partial = vec![0.0; rows.div_ceil(AFFINE_ROWS) * N * width];
    for_each_block(&mut partial, N * width, |index, sums| {
        let rows = index * AFFINE_ROWS * width..x.len().min((index + 1) * AFFINE_ROWS * width);
        let (weight_sums, bias_sums) = sums.split_at_mut(width);
        vector::run(AffineGradients::<CENTERED> {
            x: &x[rows.clone()],
            gradient: &gradient[rows],
            epsilon: epsilon as f32,
            weight_sums,
            bias_sums,
        });
    });
    let mut sums = vec![0.0; N * width];
    for partial in partial.chunks_exact((N * width).max(1)) {
        for (sum, value) in sums.iter_mut().zip(partial) {
            *sum += value;
        }
    }
    std::array::from_fn(|index| {
        let values = sums[index * width..(index + 1) * width].to_vec();
        buffer::tensor(values, Shape::new([width]))
    })
}

/// The mean of a row, or 0 where rows are not centred, and `1 / sqrt(mean((x - mean)²) + epsilon)`.
#[inline(always)]
pub(crate) fn moments<const CENTERED: bool>(row: &[f32], epsilon: f32) -> (f32, f32) {
    let width = row.len() as f32;
    let mean = if CENTERED { sum([row], |[x]| x) / width } else { 0.0 };
    let square = sum([row], |[x]| (x - mean) * (x - mean)) / width;
    (mean, 1.0 / (square + epsilon).sqrt())
}

/// Whole rows.
struct Forward<'a, const CENTERED: bool> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    epsilon: f32,
    y: &'a mut [MaybeUninit<f32>],
}

impl<const CENTERED: bool> Kernel for Forward<'_, CENTERED> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let width = self.weight.len();
        for (x, y) in self.x.chunks_exact(width).zip(self.y.chunks_exact_mut(width)) {
            let (mean, inverse_std) = moments::<CENTERED>(x, self.epsilon);
            let row = y.iter_mut().zip(x).zip(self.weight);
            match self.bias {
                None => {
                    for ((y, &x), &weight) in row {
                        y.write((x - mean) * inverse_std * weight);
                    }
                }
                Some(bias) => {
                    for (((y, &x), &weight), &bias) in row.zip(bias) {
                        y.write(multiply_add::<FUSED>((x - mean) * inverse_std, weight, bias));
                    }
                }
            }
        }
    }
}

/// Whole rows, the gradient rewritten in place.
struct InputGradient<'a, const CENTERED: bool> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    gradient: &'a mut [f32],
}

impl<const CENTERED: bool> Kernel for InputGradient<'_, CENTERED> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let width = self.weight.len();
        for (x, gradient) in self.x.chunks_exact(width).zip(self.gradient.chunks_exact_mut(width)) {
            let (mean, inverse_std) = moments::<CENTERED>(x, self.epsilon);
            let normalized = |x: f32| (x - mean) * inverse_std;
            let mean_h = if CENTERED {
                sum([gradient, self.weight], |[g, weight]| g * weight) / width as f32
            } else {
                0.0
            };
            let along = sum([x, gradient, self.weight], |[x, g, weight]| {
                normalized(x) * (g * weight)
            }) / width as f32;
            for ((gradient, &x), &weight) in gradient.iter_mut().zip(x).zip(self.weight) {
                let rest = multiply_add::<FUSED>(*gradient, weight, -mean_h);
                *gradient = multiply_add::<FUSED>(normalized(x), -along, rest) * inverse_std;
            }
        }
    }
}

/// Whole rows, whose gradients are added to the sums; those of the bias are empty where there is none.
struct AffineGradients<'a, const CENTERED: bool> {
    x: &'a [f32],
    gradient: &'a [f32],
    epsilon: f32,
    weight_sums: &'a mut [f32],
    bias_sums: &'a mut [f32],
}

impl<const CENTERED: bool> Kernel for AffineGradients<'_, CENTERED> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let width = self.weight_sums.len();
        for (x, gradient) in self.x.chunks_exact(width).zip(self.gradient.chunks_exact(width)) {
            let (mean, inverse_std) = moments::<CENTERED>(x, self.epsilon);
            for ((sum, &x), &gradient) in self.weight_sums.iter_mut().zip(x).zip(gradient) {
                *sum = multiply_add::<FUSED>(gradient, (x - mean) * inverse_std, *sum);
            }
            for (sum, &gradient) in self.bias_sums.iter_mut().zip(gradient) {
                *sum += gradient;
            }
        }
    }
}

impl<B: NormOps, C: CheckpointStrategy> NormOps for Autodiff<B, C> {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let parents = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let output = B::rms_norm(x.clone(), weight.clone(), epsilon);
        match RmsNormBackward.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((x, weight, epsilon), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let parents = [x.node(), weight.node(), bias.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let output = <B as NormOps>::layer_norm(x.clone(), weight.clone(), bias.into_primitive(), epsilon);
        match LayerNormBackward.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((x, weight, epsilon), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}

#[derive(Debug)]
struct RmsNormBackward;

impl<B: NormOps> Backward<B, 2> for RmsNormBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (x, weight, epsilon) = ops.state;
        let [x_parent, weight_parent] = ops.parents;
        // That of `x` last: by then nobody else holds the gradient, and it can take its place.
        if let Some(parent) = weight_parent {
            let of_weight = B::rms_norm_weight_gradient(x.clone(), gradient.clone(), epsilon);
            gradients.register::<B>(parent.id, of_weight);
        }
        if let Some(parent) = x_parent {
            let of_x = B::rms_norm_input_gradient(x, weight, gradient, epsilon);
            gradients.register::<B>(parent.id, of_x);
        }
    }
}

#[derive(Debug)]
struct LayerNormBackward;

impl<B: NormOps> Backward<B, 3> for LayerNormBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (x, weight, epsilon) = ops.state;
        let [x_parent, weight_parent, bias_parent] = ops.parents;
        if weight_parent.is_some() || bias_parent.is_some() {
            let (of_weight, of_bias) = B::layer_norm_affine_gradients(x.clone(), gradient.clone(), epsilon);
            if let Some(parent) = weight_parent {
                gradients.register::<B>(parent.id, of_weight);
            }
            if let Some(parent) = bias_parent {
                gradients.register::<B>(parent.id, of_bias);
            }
        }
        if let Some(parent) = x_parent {
            let of_x = B::layer_norm_input_gradient(x, weight, gradient, epsilon);
            gradients.register::<B>(parent.id, of_x);
        }
    }
}

#[cfg(test)]
#[path = "norm_tests.rs"]
mod tests;
