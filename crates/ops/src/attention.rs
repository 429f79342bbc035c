//! Softmax attention of a sequence to itself.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Slice, Tensor};

use crate::cpu::attention::{Attention, Passed, Rows};
use crate::cpu::buffer::{self, all_f32, contiguous};
use crate::forest::{Forest, Layout};
use crate::tree_attention::Heads;

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
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait AttentionOps: Backend {
    /// Softmax attention over packed queries, keys and values.
    fn self_attention(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        Self::self_attention_with_sums(qkv, heads).0
    }

    /// The same with the logarithm of each query's sum of exponentials, `[heads, batch * tokens]`, for the backward pass.
    fn self_attention_with_sums(qkv: FloatTensor<Self>, heads: usize) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::forward::<Self>(qkv, heads)
    }

    /// The gradient of `qkv`, the attention itself worked out again.
    ///
    /// With `P = softmax(s q k^T)`, `s = 1/sqrt(d)`, the gradient `g` of `P v` and `D = P * (g v^T - r)`, `r` the sum
    /// of each row of `P * g v^T`, which is that of `g * P v`: the gradients of queries, keys and values are `s D k`,
    /// `s D^T q` and `P^T g`.
    fn self_attention_gradient(
        qkv: FloatTensor<Self>,
        output: FloatTensor<Self>,
        log_sums: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        // Dense probabilities are worked out anew as they were.
        let _ = (output, log_sums);
        portable::gradient::<Self>(qkv, gradient, heads)
    }
}

/// The default bodies that an override falls back to.
mod portable {
    use super::*;

    pub(super) fn forward<B: Backend>(qkv: FloatTensor<B>, heads: usize) -> (FloatTensor<B>, FloatTensor<B>) {
        let shape = qkv.shape();
        let [q, k, v] = split::<B>(qkv, heads);
        let scores = scores::<B>(q, k);
        let largest = B::float_max_dim(scores.clone(), 3);
        let exponentials = B::float_exp(B::float_sub(scores, largest.clone()));
        let sums = B::float_sum_dim(exponentials.clone(), 3);
        let output = join::<B>(vec![B::float_matmul(B::float_div(exponentials, sums.clone()), v)]);
        let log_sums = B::float_swap_dims(B::float_add(B::float_log(sums), largest), 0, 1);
        (
            output,
            B::float_reshape(log_sums, Shape::new([heads, shape[0] * shape[1]])),
        )
    }

    pub(super) fn gradient<B: Backend>(qkv: FloatTensor<B>, gradient: FloatTensor<B>, heads: usize) -> FloatTensor<B> {
        let shape = gradient.shape();
        let (batch, tokens, width) = (shape[0], shape[1], shape[2]);
        let head_width = width / heads;
        let [q, k, v] = split::<B>(qkv, heads);
        let gradient = B::float_reshape(gradient, Shape::new([batch, tokens, heads, head_width]));
        let gradient = B::float_swap_dims(gradient, 1, 2);
        let p = B::softmax(scores::<B>(q.clone(), k.clone()), 3);
        let v_gradient = B::float_matmul(B::float_swap_dims(p.clone(), 2, 3), gradient.clone());
        let p_gradient = B::float_matmul(gradient, B::float_swap_dims(v, 2, 3));
        let row_sums = B::float_sum_dim(B::float_mul(p.clone(), p_gradient.clone()), 3);
        let scores = B::float_mul(p, B::float_sub(p_gradient, row_sums));
        let scores = B::float_mul_scalar(scores, (head_width as f64).powf(-0.5).into());
        let q_gradient = B::float_matmul(scores.clone(), k);
        let k_gradient = B::float_matmul(B::float_swap_dims(scores, 2, 3), q);
        join::<B>(vec![q_gradient, k_gradient, v_gradient])
    }

    /// Queries, keys and values, each `[batch, heads, tokens, head width]`.
    fn split<B: Backend>(qkv: FloatTensor<B>, heads: usize) -> [FloatTensor<B>; 3] {
        let shape = qkv.shape();
        let (batch, tokens, head_width) = (shape[0], shape[1], shape[2] / (3 * heads));
        let parts = B::float_reshape(qkv, Shape::new([batch, tokens, 3, heads, head_width]));
        let parts = B::float_permute(parts, &[2, 0, 3, 1, 4]);
        [0, 1, 2].map(|index| {
            let mut slices = [Slice::full(); 5];
            slices[0] = Slice::from(index..index + 1);
            let part = B::float_slice(parts.clone(), &slices);
            B::float_reshape(part, Shape::new([batch, heads, tokens, head_width]))
        })
    }

    /// Tensors `[batch, heads, tokens, head width]` side by side in the rows of `[batch, tokens, .. * width]`.
    fn join<B: Backend>(parts: Vec<FloatTensor<B>>) -> FloatTensor<B> {
        let shape = parts[0].shape();
        let (batch, heads, tokens, head_width) = (shape[0], shape[1], shape[2], shape[3]);
        let rows = |part| {
            let part = B::float_swap_dims(part, 1, 2);
            B::float_reshape(part, Shape::new([batch, tokens, heads * head_width]))
        };
        B::float_cat(parts.into_iter().map(rows).collect(), 2)
    }

    fn scores<B: Backend>(q: FloatTensor<B>, k: FloatTensor<B>) -> FloatTensor<B> {
        let head_width = q.shape()[3];
        let scores = B::float_matmul(q, B::float_swap_dims(k, 2, 3));
        B::float_mul_scalar(scores, (head_width as f64).powf(-0.5).into())
    }
}

impl AttentionOps for Flex {
    fn self_attention_with_sums(qkv: FlexTensor, heads: usize) -> (FlexTensor, FlexTensor) {
        if !all_f32(&[&qkv]) {
            return portable::forward::<Self>(qkv, heads);
        }
        let layout = samples(&qkv);
        let mut shape = qkv.shape();
        shape[2] /= 3;
        let qkv = contiguous(qkv);
        let attention = within_samples(&qkv, &layout, heads);
        let mut sums = Vec::new();
        // SAFETY: the samples cover all queries, and every head of every query is written.
        #[expect(unsafe_code, reason = "skips zeroing")]
        let output = unsafe { buffer::written(shape.num_elements(), |output| sums = attention.forward(output)) };
        let sums = buffer::tensor(sums, Shape::new([heads, layout.queries()]));
        (buffer::tensor(output, shape), sums)
    }

    fn self_attention_gradient(
        qkv: FlexTensor,
        output: FlexTensor,
        log_sums: FlexTensor,
        gradient: FlexTensor,
        heads: usize,
    ) -> FlexTensor {
        if !all_f32(&[&qkv, &gradient]) {
            return portable::gradient::<Self>(qkv, gradient, heads);
        }
        let layout = samples(&qkv);
        let shape = qkv.shape();
        let [qkv, output, log_sums, gradient] = [qkv, output, log_sums, gradient].map(contiguous);
        let attention = within_samples(&qkv, &layout, heads);
        let width = shape[2] / 3;
        let rows = |tensor| Rows {
            values: buffer::values(tensor),
            width,
        };
        let passed = Passed {
            output: rows(&output),
            log_sums: buffer::values(&log_sums),
            gradient: rows(&gradient),
        };
        // SAFETY: the samples cover all rows, of which every head of queries, keys and values is written.
        #[expect(unsafe_code, reason = "skips zeroing")]
        let qkv_gradient = unsafe {
            buffer::written(shape.num_elements(), |gradient| {
                attention.backward_packed(&passed, gradient)
            })
        };
        buffer::tensor(qkv_gradient, shape)
    }
}

/// Each sample a text of its own.
fn samples(qkv: &FlexTensor) -> Layout {
    let shape = qkv.shape();
    Forest::sequences(std::iter::repeat_n(shape[1], shape[0])).layout()
}

/// Every token of a sample attends to every token of it: queries, keys and values are read where they lie.
fn within_samples<'a>(qkv: &'a FlexTensor, layout: &'a Layout, heads: usize) -> Attention<'a> {
    let (values, width) = (buffer::values(qkv), qkv.shape()[2]);
    let part = |index: usize| Rows {
        values: values.get(index * width / 3..).unwrap_or_default(),
        width,
    };
    let size = width / (3 * heads);
    Attention {
        layout,
        heads: Heads {
            queries: heads,
            keys: heads,
            size,
            scale: (size as f64).powf(-0.5),
            window: None,
        },
        causal: false,
        q: part(0),
        k: part(1),
        v: part(2),
    }
}

impl<B: AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn self_attention(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        let parent = qkv.node();
        let qkv = qkv.into_primitive();
        let (output, sums) = B::self_attention_with_sums(qkv.clone(), heads);
        match AttentionBackward.prepare::<C>([parent]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(([qkv, output.clone(), sums], heads), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}

#[derive(Debug)]
struct AttentionBackward;

impl<B: AttentionOps> Backward<B, 1> for AttentionBackward {
    type State = ([FloatTensor<B>; 3], usize);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let ([qkv, output, sums], heads) = ops.state;
        unary::<B, _>(ops.parents, ops.node, gradients, |gradient| {
            B::self_attention_gradient(qkv, output, sums, gradient, heads)
        });
    }
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
