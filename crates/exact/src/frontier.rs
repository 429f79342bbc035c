//! The most that can be earned at a distance from the reference, over several prompts, and what policies fall short of it.
//!
//! Of one prompt the best policies are those of [`FiniteProblem`], one for each price of divergence. Over several prompts
//! the same price for all is best: were the prices different, a nat moved to where it earns more would earn more.

use serde::Serialize;

use crate::finite::{FiniteError, FiniteProblem, FrontierPoint, kl_divergence};

/// Prompts, equally likely, whose responses can be listed.
#[derive(Clone, Debug, PartialEq)]
pub struct Frontier {
    prompts: Vec<FiniteProblem>,
    /// Each prompt's log-probabilities under the reference, and rewards.
    given: Vec<(Vec<f64>, Vec<f64>)>,
}

/// What a policy earns, and how far that is from the best at the same distance from the reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// `E[r]` under the policy.
    pub expected_reward: f64,
    /// `KL(pi || pi_ref)` in nats.
    pub kl: f64,
    /// The best `E[r]` at this KL.
    pub best_reward: f64,
    /// `best_reward - expected_reward`, never negative but for rounding.
    pub gap: f64,
}

/// Prices between which an optimum at a given distance is looked for, as factors of the rewards' spread.
const PRICES: [f64; 2] = [1e-4, 1e6];

impl Frontier {
    /// Of each prompt the natural log-probabilities of all responses under the reference, and their rewards.
    ///
    /// # Errors
    ///
    /// [`FiniteError`] as for [`FiniteProblem::from_log_reference`], or for no prompts.
    pub fn new(prompts: Vec<(Vec<f64>, Vec<f64>)>) -> Result<Self, FiniteError> {
        if prompts.is_empty() {
            return Err(FiniteError::Empty);
        }
        let problem = |(log_reference, reward): &(Vec<f64>, Vec<f64>)| {
            FiniteProblem::from_log_reference(log_reference, reward.clone(), 1.0)
        };
        let problems = prompts.iter().map(problem).collect::<Result<_, _>>()?;
        Ok(Self {
            prompts: problems,
            given: prompts,
        })
    }

    /// The best policy's mean reward and divergence at a price of divergence.
    ///
    /// # Errors
    ///
    /// [`FiniteError`] for a price that is no positive number or too small for the rewards.
    pub fn at_price(&self, beta: f64) -> Result<FrontierPoint, FiniteError> {
        let (mut expected_reward, mut kl) = (0.0, 0.0);
        for prompt in &self.prompts {
            let optimum = prompt.with_beta(beta)?.optimum();
            expected_reward += optimum.expected_reward / self.prompts.len() as f64;
            kl += optimum.kl / self.prompts.len() as f64;
        }
        Ok(FrontierPoint {
            beta,
            expected_reward,
            kl,
        })
    }

    /// The largest mean reward at a mean divergence of `kl` nats, by bisection of the price to full precision.
    ///
    /// # Errors
    ///
    /// As [`Frontier::at_price`].
    pub fn best_reward(&self, kl: f64) -> Result<f64, FiniteError> {
        let rewards = || self.given.iter().flat_map(|(_, reward)| reward.iter().copied());
        let spread = rewards().fold(f64::NEG_INFINITY, f64::max) - rewards().fold(f64::INFINITY, f64::min);
        let scale = if spread > 0.0 { spread } else { 1.0 };
        let [mut low, mut high] = PRICES.map(|price| (price * scale).ln());
        // The divergence falls as the price rises.
        let nearest = self.at_price(low.exp())?;
        if nearest.kl <= kl {
            return Ok(nearest.expected_reward);
        }
        for _ in 0..80 {
            let middle = 0.5 * (low + high);
            if self.at_price(middle.exp())?.kl > kl {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(self.at_price((0.5 * (low + high)).exp())?.expected_reward)
    }

    /// What a policy earns, given the natural log-probabilities that it gives each prompt's responses, which sum to 1.
    ///
    /// # Errors
    ///
    /// [`FiniteError::Length`] for a policy of other prompts or responses.
    pub fn standing(&self, policy: &[Vec<f64>]) -> Result<Standing, FiniteError> {
        self.check(policy)?;
        let (mut expected_reward, mut kl) = (0.0, 0.0);
        for (log_policy, (log_reference, reward)) in policy.iter().zip(&self.given) {
            let earned: f64 = log_policy
                .iter()
                .zip(reward)
                .map(|(log, reward)| log.exp() * reward)
                .sum();
            expected_reward += earned / policy.len() as f64;
            kl += kl_divergence(log_policy, log_reference) / policy.len() as f64;
        }
        let best_reward = self.best_reward(kl)?;
        Ok(Standing {
            expected_reward,
            kl,
            best_reward,
            gap: best_reward - expected_reward,
        })
    }

    /// How far a policy is from the best one at a price of divergence: `KL(pi || pi*)` in nats, mean over the prompts. The
    /// policy is given as for [`Frontier::standing`].
    ///
    /// Times `beta` it is what the policy falls short of the largest `E[r] - beta KL(pi || pi_ref)`, for
    /// `ln pi* = ln pi_ref + r / beta - ln Z` (Rafailov et al. 2023, "Direct Preference Optimization", appendix A.1).
    ///
    /// # Errors
    ///
    /// [`FiniteError::Length`] as there, and those of [`Frontier::at_price`].
    pub fn from_optimum(&self, policy: &[Vec<f64>], beta: f64) -> Result<f64, FiniteError> {
        self.check(policy)?;
        let mut kl = 0.0;
        for (log_policy, prompt) in policy.iter().zip(&self.prompts) {
            let optimum = prompt.with_beta(beta)?.optimum();
            kl += kl_divergence(log_policy, &optimum.log_policy) / policy.len() as f64;
        }
        Ok(kl)
    }

    /// Refuses a policy of other prompts or responses.
    fn check(&self, policy: &[Vec<f64>]) -> Result<(), FiniteError> {
        let own = self.given.iter().map(|(_, reward)| reward.len());
        let lengths = policy.iter().map(Vec::len).zip(own);
        for (found, expected) in std::iter::once((policy.len(), self.given.len())).chain(lengths) {
            if found != expected {
                let name = "policy";
                return Err(FiniteError::Length { name, found, expected });
            }
        }
        Ok(())
    }
}

/// The gap at a divergence of `kl` nats, on the straight line between the two policies around it.
///
/// Of each policy its divergence in nats and its gap are given, in any order. The reference, which is at no distance and has
/// no gap, is one more. Beyond the farthest policy nothing is known.
#[must_use]
pub fn gap_at(policies: &[(f64, f64)], kl: f64) -> Option<f64> {
    let mut points = policies.to_vec();
    points.push((0.0, 0.0));
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    let around = points.windows(2).find(|pair| pair[0].0 <= kl && kl <= pair[1].0)?;
    let ((near, smaller), (far, larger)) = (around[0], around[1]);
    let share = if far > near { (kl - near) / (far - near) } else { 0.0 };
    Some(smaller + share * (larger - smaller))
}

/// The law of the best of `count` independent responses, as natural log-probabilities: of equal rewards the first drawn.
///
/// With F the distribution of the reward, the best has a reward of at most r with probability F(r)^n; among responses of
/// the same reward it keeps their proportions. Its divergence is at most ln n - (n - 1) / n (Beirami et al. 2024,
/// "Theoretical guarantees on the best-of-n alignment policy").
///
/// # Panics
///
/// When the lists differ in length.
#[must_use]
pub fn best_of(log_probs: &[f64], rewards: &[f64], count: u32) -> Vec<f64> {
    assert_eq!(log_probs.len(), rewards.len(), "a reward for each response");
    let mut order: Vec<usize> = (0..rewards.len()).collect();
    order.sort_by(|&one, &other| rewards[one].total_cmp(&rewards[other]));
    let mut law = vec![f64::NEG_INFINITY; rewards.len()];
    let mut below = 0.0_f64;
    for group in order.chunk_by(|&one, &other| rewards[one] == rewards[other]) {
        let mass: f64 = group.iter().map(|&at| log_probs[at].exp()).sum();
        if mass > 0.0 {
            // F^n - F_below^n = mass Σ_k F^k F_below^(n-1-k), without cancellation.
            let all = (below + mass).min(1.0);
            let terms = (0..count).map(|k| all.powi(k as i32) * below.powi((count - 1 - k) as i32));
            let factor = terms.sum::<f64>().ln();
            for &at in group {
                law[at] = log_probs[at] + factor;
            }
        }
        below = (below + mass).min(1.0);
    }
    law
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log_space::log_sum_exp;
    use crate::test::assert_close;

    fn world() -> Frontier {
        let prompt = |probabilities: [f64; 3], reward: [f64; 3]| (probabilities.map(f64::ln).to_vec(), reward.to_vec());
        Frontier::new(vec![
            prompt([0.5, 0.3, 0.2], [0.0, 1.0, 2.0]),
            prompt([0.1, 0.8, 0.1], [1.0, -1.0, 0.5]),
        ])
        .unwrap()
    }

    #[test]
    fn the_best_policies_stand_on_the_frontier_and_others_below() {
        let frontier = world();
        for beta in [0.1, 0.5, 3.0] {
            let policies: Vec<Vec<f64>> = frontier
                .prompts
                .iter()
                .map(|prompt| prompt.with_beta(beta).unwrap().optimum().log_policy)
                .collect();
            let standing = frontier.standing(&policies).unwrap();
            let point = frontier.at_price(beta).unwrap();
            assert_close(standing.expected_reward, point.expected_reward, 1e-12);
            assert_close(standing.kl, point.kl, 1e-12);
            assert!(standing.gap.abs() < 1e-9, "{standing:?}");
            // Different prices for the prompts are worse than one.
            let mut uneven = policies.clone();
            uneven[1] = frontier.prompts[1].with_beta(4.0 * beta).unwrap().optimum().log_policy;
            assert!(frontier.standing(&uneven).unwrap().gap > 1e-6);
        }
        let reference: Vec<Vec<f64>> = frontier.given.iter().map(|(log, _)| log.clone()).collect();
        let still = frontier.standing(&reference).unwrap();
        assert!(still.kl.abs() < 1e-15 && still.gap.abs() < 1e-4, "{still:?}");
        // Beyond the distance of the best responses there is nothing more to earn.
        assert_close(frontier.best_reward(50.0).unwrap(), 1.5, 1e-9);
        assert!(frontier.standing(&reference[..1]).is_err());
        assert!(frontier.from_optimum(&[vec![0.0], vec![0.0]], 1.0).is_err());
    }

    #[test]
    fn the_distance_from_the_optimum_is_what_the_objective_lacks_over_the_price() {
        let frontier = world();
        let policy: Vec<Vec<f64>> = [[0.2, 0.2, 0.6], [0.7, 0.2, 0.1]]
            .map(|probabilities: [f64; 3]| probabilities.map(f64::ln).to_vec())
            .to_vec();
        let standing = frontier.standing(&policy).unwrap();
        for beta in [0.1, 0.5, 3.0] {
            let best: Vec<Vec<f64>> = frontier
                .prompts
                .iter()
                .map(|prompt| prompt.with_beta(beta).unwrap().optimum().log_policy)
                .collect();
            assert!(frontier.from_optimum(&best, beta).unwrap() < 1e-15);
            let optimum = frontier.at_price(beta).unwrap();
            let objective = |expected_reward: f64, kl: f64| expected_reward - beta * kl;
            let lacks =
                objective(optimum.expected_reward, optimum.kl) - objective(standing.expected_reward, standing.kl);
            assert_close(frontier.from_optimum(&policy, beta).unwrap(), lacks / beta, 1e-12);
        }
        assert_eq!(frontier.from_optimum(&policy, 0.0), Err(FiniteError::Beta(0.0)));
    }

    #[test]
    fn gaps_lie_on_lines_between_policies_and_the_reference() {
        let policies = [(1.0, 0.5), (0.5, 0.1)];
        for (kl, expected) in [(0.0, 0.0), (0.25, 0.05), (0.5, 0.1), (0.75, 0.3), (1.0, 0.5)] {
            assert_close(gap_at(&policies, kl).unwrap(), expected, 1e-12);
        }
        assert_eq!(gap_at(&policies, 1.01), None);
        assert_eq!(gap_at(&[], 0.25), None);
        assert_eq!(gap_at(&[(0.5, 0.2), (0.5, 0.4)], 0.5), Some(0.2));
        assert_eq!(gap_at(&[(f64::NAN, f64::NAN)], 0.5), None);
    }

    proptest! {
        #[test]
        fn the_best_of_some_is_what_drawing_gives(
            weights in prop::collection::vec(0.01_f64..1.0, 2..5),
            rewards in prop::collection::vec(0_u8..3, 5),
            count in 1_u32..4,
        ) {
            let total: f64 = weights.iter().sum();
            let log_probs: Vec<f64> = weights.iter().map(|weight| (weight / total).ln()).collect();
            let rewards: Vec<f64> = rewards[..weights.len()].iter().map(|&reward| f64::from(reward)).collect();
            let law = best_of(&log_probs, &rewards, count);
            prop_assert!(log_sum_exp(&law).abs() < 1e-12);
            // All draws, one by one.
            let mut drawn = vec![0.0; weights.len()];
            let kinds = weights.len();
            for number in 0..kinds.pow(count) {
                let draws: Vec<usize> = (0..count).map(|at| number / kinds.pow(at) % kinds).collect();
                let mut best = draws[0];
                for &draw in &draws[1..] {
                    if rewards[draw] > rewards[best] {
                        best = draw;
                    }
                }
                drawn[best] += draws.iter().map(|&draw| log_probs[draw].exp()).product::<f64>();
            }
            for (law, drawn) in law.iter().zip(&drawn) {
                prop_assert!((law.exp() - drawn).abs() < 1e-12);
            }
            let n = f64::from(count);
            prop_assert!(kl_divergence(&law, &log_probs) <= n.ln() - (n - 1.0) / n + 1e-12);
        }
    }
}
