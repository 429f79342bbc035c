//! Rankings without ties: the best item is chosen, then the best of the rest, and so on (Luce 1959, Plackett 1975).
//!
//! For the scores `h_1, …, h_K` of K items, best first,
//!
//! `ln p = Σ_{k=1}^{m} [ h_k - ln Σ_{j>=k} exp(h_j) ]`
//!
//! where m is the number of places that were ranked. `m = K` (or K - 1, since the last factor is 1) is the full
//! ranking, a smaller m ranks the first m and leaves the others in no known order behind them, and `m = 1` is the
//! best of K. Plackett 1975, "The analysis of permutations", Applied Statistics 24; the gradients follow from it.
//!
//! All three functions cost O(K) or, the information, O(K²), whatever m is.

use crate::log_space::log_add_exp;

/// `ln p` in nats of the first `places` places; `scores` are in ranking order, best first.
///
/// More places than items are the full ranking. The loss of training is its negative: ln K! for K equal scores.
pub fn log_likelihood(scores: &[f64], places: usize) -> f64 {
    let log_totals = log_totals(scores);
    scores
        .iter()
        .zip(&log_totals)
        .take(places)
        .map(|(score, log_total)| score - log_total)
        .sum()
}

/// Derivatives of [`log_likelihood`] by each score, in the same order:
/// `[i <= m] - Σ_{k <= min(i, m)} exp(h_i) / Σ_{j>=k} exp(h_j)`. They sum to zero.
pub fn gradient(scores: &[f64], places: usize) -> Vec<f64> {
    let log_totals = log_totals(scores);
    // ln of the sum, over the choices so far, of one over the total that was chosen from.
    let mut log_inverse = f64::NEG_INFINITY;
    let derivative = |(index, (score, log_total)): (usize, (&f64, &f64))| {
        if index < places {
            log_inverse = log_add_exp(log_inverse, -log_total);
        }
        f64::from(u8::from(index < places)) - (score + log_inverse).exp()
    };
    scores.iter().zip(&log_totals).enumerate().map(derivative).collect()
}

/// The observed information `-∂² ln p / ∂h_i ∂h_j`, handed out as the weights `w_ij >= 0` for i < j:
/// the entry off the diagonal is `-w_ij`, and the diagonal makes the rows sum to zero.
///
/// `w_ij = Σ_{k <= min(i, m)} p_ki p_kj`, with `p_ki` the probability of choosing i at place k.
pub fn information(scores: &[f64], places: usize, mut add: impl FnMut(usize, usize, f64)) {
    let log_totals = log_totals(scores);
    let mut log_inverse_squares = f64::NEG_INFINITY;
    for (i, (score, log_total)) in scores.iter().zip(&log_totals).enumerate() {
        if i < places {
            log_inverse_squares = log_add_exp(log_inverse_squares, -2.0 * log_total);
        }
        for (j, other) in scores.iter().enumerate().skip(i + 1) {
            add(i, j, (score + other + log_inverse_squares).exp());
        }
    }
}

/// `ln Σ_{j>=k} exp(h_j)` for every k.
fn log_totals(scores: &[f64]) -> Vec<f64> {
    let mut totals = vec![f64::NEG_INFINITY; scores.len()];
    let mut total = f64::NEG_INFINITY;
    for (place, score) in totals.iter_mut().zip(scores).rev() {
        total = log_add_exp(total, *score);
        *place = total;
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::super::bradley_terry;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_scores_lose_ln_k_factorial() {
        for (k, factorial) in [(2, 2.0), (3, 6.0), (4, 24.0), (9, 362880.0f64)] {
            assert!((log_likelihood(&vec![0.7; k], k) + f64::ln(factorial)).abs() < 1e-13);
        }
        // Best of 5: one choice among five. First two of five: 5 · 4.
        assert!((log_likelihood(&[0.0; 5], 1) + 5f64.ln()).abs() < 1e-15);
        assert!((log_likelihood(&[0.0; 5], 2) + 20f64.ln()).abs() < 1e-14);
        assert_eq!(log_likelihood(&[], 3), 0.0);
    }

    #[test]
    fn matches_choix() {
        // choix 0.4.1: import choix, numpy as np; p = np.array([0.4, -1.1, 2.0, 0.3, -0.2])
        // choix.log_likelihood_rankings([(2, 0, 3, 4, 1)], p) = -2.3747061378721805
        // choix.log_likelihood_top1([(2, [0, 1, 3, 4])], p) = -0.4320631580550105 (choix takes the winner apart)
        let ranked = [2.0, 0.4, 0.3, -0.2, -1.1];
        assert!((log_likelihood(&ranked, 5) + 2.3747061378721805).abs() < 1e-14);
        assert!((log_likelihood(&ranked, 1) + 0.4320631580550105).abs() < 1e-14);
    }

    #[test]
    fn far_apart_scores_stay_finite() {
        let scores = [-1e5, 0.0, 1e5];
        assert_eq!(log_likelihood(&scores, 3), -3e5);
        for (found, expected) in gradient(&scores, 3).iter().zip([1.0, 1.0, -2.0]) {
            assert!((found - expected).abs() < 1e-11);
        }
    }

    fn permutations(n: usize) -> Vec<Vec<usize>> {
        if n == 0 {
            return vec![vec![]];
        }
        let smaller = permutations(n - 1);
        let insert = |shorter: &Vec<usize>, place: usize| {
            let mut longer = shorter.clone();
            longer.insert(place, n - 1);
            longer
        };
        smaller
            .iter()
            .flat_map(|shorter| (0..n).map(move |place| insert(shorter, place)))
            .collect()
    }

    proptest! {
        #[test]
        fn all_orders_have_probability_one(scores in prop::collection::vec(-8.0..8.0f64, 1..6)) {
            let total: f64 = permutations(scores.len())
                .iter()
                .map(|order| log_likelihood(&order.iter().map(|&i| scores[i]).collect::<Vec<_>>(), scores.len()).exp())
                .sum();
            prop_assert!((total - 1.0).abs() < 1e-12);
        }

        #[test]
        fn two_items_are_bradley_terry(winner in -40.0..40.0f64, loser in -40.0..40.0f64) {
            let expected = bradley_terry::log_likelihood(winner, loser);
            prop_assert!((log_likelihood(&[winner, loser], 2) - expected).abs() <= 1e-14 * expected.abs().max(40.0));
            let weight = bradley_terry::gradient_weight(winner, loser);
            let gradient = gradient(&[winner, loser], 2);
            prop_assert!((gradient[0] - weight).abs() < 1e-13 && (gradient[1] + weight).abs() < 1e-13);
        }

        #[test]
        fn a_common_shift_changes_nothing(
            scores in prop::collection::vec(-8.0..8.0f64, 1..9), shift in -100.0..100.0f64, places in 0..9usize,
        ) {
            let shifted: Vec<f64> = scores.iter().map(|score| score + shift).collect();
            prop_assert!((log_likelihood(&scores, places) - log_likelihood(&shifted, places)).abs() < 1e-11);
            for (a, b) in gradient(&scores, places).iter().zip(gradient(&shifted, places)) {
                prop_assert!((a - b).abs() < 1e-12);
            }
        }

        #[test]
        fn gradient_and_information_are_the_derivatives(
            scores in prop::collection::vec(-5.0..5.0f64, 1..9), places in 0..10usize,
        ) {
            let n = scores.len();
            let mut information = vec![0.0; n * n];
            super::information(&scores, places, |i, j, weight| {
                information[i * n + j] -= weight;
                information[j * n + i] -= weight;
                information[i * n + i] += weight;
                information[j * n + j] += weight;
            });
            let analytic = gradient(&scores, places);
            prop_assert!(analytic.iter().sum::<f64>().abs() < 1e-12);
            for i in 0..n {
                let moved = |by: f64| {
                    let mut moved = scores.clone();
                    moved[i] += by;
                    moved
                };
                let step = 1e-5;
                let difference =
                    (log_likelihood(&moved(step), places) - log_likelihood(&moved(-step), places)) / (2.0 * step);
                prop_assert!((difference - analytic[i]).abs() < 1e-8);
                let (above, below) = (gradient(&moved(step), places), gradient(&moved(-step), places));
                for j in 0..n {
                    let curvature = -(above[j] - below[j]) / (2.0 * step);
                    prop_assert!((curvature - information[i * n + j]).abs() < 1e-8);
                }
            }
        }
    }
}
