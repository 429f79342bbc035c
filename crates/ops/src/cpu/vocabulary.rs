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

/// Logits that are kept where their gradients follow at once: 48 MiB.
const KEPT: usize = 12 << 20;

/// Where these are cut into rows, so many are not cut any further: the rows of a product's task.
const TOGETHER: usize = 48;

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

    fn chunks(&self, size: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let rows = self.targets.len();
        (0..rows).step_by(size).map(move |start| start..rows.min(start + size))
    }

    fn tiles(slice: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let end = slice.end;
        slice.step_by(COLUMNS).map(move |start| start..end.min(start + COLUMNS))
    }

    /// From a row of a tile's logits to the next.
    fn stride(tile: &Range<usize>) -> usize {
        tile.len().next_multiple_of(LANES)
    }

    /// The products of rows with a tile of the head, `[rows, stride]`.
    fn products(&self, rows: &Range<usize>, tile: &Range<usize>, to: &mut Vec<f32>) {
        let stride = Self::stride(tile);
        to.resize(rows.len() * stride, 0.0);
        let width = self.head.columns();
        let hidden = self.hidden.part(rows.clone(), 0..width);
        let head = self.head.part(tile.clone(), 0..width);
        let to = MatrixMut::written(to, [rows.len(), tile.len()], stride);
        multiply(to, false, hidden, head.transposed(), Threads::One);
    }

    /// What is to be known of each row's logits.
    pub(crate) fn summaries(&self) -> Vec<Summary> {
        let mut all = Vec::with_capacity(self.targets.len());
        for rows in self.chunks(ROWS) {
            let slices: Vec<Vec<Summary>> = self
                .slices()
                .map_init(Vec::new, |logits, slice| {
                    let mut summaries = vec![Summary::NOTHING; rows.len()];
                    for tile in Self::tiles(slice) {
                        self.summarize(&rows, tile, logits, &mut summaries);
                    }
                    summaries
                })
                .collect();
            all.extend(join(&slices));
        }
        all
    }

    /// Adds what is to be known of a tile's logits, and leaves these, times [`Vocabulary::scale`], in `logits`.
    fn summarize(&self, rows: &Range<usize>, tile: Range<usize>, logits: &mut Vec<f32>, summaries: &mut [Summary]) {
        self.products(rows, &tile, logits);
        vector::run(Summarize {
            logits,
            stride: Self::stride(&tile),
            tile,
            scale: self.scale(),
            targets: &self.targets[rows.clone()],
            summaries,
        });
    }

    fn scale(&self) -> f32 {
        (1.0 / self.temperature) as f32
    }

    /// The gradients of the hidden rows and, if `with_head`, of the head, from those of the log-probabilities.
    pub(crate) fn gradients(&self, gradient: &[f32], log_sums: &[f32], with_head: bool) -> (Vec<f32>, Vec<f32>) {
        let width = self.head.columns();
        let mut of_hidden = vec![0.0; self.targets.len() * width];
        let mut of_head = vec![0.0; if with_head { self.head.rows() * width } else { 0 }];
        let to_head = with_head.then(|| Interleaved::written(&mut of_head));
        for rows in self.chunks(ROWS) {
            let known = Known {
                lacking: self.scale(),
                gradient: &gradient[rows.clone()],
                log_sums: &log_sums[rows.clone()],
                rows: rows.clone(),
            };
            let work = |logits: &mut Vec<f32>, slice: Range<usize>| {
                let mut partial = vec![0.0; rows.len() * width];
                for tile in Self::tiles(slice) {
                    self.products(&rows, &tile, logits);
                    self.add_gradients(&known, tile, logits, &mut partial, to_head.as_ref());
                }
                partial
            };
            let partials: Vec<Vec<f32>> = self.slices().map_init(Vec::new, work).collect();
            add_partials(&partials, width, &mut of_hidden[rows.start * width..rows.end * width]);
        }
        (of_hidden, of_head)
    }

    /// [`Vocabulary::summaries`] and [`Vocabulary::gradients`] where the gradients of the log-probabilities are known
    /// beforehand: the logits of some rows are kept until their sums are known, and are not worked out again.
    pub(crate) fn summaries_and_gradients(
        &self,
        gradient: &[f32],
        with_head: bool,
    ) -> (Vec<Summary>, Vec<f32>, Vec<f32>) {
        let width = self.head.columns();
        let mut all = Vec::with_capacity(self.targets.len());
        let mut of_hidden = vec![0.0; self.targets.len() * width];
        let mut of_head = vec![0.0; if with_head { self.head.rows() * width } else { 0 }];
        let to_head = with_head.then(|| Interleaved::written(&mut of_head));
        let together = (KEPT / self.head.rows().max(1)).min(ROWS) / TOGETHER * TOGETHER;
        // The logits of each tile of each slice.
        let tiles = |slice| vec![Vec::new(); Self::tiles(slice).count()];
        let mut kept: Vec<Vec<Vec<f32>>> = self.slices().map(tiles).collect();
        for rows in self.chunks(together.max(TOGETHER)) {
            let summarize = |(slice, kept): (Range<usize>, &mut Vec<Vec<f32>>)| {
                let mut summaries = vec![Summary::NOTHING; rows.len()];
                for (tile, logits) in Self::tiles(slice).zip(kept) {
                    self.summarize(&rows, tile, logits, &mut summaries);
                }
                summaries
            };
            let slices: Vec<Vec<Summary>> = self.slices().zip(&mut kept).map(summarize).collect();
            let summaries = join(&slices);
            let log_sums: Vec<f32> = summaries.iter().map(|summary| summary.log_sum()).collect();
            all.extend(summaries);
            let known = Known {
                // They were multiplied when they were summed up.
                lacking: 1.0,
                gradient: &gradient[rows.clone()],
                log_sums: &log_sums,
                rows: rows.clone(),
            };
            let differentiate = |(slice, kept): (Range<usize>, &mut Vec<Vec<f32>>)| {
                let mut partial = vec![0.0; rows.len() * width];
                for (tile, logits) in Self::tiles(slice).zip(kept) {
                    self.add_gradients(&known, tile, logits, &mut partial, to_head.as_ref());
                }
                partial
            };
            let partials: Vec<Vec<f32>> = self.slices().zip(&mut kept).map(differentiate).collect();
            add_partials(&partials, width, &mut of_hidden[rows.start * width..rows.end * width]);
        }
        (all, of_hidden, of_head)
    }

    /// Makes a tile's logits their gradients, and adds what follows for the hidden rows and the head.
    fn add_gradients(
        &self,
        known: &Known<'_>,
        tile: Range<usize>,
        logits: &mut [f32],
        of_hidden: &mut [f32],
        of_head: Option<&Interleaved<'_>>,
    ) {
        let (rows, width) = (known.rows.clone(), self.head.columns());
        let stride = Self::stride(&tile);
        vector::run(LogitGradients {
            logits,
            stride,
            tile: tile.clone(),
            lacking: known.lacking,
            scale: self.scale(),
            targets: &self.targets[rows.clone()],
            gradient: known.gradient,
            log_sums: known.log_sums,
        });
        let logits = Matrix::new(logits, [rows.len(), tile.len()], [stride, 1]);
        let head = self.head.part(tile.clone(), 0..width);
        let to = MatrixMut::written(of_hidden, [rows.len(), width], width);
        multiply(to, true, logits, head, Threads::One);
        if let Some(of_head) = of_head {
            // SAFETY: slices have no rows of the head in common, and its gradient was zeroed.
            #[expect(unsafe_code, reason = "tasks write side by side")]
            let to = unsafe { of_head.matrix(tile.start * width, [tile.len(), width], width) };
            let hidden = self.hidden.part(rows, 0..width);
            multiply(to, true, logits.transposed(), hidden, Threads::One);
        }
    }
}

/// What is known of each row over the whole vocabulary, from what was found in its slices.
fn join(slices: &[Vec<Summary>]) -> Vec<Summary> {
    let rows = slices.first().map_or(0, Vec::len);
    let mut parts = Vec::new();
    let join = |row| {
        parts.clear();
        parts.extend(slices.iter().map(|slice| slice[row]));
        vector::run(Join(&parts))
    };
    (0..rows).map(join).collect()
}

/// What the gradients of some rows' logits follow from.
struct Known<'a> {
    rows: Range<usize>,
    /// A factor that the logits still lack.
    lacking: f32,
    /// Of the log-probabilities.
    gradient: &'a [f32],
    log_sums: &'a [f32],
}

/// Adds up what the slices found for the same rows, each `width` long.
fn add_partials(partials: &[Vec<f32>], width: usize, to: &mut [f32]) {
    let block = 8 * width.max(1);
    for_each_block(to, block, |index, to| {
        for partial in partials {
            let partial = &partial[index * block..][..to.len()];
            for (to, more) in to.iter_mut().zip(partial) {
                *to += more;
            }
        }
    });
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
    lacking: f32,
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
                *logit = -gradient * exp::<FUSED>(multiply_add::<FUSED>(*logit, self.lacking, -log_sum));
            }
            let target = (target as usize).wrapping_sub(self.tile.start);
            if target < self.tile.len() {
                logits[target] += gradient;
            }
        }
    }
}
