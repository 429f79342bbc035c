use super::*;
use proptest::prelude::*;

fn close(found: f64, expected: f64, tolerance: f64) {
    assert!(
        (found - expected).abs() <= tolerance * expected.abs().max(1.0),
        "{found} is not {expected}"
    );
}

#[test]
fn two_responses_by_hand() {
    // pi_ref = (1/4, 3/4), r = (ln 3, 0), beta = 1: the weights are 3/4 and 3/4, so Z = 3/2 and pi* = (1/2, 1/2).
    let optimum = FiniteProblem::new(&[0.25, 0.75], vec![3f64.ln(), 0.0], 1.0)
        .unwrap()
        .optimum();
    close(optimum.log_partition, 1.5f64.ln(), 1e-15);
    close(optimum.objective, 1.5f64.ln(), 1e-15);
    close(optimum.policy[0], 0.5, 1e-15);
    close(optimum.expected_reward, 3f64.ln() / 2.0, 1e-15);
    close(optimum.kl, 0.5 * 2f64.ln() + 0.5 * (2.0 / 3.0f64).ln(), 1e-15);
    close(optimum.recovered_reward[0].unwrap(), 3f64.ln(), 1e-15);
    close(optimum.recovered_reward[1].unwrap(), 0.0, 1e-15);
}

#[test]
fn a_tiny_beta_picks_the_best_supported_response() {
    let problem = FiniteProblem::new(&[0.5, 0.5, 0.0], vec![1.0, 2.0, 9.0], 1e-300).unwrap();
    let optimum = problem.optimum();
    assert_eq!(optimum.policy, [0.0, 1.0, 0.0]);
    assert_eq!(optimum.expected_reward, 2.0);
    close(optimum.kl, 2f64.ln(), 1e-15);
    assert_eq!(optimum.recovered_reward[2], None);
    // The policy is 0 as a double; its logarithm still knows the reward.
    close(optimum.recovered_reward[0].unwrap(), 1.0, 1e-15);
}

#[test]
fn a_huge_beta_keeps_the_reference_and_the_digits_of_the_kl() {
    // To second order KL = Var(r) / (2 beta²): here Var = 1/4. Summing p ln(p/q) would leave four digits.
    let optimum = FiniteProblem::new(&[0.5, 0.5], vec![0.0, 1.0], 1e6).unwrap().optimum();
    close(optimum.kl / (0.125 * 1e-12), 1.0, 1e-11);
    let same = FiniteProblem::new(&[0.3, 0.7], vec![5.0, 5.0], 0.1).unwrap().optimum();
    assert!(same.kl < 1e-30);
    close(same.objective, 5.0, 1e-15);
}

#[test]
fn references_below_the_smallest_double_count() {
    let log_reference = [-2000.0, (-2000f64).exp().ln_1p()];
    let optimum = FiniteProblem::from_log_reference(&log_reference, vec![2000.0, 0.0], 1.0)
        .unwrap()
        .optimum();
    close(optimum.policy[0], 0.5, 1e-12);
    close(optimum.log_partition, 2f64.ln(), 1e-12);
    close(optimum.kl, 1000.0 - 2f64.ln(), 1e-12);
}

#[test]
fn rounding_in_the_reference_is_divided_out_and_more_is_refused() {
    let exact = FiniteProblem::new(&[0.25, 0.75], vec![1.0, 0.0], 0.5)
        .unwrap()
        .optimum();
    let near = FiniteProblem::new(&[0.25 + 2e-7, 0.75 + 6e-7], vec![1.0, 0.0], 0.5)
        .unwrap()
        .optimum();
    close(near.log_partition, exact.log_partition, 1e-14);
    let refused = FiniteProblem::new(&[0.25, 0.74], vec![1.0, 0.0], 0.5).unwrap_err();
    assert_eq!(
        refused,
        FiniteError::Sum {
            name: "reference",
            sum: 0.99
        }
    );
}

#[test]
fn what_is_no_problem_is_refused_with_its_place() {
    let new = |reference: &[f64], reward: &[f64], beta| FiniteProblem::new(reference, reward.to_vec(), beta);
    assert_eq!(new(&[], &[], 1.0), Err(FiniteError::Empty));
    let length = FiniteError::Length {
        name: "reward",
        found: 2,
        expected: 1,
    };
    assert_eq!(new(&[1.0], &[0.0, 0.0], 1.0), Err(length));
    let negative = FiniteError::Probability {
        name: "reference",
        index: 1,
        value: -0.1,
    };
    assert_eq!(new(&[1.1 - 0.1, -0.1], &[0.0; 2], 1.0), Err(negative));
    assert!(matches!(
        new(&[f64::NAN], &[0.0], 1.0),
        Err(FiniteError::Probability { index: 0, .. })
    ));
    assert!(matches!(
        new(&[1.0], &[f64::INFINITY], 1.0),
        Err(FiniteError::Reward { index: 0, .. })
    ));
    for beta in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(new(&[1.0], &[0.0], beta), Err(FiniteError::Beta(_))));
    }
    assert_eq!(new(&[0.5, 0.5], &[1e300, 0.0], 1e-300), Err(FiniteError::Range(1e-300)));
    let log = FiniteProblem::from_log_reference(&[0.1, -3.0], vec![0.0; 2], 1.0);
    assert!(matches!(log, Err(FiniteError::Probability { index: 0, .. })));
    assert_eq!(
        FiniteProblem::from_log_reference(&[], vec![], 1.0),
        Err(FiniteError::Empty)
    );
}

#[test]
fn the_frontier_falls_as_beta_grows() {
    let problem = FiniteProblem::new(&[0.2, 0.3, 0.5], vec![1.0, -2.0, 0.5], 1.0).unwrap();
    let points = problem.frontier(&[0.01, 0.1, 1.0, 10.0]).unwrap();
    for pair in points.windows(2) {
        assert!(pair[0].kl > pair[1].kl && pair[0].expected_reward > pair[1].expected_reward);
    }
    assert_eq!(problem.frontier(&[0.0]), Err(FiniteError::Beta(0.0)));
}

/// Weights, rewards and beta of a random problem, with some responses impossible.
fn problems() -> impl Strategy<Value = (Vec<f64>, Vec<f64>, f64)> {
    (1..8usize)
        .prop_flat_map(|n| {
            (
                prop::collection::vec(0.0..1.0f64, n),
                prop::collection::vec(-5.0..5.0f64, n),
                -3.0..3.0f64,
            )
        })
        .prop_filter_map("a reference needs some weight", |(mut weights, reward, log10_beta)| {
            weights
                .iter_mut()
                .for_each(|weight| *weight = if *weight < 0.2 { 0.0 } else { *weight });
            let sum: f64 = weights.iter().sum();
            (sum > 0.0).then(|| {
                (
                    weights.iter().map(|w| w / sum).collect(),
                    reward,
                    10f64.powf(log10_beta),
                )
            })
        })
}

proptest! {
    #[test]
    fn identities_of_the_optimum((reference, reward, beta) in problems(), tilt in prop::collection::vec(0.0..1.0f64, 8)) {
        let problem = FiniteProblem::new(&reference, reward.clone(), beta).unwrap();
        let optimum = problem.optimum();
        prop_assert!((optimum.policy.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        prop_assert!(optimum.kl >= 0.0);
        let scale = 5.0 + beta;
        prop_assert!((optimum.objective - beta * optimum.log_partition).abs() < 1e-12 * scale);
        prop_assert!((optimum.objective - (optimum.expected_reward - beta * optimum.kl)).abs() < 1e-11 * scale);
        for (index, recovered) in optimum.recovered_reward.iter().enumerate() {
            match recovered {
                Some(recovered) => prop_assert!((recovered - reward[index]).abs() < 1e-11 * scale),
                None => prop_assert!(reference[index] == 0.0 && optimum.policy[index] == 0.0),
            }
        }
        // The same numbers from the definition of the objective, and no other policy does better.
        let evaluated = problem.evaluate(&optimum.policy).unwrap();
        prop_assert!((evaluated.objective - optimum.objective).abs() < 1e-11 * scale);
        let mut other: Vec<f64> = reference.iter().zip(&tilt).map(|(p, t)| p * (t + 1e-3)).collect();
        let sum: f64 = other.iter().sum();
        other.iter_mut().for_each(|p| *p /= sum);
        let worse = problem.evaluate(&other).unwrap();
        prop_assert!(worse.objective <= optimum.objective + 1e-12 * scale);
        // What it loses is beta KL(pi || pi*).
        let log_other: Vec<f64> = other.iter().map(|p| p.ln()).collect();
        let loss = beta * kl_divergence(&log_other, &optimum.log_policy);
        prop_assert!((optimum.objective - worse.objective - loss).abs() < 1e-9 * scale);
    }
}

#[test]
fn leaving_the_support_costs_everything() {
    let problem = FiniteProblem::new(&[1.0, 0.0], vec![0.0, 1.0], 1.0).unwrap();
    let evaluation = problem.evaluate(&[0.5, 0.5]).unwrap();
    assert_eq!(evaluation.kl, f64::INFINITY);
    assert_eq!(evaluation.objective, f64::NEG_INFINITY);
    assert!(matches!(
        problem.evaluate(&[1.0]),
        Err(FiniteError::Length { name: "policy", .. })
    ));
    assert!(matches!(
        problem.evaluate(&[0.9, 0.0]),
        Err(FiniteError::Sum { name: "policy", .. })
    ));
}
