//! The affine map of a decoder's layers, with a low-rank adapter beside it where there is one.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

/// `y = x W + b`, plus `scale · (x A) B` where it is adapted (Hu et al. 2021, "LoRA").
///
/// The low-rank path is worked out as two thin products and the weight is never touched: merging it into the weight at
/// each pass would cost more than the layer.
#[derive(Module, Debug)]
pub struct Projection {
    /// [inputs, outputs].
    weight: Param<Tensor<2>>,
    /// [outputs].
    bias: Option<Param<Tensor<1>>>,
    adapter: Option<Adapter>,
}

/// A low-rank change of a projection.
#[derive(Module, Debug)]
pub struct Adapter {
    /// [inputs, rank].
    pub(super) a: Param<Tensor<2>>,
    /// [rank, outputs].
    pub(super) b: Param<Tensor<2>>,
    #[module(skip)]
    pub(super) scale: f64,
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
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = ops::linear(x.clone(), self.weight.val(), self.bias.as_ref().map(Param::val));
        match &self.adapter {
            None => y,
            Some(Adapter { a, b, scale }) => {
                let low = ops::linear(x, a.val(), None).mul_scalar(*scale);
                y + ops::linear(low, b.val(), None)
            }
        }
    }
}
