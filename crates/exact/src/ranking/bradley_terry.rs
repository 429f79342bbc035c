//! Two items: the probability that one is preferred (Bradley and Terry 1952), and ties (Davidson 1970).

use crate::log_space::{log_sigmoid, log_sum_exp, sigmoid};

/// `ln p(winner > loser) = ln sigmoid(winner - loser)`, in nats.
///
/// Bradley and Terry 1952; with `score = beta ln(pi / pi_ref)` it is the DPO likelihood (Rafailov et al. 2023,
/// eq. 6), with a reward model's outputs the reward-modelling one. The loss is its negative: ln 2 at equal scores.
pub fn log_likelihood(winner: f64, loser: f64) -> f64 {
    log_sigmoid(winner - loser)
}

/// Derivative of [`log_likelihood`] by the winner's score, `sigmoid(loser - winner)`; the loser's is its negative.
///
/// In DPO this is the weight of a pair's gradient (Rafailov et al. 2023, section 4): 1/2 before the first update,
/// towards 0 on pairs already won and 1 on pairs lost.
pub fn gradient_weight(winner: f64, loser: f64) -> f64 {
    sigmoid(loser - winner)
}

/// Log-probabilities, in nats, of the three outcomes of a comparison that may end in a tie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The first item is preferred.
    pub first: f64,
    /// Neither is.
    pub tie: f64,
    /// The second item is preferred.
    pub second: f64,
}

/// Davidson's model: `first : tie : second = a : nu sqrt(a b) : b` with `a = exp(first)`, `b = exp(second)`.
///
/// `nu = exp(log_prevalence)` is the weight of a tie; equal items tie with probability `nu / (2 + nu)`. Minus
/// infinity forbids ties and gives Bradley-Terry. Davidson 1970, "On extending the Bradley-Terry model to
/// accommodate ties in paired comparison experiments", JASA 65.
pub fn davidson(first: f64, second: f64, log_prevalence: f64) -> Outcome {
    let tie = log_prevalence + first / 2.0 + second / 2.0;
    let total = log_sum_exp(&[first, tie, second]);
    Outcome {
        first: first - total,
        tie: tie - total,
        second: second - total,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_scores_lose_ln_2_with_weight_one_half() {
        assert_eq!(log_likelihood(7.5, 7.5), -std::f64::consts::LN_2);
        assert_eq!(gradient_weight(7.5, 7.5), 0.5);
    }

    #[test]
    fn hopeless_and_certain_pairs_stay_finite() {
        assert_eq!(log_likelihood(-1e6, 1e6), -2e6);
        assert_eq!(gradient_weight(-1e6, 1e6), 1.0);
        assert_eq!(gradient_weight(1e6, -1e6), 0.0);
    }

    #[test]
    fn equal_items_tie_as_often_as_the_prevalence_says() {
        let outcome = davidson(3.0, 3.0, 0.5f64.ln());
        assert!((outcome.tie.exp() - 0.5 / 2.5).abs() < 1e-15);
        assert_eq!(outcome.first, outcome.second);
    }

    proptest! {
        #[test]
        fn gradient_is_the_derivative(winner in -20.0..20.0f64, loser in -20.0..20.0f64) {
            let step = 1e-5;
            let difference =
                (log_likelihood(winner + step, loser) - log_likelihood(winner - step, loser)) / (2.0 * step);
            prop_assert!((difference - gradient_weight(winner, loser)).abs() < 1e-9);
            let opposite =
                (log_likelihood(winner, loser + step) - log_likelihood(winner, loser - step)) / (2.0 * step);
            prop_assert!((opposite + gradient_weight(winner, loser)).abs() < 1e-9);
        }

        #[test]
        fn outcomes_sum_to_one_and_without_ties_are_bradley_terry(
            first in -30.0..30.0f64, second in -30.0..30.0f64, log_prevalence in -5.0..5.0f64,
        ) {
            let outcome = davidson(first, second, log_prevalence);
            let total = outcome.first.exp() + outcome.tie.exp() + outcome.second.exp();
            prop_assert!((total - 1.0).abs() < 1e-13);
            let decided = davidson(first, second, f64::NEG_INFINITY);
            prop_assert!((decided.first - log_likelihood(first, second)).abs() < 1e-12);
            prop_assert!((decided.second - log_likelihood(second, first)).abs() < 1e-12);
        }
    }
}
