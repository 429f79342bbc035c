//! Softmax attention of a sequence to itself.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Slice, Tensor};
use rayon::prelude::*;

use crate::cpu::buffer::{self, all_f32, contiguous};
use crate::cpu::matrix::{Interleaved, Matrix, MatrixMut};
use crate::cpu::product::{Threads, multiply};
use crate::cpu::vector::{self, Kernel, LANES, exp, sum, sum_lanes};

/// Queries whose scores are worked on at a time: bounds the scratch memory of a task.
const QUERIES: usize = 128;

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
        portable::forward::<Self>(qkv, heads)
    }

    /// The gradient of `qkv`, the attention itself worked out again.
    ///
    /// With `P = softmax(s q k^T)`, `s = 1/sqrt(d)`, the gradient `g` of `P v` and `D = P * (g v^T - r)`, `r` the sum
    /// of each row of `P * g v^T`: the gradients of queries, keys and values are `s D k`, `s D^T q` and `P^T g`.
    fn self_attention_gradient(qkv: FloatTensor<Self>, gradient: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        portable::gradient::<Self>(qkv, gradient, heads)
    }
}

/// The default bodies that an override falls back to.
mod portable {
    use super::*;

    pub(super) fn forward<B: Backend>(qkv: FloatTensor<B>, heads: usize) -> FloatTensor<B> {
        let [q, k, v] = split::<B>(qkv, heads);
        join::<B>(vec![B::float_matmul(probabilities::<B>(q, k), v)])
    }

    pub(super) fn gradient<B: Backend>(qkv: FloatTensor<B>, gradient: FloatTensor<B>, heads: usize) -> FloatTensor<B> {
        let shape = gradient.shape();
        let (batch, tokens, width) = (shape[0], shape[1], shape[2]);
        let head_width = width / heads;
        let [q, k, v] = split::<B>(qkv, heads);
        let gradient = B::float_reshape(gradient, Shape::new([batch, tokens, heads, head_width]));
        let gradient = B::float_swap_dims(gradient, 1, 2);
        let p = probabilities::<B>(q.clone(), k.clone());
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

    fn probabilities<B: Backend>(q: FloatTensor<B>, k: FloatTensor<B>) -> FloatTensor<B> {
        let head_width = q.shape()[3];
        let scores = B::float_matmul(q, B::float_swap_dims(k, 2, 3));
        B::softmax(B::float_mul_scalar(scores, (head_width as f64).powf(-0.5).into()), 3)
    }
}

impl AttentionOps for Flex {
    fn self_attention(qkv: FlexTensor, heads: usize) -> FlexTensor {
        if !all_f32(&[&qkv]) {
            return portable::forward::<Self>(qkv, heads);
        }
        let sizes = Sizes::of(&qkv, heads);
        let qkv = contiguous(qkv);
        let qkv = buffer::values(&qkv);
        // SAFETY: the heads write all columns of all rows.
        #[expect(unsafe_code, reason = "skips zeroing")]
        let output = unsafe {
            buffer::written(sizes.batch * sizes.tokens * sizes.width(), |output| {
                let output = Interleaved::new(output);
                sizes.for_each_head(|head, scratch| head.forward(qkv, &output, scratch));
            })
        };
        buffer::tensor(output, Shape::new([sizes.batch, sizes.tokens, sizes.width()]))
    }

    fn self_attention_gradient(qkv: FlexTensor, gradient: FlexTensor, heads: usize) -> FlexTensor {
        if !all_f32(&[&qkv, &gradient]) {
            return portable::gradient::<Self>(qkv, gradient, heads);
        }
        let sizes = Sizes::of(&qkv, heads);
        let shape = qkv.shape();
        let (qkv, gradient) = (contiguous(qkv), contiguous(gradient));
        let (qkv, gradient) = (buffer::values(&qkv), buffer::values(&gradient));
        // SAFETY: the heads write all columns of all rows.
        #[expect(unsafe_code, reason = "skips zeroing")]
        let qkv_gradient = unsafe {
            buffer::written(qkv.len(), |qkv_gradient| {
                let qkv_gradient = Interleaved::new(qkv_gradient);
                sizes.for_each_head(|head, scratch| head.backward(qkv, gradient, &qkv_gradient, scratch));
            })
        };
        buffer::tensor(qkv_gradient, shape)
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    tokens: usize,
    heads: usize,
    head_width: usize,
}

impl Sizes {
    fn of(qkv: &FlexTensor, heads: usize) -> Self {
        let shape = qkv.shape();
        Self {
            batch: shape[0],
            tokens: shape[1],
            heads,
            head_width: shape[2] / (3 * heads),
        }
    }

    fn width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Calls `work` for every head of every sample, in parallel, with scratch memory that later calls find again.
    fn for_each_head(self, work: impl Fn(Head, &mut Scratch) + Sync) {
        let heads = (0..self.batch * self.heads).into_par_iter();
        heads.for_each_init(Scratch::default, |scratch, index| {
            let head = Head {
                sizes: self,
                sample: index / self.heads,
                head: index % self.heads,
            };
            work(head, scratch);
        });
    }
}

#[derive(Default)]
struct Scratch {
    probabilities: Vec<f32>,
    gradients: Vec<f32>,
}

/// One head of one sample: a task of its own.
#[derive(Clone, Copy)]
struct Head {
    sizes: Sizes,
    sample: usize,
    head: usize,
}

impl Head {
    /// Where its columns are in rows that hold `parts` times the width, those of part `part`, from row `row` on.
    fn start(&self, parts: usize, part: usize, row: usize) -> usize {
        let Sizes { tokens, head_width, .. } = self.sizes;
        ((self.sample * tokens + row) * parts + part) * self.sizes.width() + self.head * head_width
    }

    /// Its `rows` rows from `row` on of part `part` of `values`, whose rows hold `parts` times the width.
    fn rows<'a>(&self, values: &'a [f32], [parts, part]: [usize; 2], row: usize, rows: usize) -> Matrix<'a> {
        let strides = [parts * self.sizes.width(), 1];
        Matrix::new(
            &values[self.start(parts, part, row)..],
            [rows, self.sizes.head_width],
            strides,
        )
    }

    /// The same rows to be written.
    ///
    /// # Safety
    ///
    /// Nobody else may have these rows of this part and head.
    #[expect(unsafe_code, reason = "heads lie side by side in the rows of one tensor")]
    unsafe fn rows_mut<'a>(
        &self,
        values: &Interleaved<'a>,
        [parts, part]: [usize; 2],
        row: usize,
        rows: usize,
    ) -> MatrixMut<'a> {
        let stride = parts * self.sizes.width();
        // SAFETY: the caller's.
        unsafe { values.matrix(self.start(parts, part, row), [rows, self.sizes.head_width], stride) }
    }

    /// Scores' rows are padded to whole vectors.
    fn stride(&self) -> usize {
        self.sizes.tokens.next_multiple_of(LANES)
    }

    /// Queries in blocks: the first row and the number of rows.
    fn query_blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let tokens = self.sizes.tokens;
        (0..tokens)
            .step_by(QUERIES)
            .map(move |start| (start, QUERIES.min(tokens - start)))
    }

    /// The probabilities of `rows` queries from `row` on, to `scratch`.
    fn probabilities(&self, qkv: &[f32], row: usize, rows: usize, scratch: &mut Vec<f32>) {
        let (tokens, stride) = (self.sizes.tokens, self.stride());
        scratch.resize(rows * stride, 0.0);
        let scores = MatrixMut::written(scratch, [rows, tokens], stride);
        let (queries, keys) = (self.rows(qkv, [3, 0], row, rows), self.rows(qkv, [3, 1], 0, tokens));
        multiply(scores, false, queries, keys.transposed(), Threads::One);
        let scale = (self.sizes.head_width as f32).sqrt().recip();
        vector::run(Softmax {
            scores: scratch,
            tokens,
            stride,
            scale,
        });
    }

    fn forward(&self, qkv: &[f32], output: &Interleaved<'_>, scratch: &mut Scratch) {
        let (tokens, stride) = (self.sizes.tokens, self.stride());
        for (row, rows) in self.query_blocks() {
            self.probabilities(qkv, row, rows, &mut scratch.probabilities);
            let probabilities = Matrix::new(&scratch.probabilities, [rows, tokens], [stride, 1]);
            // SAFETY: this task is the only one of this head, and the borrow ends with the product.
            #[expect(unsafe_code, reason = "heads lie side by side")]
            let output = unsafe { self.rows_mut(output, [1, 0], row, rows) };
            multiply(
                output,
                false,
                probabilities,
                self.rows(qkv, [3, 2], 0, tokens),
                Threads::One,
            );
        }
    }

    fn backward(&self, qkv: &[f32], gradient: &[f32], qkv_gradient: &Interleaved<'_>, scratch: &mut Scratch) {
        let (tokens, stride) = (self.sizes.tokens, self.stride());
        for (row, rows) in self.query_blocks() {
            let add = row > 0;
            // SAFETY: this task is the only one of this head, each borrow ends with its product, and those that are
            // added to were written for the first block of queries.
            #[expect(unsafe_code, reason = "heads lie side by side")]
            let part = |part, row, rows| unsafe {
                let matrix = self.rows_mut(qkv_gradient, [3, part], row, rows);
                if add { matrix.assume_written() } else { matrix }
            };
            self.probabilities(qkv, row, rows, &mut scratch.probabilities);
            let probabilities = Matrix::new(&scratch.probabilities, [rows, tokens], [stride, 1]);
            let gradient = self.rows(gradient, [1, 0], row, rows);
            multiply(
                part(2, 0, tokens),
                add,
                probabilities.transposed(),
                gradient,
                Threads::One,
            );

            scratch.gradients.resize(rows * stride, 0.0);
            let gradients = MatrixMut::written(&mut scratch.gradients, [rows, tokens], stride);
            multiply(
                gradients,
                false,
                gradient,
                self.rows(qkv, [3, 2], 0, tokens).transposed(),
                Threads::One,
            );
            let scale = (self.sizes.head_width as f32).sqrt().recip();
            let (probabilities, gradients) = (&scratch.probabilities, &mut scratch.gradients);
            vector::run(ScoreGradients {
                probabilities,
                gradients,
                tokens,
                stride,
                scale,
            });

            let scores = Matrix::new(&scratch.gradients, [rows, tokens], [stride, 1]);
            multiply(
                part(0, row, rows),
                false,
                scores,
                self.rows(qkv, [3, 1], 0, tokens),
                Threads::One,
            );
            let queries = self.rows(qkv, [3, 0], row, rows);
            multiply(part(1, 0, tokens), add, scores.transposed(), queries, Threads::One);
        }
    }
}

/// The softmax of each row of scores times `scale`, in place; the padding becomes 0.
struct Softmax<'a> {
    scores: &'a mut [f32],
    tokens: usize,
    stride: usize,
    scale: f32,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for row in self.scores.chunks_exact_mut(self.stride) {
            row[self.tokens..].fill(f32::NEG_INFINITY);
            let mut lanes = [f32::NEG_INFINITY; LANES];
            for chunk in row.as_chunks::<LANES>().0 {
                for (largest, &score) in lanes.iter_mut().zip(chunk) {
                    *largest = if score > *largest { score } else { *largest };
                }
            }
            let largest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
            let mut lanes = [0.0; LANES];
            for chunk in row.as_chunks_mut::<LANES>().0 {
                for (total, score) in lanes.iter_mut().zip(chunk) {
                    *score = exp::<FUSED>((*score - largest) * self.scale);
                    *total += *score;
                }
            }
            let inverse = 1.0 / sum_lanes(lanes);
            for probability in row.iter_mut() {
                *probability *= inverse;
            }
        }
    }
}

/// From the gradient of each row of probabilities, in place, to that of the products of queries and keys.
struct ScoreGradients<'a> {
    probabilities: &'a [f32],
    gradients: &'a mut [f32],
    tokens: usize,
    stride: usize,
    scale: f32,
}

impl Kernel for ScoreGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let probabilities = self.probabilities.chunks_exact(self.stride);
        for (probabilities, gradients) in probabilities.zip(self.gradients.chunks_exact_mut(self.stride)) {
            gradients[self.tokens..].fill(0.0);
            let along = sum([probabilities, gradients], |[p, g]| p * g);
            for (gradient, &probability) in gradients.iter_mut().zip(probabilities) {
                *gradient = probability * (*gradient - along) * self.scale;
            }
        }
    }
}

impl<B: AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn self_attention(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        let parent = qkv.node();
        let qkv = qkv.into_primitive();
        let output = B::self_attention(qkv.clone(), heads);
        match AttentionBackward.prepare::<C>([parent]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((qkv, heads), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}

#[derive(Debug)]
struct AttentionBackward;

impl<B: AttentionOps> Backward<B, 1> for AttentionBackward {
    type State = (FloatTensor<B>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (qkv, heads) = ops.state;
        unary::<B, _>(ops.parents, ops.node, gradients, |gradient| {
            B::self_attention_gradient(qkv, gradient, heads)
        });
    }
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
