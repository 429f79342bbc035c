//! The softmax over a vocabulary and its gradient, without the logits.
//!
//! The vocabulary is cut into slices and these into tiles, always the same ones. A slice is a task: it multiplies its part
//! of the head with some rows, tile by tile, and what a tile's logits are needed for is done while they are in the cache.

use std::ops::Range;

use rayon::prelude::*;

use super::buffer::for_each_block;
use super::matrix::{Interleaved, Matrix, MatrixMut};
use super::product::{Threads, multiply};
use super::vector::{self, Kernel, LANES, exp, multiply_add, sum_lanes};

/// Tasks that the vocabulary is cut into: enough for many threads, and few enough for each to have a hidden gradient of
/// its own.
const SLICES: usize = 16;

/// Rows,
const ROWS: usize = 384;

/// and columns of logits that exist at a time: 768 KiB a thread.
const COLUMNS: usize = 512;

/// Hidden rows, the head's weights `[vocabulary, width]`, and the token that each row is about.
pub(crate) struct Vocabulary<'a> {
    pub(crate) hidden: Matrix<'a>,
    pub(crate) head: Matrix<'a>,
    pub(crate) targets: &'a [u32],
    pub(crate) temperature: f64,
}

/// What is known of a row's logits so far.
#[derive(Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) maximum: f32,
    /// The sum of `e^(logit - maximum)`,
    pub(crate) sum: f32,
    /// and with the factor `logit - maximum`.
    pub(crate) weighted: f32,
    /// The target's logit, once it was met.
    pub(crate) target: f32,
}

impl Summary {
    const NOTHING: Self = Self {
        maximum: f32::NEG_INFINITY,
        sum: 0.0,
        weighted: 0.0,
        target: f32::NEG_INFINITY,
    };

    /// Of both parts of a vocabulary.
    #[inline(always)]
    fn join<const FUSED: bool>(self, other: Self) -> Self {
        let maximum = self.maximum.max(other.maximum);
        let moved = |part: Self| {
            if part.sum == 0.0 {
                return (0.0, 0.0);
            }
            let factor = exp::<FUSED>(part.maximum - maximum);
            let shift = part.maximum - maximum;
            (
                part.sum * factor,
                factor * multiply_add::<FUSED>(part.sum, shift, part.weighted),
            )
        };
        let (a, b) = (moved(self), moved(other));
        Self {
            maximum,
            sum: a.0 + b.0,
            weighted: a.1 + b.1,
            target: if self.target > other.target {
                self.target
            } else {
                other.target
            },
        }
    }

    /// The logarithm of the sum of the exponentials of all logits.
    pub(crate) fn log_sum(self) -> f32 {
        self.maximum + self.sum.ln()
    }

    /// In nats.
    pub(crate) fn entropy(self) -> f32 {
        self.sum.ln() - self.weighted / self.sum
    }
}

struct Join<'a>(&'a [Summary]);

impl Kernel for Join<'_> {
    type Output = Summary;

    #[inline(always)]
    fn run<const FUSED: bool>(self) -> Summary {
        let parts = self.0.iter();
        parts.fold(Summary::NOTHING, |all, &part| all.join::<FUSED>(part))
    }
}

impl Vocabulary<'_> {
    fn slices(&self) -> impl IndexedParallelIterator<Item = Range<usize>> + use<> {
        let size = self.head.rows();
        let count = SLICES.min(size.div_ceil(LANES)).max(1);
        (0..count)
            .into_par_iter()
            .with_max_len(1)
            .map(move |index| index * size / count..(index + 1) * size / count)
    }

    fn chunks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let rows = self.targets.len();
        (0..rows).step_by(ROWS).map(move |start| start..rows.min(start + ROWS))
    }

    fn tiles(slice: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let end = slice.end;
        slice.step_by(COLUMNS).map(move |start| start..end.min(start + COLUMNS))
    }

    /// The products of rows with a tile of the head, `[rows, stride]`.
    fn products(&self, rows: &Range<usize>, tile: &Range<usize>, to: &mut Vec<f32>) -> usize {
        let stride = tile.len().next_multiple_of(LANES);
        to.resize(rows.len() * stride, 0.0);
        let width = self.head.columns();
        let hidden = self.hidden.part(rows.clone(), 0..width);
        let head = self.head.part(tile.clone(), 0..width);
        let to = MatrixMut::written(to, [rows.len(), tile.len()], stride);
        multiply(to, false, hidden, head.transposed(), Threads::One);
        stride
    }

    /// What is to be known of each row's logits.
    pub(crate) fn summaries(&self) -> Vec<Summary> {
        let mut all = Vec::with_capacity(self.targets.len());
        for rows in self.chunks() {
            let slices: Vec<Vec<Summary>> = self
                .slices()
                .map_init(Vec::new, |logits, slice| {
                    let mut summaries = vec![Summary::NOTHING; rows.len()];
                    for tile in Self::tiles(slice) {
                        let stride = self.products(&rows, &tile, logits);
                        vector::run(Summarize {
                            logits,
                            stride,
                            tile,
                            scale: self.scale(),
                            targets: &self.targets[rows.clone()],
                            summaries: &mut summaries,
                        });
                    }
                    summaries
                })
                .collect();
            let mut parts = Vec::new();
            all.extend((0..rows.len()).map(|row| {
                parts.clear();
                parts.extend(slices.iter().map(|slice| slice[row]));
                vector::run(Join(&parts))
            }));
        }
        all
    }

    fn scale(&self) -> f32 {
        (1.0 / self.temperature) as f32
    }

    /// The gradients of the hidden rows and, if `with_head`, of the head, from those of the log-probabilities.
    pub(crate) fn gradients(&self, gradient: &[f32], log_sums: &[f32], with_head: bool) -> (Vec<f32>, Vec<f32>) {
        let width = self.head.columns();
        let mut of_hidden = vec![0.0; self.targets.len() * width];
        let mut of_head = vec![0.0; if with_head { self.head.rows() * width } else { 0 }];
        let to_head = Interleaved::written(&mut of_head);
        for rows in self.chunks() {
            let work = |logits: &mut Vec<f32>, slice: Range<usize>| {
                let mut partial = vec![0.0; rows.len() * width];
                for tile in Self::tiles(slice) {
                    let stride = self.products(&rows, &tile, logits);
                    vector::run(LogitGradients {
                        logits,
                        stride,
                        tile: tile.clone(),
                        scale: self.scale(),
                        targets: &self.targets[rows.clone()],
                        gradient: &gradient[rows.clone()],
                        log_sums: &log_sums[rows.clone()],
                    });
                    let logits = Matrix::new(logits, [rows.len(), tile.len()], [stride, 1]);
                    let head = self.head.part(tile.clone(), 0..width);
                    let to = MatrixMut::written(&mut partial, [rows.len(), width], width);
                    multiply(to, true, logits, head, Threads::One);
                    if with_head {
                        // SAFETY: slices have no rows of the head in common, and its gradient was zeroed.
                        #[expect(unsafe_code, reason = "tasks write side by side")]
                        let to = unsafe { to_head.matrix(tile.start * width, [tile.len(), width], width) };
                        let hidden = self.hidden.part(rows.clone(), 0..width);
                        multiply(to, true, logits.transposed(), hidden, Threads::One);
                    }
                }
                partial
            };
            let partials: Vec<Vec<f32>> = self.slices().map_init(Vec::new, work).collect();
            let block = 8 * width.max(1);
            for_each_block(
                &mut of_hidden[rows.start * width..rows.end * width],
                block,
                |index, to| {
                    for partial in &partials {
                        let partial = &partial[index * block..][..to.len()];
                        for (to, more) in to.iter_mut().zip(partial) {
                            *to += more;
                        }
                    }
                },
            );
        }
        (of_hidden, of_head)
    }
}

/// Adds a tile's logits to what is known of each row.
struct Summarize<'a> {
    logits: &'a mut [f32],
    stride: usize,
    tile: Range<usize>,
    scale: f32,
    targets: &'a [u32],
    summaries: &'a mut [Summary],
}

impl Kernel for Summarize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let rows = self.logits.chunks_exact_mut(self.stride).zip(self.targets);
        for ((logits, &target), summary) in rows.zip(self.summaries) {
            logits[self.tile.len()..].fill(f32::NEG_INFINITY);
            let mut largest = [f32::NEG_INFINITY; LANES];
            for chunk in logits.as_chunks_mut::<LANES>().0 {
                for (largest, logit) in largest.iter_mut().zip(chunk) {
                    *logit *= self.scale;
                    *largest = if *logit > *largest { *logit } else { *largest };
                }
            }
            let maximum = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
            let (mut sums, mut weighted) = ([0.0; LANES], [0.0; LANES]);
            for chunk in logits.as_chunks::<LANES>().0 {
                for (lane, &logit) in chunk.iter().enumerate() {
                    // Minus infinity times 0 is no number. A comparison leaves a NaN where it is.
                    let below = logit - maximum;
                    let below = if below < -200.0 { -200.0 } else { below };
                    let exponential = exp::<FUSED>(below);
                    sums[lane] += exponential;
                    weighted[lane] = multiply_add::<FUSED>(exponential, below, weighted[lane]);
                }
            }
            let target = (target as usize).wrapping_sub(self.tile.start);
            let tile = Summary {
                maximum,
                sum: sum_lanes(sums),
                weighted: sum_lanes(weighted),
                target: if target < self.tile.len() {
                    logits[target]
                } else {
                    f32::NEG_INFINITY
                },
            };
            *summary = summary.join::<FUSED>(tile);
        }
    }
}

/// From a tile's logits to their gradients in place: `g (1[target] - p) / T`.
struct LogitGradients<'a> {
    logits: &'a mut [f32],
    stride: usize,
    tile: Range<usize>,
    scale: f32,
    targets: &'a [u32],
    gradient: &'a [f32],
    log_sums: &'a [f32],
}

impl Kernel for LogitGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let rows = self.logits.chunks_exact_mut(self.stride).zip(self.targets);
        for (row, (logits, &target)) in rows.enumerate() {
            let gradient = self.gradient[row] * self.scale;
            let log_sum = self.log_sums[row];
            for logit in logits.iter_mut() {
                *logit = -gradient * exp::<FUSED>(multiply_add::<FUSED>(*logit, self.scale, -log_sum));
            }
            let target = (target as usize).wrapping_sub(self.tile.start);
            if target < self.tile.len() {
                logits[target] += gradient;
            }
        }
    }
}
