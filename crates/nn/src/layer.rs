//! The affine map that every network here is made of.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use rand::Rng;

use crate::initialize::{Initial, zeros};

/// `y = x · weight + bias` over the rows of a matrix.
#[derive(Module, Debug)]
pub(crate) struct Linear {
    /// [inputs, outputs].
    weight: Param<Tensor<2>>,
    /// [outputs].
    bias: Param<Tensor<1>>,
}

impl Linear {
    /// Weights as `initial` says, bias zero.
    pub(crate) fn new<R: Rng>(shape: [usize; 2], initial: Initial, rng: &mut R, device: &Device) -> Self {
        Self {
            weight: initial.matrix(shape, rng, device),
            bias: zeros([shape[1]], device),
        }
    }

    /// All zeros: the layer starts silent.
    pub(crate) fn silent(shape: [usize; 2], device: &Device) -> Self {
        Self {
            weight: zeros(shape, device),
            bias: zeros([shape[1]], device),
        }
    }

    /// [rows, inputs] to [rows, outputs].
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::linear(x, self.weight.val(), Some(self.bias.val()))
    }

    /// The same on the last dimension of [batch, tokens, inputs].
    pub(crate) fn forward_tokens(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, inputs] = x.dims();
        let y = self.forward(x.reshape([batch * tokens, inputs]));
        let outputs = y.dims()[1];
        y.reshape([batch, tokens, outputs])
    }
}
