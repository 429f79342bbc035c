//! The affine map of rows: `y = x W + b`.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

use crate::cpu::buffer::{self, all_f32, contiguous, for_each_block};
use crate::cpu::matrix::{Matrix, MatrixMut};
use crate::cpu::product::{Threads, multiply};
use crate::cpu::vector::{self, Kernel};

/// Rows whose bias gradients are summed up before they join the rest, on any number of threads.
const BIAS_ROWS: usize = 64;

/// `y = x W + b`, row by row.
///
/// A row of the result depends on that row of `x` alone, bit for bit: it is the same in a batch of one and in a batch
/// of a thousand, and on any number of threads.
///
/// # Shapes
///
/// - `x`: `[rows, inputs]`
/// - `weight`: `[inputs, outputs]`
/// - `bias`: `[outputs]`
/// - result: `[rows, outputs]`
///
/// # Panics
///
/// When the shapes do not fit.
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let [_, inputs] = x.dims();
    let [weight_inputs, outputs] = weight.dims();
    assert_eq!(
        inputs, weight_inputs,
        "linear: rows of {inputs} values meet a weight for {weight_inputs}"
    );
    if let Some(bias) = &bias {
        assert_eq!(
            bias.dims(),
            [outputs],
            "linear: the bias must have one value for each of {outputs} outputs"
        );
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        None => <Dispatch as LinearOps>::linear_without_bias(x, weight),
        Some(bias) => <Dispatch as LinearOps>::linear_with_bias(x, weight, bias.into_dispatch()),
    })
}

/// [`linear`] as a backend provides it.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait LinearOps: Backend {
    /// `x W`.
    fn linear_without_bias(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::without_bias::<Self>(x, weight)
    }

    /// `x W + b`.
    fn linear_with_bias(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::with_bias::<Self>(x, weight, bias)
    }

    /// The gradient of `x`, `g W^T`.
    fn linear_input_gradient(gradient: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::input_gradient::<Self>(gradient, weight)
    }

    /// The gradient of `W`, `x^T g`.
    fn linear_weight_gradient(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::weight_gradient::<Self>(x, gradient)
    }

    /// The gradient of `b`, the sum of the rows of `g`.
    fn linear_bias_gradient(gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::bias_gradient::<Self>(gradient)
    }
}

/// The default bodies that an override falls back to.
mod portable {
    use super::*;

    pub(super) fn without_bias<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
        B::float_matmul(x, weight)
    }

    pub(super) fn with_bias<B: Backend>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        bias: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let outputs = bias.shape()[0];
        let bias = B::float_reshape(bias, Shape::new([1, outputs]));
        B::float_add(B::float_matmul(x, weight), bias)
    }

    pub(super) fn input_gradient<B: Backend>(gradient: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
        B::float_matmul(gradient, B::float_transpose(weight))
    }

    pub(super) fn weight_gradient<B: Backend>(x: FloatTensor<B>, gradient: FloatTensor<B>) -> FloatTensor<B> {
        B::float_matmul(B::float_transpose(x), gradient)
    }

    pub(super) fn bias_gradient<B: Backend>(gradient: FloatTensor<B>) -> FloatTensor<B> {
        let outputs = gradient.shape()[1];
        B::float_reshape(B::float_sum_dim(gradient, 0), Shape::new([outputs]))
    }
}

impl LinearOps for Flex {
    fn linear_without_bias(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        if !all_f32(&[&x, &weight]) {
            return portable::without_bias::<Self>(x, weight);
        }
        let (x, weight) = (readable(x), readable(weight));
        product(Matrix::of(&x), Matrix::of(&weight))
    }

    fn linear_with_bias(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        if !all_f32(&[&x, &weight, &bias]) {
            return portable::with_bias::<Self>(x, weight, bias);
        }
        let (x, weight, bias) = (readable(x), readable(weight), contiguous(bias));
        let (rows, outputs) = (x.shape()[0], weight.shape()[1]);
        let bias = buffer::values(&bias);
        let fill = |values: &mut [std::mem::MaybeUninit<f32>]| {
            for_each_block(
                values,
                (buffer::ELEMENT_BLOCK / outputs.max(1)).max(1) * outputs.max(1),
                |_, block| {
                    for row in block.chunks_exact_mut(outputs) {
                        row.write_copy_of_slice(bias);
                    }
                },
            );
        };
        // SAFETY: `fill` copies the bias to every row.
        #[expect(unsafe_code, reason = "skips zeroing")]
        let mut values = unsafe { buffer::written(rows * outputs, fill) };
        let destination = MatrixMut::written(&mut values, [rows, outputs], outputs);
        multiply(destination, true, Matrix::of(&x), Matrix::of(&weight), Threads::All);
        buffer::tensor(values, Shape::new([rows, outputs]))
    }

    fn linear_input_gradient(gradient: FlexTensor, weight: FlexTensor) -> FlexTensor {
        if !all_f32(&[&gradient, &weight]) {
            return portable::input_gradient::<Self>(gradient, weight);
        }
        let (gradient, weight) = (readable(gradient), readable(weight));
        product(Matrix::of(&gradient), Matrix::of(&weight).transposed())
    }

    fn linear_weight_gradient(x: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        if !all_f32(&[&x, &gradient]) {
            return portable::weight_gradient::<Self>(x, gradient);
        }
        let (x, gradient) = (readable(x), readable(gradient));
        product(Matrix::of(&x).transposed(), Matrix::of(&gradient))
    }

    fn linear_bias_gradient(gradient: FlexTensor) -> FlexTensor {
        if !all_f32(&[&gradient]) {
            return portable::bias_gradient::<Self>(gradient);
        }
        let outputs = gradient.shape()[1];
        let gradient = contiguous(gradient);
        buffer::tensor(column_sums(buffer::values(&gradient), outputs), Shape::new([outputs]))
    }
}

/// The tensor itself if a [`Matrix`] can read it, else a copy.
fn readable(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().strides().iter().any(|&stride| stride < 0) {
        contiguous(tensor)
    } else {
        tensor
    }
}

/// The product as a tensor.
fn product(left: Matrix<'_>, right: Matrix<'_>) -> FlexTensor {
    let shape = [left.rows(), right.columns()];
    // SAFETY: the product writes every element of its destination.
    #[expect(unsafe_code, reason = "skips zeroing")]
    let values = unsafe {
        buffer::written(shape[0] * shape[1], |values| {
            multiply(
                MatrixMut::unwritten(values, shape, shape[1]),
                false,
                left,
                right,
                Threads::All,
            );
        })
    };
    buffer::tensor(values, Shape::new(shape))
}

/// The sums of the columns: first over [`BIAS_ROWS`] rows each, then over these partial sums in order.
fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    let mut sums = vec![0.0; columns];
    if columns == 0 {
        return sums;
    }
    let block = BIAS_ROWS * columns;
    let mut partial = vec![0.0; values.len().div_ceil(block) * columns];
    for_each_block(&mut partial, columns, |index, sums| {
        let rows = &values[index * block..values.len().min((index + 1) * block)];
        vector::run(AddRows { sums, rows });
    });
    vector::run(AddRows {
        sums: &mut sums,
        rows: &partial,
    });
    sums
}

/// Adds the rows to the sums, one after another.
struct AddRows<'a> {
    sums: &'a mut [f32],
    rows: &'a [f32],
}

impl Kernel for AddRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for row in self.rows.chunks_exact(self.sums.len()) {
            for (sum, value) in self.sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}

impl<B: LinearOps, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    fn linear_without_bias(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let parents = [x.node(), weight.node()];
        let ([x, weight], kept) = factors::<B, C>(x, weight);
        let output = B::linear_without_bias(x, weight);
        match LinearBackward.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(kept, output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn linear_with_bias(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let parents = [x.node(), weight.node(), bias.node()];
        let ([x, weight], kept) = factors::<B, C>(x, weight);
        let output = B::linear_with_bias(x, weight, bias.into_primitive());
        match LinearBackward.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(kept, output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}

/// What the gradients of those inputs that are tracked need: where the weight is frozen, the rows are not kept.
#[derive(Clone, Debug)]
struct Kept<B: Backend> {
    /// For the gradient of the weight.
    x: Option<FloatTensor<B>>,
    /// For that of the rows.
    weight: Option<FloatTensor<B>>,
}

/// The factors of a product, and what is kept of them for the way back.
fn factors<B: Backend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
) -> ([FloatTensor<B>; 2], Kept<B>) {
    let (x_tracked, weight_tracked) = (x.is_tracked(), weight.is_tracked());
    let (x, weight) = (x.into_primitive(), weight.into_primitive());
    let kept = Kept {
        x: weight_tracked.then(|| x.clone()),
        weight: x_tracked.then(|| weight.clone()),
    };
    ([x, weight], kept)
}

#[derive(Debug)]
struct LinearBackward;

impl LinearBackward {
    /// Registers the gradients of those of `x`, `weight` and the bias that are tracked.
    fn register<B: LinearOps>(
        [x_node, weight_node, bias_node]: [Option<NodeId>; 3],
        kept: Kept<B>,
        gradient: FloatTensor<B>,
        gradients: &mut Gradients,
    ) {
        if let Some(node) = bias_node {
            gradients.register::<B>(node, B::linear_bias_gradient(gradient.clone()));
        }
        if let (Some(node), Some(x)) = (weight_node, kept.x) {
            gradients.register::<B>(node, B::linear_weight_gradient(x, gradient.clone()));
        }
        if let (Some(node), Some(weight)) = (x_node, kept.weight) {
            gradients.register::<B>(node, B::linear_input_gradient(gradient, weight));
        }
    }
}

impl<B: LinearOps> Backward<B, 2> for LinearBackward {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let [x, weight] = ops.parents.map(|parent| parent.map(|parent| parent.id));
        Self::register::<B>([x, weight, None], ops.state, gradient, gradients);
    }
}

impl<B: LinearOps> Backward<B, 3> for LinearBackward {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|parent| parent.id));
        Self::register::<B>(parents, ops.state, gradient, gradients);
    }
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
