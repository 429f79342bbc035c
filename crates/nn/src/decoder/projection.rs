//! The affine map of a decoder's layers, with a low-rank adapter beside it where there is one.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use ops::{PackedWeight, Precision, RmsNormed};

use super::adapter::Adapter;
use super::config::FeedForward;

/// `y = x W + b`, plus `scale · (x A) B` where it is adapted (Hu et al. 2021, "LoRA").
///
/// The low-rank path is worked out as two thin products and the weight is never touched: merging it into the weight at
/// each pass would cost more than the layer.
#[derive(Module, Debug)]
pub struct Projection {
    /// [inputs, outputs].
    pub(super) weight: Param<Tensor<2>>,
    /// [outputs].
    bias: Option<Param<Tensor<1>>>,
    pub(super) adapter: Option<Adapter>,
    /// The weight laid out for decoding; then the other one is empty.
    #[module(skip)]
    packed: Option<Arc<PackedWeight>>,
}

/// The dropout of one projection in one pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noise<'a> {
    /// A key for each token.
    pub keys: &'a [u64],
    /// Which projection of the network this is.
    pub site: u64,
}

/// Rows that projections map, `[tokens, inputs]`.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a block has two of them")]
pub(super) enum Rows {
    /// As they are.
    Plain(Tensor<2>),
    /// From a norm, by which they can be had again: training does not keep them.
    Normed(RmsNormed),
}

impl Rows {
    pub(super) fn values(&self) -> Tensor<2> {
        match self {
            Self::Plain(rows) => rows.clone(),
            Self::Normed(normed) => normed.rows(),
        }
    }

    pub(super) fn linear(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        match (self, bias) {
            (Self::Normed(normed), None) => normed.linear(weight),
            (rows, bias) => ops::linear(rows.values(), weight, bias),
        }
    }
}

impl Projection {
    pub(super) fn new(weight: Param<Tensor<2>>, bias: Option<Param<Tensor<1>>>) -> Self {
        Self {
            weight,
            bias,
            adapter: None,
            packed: None,
        }
    }

    /// [tokens, inputs] to [tokens, outputs].
    pub(super) fn forward(&self, x: Tensor<2>, noise: Option<Noise<'_>>) -> Tensor<2> {
        let [y] = Self::forward_all([(self, noise)], &Rows::Plain(x));
        y
    }

    /// The same for projections of the same rows, which are worked out together where that is faster.
    pub(super) fn forward_all<const N: usize>(
        projections: [(&Self, Option<Noise<'_>>); N],
        x: &Rows,
    ) -> [Tensor<2>; N] {
        let packed: Vec<&Arc<PackedWeight>> = projections
            .iter()
            .filter_map(|(projection, _)| projection.packed.as_ref())
            .collect();
        let mut together = <[_; N]>::try_from(packed)
            .ok()
            .map(|packed| ops::packed_linears(x.values(), packed).into_iter());
        projections.map(|(projection, noise)| {
            let bias = projection.bias.as_ref().map(Param::val);
            let y = match (together.as_mut().and_then(Iterator::next), bias) {
                (Some(y), None) => y,
                (Some(y), Some(bias)) => y + bias.unsqueeze(),
                (None, bias) => x.linear(projection.weight.val(), bias),
            };
            match &projection.adapter {
                None => y,
                Some(adapter) => y + adapter.forward(x, noise),
            }
        })
    }

    /// The product with `silu(gate) * up` or `gelu(gate) * up`, which is not kept for the way back where that can be.
    pub(super) fn forward_gated(
        &self,
        activation: FeedForward,
        gate: Tensor<2>,
        up: Tensor<2>,
        noise: Option<Noise<'_>>,
    ) -> Tensor<2> {
        let alone = self.packed.is_none() && self.bias.is_none() && self.adapter.is_none();
        match (activation, alone) {
            (FeedForward::Geglu, true) => ops::geglu_linear(gate, up, self.weight.val()),
            (FeedForward::Geglu, false) => self.forward(ops::geglu(gate, up), noise),
            (_, true) => ops::swiglu_linear(gate, up, self.weight.val()),
            (_, false) => self.forward(ops::swiglu(gate, up), noise),
        }
    }

    /// Lays the weight out for decoding.
    pub(super) fn pack(&mut self, precision: Precision) {
        self.packed = Some(Arc::new(PackedWeight::new(taken(&mut self.weight), precision)));
    }

    /// Adds the adapter to the weight, `W + scale · A B`, and takes it away.
    pub(super) fn merge(&mut self) {
        if let Some(adapter) = self.adapter.take() {
            let change = adapter.change();
            self.weight = self.weight.clone().map(|weight| weight + change);
        }
    }
}

/// A parameter's value, of which an empty one stays.
pub(super) fn taken(parameter: &mut Param<Tensor<2>>) -> Tensor<2> {
    let empty = Param::from_tensor(Tensor::empty([0, 0], &parameter.val().device()));
    std::mem::replace(parameter, empty).into_value()
}
