//! Softmax attention over texts, in blocks of queries and keys that fit the cache.
//!
//! A block's scores exist only while it is worked on: the forward pass keeps a running maximum and sum of each query
//! (Milakov & Gimelshein, "Online normalizer calculation for softmax" (2018), algorithm 3), the backward pass works the
//! probabilities out again from their logarithm (Dao et al., "FlashAttention" (2022), algorithm 4).
//!
//! Keys are cut into blocks by their number in the text, wherever its parts lie, so a query's result does not depend on
//! how a cache scattered its text, nor on whether a response hangs under a prompt or follows it in one sequence.

mod kernels;

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use self::kernels::{Dot, Dots, Mix, OnlineSoftmax, ScoreGradients};
use super::matrix::{Interleaved, Matrix, MatrixMut};
use super::product::{Threads, multiply};
use super::vector::{self, LANES};
use crate::forest::{Layout, QuerySpan};
use crate::tree_attention::Heads;

/// Queries of a block,
const QUERIES: usize = 128;

/// and its keys: scores of 128 KiB.
const KEYS: usize = 256;

/// Below so many queries, as in decoding, a product is not worth the packing of its keys.
const FEW: usize = 4;

/// Products from which the work is worth waking other threads.
const PARALLEL: usize = 64 << 10;

/// Rows of a matrix in which the heads' columns lie side by side.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) values: &'a [f32],
    /// Of a whole row.
    pub(crate) width: usize,
}

impl<'a> Rows<'a> {
    fn head(&self, rows: Range<usize>, head: usize, size: usize) -> Matrix<'a> {
        let start = rows.start * self.width + head * size;
        Matrix::new(
            self.values.get(start..).unwrap_or_default(),
            [rows.len(), size],
            [self.width, 1],
        )
    }

    fn row(&self, row: usize, head: usize, size: usize) -> &'a [f32] {
        &self.values[row * self.width + head * size..][..size]
    }
}

/// The same to be written: from column `start` on.
struct RowsMut<'a, 'b> {
    values: &'b Interleaved<'a>,
    start: usize,
    width: usize,
}

impl<'a> RowsMut<'a, '_> {
    /// # Safety
    ///
    /// As [`Interleaved::matrix`].
    #[expect(unsafe_code, reason = "heads lie side by side in the rows of one tensor")]
    unsafe fn head(&self, rows: Range<usize>, head: usize, size: usize) -> MatrixMut<'a> {
        let start = rows.start * self.width + self.start + head * size;
        // SAFETY: the caller's.
        unsafe { self.values.matrix(start, [rows.len(), size], self.width) }
    }
}

/// What is attended to, by whom.
pub(crate) struct Attention<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) heads: Heads,
    /// Whether keys after a query's position are hidden from it; else it sees all of its text, whatever the window.
    pub(crate) causal: bool,
    pub(crate) q: Rows<'a>,
    pub(crate) k: Rows<'a>,
    pub(crate) v: Rows<'a>,
}

/// What the forward pass left for the backward pass.
pub(crate) struct Passed<'a> {
    pub(crate) output: Rows<'a>,
    /// The logarithm of each query's sum of exponentials, `[heads, queries]`.
    pub(crate) log_sums: &'a [f32],
    pub(crate) gradient: Rows<'a>,
}

thread_local! {
    /// Memory of a thread that its later blocks find again. Taken while in use.
    static SCRATCH: Cell<Scratch> = Cell::default();
}

#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    gradients: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    output: Vec<f32>,
    visible: Vec<Range<usize>>,
    maxima: Vec<f32>,
    sums: Vec<f32>,
}

/// The keys of a text in the order of their positions.
struct Text<'a> {
    span: &'a QuerySpan,
    /// The number of the first key of each part, and that of all keys.
    starts: Vec<usize>,
}

impl<'a> Text<'a> {
    fn of(span: &'a QuerySpan) -> Self {
        let mut starts = vec![0];
        for part in &span.keys {
            starts.push(starts[starts.len() - 1] + part.rows.len());
        }
        Self { span, starts }
    }

    /// How many keys there are.
    fn count(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// How many keys stand before a position.
    fn before(&self, position: usize) -> usize {
        let parts = self.span.keys.iter().zip(&self.starts);
        let reached = parts.take_while(|(part, _)| part.position < position).last();
        reached.map_or(0, |(part, start)| start + part.rows.len().min(position - part.position))
    }

    /// The rows of these keys, part by part.
    fn rows(&self, keys: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let parts = self.span.keys.iter().zip(&self.starts);
        parts.filter_map(move |(part, &start)| {
            let from = keys.start.max(start);
            let to = keys.end.min(start + part.rows.len());
            (from < to).then(|| part.rows.start + from - start..part.rows.start + to - start)
        })
    }

    /// A head's columns of these keys: where they are if they lie together, else copied to `scratch`.
    fn gather<'b>(
        &self,
        from: Rows<'b>,
        keys: Range<usize>,
        head: usize,
        size: usize,
        scratch: &'b mut Vec<f32>,
    ) -> Matrix<'b> {
        let count = keys.len();
        let mut parts = self.rows(keys.clone());
        if let (Some(rows), None) = (parts.next(), parts.next()) {
            return from.head(rows, head, size);
        }
        scratch.clear();
        for row in self.rows(keys).flatten() {
            scratch.extend_from_slice(from.row(row, head, size));
        }
        Matrix::new(scratch, [count, size], [size, 1])
    }
}

/// One head of consecutive queries of a text.
struct Block<'a> {
    text: &'a Text<'a>,
    /// The queries' rows.
    rows: Range<usize>,
    /// The first one's position.
    position: usize,
    head: usize,
}

impl Attention<'_> {
    fn texts(&self) -> Vec<Text<'_>> {
        self.layout.spans().iter().map(Text::of).collect()
    }

    /// Products of a query's number and a key's: a measure of the work.
    fn products(&self) -> usize {
        let spans = self.layout.spans().iter();
        let pairs: usize = spans.map(|span| span.rows.len() * span.key_count()).sum();
        pairs * self.heads.queries * self.heads.size
    }

    /// The head of keys and values that a head of queries reads.
    fn key_head(&self, head: usize) -> usize {
        head / (self.heads.queries / self.heads.keys)
    }

    fn blocks<'a>(&self, text: &'a Text<'a>, head: usize) -> impl Iterator<Item = Block<'a>> + use<'a> {
        let rows = text.span.rows.clone();
        rows.clone().step_by(QUERIES).map(move |start| Block {
            text,
            rows: start..rows.end.min(start + QUERIES),
            position: text.span.position + start - rows.start,
            head,
        })
    }

    /// The keys, by their numbers in the text, that the query at a position sees.
    fn seen(&self, text: &Text<'_>, position: usize) -> Range<usize> {
        if !self.causal {
            return 0..text.count();
        }
        let first = self
            .heads
            .window
            .map_or(0, |window| (position + 1).saturating_sub(window));
        text.before(first)..text.before(position + 1)
    }

    /// The keys that a block's queries see, in blocks that are the same for all queries of the text.
    fn key_blocks(&self, block: &Block<'_>) -> impl Iterator<Item = Range<usize>> + use<> {
        let first = self.seen(block.text, block.position).start;
        let end = self.seen(block.text, block.position + block.rows.len() - 1).end;
        (first / KEYS..end.div_ceil(KEYS)).map(move |index| index * KEYS..end.min((index + 1) * KEYS))
    }

    /// Which of the keys `keys` each query of the block sees.
    fn visible(&self, block: &Block<'_>, keys: &Range<usize>, visible: &mut Vec<Range<usize>>) {
        visible.clear();
        visible.extend((block.position..block.position + block.rows.len()).map(|position| {
            let seen = self.seen(block.text, position);
            let inside = |key: usize| key.clamp(keys.start, keys.end) - keys.start;
            inside(seen.start)..inside(seen.end)
        }));
    }

    /// Writes what each query found to `output`, and returns the logarithms of the sums, `[heads, queries]`.
    pub(crate) fn forward(&self, output: &mut [MaybeUninit<f32>]) -> Vec<f32> {
        let output = Interleaved::new(output);
        let texts = self.texts();
        let heads = 0..self.heads.queries;
        let blocks: Vec<Block<'_>> = texts
            .iter()
            .flat_map(|text| heads.clone().flat_map(|head| self.blocks(text, head)))
            .collect();
        let output = RowsMut {
            values: &output,
            start: 0,
            width: self.heads.queries * self.heads.size,
        };
        let attend = |block: &Block<'_>| {
            let mut scratch = SCRATCH.take();
            let sums = self.attend(block, &output, &mut scratch);
            SCRATCH.set(scratch);
            sums
        };
        let sums: Vec<Vec<f32>> = if self.products() < PARALLEL {
            blocks.iter().map(attend).collect()
        } else {
            blocks.par_iter().with_max_len(1).map(attend).collect()
        };
        let queries = self.layout.queries();
        let mut log_sums = vec![0.0; self.heads.queries * queries];
        for (block, sums) in blocks.iter().zip(sums) {
            log_sums[block.head * queries + block.rows.start..][..sums.len()].copy_from_slice(&sums);
        }
        log_sums
    }

    fn attend(&self, block: &Block<'_>, output: &RowsMut<'_, '_>, scratch: &mut Scratch) -> Vec<f32> {
        let (size, count, key_head) = (self.heads.size, block.rows.len(), self.key_head(block.head));
        let q = self.q.head(block.rows.clone(), block.head, size);
        let Scratch {
            scores,
            keys: keys_scratch,
            values: values_scratch,
            output: found,
            visible,
            maxima,
            sums,
            ..
        } = scratch;
        found.clear();
        found.resize(count * size, 0.0);
        maxima.clear();
        maxima.resize(count, f32::NEG_INFINITY);
        sums.clear();
        sums.resize(count, 0.0);
        for keys in self.key_blocks(block) {
            let stride = keys.len().next_multiple_of(LANES);
            self.visible(block, &keys, visible);
            scores.resize(count * stride, 0.0);
            let softmax = OnlineSoftmax {
                scores,
                stride,
                scale: self.heads.scale as f32,
                visible,
                maxima,
                sums,
                found,
                size,
            };
            if count < FEW {
                // Each key is met by so few queries that it is read where it is.
                let rows = || block.text.rows(keys.clone());
                let k = |rows| self.k.head(rows, key_head, size);
                let v = |rows| self.v.head(rows, key_head, size);
                let mut start = 0;
                for k in rows().map(k) {
                    vector::run(Dots {
                        q,
                        k,
                        scores: softmax.scores,
                        stride,
                        start,
                    });
                    start += k.rows();
                }
                let (scores, found) = vector::run(softmax);
                start = 0;
                for v in rows().map(v) {
                    vector::run(Mix {
                        probabilities: scores,
                        stride,
                        visible,
                        v,
                        start,
                        found,
                    });
                    start += v.rows();
                }
            } else {
                let k = block.text.gather(self.k, keys.clone(), key_head, size, keys_scratch);
                let v = block.text.gather(self.v, keys.clone(), key_head, size, values_scratch);
                let to = MatrixMut::written(softmax.scores, [count, keys.len()], stride);
                multiply(to, false, q, k.transposed(), Threads::One);
                let (scores, found) = vector::run(softmax);
                let probabilities = Matrix::new(scores, [count, keys.len()], [stride, 1]);
                let found = MatrixMut::written(found, [count, size], size);
                multiply(found, true, probabilities, v, Threads::One);
            }
        }
        // SAFETY: no other block has these rows of this head.
        #[expect(unsafe_code, reason = "heads lie side by side in the rows of one tensor")]
        let mut output = unsafe { output.head(block.rows.clone(), block.head, size) };
        for (row, (found, sum)) in found.chunks_exact(size.max(1)).zip(&*sums).enumerate() {
            let inverse = 1.0 / sum;
            for (to, found) in output.row(row).iter_mut().zip(found) {
                to.write(found * inverse);
            }
        }
        maxima
            .iter()
            .zip(&*sums)
            .map(|(maximum, sum)| maximum + sum.ln())
            .collect()
    }

    /// The gradients of queries, keys and values.
    pub(crate) fn backward(&self, passed: &Passed<'_>) -> [Vec<f32>; 3] {
        let heads = self.heads;
        let width = heads.queries * heads.size;
        let mut q_gradient = vec![0.0; self.layout.queries() * width];
        // Each head of queries has columns of its own for the keys' and values' gradients, so that heads are tasks.
        let mut k_gradient = vec![0.0; self.layout.keys() * width];
        let mut v_gradient = vec![0.0; self.layout.keys() * width];
        {
            let to = [&mut q_gradient, &mut k_gradient, &mut v_gradient].map(|values| Interleaved::written(values));
            let start = 0;
            self.differentiate(passed, &to.each_ref().map(|values| RowsMut { values, start, width }));
        }
        let shared = heads.queries / heads.keys;
        let [k_gradient, v_gradient] = [k_gradient, v_gradient].map(|each| {
            if shared == 1 {
                each
            } else {
                add_heads(&each, shared, heads.size)
            }
        });
        [q_gradient, k_gradient, v_gradient]
    }

    /// Writes the gradients of queries, keys and values that lie side by side in the same rows, as many heads of each.
    ///
    /// # Panics
    ///
    /// When texts are causal, have keys in common or not in one piece, or when there are fewer heads of keys.
    pub(crate) fn backward_packed(&self, passed: &Passed<'_>, to: &mut [MaybeUninit<f32>]) {
        // So each key's first writer is the first block of its text's queries, and nothing must be zero before.
        let alone = |span: &QuerySpan| matches!(&span.keys[..], [keys] if keys.rows == span.rows);
        assert!(!self.causal && self.heads.keys == self.heads.queries && self.layout.spans().iter().all(alone));
        let values = &Interleaved::new(to);
        let (part, width) = (
            self.heads.queries * self.heads.size,
            3 * self.heads.queries * self.heads.size,
        );
        let to = [0, part, 2 * part].map(|start| RowsMut { values, start, width });
        self.differentiate(passed, &to);
    }

    /// Adds the gradients to memory that is written, or writes them to memory that is not.
    fn differentiate(&self, passed: &Passed<'_>, to: &[RowsMut<'_, '_>; 3]) {
        let (texts, groups, heads) = (self.texts(), self.layout.groups(), self.heads.queries);
        let tasks = (0..groups.len() * heads).into_par_iter().with_max_len(1);
        tasks.for_each(|index| {
            let mut scratch = SCRATCH.take();
            for &text in &groups[index / heads] {
                for block in self.blocks(&texts[text], index % heads) {
                    self.differentiate_block(&block, passed, to, &mut scratch);
                }
            }
            SCRATCH.set(scratch);
        });
    }

    fn differentiate_block<'a>(
        &self,
        block: &Block<'_>,
        passed: &Passed<'_>,
        [q_gradient, k_gradient, v_gradient]: &[RowsMut<'a, '_>; 3],
        scratch: &mut Scratch,
    ) {
        let (size, count, key_head) = (self.heads.size, block.rows.len(), self.key_head(block.head));
        let q = self.q.head(block.rows.clone(), block.head, size);
        let gradient = passed.gradient.head(block.rows.clone(), block.head, size);
        let log_sums = &passed.log_sums[block.head * self.layout.queries() + block.rows.start..][..count];
        let Scratch {
            scores,
            gradients,
            keys: keys_scratch,
            values: values_scratch,
            output,
            visible,
            sums: along,
            ..
        } = scratch;
        along.clear();
        along.extend(block.rows.clone().map(|row| {
            let (gradient, output) = (passed.gradient, passed.output);
            vector::run(Dot(
                gradient.row(row, block.head, size),
                output.row(row, block.head, size),
            ))
        }));
        // SAFETY: this task alone has these rows of this head, since texts of other tasks have no keys in common with
        // this one's, and each borrow ends before the next.
        #[expect(unsafe_code, reason = "heads lie side by side in the rows of one tensor")]
        let part = |to: &RowsMut<'a, '_>, rows: Range<usize>| unsafe { to.head(rows, block.head, size) };
        let add = |to: MatrixMut<'_>, again: bool, left: Matrix<'_>, right: Matrix<'_>| {
            // SAFETY: an earlier block wrote what is met again.
            #[expect(unsafe_code, reason = "blocks are added up one after another")]
            let to = if again { unsafe { to.assume_written() } } else { to };
            let add = to.is_written();
            multiply(to, add, left, right, Threads::One);
        };
        let later = block.rows.start > block.text.span.rows.start;
        for keys in self.key_blocks(block) {
            let columns = keys.len();
            let stride = columns.next_multiple_of(LANES);
            let k = block.text.gather(self.k, keys.clone(), key_head, size, keys_scratch);
            let v = block.text.gather(self.v, keys.clone(), key_head, size, values_scratch);
            self.visible(block, &keys, visible);
            scores.resize(count * stride, 0.0);
            gradients.resize(count * stride, 0.0);
            let to = MatrixMut::written(scores, [count, columns], stride);
            multiply(to, false, q, k.transposed(), Threads::One);
            let to = MatrixMut::written(gradients, [count, columns], stride);
            multiply(to, false, gradient, v.transposed(), Threads::One);
            vector::run(ScoreGradients {
                scores,
                gradients,
                stride,
                scale: self.heads.scale as f32,
                visible,
                log_sums,
                along,
            });
            let probabilities = Matrix::new(scores, [count, columns], [stride, 1]);
            let gradients = Matrix::new(gradients, [count, columns], [stride, 1]);
            add(part(q_gradient, block.rows.clone()), keys.start > 0, gradients, k);
            for (to, left, right) in [(v_gradient, probabilities, gradient), (k_gradient, gradients, q)] {
                let mut rows = block.text.rows(keys.clone());
                if let (Some(rows), None) = (rows.next(), rows.next()) {
                    add(part(to, rows), later, left.transposed(), right);
                    continue;
                }
                output.clear();
                output.resize(columns * size, 0.0);
                let sum = MatrixMut::written(output, [columns, size], size);
                multiply(sum, false, left.transposed(), right, Threads::One);
                let mut from = output.chunks_exact(size.max(1));
                for rows in block.text.rows(keys.clone()) {
                    let mut to = part(to, rows.clone());
                    for row in 0..rows.len() {
                        let more = from.next().unwrap_or_default();
                        for (to, more) in to.written_row(row).iter_mut().zip(more) {
                            *to += more;
                        }
                    }
                }
            }
        }
    }
}

/// Rows in which each `shared` neighbouring heads are added up.
fn add_heads(values: &[f32], shared: usize, size: usize) -> Vec<f32> {
    let mut sums = vec![0.0; values.len() / shared];
    let heads = sums.par_chunks_mut(size.max(1));
    heads
        .zip(values.par_chunks(shared * size.max(1)))
        .with_min_len(256)
        .for_each(|(sums, values)| {
            for head in values.chunks_exact(size) {
                for (sum, value) in sums.iter_mut().zip(head) {
                    *sum += value;
                }
            }
        });
    sums
}
