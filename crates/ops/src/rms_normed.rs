//! Normalised rows for linear layers, which are not kept for the way back.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

use crate::linear::LinearOps;
use crate::norm::{NormOps, rms_norm};

/// The rows that [`rms_norm`] makes, together with what it made them of.
///
/// A layer of them that is made by [`RmsNormed::linear`] has the same bits as by [`crate::linear`], and for the way back
/// it keeps what the norm keeps anyway and normalises again, which takes a moment.
#[derive(Clone, Debug)]
pub struct RmsNormed {
    rows: Tensor<2>,
    x: Tensor<2>,
    weight: Tensor<1>,
    epsilon: f64,
}

impl RmsNormed {
    /// Normalises `x`, `[rows, width]`.
    ///
    /// # Panics
    ///
    /// As [`rms_norm`].
    #[must_use]
    pub fn new(x: Tensor<2>, weight: Tensor<1>, epsilon: f64) -> Self {
        Self {
            rows: rms_norm(x.clone(), weight.clone(), epsilon),
            x,
            weight,
            epsilon,
        }
    }

    /// The rows themselves, `[rows, width]`.
    #[must_use]
    pub fn rows(&self) -> Tensor<2> {
        self.rows.clone()
    }

    /// Their products with `weight`, `[width, outputs]`.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit.
    #[must_use]
    pub fn linear(&self, weight: Tensor<2>) -> Tensor<2> {
        let ([_, width], [inputs, _]) = (self.rows.dims(), weight.dims());
        assert_eq!(
            width, inputs,
            "linear: rows of {width} values meet a weight for {inputs}"
        );
        Tensor::from_dispatch(<Dispatch as RmsNormedOps>::linear_of_rms_norm(
            self.rows.clone().into_dispatch(),
            self.x.clone().into_dispatch(),
            self.weight.clone().into_dispatch(),
            weight.into_dispatch(),
            self.epsilon,
        ))
    }
}

/// [`RmsNormed::linear`] as a backend provides it.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait RmsNormedOps: NormOps + LinearOps {
    /// `rows W`, `rows` being the norm of `x` with `norm_weight`.
    fn linear_of_rms_norm(
        rows: FloatTensor<Self>,
        _x: FloatTensor<Self>,
        _norm_weight: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        _epsilon: f64,
    ) -> FloatTensor<Self> {
        Self::linear_without_bias(rows, weight)
    }
}

impl RmsNormedOps for Flex {}

impl<B: RmsNormedOps, C: CheckpointStrategy> RmsNormedOps for Autodiff<B, C> {
    fn linear_of_rms_norm(
        rows: FloatTensor<Self>,
        x: FloatTensor<Self>,
        norm_weight: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        // The gradient of the rows goes to the node of the norm, which takes it to `x` and the norm's weight.
        let (parents, tracked) = ([rows.node(), weight.node()], [rows.is_tracked(), weight.is_tracked()]);
        let weight = weight.into_primitive();
        let output = B::linear_without_bias(rows.into_primitive(), weight.clone());
        let state = NormedState {
            weight: tracked[0].then_some(weight),
            norm: tracked[1].then(|| (x.into_primitive(), norm_weight.into_primitive(), epsilon)),
        };
        match NormedBackward.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(state, output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}

/// What the gradients of those inputs that are tracked need.
#[derive(Clone, Debug)]
struct NormedState<B: Backend> {
    /// For that of the rows.
    weight: Option<FloatTensor<B>>,
    /// For that of the weight: what the norm was made of.
    norm: Option<(FloatTensor<B>, FloatTensor<B>, f64)>,
}

#[derive(Debug)]
struct NormedBackward;

impl<B: RmsNormedOps> Backward<B, 2> for NormedBackward {
    type State = NormedState<B>;

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let [rows_parent, weight_parent] = ops.parents;
        if let (Some(parent), Some((x, norm_weight, epsilon))) = (weight_parent, ops.state.norm) {
            let rows = B::rms_norm(x, norm_weight, epsilon);
            gradients.register::<B>(parent.id, B::linear_weight_gradient(rows, gradient.clone()));
        }
        if let (Some(parent), Some(weight)) = (rows_parent, ops.state.weight) {
            gradients.register::<B>(parent.id, B::linear_input_gradient(gradient, weight));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::testing::numbers;

    #[test]
    fn layers_of_normed_rows_are_norm_and_layer() {
        let device = Device::flex().autodiff();
        for bits in 1..16_u32 {
            let leaf = |index: u32, shape: [usize; 2]| {
                let values = TensorData::new(numbers(u64::from(index), shape[0] * shape[1]), shape);
                Tensor::<2>::from_data(values, &device).set_require_grad(bits >> index & 1 == 1)
            };
            let run = |together: bool| {
                let leaves = [leaf(0, [5, 21]), leaf(1, [1, 21]), leaf(2, [21, 7]), leaf(3, [21, 4])];
                let [x, norm_weight, first, second] = leaves.clone();
                let normed = RmsNormed::new(x, norm_weight.reshape([21]), 1e-5);
                let layer = |weight: Tensor<2>| match together {
                    true => normed.linear(weight),
                    false => crate::linear(normed.rows(), weight, None),
                };
                let y = Tensor::cat(vec![layer(first), layer(second)], 1);
                let factors = TensorData::new(numbers(4, 55), [5, 11]);
                let gradients = (y.clone() * Tensor::from_data(factors, &device)).sum().backward();
                let values = |tensor: Tensor<2>| tensor.into_data().try_into_vec::<f32>().expect("f32 values");
                (values(y), leaves.map(|leaf| leaf.grad(&gradients).map(values)))
            };
            let (found, expected) = (run(true), run(false));
            assert_eq!(found, expected, "{bits:b}");
            assert_eq!(
                found.1.map(|gradient| gradient.is_some()),
                [0, 1, 2, 3].map(|index| bits >> index & 1 == 1)
            );
        }
    }
}
