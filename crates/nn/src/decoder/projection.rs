//! The affine map of a decoder's layers, with a low-rank adapter beside it where there is one.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::adapter::Adapter;

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
}

/// The dropout of one projection in one pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noise<'a> {
    /// A key for each token.
    pub keys: &'a [u64],
    /// Which projection of the network this is.
    pub site: u64,
}

impl Projection {
    pub(super) fn new(weight: Param<Tensor<2>>, bias: Option<Param<Tensor<1>>>) -> Self {
        Self {
            weight,
            bias,
            adapter: None,
        }
    }

    /// [tokens, inputs] to [tokens, outputs].
    pub(super) fn forward(&self, x: Tensor<2>, noise: Option<Noise<'_>>) -> Tensor<2> {
        let y = ops::linear(x.clone(), self.weight.val(), self.bias.as_ref().map(Param::val));
        match &self.adapter {
            None => y,
            Some(adapter) => y + adapter.forward(x, noise),
        }
    }

    /// Adds the adapter to the weight, `W + scale · A B`, and takes it away.
    pub(super) fn merge(&mut self) {
        if let Some(adapter) = self.adapter.take() {
            let change = adapter.change();
            self.weight = self.weight.clone().map(|weight| weight + change);
        }
    }
}
