//! Softmax attention of a sequence to itself.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Slice, Tensor};

/// `softmax(q k^T / sqrt(d)) v` for each sample and head, every token seeing every token.
///
/// Vaswani et al., "Attention Is All You Need" (2017), equation 1. A row of `qkv` holds queries, then keys, then
/// values, each `heads` times `d = width / heads` numbers: the layout of timm's and DiT's packed projection.
///
/// # Shapes
///
/// - `qkv`: `[batch, tokens, 3 * width]`
/// - result: `[batch, tokens, width]`
///
/// # Panics
///
/// When the last axis of `qkv` is not three times a multiple of `heads`.
pub fn self_attention(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    let [_, _, packed] = qkv.dims();
    assert!(
        heads > 0 && packed.is_multiple_of(3 * heads),
        "self_attention: a packed width of {packed} does not split into queries, keys and values of {heads} heads"
    );
    Tensor::from_dispatch(<Dispatch as AttentionOps>::self_attention(qkv.into_dispatch(), heads))
}

/// [`self_attention`] as a backend provides it.
#[backend_extension(Flex, Autodiff)]
pub trait AttentionOps: Backend {
    /// Softmax attention over packed queries, keys and values.
    fn self_attention(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        let shape = qkv.shape();
        let (batch, tokens, width) = (shape[0], shape[1], shape[2] / 3);
        let head_width = width / heads;
        let split = Self::float_reshape(qkv, Shape::new([batch, tokens, 3, heads, head_width]));
        let split = Self::float_permute(split, &[2, 0, 3, 1, 4]);
        let part = |index: usize| {
            let mut slices = vec![Slice::full(); 5];
            slices[0] = Slice::from(index..index + 1);
            let part = Self::float_slice(split.clone(), &slices);
            Self::float_reshape(part, Shape::new([batch, heads, tokens, head_width]))
        };
        let scores = Self::float_matmul(part(0), Self::float_swap_dims(part(1), 2, 3));
        let scores = Self::float_mul_scalar(scores, (head_width as f64).powf(-0.5).into());
        let mixed = Self::float_matmul(Self::softmax(scores, 3), part(2));
        Self::float_reshape(Self::float_swap_dims(mixed, 1, 2), Shape::new([batch, tokens, width]))
    }
}

impl AttentionOps for Flex {}

impl<B: AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {}
