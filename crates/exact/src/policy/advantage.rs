//! How much better a decision was than expected.

/// Advantages of the decisions of one response, and the returns that its values should have foretold.
#[derive(Clone, Debug, PartialEq)]
pub struct Advantages {
    /// Of each decision.
    pub advantages: Vec<f64>,
    /// Advantage and value together, of each decision.
    pub returns: Vec<f64>,
}

/// Generalised advantages: `A_t = δ_t + γ λ A_{t+1}` with `δ_t = r_t + γ V_{t+1} - V_t`, nothing being left after the
/// last decision (Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
/// equation 16).
///
/// # Panics
///
/// When there are not as many values as rewards.
#[must_use]
pub fn generalized(rewards: &[f64], values: &[f64], discount: f64, lambda: f64) -> Advantages {
    assert_eq!(rewards.len(), values.len(), "a value for each decision");
    let mut advantages = vec![0.0; rewards.len()];
    let (mut next_value, mut next_advantage) = (0.0, 0.0);
    for at in (0..rewards.len()).rev() {
        let surprise = rewards[at] + discount * next_value - values[at];
        advantages[at] = surprise + discount * lambda * next_advantage;
        (next_value, next_advantage) = (values[at], advantages[at]);
    }
    let returns = advantages.iter().zip(values).map(|(one, other)| one + other).collect();
    Advantages { advantages, returns }
}

/// How much more each response to one prompt earned than the others did on average.
///
/// Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!"; for language models Ahmadian et al. 2024, "Back
/// to Basics" (RLOO). A single response has nothing to be compared with: 0.
#[must_use]
pub fn leave_one_out(earned: &[f64]) -> Vec<f64> {
    let others = earned.len() as f64 - 1.0;
    if others < 1.0 {
        return vec![0.0; earned.len()];
    }
    let total: f64 = earned.iter().sum();
    earned.iter().map(|own| own - (total - own) / others).collect()
}

/// What is added to a group's deviation before it divides.
pub const GROUP_EPSILON: f64 = 1e-4;

/// How many deviations each response to one prompt earned more than their mean.
///
/// Shao et al. 2024, "DeepSeekMath", section 4.1.2 (GRPO); the deviation is that of a sample, with [`GROUP_EPSILON`] added,
/// as in its public implementations. A single response: 0.
#[must_use]
pub fn group_relative(earned: &[f64]) -> Vec<f64> {
    if earned.len() < 2 {
        return vec![0.0; earned.len()];
    }
    let count = earned.len() as f64;
    let mean = earned.iter().sum::<f64>() / count;
    let squares: f64 = earned.iter().map(|own| (own - mean).powi(2)).sum();
    let deviation = (squares / (count - 1.0)).sqrt();
    earned
        .iter()
        .map(|own| (own - mean) / (deviation + GROUP_EPSILON))
        .collect()
}

/// Keeps a variance of nothing from dividing.
const WHITENING_EPSILON: f64 = 1e-8;

/// Gives values a variance of 1, and a mean of 0 or the one they had.
///
/// `(x - mean) / sqrt(variance + 1e-8)` with the variance of a population, which is how the code of Ziegler et al. 2019
/// whitens rewards (keeping the mean) and advantages.
pub fn whiten(values: &mut [f64], keep_mean: bool) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let scale = (variance + WHITENING_EPSILON).sqrt().recip();
    let shift = if keep_mean { mean } else { 0.0 };
    for value in values {
        *value = (*value - mean) * scale + shift;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test::assert_close;

    #[test]
    fn the_ends_of_lambda_are_one_step_and_the_whole_return() {
        let (rewards, values) = ([0.5, -0.25, 1.0], [0.2, 0.4, -0.1]);
        let one_step = generalized(&rewards, &values, 0.9, 0.0);
        assert_close(one_step.advantages[0], 0.5 + 0.9 * 0.4 - 0.2, 1e-14);
        assert_close(one_step.advantages[2], 1.0 + 0.1, 1e-14);
        let whole = generalized(&rewards, &values, 0.9, 1.0);
        assert_close(whole.returns[0], 0.5 - 0.9 * 0.25 + 0.81, 1e-14);
        assert_close(whole.returns[1], -0.25 + 0.9, 1e-14);
        assert_close(whole.returns[2], 1.0, 1e-14);
    }

    proptest! {
        /// Equation 16 as the sum that it is: Σ_l (γ λ)^l δ_{t+l}.
        #[test]
        fn the_recursion_is_the_sum(
            decisions in prop::collection::vec((-2.0_f64..2.0, -2.0_f64..2.0), 1..12),
            discount in 0.5_f64..1.0,
            lambda in 0.0_f64..1.0,
        ) {
            let (rewards, values): (Vec<f64>, Vec<f64>) = decisions.into_iter().unzip();
            let found = generalized(&rewards, &values, discount, lambda);
            for at in 0..rewards.len() {
                let mut sum = 0.0;
                for later in at..rewards.len() {
                    let next = values.get(later + 1).copied().unwrap_or(0.0);
                    let surprise = rewards[later] + discount * next - values[later];
                    sum += (discount * lambda).powi((later - at) as i32) * surprise;
                }
                prop_assert!((found.advantages[at] - sum).abs() < 1e-11);
                prop_assert!((found.returns[at] - sum - values[at]).abs() < 1e-11);
            }
        }

        /// What a prompt adds to all of its responses is no merit of any.
        #[test]
        fn a_group_is_compared_with_itself_alone(
            earned in prop::collection::vec(-3.0_f64..3.0, 2..9),
            shift in -5.0_f64..5.0,
        ) {
            let moved: Vec<f64> = earned.iter().map(|own| own + shift).collect();
            for advantage in [leave_one_out, group_relative] {
                let (here, there) = (advantage(&earned), advantage(&moved));
                prop_assert!(here.iter().sum::<f64>().abs() < 1e-8);
                for (one, other) in here.iter().zip(&there) {
                    prop_assert!((one - other).abs() < 1e-8 * (1.0 + one.abs()));
                }
            }
        }
    }

    #[test]
    fn groups_by_hand() {
        let earned = [1.0, 2.0, 6.0];
        let found = leave_one_out(&earned);
        for (found, expected) in found.iter().zip([1.0 - 4.0, 2.0 - 3.5, 6.0 - 1.5]) {
            assert_close(*found, expected, 1e-14);
        }
        // Deviation: sqrt((4 + 1 + 9) / 2).
        let found = group_relative(&earned);
        assert_close(found[2], 3.0 / (7.0_f64.sqrt() + 1e-4), 1e-14);
        assert_eq!((leave_one_out(&[2.0]), group_relative(&[2.0])), (vec![0.0], vec![0.0]));
        assert_eq!(group_relative(&[2.0, 2.0]), [0.0, 0.0]);
    }

    #[test]
    fn white_values_have_variance_one() {
        let before = [1.0, -2.0, 4.0, 0.5];
        let moments = |values: &[f64]| {
            let mean = values.iter().sum::<f64>() / 4.0;
            (
                mean,
                values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 4.0,
            )
        };
        let mut white = before;
        whiten(&mut white, false);
        let (mean, variance) = moments(&white);
        assert!(mean.abs() < 1e-15);
        assert_close(variance, 1.0, 1e-8);
        let mut kept = before;
        whiten(&mut kept, true);
        assert_close(moments(&kept).0, moments(&before).0, 1e-14);
        assert_close(moments(&kept).1, 1.0, 1e-8);
        // All alike: nothing is divided by nothing.
        let mut alike = [3.0; 4];
        whiten(&mut alike, false);
        assert_eq!(alike, [0.0; 4]);
        whiten(&mut [], false);
    }
}
