//! The best KL-regularised policy over responses that can be listed.
//!
//! Maximising `E_pi[r(y)] - beta KL(pi || pi_ref)` over all policies has the closed solution
//! `pi*(y) = pi_ref(y) exp(r(y) / beta) / Z` with `Z = Σ_y pi_ref(y) exp(r(y) / beta)`, and the maximum is
//! `beta ln Z` (Ziegler et al. 2019; Rafailov et al. 2023, "Direct Preference Optimization", eq. 4). Read
//! backwards it gives the reward from the policy: `r(y) = beta ln(pi*(y) / pi_ref(y)) + beta ln Z` (eq. 5).
//!
//! Everything is computed from logarithms, with the largest supported reward taken out first, so that a tiny
//! `beta` or a response of probability 1e-300 costs no digits.

use serde::Serialize;

use crate::log_space::log_sum_exp;

/// How far the reference probabilities may sum from 1.
///
/// Within it the difference is taken for rounding and the reference is divided by its sum, so that every identity
/// of the optimum holds to rounding; beyond it the problem is refused.
pub const SUM_TOLERANCE: f64 = 1e-6;

/// Why a finite problem, or a policy for it, is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FiniteError {
    /// There is nothing to choose from.
    #[error("there are no responses; give at least one reference probability and its reward")]
    Empty,
    /// Two lists that go together differ in length.
    #[error("`{name}` has {found} entries and `reference` has {expected}; give one of each per response")]
    Length {
        /// The list that differs.
        name: &'static str,
        /// Its length.
        found: usize,
        /// The length of the reference.
        expected: usize,
    },
    /// An entry is no probability.
    #[error("`{name}[{index}]` is {value}, which is no probability; every entry must lie in [0, 1]")]
    Probability {
        /// The list.
        name: &'static str,
        /// The entry.
        index: usize,
        /// What stands there.
        value: f64,
    },
    /// A distribution does not sum to one.
    #[error(
        "`{name}` sums to {sum}, further from 1 than {SUM_TOLERANCE:e}; divide it by its sum if that is what you mean"
    )]
    Sum {
        /// The list.
        name: &'static str,
        /// Its sum.
        sum: f64,
    },
    /// A reward is infinite or not a number.
    #[error("`reward[{index}]` is {value}; rewards must be finite (to forbid a response, set its reference to 0)")]
    Reward {
        /// The entry.
        index: usize,
        /// What stands there.
        value: f64,
    },
    /// The KL coefficient is not a positive number.
    #[error("`beta` is {0}; it must be positive and finite (as beta tends to 0 only the best responses remain)")]
    Beta(f64),
    /// The rewards divided by beta leave the range of a double.
    #[error("the rewards divided by `beta` = {0:e} exceed the largest double; use a larger beta or smaller rewards")]
    Range(f64),
}

/// A checked finite problem: one prompt's responses, their reference probabilities, their rewards, and beta.
#[derive(Clone, Debug, PartialEq)]
pub struct FiniteProblem {
    log_reference: Vec<f64>,
    reward: Vec<f64>,
    beta: f64,
}

impl FiniteProblem {
    /// Checks a problem given by probabilities.
    ///
    /// `reference` must sum to 1 within [`SUM_TOLERANCE`] and is divided by its sum. A response of reference
    /// probability 0 is allowed: no policy at finite KL uses it. `beta` is in the units of the reward, per nat.
    pub fn new(reference: &[f64], reward: Vec<f64>, beta: f64) -> Result<Self, FiniteError> {
        let log_sum = check_distribution("reference", reference)?.ln();
        let log_reference = reference.iter().map(|probability| probability.ln() - log_sum).collect();
        Self::checked(log_reference, reward, beta)
    }

    /// Checks a problem given by natural log-probabilities, minus infinity for impossible responses.
    ///
    /// For references whose probabilities would underflow; the same tolerance and division apply.
    pub fn from_log_reference(log_reference: &[f64], reward: Vec<f64>, beta: f64) -> Result<Self, FiniteError> {
        for (index, &value) in log_reference.iter().enumerate() {
            if value.is_nan() || value > 0.0 {
                return Err(FiniteError::Probability {
                    name: "reference",
                    index,
                    value: value.exp(),
                });
            }
        }
        let log_sum = log_sum_exp(log_reference);
        if !log_reference.is_empty() && log_sum.exp_m1().abs() > SUM_TOLERANCE {
            return Err(FiniteError::Sum {
                name: "reference",
                sum: log_sum.exp(),
            });
        }
        Self::checked(
            log_reference.iter().map(|value| value - log_sum).collect(),
            reward,
            beta,
        )
    }

    fn checked(log_reference: Vec<f64>, reward: Vec<f64>, beta: f64) -> Result<Self, FiniteError> {
        if log_reference.is_empty() {
            return Err(FiniteError::Empty);
        }
        if reward.len() != log_reference.len() {
            return Err(FiniteError::Length {
                name: "reward",
                found: reward.len(),
                expected: log_reference.len(),
            });
        }
        if let Some((index, &value)) = reward.iter().enumerate().find(|(_, value)| !value.is_finite()) {
            return Err(FiniteError::Reward { index, value });
        }
        if !(beta > 0.0 && beta.is_finite()) {
            return Err(FiniteError::Beta(beta));
        }
        let (low, high) = reward
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &r| {
                (low.min(r), high.max(r))
            });
        if !((high - low) / beta).is_finite() || !(high.abs().max(low.abs()) / beta).is_finite() {
            return Err(FiniteError::Range(beta));
        }
        Ok(Self {
            log_reference,
            reward,
            beta,
        })
    }

    /// The same responses and rewards at another KL coefficient.
    pub fn with_beta(&self, beta: f64) -> Result<Self, FiniteError> {
        Self::checked(self.log_reference.clone(), self.reward.clone(), beta)
    }

    /// The KL coefficient, in units of the reward per nat.
    pub fn beta(&self) -> f64 {
        self.beta
    }

    /// The optimal policy and everything that is known about it.
    pub fn optimum(&self) -> Optimum {
        // The best reward that the reference can produce; some response has positive probability, for they sum to 1.
        let best = self
            .supported()
            .map(|index| self.reward[index])
            .fold(f64::NEG_INFINITY, f64::max);
        let advantage: Vec<f64> = self.reward.iter().map(|reward| (reward - best) / self.beta).collect();
        let tilted: Vec<f64> = self
            .log_reference
            .iter()
            .zip(&advantage)
            .map(|(log, tilt)| log + tilt)
            .collect();
        let shifted_log_partition = log_sum_exp(&tilted);
        let log_policy: Vec<f64> = tilted.iter().map(|value| value - shifted_log_partition).collect();
        let log_partition = best / self.beta + shifted_log_partition;

        let mut kl = 0.0;
        let mut expected_reward = 0.0;
        for index in self.supported() {
            kl += kl_term_of_ratio(self.log_reference[index], advantage[index] - shifted_log_partition);
            expected_reward += log_policy[index].exp() * (self.reward[index] - best);
        }
        let recovered_reward = log_policy
            .iter()
            .zip(&self.log_reference)
            .map(|(policy, reference)| {
                reference
                    .is_finite()
                    .then(|| self.beta * (policy - reference) + self.beta * log_partition)
            })
            .collect();
        Optimum {
            policy: log_policy.iter().map(|value| value.exp()).collect(),
            log_policy,
            log_partition,
            objective: best + self.beta * shifted_log_partition,
            kl,
            expected_reward: best + expected_reward,
            recovered_reward,
        }
    }

    /// Expected reward, KL and objective of any policy over the same responses.
    ///
    /// `policy` must sum to 1 within [`SUM_TOLERANCE`] and is divided by its sum. A policy that uses a response of
    /// reference probability 0 has infinite KL. The distance to the maximum is `beta KL(pi || pi*)`.
    pub fn evaluate(&self, policy: &[f64]) -> Result<Evaluation, FiniteError> {
        if policy.len() != self.log_reference.len() {
            return Err(FiniteError::Length {
                name: "policy",
                found: policy.len(),
                expected: self.log_reference.len(),
            });
        }
        let sum = check_distribution("policy", policy)?;
        let expected_reward = policy
            .iter()
            .zip(&self.reward)
            .map(|(p, reward)| p / sum * reward)
            .sum();
        let kl = policy
            .iter()
            .zip(&self.log_reference)
            .map(|(p, &log_reference)| kl_term((p / sum).ln(), log_reference))
            .sum();
        Ok(Evaluation {
            expected_reward,
            kl,
            objective: expected_reward - self.beta * kl,
        })
    }

    /// The best reachable pairs of expected reward and KL: one optimum per coefficient in `betas`.
    ///
    /// No policy has a higher expected reward at the same KL, so a trained policy is judged by its distance to
    /// this curve. Both numbers fall as beta grows.
    pub fn frontier(&self, betas: &[f64]) -> Result<Vec<FrontierPoint>, FiniteError> {
        let point = |&beta: &f64| {
            let optimum = self.with_beta(beta)?.optimum();
            Ok(FrontierPoint {
                beta,
                expected_reward: optimum.expected_reward,
                kl: optimum.kl,
            })
        };
        betas.iter().map(point).collect()
    }

    /// Indices of the responses that the reference can produce.
    fn supported(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.log_reference.len()).filter(|&index| self.log_reference[index].is_finite())
    }
}

/// The solution of a [`FiniteProblem`]. Lists are in the order of the responses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Optimum {
    /// `pi*(y)`; 0 where the reference is 0.
    pub policy: Vec<f64>,
    /// `ln pi*(y)` in nats, exact where `policy` underflows; minus infinity where the reference is 0.
    #[serde(skip)]
    pub log_policy: Vec<f64>,
    /// `ln Z` in nats.
    pub log_partition: f64,
    /// The maximum, `beta ln Z`, in units of the reward.
    pub objective: f64,
    /// `KL(pi* || pi_ref)` in nats.
    pub kl: f64,
    /// `E[r]` under `pi*`.
    pub expected_reward: f64,
    /// `beta ln(pi* / pi_ref) + beta ln Z`, which is the reward again; nothing where the reference is 0.
    pub recovered_reward: Vec<Option<f64>>,
}

/// What a policy earns and what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// `E[r]` under the policy.
    pub expected_reward: f64,
    /// `KL(pi || pi_ref)` in nats; infinite if the policy leaves the reference's support.
    pub kl: f64,
    /// `E[r] - beta KL`.
    pub objective: f64,
}

/// One point of the reward-KL frontier.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FrontierPoint {
    /// KL coefficient, in units of the reward per nat.
    pub beta: f64,
    /// Largest expected reward at this KL.
    pub expected_reward: f64,
    /// `KL(pi* || pi_ref)` in nats.
    pub kl: f64,
}

/// `KL(p || q) = Σ p_i ln(p_i / q_i)` in nats, from natural log-probabilities; both must be normalised.
///
/// Never negative, and zero only for equal arguments (Kullback and Leibler 1951): each term is written as
/// `p ln(p/q) - p + q >= 0`, whose extra parts sum to nothing. Infinite where `q` is zero and `p` is not.
pub fn kl_divergence(log_p: &[f64], log_q: &[f64]) -> f64 {
    log_p.iter().zip(log_q).map(|(&p, &q)| kl_term(p, q)).sum()
}

fn kl_term(log_p: f64, log_q: f64) -> f64 {
    match (log_p == f64::NEG_INFINITY, log_q == f64::NEG_INFINITY) {
        (true, _) => log_q.exp(),
        (false, true) => f64::INFINITY,
        (false, false) => kl_term_of_ratio(log_q, log_p - log_q),
    }
}

/// `p ln(p/q) - p + q` from `ln q` and `d = ln(p/q)`, which is `q d²/2` near zero, where the plain formula cancels.
fn kl_term_of_ratio(log_q: f64, d: f64) -> f64 {
    // Σ_{n>=2} (n-1)/n! d^n; what is left out is below 1e-17 of the first term here.
    const COEFFICIENTS: [f64; 9] = [
        1.0 / 2.0,
        1.0 / 3.0,
        1.0 / 8.0,
        1.0 / 30.0,
        1.0 / 144.0,
        1.0 / 840.0,
        1.0 / 5760.0,
        1.0 / 45360.0,
        1.0 / 403200.0,
    ];
    if d == f64::NEG_INFINITY {
        log_q.exp()
    } else if d.abs() > 0.05 {
        (log_q + d).exp() * (d - 1.0) + log_q.exp()
    } else {
        log_q.exp()
            * d
            * d
            * COEFFICIENTS
                .iter()
                .rev()
                .fold(0.0, |sum, coefficient| sum * d + coefficient)
    }
}

fn check_distribution(name: &'static str, values: &[f64]) -> Result<f64, FiniteError> {
    if values.is_empty() {
        return Err(FiniteError::Empty);
    }
    if let Some((index, &value)) = values
        .iter()
        .enumerate()
        .find(|(_, value)| !(0.0..=1.0).contains(*value))
    {
        return Err(FiniteError::Probability { name, index, value });
    }
    let sum = values.iter().sum::<f64>();
    if (sum - 1.0).abs() > SUM_TOLERANCE {
        Err(FiniteError::Sum { name, sum })
    } else {
        Ok(sum)
    }
}

#[cfg(test)]
mod tests;
