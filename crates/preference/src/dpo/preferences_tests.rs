use super::*;
use crate::text::Ranked;

fn comparison(lengths: &[usize], groups: &[usize]) -> Comparison {
    Comparison {
        ranked: Ranked {
            prompt: vec![1, 2],
            responses: lengths.iter().map(|&length| vec![3; length]).collect(),
        },
        groups: groups.to_vec(),
        margin: 0.0,
    }
}

fn preferences(change: impl FnOnce(&mut DpoConfig)) -> Preferences {
    let mut config = DpoConfig::default();
    change(&mut config);
    Preferences::new(config, Environment::of_process())
}

#[test]
fn the_metrics_of_a_pair_are_those_of_its_formulas() {
    let (sums, gradient) =
        preferences(|config| config.beta = 0.5).judge(&comparison(&[3, 2], &[1, 1]), &[-10.0, -12.0], &[-11.0, -11.5]);
    // h = 0.5 · [1, -0.5].
    let weight = 1.0 / (1.0 + 0.75_f64.exp());
    assert!((sums.loss - (1.0 + (-0.75_f64).exp()).ln()).abs() < 1e-14);
    assert!((sums.loss_at_reference - 2.0_f64.ln()).abs() < 1e-15);
    assert_eq!(
        (sums.chosen_reward, sums.rejected_reward, sums.accuracy),
        (0.5, -0.25, 1.0)
    );
    assert_eq!((sums.chosen_log_prob, sums.rejected_log_prob), (-10.0, -12.0));
    assert!((sums.gradient_weight - weight).abs() < 1e-14);
    assert!((gradient[0] + 0.5 * weight).abs() < 1e-14 && (gradient[1] - 0.5 * weight).abs() < 1e-14);
}

#[test]
fn a_ranking_of_two_is_a_pair() {
    let pair = comparison(&[3, 2], &[1, 1]);
    let preferences = preferences(|config| config.beta = 0.7);
    let log_ratios = [0.4, -1.3];
    let ranking = partial(&[0.7 * 0.4, 0.7 * -1.3], &[1, 1], 2);
    let term = preferences.term(&pair, &log_ratios);
    assert!((term.loss + ranking.log_likelihood).abs() < 1e-14);
    for (found, expected) in term.gradient.iter().zip(ranking.gradient) {
        assert!((found + 0.7 * expected).abs() < 1e-14);
    }
}

#[test]
fn a_ranking_counts_the_pairs_that_are_the_right_way_round() {
    let (sums, gradient) = preferences(|_| {}).judge(
        &comparison(&[1, 1, 1, 1], &[2, 1, 1]),
        &[-1.0, -2.0, -3.0, -4.0],
        &[-1.0, -2.0, -4.0, -4.5],
    );
    // Log-ratios 0, 0, 1, 0.5: of five pairs only the last is right.
    assert!((sums.accuracy - 1.0 / 5.0).abs() < 1e-15);
    assert_eq!(
        sums.loss_at_reference,
        -partial(&[0.0; 4], &[2, 1, 1], 4).log_likelihood
    );
    assert!(gradient.iter().sum::<f64>().abs() < 1e-14);
    assert!((sums.rejected_reward - 0.1 * 0.75).abs() < 1e-15);
}

#[test]
fn averages_over_tokens_have_their_derivatives() {
    let pair = comparison(&[4, 2], &[1, 1]);
    for loss in [PairLoss::Ipo, PairLoss::SigmoidNorm] {
        let preferences = preferences(|config| config.loss = loss);
        let loss_at = |log_ratios: [f64; 2]| preferences.term(&pair, &log_ratios).loss;
        let term = preferences.term(&pair, &[1.0, -2.0]);
        let change = 1e-6;
        let by_first = (loss_at([1.0 + change, -2.0]) - loss_at([1.0 - change, -2.0])) / (2.0 * change);
        let by_second = (loss_at([1.0, -2.0 + change]) - loss_at([1.0, -2.0 - change])) / (2.0 * change);
        assert!(
            (term.gradient[0] - by_first).abs() < 1e-7 && (term.gradient[1] - by_second).abs() < 1e-7,
            "{loss}"
        );
    }
}

#[test]
fn a_first_loss_that_is_off_is_an_error_unless_the_reference_is_another() {
    let sums = Sums {
        loss: 1.5,
        loss_at_reference: 2.0 * 2.0_f64.ln(),
        ..Sums::default()
    };
    let updated = |objective: &Preferences, sums: Sums, step: u64| {
        let batch = Batch {
            split: crate::tuning::objective::Split::Training,
            examples: Vec::new(),
        };
        objective.updated(&Update {
            step,
            number: 0,
            batch: &batch,
            sums,
            total: 2.0,
            gradient_norm: 1.0,
        })
    };
    let own = preferences(|_| {});
    assert!(updated(&own, sums, 1).is_ok());
    assert!(matches!(updated(&own, sums, 0), Err(TuningError::FirstLoss { .. })));
    let other = preferences(|config| config.reference = Some("other".to_owned()));
    assert!(updated(&other, sums, 0).is_ok());
    let right = Sums {
        loss: 2.0 * 2.0_f64.ln() + 1e-6,
        ..sums
    };
    assert!(updated(&own, right, 0).is_ok());
}
