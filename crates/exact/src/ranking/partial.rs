//! Rankings of which the order is known in part: items that share a place, and items behind the last place.
//!
//! What is known is an event of Plackett-Luce: the probability that a draw agrees with it is the sum over all orders that
//! do. Items that share a place were each before those of the next place, in an order that nobody saw; items behind the
//! last ranked place are in no known order. (Critchlow 1985, "Metric Methods for Analyzing Partially Ranked Data"; for
//! partial likelihoods with tied times the same sum is Kalbfleisch and Prentice's, 1973, equation 4.) A tie here is
//! something not known; in [`super::davidson_luce`] it is an outcome of its own.
//!
//! Items of one place are summed over their subsets in place of their orders: with `T(A) = Σ_{i∈A} e^{h_i} + S`, `S` being
//! that of all items behind, the probability that the items of a place come in any order before those behind is
//! `Π_i e^{h_i} q(G)`, where `q(∅) = 1` and `q(A) = Σ_{i∈A} q(A \ i) / T(A)`.

use crate::log_space::{log_add_exp, log_sum_exp};

/// Most items that may share a place that others are behind: their subsets are gone through.
pub const MOST_TIED: usize = 12;

/// `ln p` in nats of what is known of a ranking, and its derivatives by each score, which sum to zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Partial {
    /// The log-likelihood.
    pub log_likelihood: f64,
    /// Its derivatives, in the order of the scores.
    pub gradient: Vec<f64>,
}

/// The log-likelihood of a ranking in groups: `scores` best first, `groups` the number of items at each place. Groups
/// after the first `places` items are in no known order.
///
/// Groups of one are [`super::plackett_luce`].
///
/// # Panics
///
/// When the groups are not as many items as there are scores, or a group that others are behind has more than
/// [`MOST_TIED`].
#[must_use]
pub fn partial(scores: &[f64], groups: &[usize], places: usize) -> Partial {
    assert_eq!(
        groups.iter().sum::<usize>(),
        scores.len(),
        "the groups must have all items"
    );
    let mut found = Partial {
        log_likelihood: 0.0,
        gradient: vec![0.0; scores.len()],
    };
    let mut start = 0;
    for &size in groups {
        let end = start + size;
        // Nobody is behind the last group, so any order of it agrees.
        if start >= places || end == scores.len() {
            break;
        }
        found.add_group(scores, start..end);
        start = end;
    }
    found
}

impl Partial {
    /// The items of `group` come before those after them.
    fn add_group(&mut self, scores: &[f64], group: std::ops::Range<usize>) {
        let (tied, behind) = (&scores[group.clone()], &scores[group.end..]);
        assert!(tied.len() <= MOST_TIED, "at most {MOST_TIED} items share a place");
        let rest = log_sum_exp(behind);
        let sets = 1_usize << tied.len();
        let members = |set: usize| (0..tied.len()).filter(move |item| set >> item & 1 == 1);
        // ln T and ln q of each set, the smaller sets first.
        let (mut totals, mut sums) = (vec![rest; sets], vec![0.0; sets]);
        for set in 1..sets {
            totals[set] = members(set).fold(rest, |total, item| log_add_exp(total, tied[item]));
            let before = members(set).fold(f64::NEG_INFINITY, |sum, item| {
                log_add_exp(sum, sums[set & !(1 << item)])
            });
            sums[set] = before - totals[set];
        }
        self.log_likelihood += tied.iter().sum::<f64>() + sums[sets - 1];
        // Back from the whole group: how much each set counts, and what it takes from every score in its total.
        let mut weights = vec![0.0; sets];
        weights[sets - 1] = 1.0;
        // ln of Σ_A weight(A) / T(A), which those behind share.
        let mut shared = f64::NEG_INFINITY;
        for set in (1..sets).rev() {
            let weight: f64 = weights[set];
            let log_share = weight.ln() - totals[set];
            shared = log_add_exp(shared, log_share);
            let before = sums[set] + totals[set];
            for item in members(set) {
                let smaller = set & !(1 << item);
                weights[smaller] += weight * (sums[smaller] - before).exp();
                self.gradient[group.start + item] -= (tied[item] + log_share).exp();
            }
        }
        for (gradient, score) in self.gradient[group.end..].iter_mut().zip(behind) {
            *gradient -= (score + shared).exp();
        }
        for gradient in &mut self.gradient[group] {
            *gradient += 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::plackett_luce;
    use super::*;

    /// All orders of the items whose groups are these.
    fn orders(groups: &[usize]) -> Vec<Vec<usize>> {
        fn permutations(items: &[usize]) -> Vec<Vec<usize>> {
            if items.is_empty() {
                return vec![Vec::new()];
            }
            let first = |at: usize| {
                let mut rest = items.to_vec();
                let item = rest.remove(at);
                permutations(&rest)
                    .into_iter()
                    .map(move |rest| [vec![item], rest].concat())
            };
            (0..items.len()).flat_map(first).collect()
        }
        let mut all = vec![Vec::new()];
        let mut start = 0;
        for &size in groups {
            let items: Vec<usize> = (start..start + size).collect();
            let longer = |order: &Vec<usize>| {
                permutations(&items)
                    .into_iter()
                    .map(|group| [order.clone(), group].concat())
                    .collect::<Vec<_>>()
            };
            all = all.iter().flat_map(longer).collect();
            start += size;
        }
        all
    }

    #[test]
    fn equal_scores_count_the_orders() {
        // 2 of the 4! orders of four items have these two first and in this group structure 2!2! of 24.
        let found = partial(&[0.3; 4], &[2, 2], 4);
        assert!((found.log_likelihood - (4.0_f64 / 24.0).ln()).abs() < 1e-14);
        // A pair that is tied says nothing.
        assert_eq!(partial(&[3.0, 1.0], &[2], 2).log_likelihood, 0.0);
    }

    #[test]
    fn far_apart_scores_stay_finite() {
        let found = partial(&[-1e4, -2e4, 1e4, 0.0], &[2, 1, 1], 4);
        // Two orders of the tied ones.
        assert!((found.log_likelihood + 5e4 - 2.0_f64.ln()).abs() < 1e-6, "{found:?}");
        assert!(found.gradient.iter().all(|value| value.is_finite()));
    }

    proptest! {
        #[test]
        fn it_is_the_sum_over_the_orders_that_agree(
            groups in prop::collection::vec(1..4usize, 1..4),
            seed in prop::collection::vec(-6.0..6.0f64, 9),
            places in 1..9usize,
        ) {
            let scores = &seed[..groups.iter().sum()];
            let mut covered = Vec::new();
            for &size in &groups {
                if covered.iter().sum::<usize>() < places {
                    covered.push(size);
                }
            }
            let ranked: usize = covered.iter().sum();
            let total: f64 = orders(&covered)
                .iter()
                .map(|order| {
                    let mut ordered: Vec<f64> = order.iter().map(|&item| scores[item]).collect();
                    ordered.extend(&scores[ranked..]);
                    plackett_luce::log_likelihood(&ordered, ranked).exp()
                })
                .sum();
            let found = partial(scores, &groups, places);
            prop_assert!((found.log_likelihood - total.ln()).abs() < 1e-11, "{found:?} {}", total.ln());
        }

        #[test]
        fn groups_of_one_are_plackett_luce(scores in prop::collection::vec(-9.0..9.0f64, 1..7), places in 1..8usize) {
            let found = partial(&scores, &vec![1; scores.len()], places);
            prop_assert!((found.log_likelihood - plackett_luce::log_likelihood(&scores, places)).abs() < 1e-12);
            for (found, expected) in found.gradient.iter().zip(plackett_luce::gradient(&scores, places)) {
                prop_assert!((found - expected).abs() < 1e-12);
            }
        }

        #[test]
        fn the_gradient_is_the_derivative(
            groups in prop::collection::vec(1..5usize, 1..4),
            seed in prop::collection::vec(-4.0..4.0f64, 12),
            places in 1..12usize,
        ) {
            let scores = &seed[..groups.iter().sum()];
            let found = partial(scores, &groups, places);
            prop_assert!(found.gradient.iter().sum::<f64>().abs() < 1e-12);
            for (at, gradient) in found.gradient.iter().enumerate() {
                let moved = |by: f64| {
                    let mut scores = scores.to_vec();
                    scores[at] += by;
                    partial(&scores, &groups, places).log_likelihood
                };
                prop_assert!(((moved(1e-5) - moved(-1e-5)) / 2e-5 - gradient).abs() < 1e-8);
            }
        }
    }
}
