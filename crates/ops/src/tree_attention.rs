//! Softmax attention within the texts of a batch.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

use crate::cpu::attention::{Attention, Passed, Rows};
use crate::cpu::buffer::{self, all_f32, contiguous};
use crate::forest::Layout;

/// The heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads; divides the number of query heads, each being shared by as many neighbours.
    pub keys: usize,
    /// Values per head.
    pub size: usize,
    /// Factor on the products of queries and keys, usually `1 / sqrt(size)`.
    pub scale: f64,
    /// How many positions back a query sees, itself included; all of them if absent.
    pub window: Option<usize>,
}

/// `softmax(scale q k^T) v` for each query over the keys of its own text at its position and before.
///
/// Vaswani et al., "Attention Is All You Need" (2017), equation 1, with grouped heads as in Ainslie et al., "GQA"
/// (2023): query head `h` reads key head `h / (queries / keys)`. `layout` says where each text's keys are, so one
/// operation serves packed sequences, prompts with several responses, and decoding from a cache.
///
/// # Shapes
///
/// - `q` and result: `[layout.queries(), heads.queries * heads.size]`
/// - `k`, `v`: `[layout.keys(), heads.keys * heads.size]`
///
/// # Panics
///
/// When the shapes do not fit.
pub fn tree_attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, layout: &Arc<Layout>, heads: Heads) -> Tensor<2> {
    assert!(
        heads.keys > 0 && heads.queries.is_multiple_of(heads.keys),
        "tree_attention: {} query heads do not share {} key heads evenly",
        heads.queries,
        heads.keys
    );
    assert_eq!(
        q.dims(),
        [layout.queries(), heads.queries * heads.size],
        "tree_attention: the queries must be those of the layout"
    );
    let keys = [layout.keys(), heads.keys * heads.size];
    assert_eq!(k.dims(), keys, "tree_attention: the keys must be those of the layout");
    assert_eq!(v.dims(), keys, "tree_attention: the values must be those of the layout");
    Tensor::from_dispatch(<Dispatch as TreeAttentionOps>::tree_attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        Arc::clone(layout),
        heads,
    ))
}

/// [`tree_attention`] as a backend provides it.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait TreeAttentionOps: Backend {
    /// Softmax attention over the keys that the layout gives.
    fn tree_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: Arc<Layout>,
        heads: Heads,
    ) -> FloatTensor<Self> {
        Self::tree_attention_with_sums(q, k, v, layout, heads).0
    }

    /// The same with the logarithm of each query's sum of exponentials, `[heads, queries]`, for the backward pass.
    fn tree_attention_with_sums(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: Arc<Layout>,
        heads: Heads,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        portable::forward::<Self>(q, k, v, &layout, heads)
    }

    /// The gradients of `q`, `k` and `v`, the attention itself worked out again.
    ///
    /// With `P = softmax(s q k^T)`, the gradient `g` of `P v` and `D = P * (g v^T - r)`, `r` the sum of each row of
    /// `P * g v^T`, which is that of `g * P v`: they are `s D k`, `s D^T q` and `P^T g`, those of keys and values summed
    /// over all who see them.
    fn tree_attention_gradients(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        output: FloatTensor<Self>,
        log_sums: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        attended: (Arc<Layout>, Heads),
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        // Dense probabilities are worked out anew as they were.
        let _ = (output, log_sums);
        portable::gradients::<Self>(q, k, v, gradient, &attended.0, attended.1)
    }
}

impl TreeAttentionOps for Flex {
    fn tree_attention_with_sums(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        layout: Arc<Layout>,
        heads: Heads,
    ) -> (FlexTensor, FlexTensor) {
        if !all_f32(&[&q, &k, &v]) {
            return portable::forward::<Self>(q, k, v, &layout, heads);
        }
        let shape = q.shape();
        let (q, k, v) = (contiguous(q), contiguous(k), contiguous(v));
        let attention = Attention {
            layout: &layout,
            heads,
            causal: true,
            q: rows(&q),
            k: rows(&k),
            v: rows(&v),
        };
        let mut sums = Vec::new();
        // SAFETY: the spans cover all queries, and every head of every query is written.
        #[expect(unsafe_code, reason = "skips zeroing")]
        let output = unsafe { buffer::written(shape.num_elements(), |output| sums = attention.forward(output)) };
        let sums = buffer::tensor(sums, Shape::new([heads.queries, layout.queries()]));
        (buffer::tensor(output, shape), sums)
    }

    fn tree_attention_gradients(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        output: FlexTensor,
        sums: FlexTensor,
        gradient: FlexTensor,
        (layout, heads): (Arc<Layout>, Heads),
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if !all_f32(&[&q, &k, &v, &gradient]) {
            return portable::gradients::<Self>(q, k, v, gradient, &layout, heads);
        }
        let (queries, keys) = (q.shape(), k.shape());
        let [q, k, v, output, sums, gradient] = [q, k, v, output, sums, gradient].map(contiguous);
        let attention = Attention {
            layout: &layout,
            heads,
            causal: true,
            q: rows(&q),
            k: rows(&k),
            v: rows(&v),
        };
        let [q, k, v] = attention.backward(&Passed {
            output: rows(&output),
            log_sums: buffer::values(&sums),
            gradient: rows(&gradient),
        });
        (
            buffer::tensor(q, queries),
            buffer::tensor(k, keys.clone()),
            buffer::tensor(v, keys),
        )
    }
}

fn rows(tensor: &FlexTensor) -> Rows<'_> {
    Rows {
        values: buffer::values(tensor),
        width: tensor.shape()[1],
    }
}

/// The default bodies: one dense attention per span of queries.
mod portable {
    use std::ops::Range;

    use burn::tensor::{Slice, TensorData};

    use super::*;
    use crate::forest::QuerySpan;

    pub(super) fn forward<B: Backend>(
        q: FloatTensor<B>,
        k: FloatTensor<B>,
        v: FloatTensor<B>,
        layout: &Layout,
        heads: Heads,
    ) -> (FloatTensor<B>, FloatTensor<B>) {
        let (mut outputs, mut sums) = (Vec::new(), Vec::new());
        for span in layout.spans().iter().filter(|span| !span.rows.is_empty()) {
            let part = Part::<B>::of(&q, &k, &v, span, heads);
            let scores = part.scores(span, heads);
            let largest = B::float_max_dim(scores.clone(), 2);
            let exponentials = B::float_exp(B::float_sub(scores, largest.clone()));
            let sum = B::float_sum_dim(exponentials.clone(), 2);
            let output = B::float_matmul(B::float_div(exponentials, sum.clone()), part.v);
            outputs.push(rows_of_queries::<B>(output, span.rows.len(), heads));
            let sum = B::float_add(B::float_log(sum), largest);
            sums.push(B::float_reshape(sum, Shape::new([heads.queries, span.rows.len()])));
        }
        if outputs.is_empty() {
            let sums = B::float_reshape(q.clone(), Shape::new([heads.queries, 0]));
            (q, sums)
        } else {
            (B::float_cat(outputs, 0), B::float_cat(sums, 1))
        }
    }

    pub(super) fn gradients<B: Backend>(
        q: FloatTensor<B>,
        k: FloatTensor<B>,
        v: FloatTensor<B>,
        gradient: FloatTensor<B>,
        layout: &Layout,
        heads: Heads,
    ) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
        let zeros = |like: &FloatTensor<B>| B::float_mul_scalar(like.clone(), 0.0.into());
        let mut q_gradients = Vec::new();
        let (mut k_gradient, mut v_gradient) = (zeros(&k), zeros(&v));
        for span in layout.spans().iter().filter(|span| !span.rows.is_empty()) {
            let part = Part::<B>::of(&q, &k, &v, span, heads);
            let p = part.probabilities(span, heads);
            let g = queries::<B>(rows::<B>(&gradient, span.rows.clone()), heads);
            let v_part = B::float_matmul(B::float_swap_dims(p.clone(), 1, 2), g.clone());
            let p_gradient = B::float_matmul(g, B::float_swap_dims(part.v.clone(), 1, 2));
            let row_sums = B::float_sum_dim(B::float_mul(p.clone(), p_gradient.clone()), 2);
            let scores = B::float_mul(p, B::float_sub(p_gradient, row_sums));
            let scores = B::float_mul_scalar(scores, heads.scale.into());
            let q_part = B::float_matmul(scores.clone(), part.k.clone());
            q_gradients.push(rows_of_queries::<B>(q_part, span.rows.len(), heads));
            let k_part = B::float_matmul(B::float_swap_dims(scores, 1, 2), part.q.clone());
            k_gradient = add_keys::<B>(k_gradient, k_part, span);
            v_gradient = add_keys::<B>(v_gradient, v_part, span);
        }
        let q_gradient = if q_gradients.is_empty() {
            q
        } else {
            B::float_cat(q_gradients, 0)
        };
        (q_gradient, k_gradient, v_gradient)
    }

    /// One span's queries `[key heads, group * queries, size]`, and its keys and values `[key heads, keys, size]`.
    struct Part<B: Backend> {
        q: FloatTensor<B>,
        k: FloatTensor<B>,
        v: FloatTensor<B>,
    }

    impl<B: Backend> Part<B> {
        fn of(q: &FloatTensor<B>, k: &FloatTensor<B>, v: &FloatTensor<B>, span: &QuerySpan, heads: Heads) -> Self {
            let keys = |from: &FloatTensor<B>| {
                let parts = span
                    .keys
                    .iter()
                    .map(|keys| rows::<B>(from, keys.rows.clone()))
                    .collect();
                let all = B::float_cat(parts, 0);
                let shape = Shape::new([span.key_count(), heads.keys, heads.size]);
                B::float_swap_dims(B::float_reshape(all, shape), 0, 1)
            };
            Self {
                q: queries::<B>(rows::<B>(q, span.rows.clone()), heads),
                k: keys(k),
                v: keys(v),
            }
        }

        fn probabilities(&self, span: &QuerySpan, heads: Heads) -> FloatTensor<B> {
            B::softmax(self.scores(span, heads), 2)
        }

        /// What a query does not see has minus infinity.
        fn scores(&self, span: &QuerySpan, heads: Heads) -> FloatTensor<B> {
            let scores = B::float_matmul(self.q.clone(), B::float_swap_dims(self.k.clone(), 1, 2));
            let scores = B::float_mul_scalar(scores, heads.scale.into());
            let keys: Vec<usize> = span.key_positions().collect();
            let sees =
                |query: usize, key: usize| key <= query && heads.window.is_none_or(|window| query - key < window);
            let group = heads.queries / heads.keys;
            let hidden: Vec<f32> = (0..group)
                .flat_map(|_| span.position..span.position + span.rows.len())
                .flat_map(|query| {
                    keys.iter()
                        .map(move |&key| if sees(query, key) { 0.0 } else { f32::NEG_INFINITY })
                })
                .collect();
            let shape = [1, group * span.rows.len(), keys.len()];
            let hidden = TensorData::new(hidden, shape).convert_dtype(scores.dtype());
            let device = scores.device();
            B::float_add(scores, B::float_from_data(hidden, &device))
        }
    }

    fn rows<B: Backend>(from: &FloatTensor<B>, rows: Range<usize>) -> FloatTensor<B> {
        B::float_slice(from.clone(), &[Slice::from(rows), Slice::full()])
    }

    /// `[queries, heads * size]` to `[key heads, group * queries, size]`.
    fn queries<B: Backend>(from: FloatTensor<B>, heads: Heads) -> FloatTensor<B> {
        let (count, group) = (from.shape()[0], heads.queries / heads.keys);
        let split = B::float_reshape(from, Shape::new([count, heads.keys, group, heads.size]));
        let split = B::float_permute(split, &[1, 2, 0, 3]);
        B::float_reshape(split, Shape::new([heads.keys, group * count, heads.size]))
    }

    /// The inverse of [`queries`].
    fn rows_of_queries<B: Backend>(from: FloatTensor<B>, count: usize, heads: Heads) -> FloatTensor<B> {
        let group = heads.queries / heads.keys;
        let split = B::float_reshape(from, Shape::new([heads.keys, group, count, heads.size]));
        let split = B::float_permute(split, &[2, 0, 1, 3]);
        B::float_reshape(split, Shape::new([count, heads.queries * heads.size]))
    }

    /// Adds `[key heads, keys, size]` to the rows of the span's keys.
    fn add_keys<B: Backend>(mut to: FloatTensor<B>, part: FloatTensor<B>, span: &QuerySpan) -> FloatTensor<B> {
        let width = to.shape()[1];
        let part = B::float_reshape(B::float_swap_dims(part, 0, 1), Shape::new([span.key_count(), width]));
        let mut start = 0;
        for keys in &span.keys {
            let place = [Slice::from(keys.rows.clone()), Slice::full()];
            let more = rows::<B>(&part, start..start + keys.rows.len());
            let sum = B::float_add(B::float_slice(to.clone(), &place), more);
            to = B::float_slice_assign(to, &place, sum);
            start += keys.rows.len();
        }
        to
    }
}

impl<B: TreeAttentionOps, C: CheckpointStrategy> TreeAttentionOps for Autodiff<B, C> {
    fn tree_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: Arc<Layout>,
        heads: Heads,
    ) -> FloatTensor<Self> {
        let parents = [q.node(), k.node(), v.node()];
        let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
        let (output, sums) = B::tree_attention_with_sums(q.clone(), k.clone(), v.clone(), Arc::clone(&layout), heads);
        match TreeAttentionBackward.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(([q, k, v, output.clone(), sums], layout, heads), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}

#[derive(Debug)]
struct TreeAttentionBackward;

impl<B: TreeAttentionOps> Backward<B, 3> for TreeAttentionBackward {
    type State = ([FloatTensor<B>; 5], Arc<Layout>, Heads);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let ([q, k, v, output, sums], layout, heads) = ops.state;
        let (q, k, v) = B::tree_attention_gradients(q, k, v, output, sums, gradient, (layout, heads));
        for (parent, gradient) in ops.parents.into_iter().zip([q, k, v]) {
            if let Some(parent) = parent {
                gradients.register::<B>(parent.id, gradient);
            }
        }
    }
}

#[cfg(test)]
#[path = "tree_attention_tests.rs"]
mod tests;
