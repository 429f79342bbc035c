//! The affine map of rows: `y = x W + b`.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

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
        None => <Dispatch as LinearOps>::linear(x, weight),
        Some(bias) => <Dispatch as LinearOps>::linear_bias(x, weight, bias.into_dispatch()),
    })
}

/// [`linear`] as a backend provides it.
#[backend_extension(Flex, Autodiff)]
pub trait LinearOps: Backend {
    /// `x W`.
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(x, weight)
    }

    /// `x W + b`.
    fn linear_bias(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let outputs = bias.shape()[0];
        let bias = Self::float_reshape(bias, Shape::new([1, outputs]));
        Self::float_add(Self::float_matmul(x, weight), bias)
    }
}

impl LinearOps for Flex {}

impl<B: LinearOps, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {}
