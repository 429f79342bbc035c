//! The distance of a policy from its reference, estimated from its own samples, and the price put on it.

use serde::{Deserialize, Serialize};

/// An estimate of `KL(policy || reference)` from one token that the policy drew, by `d = ln policy - ln reference`.
///
/// Schulman 2020, "Approximating KL divergence".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KlEstimator {
    /// `d`: without bias, and the one whose sum is what the objective is charged.
    K1,
    /// `d² / 2`: never negative, biased by the third order.
    K2,
    /// `e^-d - 1 + d`: never negative and without bias.
    K3,
}

impl KlEstimator {
    /// The estimate, in nats.
    #[must_use]
    pub fn of(self, log_ratio: f64) -> f64 {
        match self {
            Self::K1 => log_ratio,
            Self::K2 => 0.5 * log_ratio * log_ratio,
            Self::K3 => (-log_ratio).exp_m1() + log_ratio,
        }
    }
}

/// The price of a nat of divergence, which may be steered so that the divergence comes near a target.
///
/// With e = clip(KL / target - 1, ±0.2), the coefficient is multiplied by 1 + e n / horizon after a step of n responses
/// (Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct KlController {
    /// The coefficient now.
    pub coefficient: f64,
    /// Where the divergence of a response is steered to, in nats, and the responses over which the coefficient follows;
    /// it stays as it is without.
    pub steering: Option<Steering>,
}

/// See [`KlController`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Steering {
    /// Nats per response.
    pub target: f64,
    /// Responses.
    pub horizon: f64,
}

/// The largest relative error that the controller sees.
const LARGEST_ERROR: f64 = 0.2;
/// What a step leaves of the coefficient at least: with a horizon of a few responses the rule alone would make it negative.
const LEAST_FACTOR: f64 = 0.5;

impl KlController {
    /// After `responses` of which the mean divergence was `kl`.
    pub fn update(&mut self, kl: f64, responses: usize) {
        if let Some(Steering { target, horizon }) = self.steering {
            let error = (kl / target - 1.0).clamp(-LARGEST_ERROR, LARGEST_ERROR);
            let factor = 1.0 + error * responses as f64 / horizon;
            self.coefficient *= factor.max(LEAST_FACTOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::assert_close;

    /// Expectations over a policy of three tokens.
    fn mean(estimate: impl Fn(f64) -> f64) -> f64 {
        let (policy, reference) = ([0.5_f64, 0.3, 0.2], [0.4_f64, 0.25, 0.35]);
        let terms = policy.iter().zip(reference).map(|(p, q)| p * estimate((p / q).ln()));
        terms.sum()
    }

    #[test]
    fn two_estimates_have_no_bias_and_two_are_never_negative() {
        let kl = mean(|log_ratio| log_ratio);
        assert!(kl > 0.0);
        assert_close(mean(|d| KlEstimator::K1.of(d)), kl, 1e-14);
        assert_close(mean(|d| KlEstimator::K3.of(d)), kl, 1e-14);
        let k2 = mean(|d| KlEstimator::K2.of(d));
        assert!((k2 - kl).abs() > 1e-4 && (k2 / kl - 1.0).abs() < 0.2, "{k2} for {kl}");
        for log_ratio in [-3.0, -1e-9, 0.0, 1e-9, 2.0] {
            assert!(KlEstimator::K2.of(log_ratio) >= 0.0 && KlEstimator::K3.of(log_ratio) >= 0.0);
        }
        // To second order the two are one: d²/2 (1 - d/3 + ...).
        let small = 1e-5;
        assert_close(KlEstimator::K3.of(small), KlEstimator::K2.of(small), 1e-5);
    }

    #[test]
    fn the_price_follows_the_divergence_within_bounds() {
        let mut controller = KlController {
            coefficient: 0.1,
            steering: Some(Steering {
                target: 6.0,
                horizon: 1000.0,
            }),
        };
        controller.update(6.6, 50);
        assert_close(controller.coefficient, 0.1 * (1.0 + 0.1 * 0.05), 1e-14);
        // Twice and ten times the target are told apart by nothing.
        let mut others = [controller; 2];
        others[0].update(12.0, 50);
        others[1].update(60.0, 50);
        assert_eq!(others[0], others[1]);
        assert_close(others[0].coefficient / controller.coefficient, 1.01, 1e-14);
        let mut low = controller;
        low.update(0.0, 50);
        assert_close(low.coefficient / controller.coefficient, 0.99, 1e-14);
        let mut hasty = KlController {
            coefficient: 0.1,
            steering: Some(Steering {
                target: 6.0,
                horizon: 1.0,
            }),
        };
        hasty.update(0.0, 50);
        assert_close(hasty.coefficient, 0.05, 1e-14);
        let mut fixed = KlController {
            coefficient: 0.1,
            steering: None,
        };
        fixed.update(60.0, 50);
        assert_eq!(fixed.coefficient, 0.1);
    }
}
