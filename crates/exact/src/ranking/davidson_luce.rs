//! Rankings with ties: at every place a set of items is chosen, one item or several that tie.
//!
//! From the items A that are left, the set C is chosen with probability
//!
//! `f(C) / Σ_{S ⊆ A} f(S)`, `f(S) = delta_|S| (Π_{i∈S} exp(h_i))^(1/|S|)`, `delta_1 = 1`,
//!
//! and the ranking's likelihood is the product over its places. `delta_k` is the prevalence of ties of k items; sizes
//! without one (`delta_k = 0`) cannot tie. For two items it is Davidson's model (1970), without ties it is
//! Plackett-Luce. Turner, van Etten, Firth and Kosmidis 2020, "Modelling rankings in R: the PlackettLuce package",
//! Computational Statistics 35, eq. 2; Firth, Kosmidis and Turner 2019, "Davidson-Luce model for multi-item choice
//! with ties", arXiv 1909.07123.
//!
//! The sum over the subsets of size k is the k-th elementary symmetric polynomial of `exp(h_i / k)`, so it costs
//! O(n k) by recursion, where listing the subsets would cost `n choose k`.

use crate::log_space::log_sum_exp;

/// The largest set of items that may tie.
///
/// Up to here the polynomials stay within the range of a double, whatever the number of items.
pub const MAXIMUM_TIE: usize = 64;

/// How common ties of one size are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TiePrevalence {
    /// Number of items that tie, 2 to [`MAXIMUM_TIE`]. Each size is given at most once.
    pub size: usize,
    /// `ln delta_size`, in nats; minus infinity if such ties never happen.
    pub log_prevalence: f64,
}

/// Derivatives of a log-likelihood by its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradient {
    /// By each score, in the order of the scores. They sum to zero.
    pub scores: Vec<f64>,
    /// By each `log_prevalence`, in the order of the ties.
    pub log_prevalence: Vec<f64>,
}

/// One entry of the observed information; indices are those of the scores and of the ties.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry {
    /// Between two scores i < j. The diagonal is what makes the rows sum to zero.
    Scores(usize, usize),
    /// Between a score and a tie's log-prevalence.
    ScoreAndTie(usize, usize),
    /// Between two ties' log-prevalences, the first index at most the second.
    Ties(usize, usize),
}

/// `ln p` in nats of a ranking with ties.
///
/// `scores` are in ranking order, best first; `groups` gives the number of items at each place, so `[1, 2]` means
/// that the second and third score tie behind the first. Scores beyond the groups belong to items left in no known
/// order behind all places. Minus infinity if a group's size has no prevalence.
pub fn log_likelihood(scores: &[f64], groups: &[usize], ties: &[TiePrevalence]) -> f64 {
    choices(scores, groups)
        .map(|(left, size)| log_weight(left, size, ties) - log_sum_exp(&log_size_weights(left, ties)))
        .sum()
}

/// Derivatives of [`log_likelihood`]: what was observed minus what is expected of the chosen set's `[i ∈ S] / |S|`
/// and `[|S| = k]`.
pub fn gradient(scores: &[f64], groups: &[usize], ties: &[TiePrevalence]) -> Gradient {
    let mut gradient = Gradient {
        scores: vec![0.0; scores.len()],
        log_prevalence: vec![0.0; ties.len()],
    };
    for (left, size) in choices(scores, groups) {
        let start = scores.len() - left.len();
        let expected = Expectation::new(left, ties);
        for (derivative, share) in gradient.scores[start..].iter_mut().zip(&expected.share) {
            *derivative -= share;
        }
        for derivative in &mut gradient.scores[start..start + size] {
            *derivative += 1.0 / size as f64;
        }
        for ((derivative, tie), probability) in gradient
            .log_prevalence
            .iter_mut()
            .zip(ties)
            .zip(&expected.size_probability[1..])
        {
            *derivative += f64::from(u8::from(tie.size == size)) - probability;
        }
    }
    gradient
}

/// The observed information, `-∂² ln p`, entry by entry (an entry may come several times and is to be summed): the
/// covariance of `[i ∈ S] / |S|` and `[|S| = k]` over the chosen sets. Costs O(n² k) per place and size of tie.
pub fn information(scores: &[f64], groups: &[usize], ties: &[TiePrevalence], mut add: impl FnMut(Entry, f64)) {
    for (left, _) in choices(scores, groups) {
        let start = scores.len() - left.len();
        let expected = Expectation::new(left, ties);
        for (i, first) in expected.share.iter().enumerate() {
            for (j, second) in expected.share.iter().enumerate().skip(i + 1) {
                add(Entry::Scores(start + i, start + j), -first * second);
            }
        }
        for (t, sets) in expected.tied.iter().enumerate() {
            let Some(sets) = sets else { continue };
            let (size, probability) = (ties[t].size, expected.size_probability[t + 1]);
            for (i, (inclusion, share)) in sets.inclusion().zip(&expected.share).enumerate() {
                add(
                    Entry::ScoreAndTie(start + i, t),
                    probability * (inclusion / size as f64 - share),
                );
            }
            for u in t..ties.len() {
                let same = f64::from(u8::from(t == u));
                add(
                    Entry::Ties(t, u),
                    probability * (same - expected.size_probability[u + 1]),
                );
            }
            let weight = probability / (size * size) as f64;
            sets.pair_inclusion(|i, j, together| add(Entry::Scores(start + i, start + j), weight * together));
        }
    }
}

/// The places of a ranking where there was a choice: the scores of the items left, and how many of them are chosen.
fn choices<'a>(scores: &'a [f64], groups: &'a [usize]) -> impl Iterator<Item = (&'a [f64], usize)> {
    let places = groups.iter().scan(0, |start, &size| {
        let left = &scores[(*start).min(scores.len())..];
        *start += size;
        Some((left, size.min(left.len())))
    });
    places.filter(|(left, _)| left.len() > 1)
}

/// `ln f(C)` of the first `size` items.
fn log_weight(left: &[f64], size: usize, ties: &[TiePrevalence]) -> f64 {
    let log_prevalence = match size {
        0 | 1 => 0.0,
        _ => ties
            .iter()
            .find(|tie| tie.size == size)
            .map_or(f64::NEG_INFINITY, |tie| tie.log_prevalence),
    };
    log_prevalence + left[..size].iter().map(|score| score / size as f64).sum::<f64>()
}

/// `ln Σ_{|S|=k} f(S)` for single items, then for every size of tie.
fn log_size_weights(left: &[f64], ties: &[TiePrevalence]) -> Vec<f64> {
    let tied = ties.iter().map(
        |tie| match tie.size <= left.len() && tie.log_prevalence > f64::NEG_INFINITY {
            true => tie.log_prevalence + Weights::new(left, tie.size).log_total(),
            false => f64::NEG_INFINITY,
        },
    );
    std::iter::once(log_sum_exp(left)).chain(tied).collect()
}

/// What to expect of the set that is chosen.
struct Expectation {
    /// `E [i ∈ S] / |S|` for every item that is left.
    share: Vec<f64>,
    /// `p(|S| = k)` for single items, then for every size of tie.
    size_probability: Vec<f64>,
    /// The sets of every size of tie, if they can be chosen at all.
    tied: Vec<Option<Sets>>,
}

impl Expectation {
    fn new(left: &[f64], ties: &[TiePrevalence]) -> Self {
        let log_weights = log_size_weights(left, ties);
        let log_total = log_sum_exp(&log_weights);
        let size_probability: Vec<f64> = log_weights.iter().map(|weight| (weight - log_total).exp()).collect();
        let mut share: Vec<f64> = left.iter().map(|score| (score - log_total).exp()).collect();
        let sets = |(tie, &probability): (&TiePrevalence, &f64)| {
            let sets = (probability > 0.0).then(|| Sets::new(Weights::new(left, tie.size)))?;
            for (share, inclusion) in share.iter_mut().zip(sets.inclusion()) {
                *share += probability * inclusion / tie.size as f64;
            }
            Some(sets)
        };
        let tied = ties.iter().zip(&size_probability[1..]).map(sets).collect();
        Self {
            share,
            size_probability,
            tied,
        }
    }
}

/// The items that are left, weighted for sets of `size`: `exp((h - max) / size) size / n`.
///
/// A set's weight is the product of its items'. The scale keeps the elementary symmetric polynomials, which are the
/// sums over sets, between 1e-300 and e^size.
struct Weights {
    size: usize,
    weights: Vec<f64>,
    /// `ln` of what a set's weight was divided by.
    log_scale: f64,
}

impl Weights {
    fn new(left: &[f64], size: usize) -> Self {
        let largest = left.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (k, n) = (size as f64, left.len() as f64);
        let weights = left
            .iter()
            .map(|score| ((score - largest) / k).exp() * (k / n))
            .collect();
        Self {
            size,
            weights,
            log_scale: largest - k * (k / n).ln(),
        }
    }

    /// `ln` of the sum over all sets.
    fn log_total(&self) -> f64 {
        let mut polynomials = vec![0.0; self.size + 1];
        polynomials[0] = 1.0;
        self.weights
            .iter()
            .for_each(|&weight| include(&mut polynomials, weight));
        polynomials[self.size].ln() + self.log_scale
    }
}

/// The distribution over all sets of one size, each as likely as its weight says.
struct Sets {
    size: usize,
    weights: Vec<f64>,
    /// Row i: elementary symmetric polynomials, orders 0 to size, of the first i weights.
    before: Vec<f64>,
    /// Row i: those of the weights from i on.
    after: Vec<f64>,
}

impl Sets {
    fn new(Weights { size, weights, .. }: Weights) -> Self {
        let (rows, orders) = (weights.len() + 1, size + 1);
        let mut before = vec![0.0; rows * orders];
        let mut after = before.clone();
        before[0] = 1.0;
        after[weights.len() * orders] = 1.0;
        for (i, &weight) in weights.iter().enumerate() {
            before.copy_within(i * orders..(i + 1) * orders, (i + 1) * orders);
            include(&mut before[(i + 1) * orders..(i + 2) * orders], weight);
        }
        for (i, &weight) in weights.iter().enumerate().rev() {
            after.copy_within((i + 1) * orders..(i + 2) * orders, i * orders);
            include(&mut after[i * orders..(i + 1) * orders], weight);
        }
        Self {
            size,
            weights,
            before,
            after,
        }
    }

    /// The sum over all sets.
    fn total(&self) -> f64 {
        self.after[self.size]
    }

    fn before(&self, i: usize) -> &[f64] {
        &self.before[i * (self.size + 1)..(i + 1) * (self.size + 1)]
    }

    fn after(&self, i: usize) -> &[f64] {
        &self.after[i * (self.size + 1)..(i + 1) * (self.size + 1)]
    }

    /// Probability that each item is in the set.
    fn inclusion(&self) -> impl Iterator<Item = f64> + '_ {
        let others = |i: usize| product_at(self.before(i), self.after(i + 1), self.size - 1);
        self.weights
            .iter()
            .enumerate()
            .map(move |(i, weight)| weight * others(i) / self.total())
    }

    /// Probability that both items of each pair i < j are in the set.
    fn pair_inclusion(&self, mut add: impl FnMut(usize, usize, f64)) {
        for i in 0..self.weights.len() {
            // Polynomials of all items before j but i.
            let mut without = self.before(i).to_vec();
            for j in i + 1..self.weights.len() {
                let others = product_at(&without, self.after(j + 1), self.size - 2);
                add(i, j, self.weights[i] * self.weights[j] * others / self.total());
                include(&mut without, self.weights[j]);
            }
        }
    }
}

/// Adds one weight to elementary symmetric polynomials.
fn include(polynomials: &mut [f64], weight: f64) {
    for order in (1..polynomials.len()).rev() {
        polynomials[order] += weight * polynomials[order - 1];
    }
}

/// The polynomial of one order of two disjoint sets of weights together.
fn product_at(first: &[f64], second: &[f64], order: usize) -> f64 {
    (0..=order).map(|part| first[part] * second[order - part]).sum()
}

#[cfg(test)]
mod tests;
