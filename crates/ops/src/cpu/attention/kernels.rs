//! The loops of attention over a block's scores.

use std::ops::Range;

use super::super::matrix::Matrix;
use super::super::vector::{Kernel, LANES, dot, exp, multiply_add, sum_lanes};

/// The sum of the products of two slices.
pub(super) struct Dot<'a>(pub(super) &'a [f32], pub(super) &'a [f32]);

impl Kernel for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<const FUSED: bool>(self) -> f32 {
        dot::<FUSED>(self.0, self.1)
    }
}

/// The products of few queries with keys, of which the first is number `start` of its block.
pub(super) struct Dots<'a> {
    pub(super) q: Matrix<'a>,
    pub(super) k: Matrix<'a>,
    pub(super) scores: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) start: usize,
}

impl Kernel for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for (row, scores) in self.scores.chunks_exact_mut(self.stride).enumerate() {
            let q = self.q.row(row);
            for (key, score) in scores[self.start..][..self.k.rows()].iter_mut().enumerate() {
                *score = dot::<FUSED>(q, self.k.row(key));
            }
        }
    }
}

/// Adds the values times their probabilities for few queries.
pub(super) struct Mix<'a> {
    pub(super) probabilities: &'a [f32],
    pub(super) stride: usize,
    pub(super) visible: &'a [Range<usize>],
    pub(super) v: Matrix<'a>,
    /// The number of the first value in its block.
    pub(super) start: usize,
    pub(super) found: &'a mut [f32],
}

impl Kernel for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let found = self.found.chunks_exact_mut(self.v.columns());
        let rows = self.probabilities.chunks_exact(self.stride).zip(self.visible);
        for (found, (probabilities, visible)) in found.zip(rows) {
            let inside = |key: usize| key.clamp(self.start, self.start + self.v.rows());
            let keys = inside(visible.start)..inside(visible.end);
            let probabilities = &probabilities[keys.clone()];
            let first = keys.start - self.start;
            let (wide, narrow) = found.as_chunks_mut::<WIDE>();
            for (index, found) in wide.iter_mut().enumerate() {
                add_values::<FUSED, WIDE>(probabilities, self.v, first, index * WIDE, found);
            }
            let start = wide.len() * WIDE;
            let (vectors, rest) = narrow.as_chunks_mut::<LANES>();
            for (index, found) in vectors.iter_mut().enumerate() {
                add_values::<FUSED, LANES>(probabilities, self.v, first, start + index * LANES, found);
            }
            let start = start + vectors.len() * LANES;
            for (index, found) in rest.iter_mut().enumerate() {
                add_values::<FUSED, 1>(probabilities, self.v, first, start + index, std::array::from_mut(found));
            }
        }
    }
}

/// Columns whose sums stay in registers while all keys go by.
const WIDE: usize = 4 * LANES;

/// Adds `COUNT` columns of the values from row `first` on, times their probabilities, one key after another.
#[inline(always)]
fn add_values<const FUSED: bool, const COUNT: usize>(
    probabilities: &[f32],
    v: Matrix<'_>,
    first: usize,
    column: usize,
    found: &mut [f32; COUNT],
) {
    let mut sums = *found;
    for (key, &probability) in probabilities.iter().enumerate() {
        let values = &v.row(first + key)[column..][..COUNT];
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum = multiply_add::<FUSED>(probability, value, *sum);
        }
    }
    *found = sums;
}

/// From scores to exponentials over the largest one so far, in place, and what was found so far brought to the same
/// scale. What a query does not see becomes 0.
pub(super) struct OnlineSoftmax<'a> {
    pub(super) scores: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) scale: f32,
    pub(super) visible: &'a [Range<usize>],
    pub(super) maxima: &'a mut [f32],
    pub(super) sums: &'a mut [f32],
    pub(super) found: &'a mut [f32],
    pub(super) size: usize,
}

impl<'a> Kernel for OnlineSoftmax<'a> {
    /// The exponentials, and what was found.
    type Output = (&'a mut [f32], &'a mut [f32]);

    #[inline(always)]
    fn run<const FUSED: bool>(self) -> Self::Output {
        for (row, scores) in self.scores.chunks_exact_mut(self.stride).enumerate() {
            let visible = self.visible[row].clone();
            if visible.is_empty() {
                scores.fill(0.0);
                continue;
            }
            scores[..visible.start].fill(f32::NEG_INFINITY);
            scores[visible.end..].fill(f32::NEG_INFINITY);
            let mut lanes = [f32::NEG_INFINITY; LANES];
            for chunk in scores.as_chunks_mut::<LANES>().0 {
                for (largest, score) in lanes.iter_mut().zip(chunk) {
                    *score *= self.scale;
                    *largest = if *score > *largest { *score } else { *largest };
                }
            }
            let before = self.maxima[row];
            let maximum = lanes.into_iter().fold(before, f32::max);
            let mut lanes = [0.0; LANES];
            for chunk in scores.as_chunks_mut::<LANES>().0 {
                for (total, score) in lanes.iter_mut().zip(chunk) {
                    *score = exp::<FUSED>(*score - maximum);
                    *total += *score;
                }
            }
            self.maxima[row] = maximum;
            if before == f32::NEG_INFINITY {
                // Nothing was found before.
                self.sums[row] = sum_lanes(lanes);
                continue;
            }
            let factor = exp::<FUSED>(before - maximum);
            self.sums[row] = self.sums[row] * factor + sum_lanes(lanes);
            if factor != 1.0 {
                for found in &mut self.found[row * self.size..(row + 1) * self.size] {
                    *found *= factor;
                }
            }
        }
        (self.scores, self.found)
    }
}

/// From scores to probabilities, and from the probabilities' gradients to those of the products of queries and keys, both
/// in place.
pub(super) struct ScoreGradients<'a> {
    pub(super) scores: &'a mut [f32],
    pub(super) gradients: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) scale: f32,
    pub(super) visible: &'a [Range<usize>],
    pub(super) log_sums: &'a [f32],
    /// The sum of each query's output times its gradient.
    pub(super) along: &'a [f32],
}

impl Kernel for ScoreGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let rows = self.scores.chunks_exact_mut(self.stride);
        let rows = rows.zip(self.gradients.chunks_exact_mut(self.stride));
        for (row, (scores, gradients)) in rows.enumerate() {
            let (visible, log_sum, along) = (self.visible[row].clone(), self.log_sums[row], self.along[row]);
            // Whole vectors; what is hidden among them becomes 0 afterwards.
            let vectors = visible.start / LANES..visible.end.div_ceil(LANES);
            let pairs = scores.as_chunks_mut::<LANES>().0[vectors.clone()].iter_mut();
            for (scores, gradients) in pairs.zip(&mut gradients.as_chunks_mut::<LANES>().0[vectors]) {
                for (score, gradient) in scores.iter_mut().zip(gradients) {
                    let probability = exp::<FUSED>(*score * self.scale - log_sum);
                    *gradient = probability * (*gradient - along) * self.scale;
                    *score = probability;
                }
            }
            for hidden in [0..visible.start, visible.end..self.stride] {
                scores[hidden.clone()].fill(0.0);
                gradients[hidden].fill(0.0);
            }
        }
    }
}
