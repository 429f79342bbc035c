use burn::tensor::{Device, TensorData};
use proptest::prelude::*;

use super::*;
use crate::testing::{assert_close, check_gradients, numbers, random, strided, values, with_threads};

#[test]
fn log_probabilities_are_their_formula_with_their_gradients() {
    let targets: Arc<[u32]> = Arc::from([4, 0, 6]);
    for temperature in [1.0, 0.7] {
        check_gradients(
            [numbers(1, 3 * 5), numbers(2, 7 * 5)],
            |[hidden, head]| {
                let (hidden, head) = (hidden.reshape([3, 5]), head.reshape([7, 5]));
                token_log_prob(hidden, head, Arc::clone(&targets), temperature).log_prob
            },
            |[hidden, head]| {
                let row = |(row, &target): (&[f64], &u32)| {
                    let dot = |head: &[f64]| row.iter().zip(head).map(|(a, b)| a * b).sum::<f64>() / temperature;
                    let logits: Vec<f64> = head.chunks(5).map(dot).collect();
                    logits[target as usize] - logits.iter().map(|logit| logit.exp()).sum::<f64>().ln()
                };
                hidden.chunks(5).zip(&*targets).map(row).collect()
            },
        );
    }
}

#[test]
fn the_weighted_sum_is_its_formula_with_its_gradients() {
    let targets: Arc<[u32]> = Arc::from([4, 0, 6]);
    let weights: Arc<[f32]> = Arc::from([0.5, -2.0, 0.0]);
    check_gradients(
        [numbers(1, 3 * 5), numbers(2, 7 * 5)],
        |[hidden, head]| {
            let (hidden, head) = (hidden.reshape([3, 5]), head.reshape([7, 5]));
            let (sum, _) = token_log_prob_sum(hidden, head, Arc::clone(&targets), Arc::clone(&weights), 0.7);
            sum * 3.0
        },
        |[hidden, head]| {
            let row = |((row, &target), &weight): ((&[f64], &u32), &f32)| {
                let dot = |head: &[f64]| row.iter().zip(head).map(|(a, b)| a * b).sum::<f64>() / 0.7;
                let logits: Vec<f64> = head.chunks(5).map(dot).collect();
                f64::from(weight) * (logits[target as usize] - logits.iter().map(|logit| logit.exp()).sum::<f64>().ln())
            };
            vec![3.0 * hidden.chunks(5).zip(&*targets).zip(&*weights).map(row).sum::<f64>()]
        },
    );
}

/// One of the two may be frozen, and both are where nothing is trained.
#[test]
fn a_sum_is_differentiated_by_what_is_tracked() {
    let device = Device::flex().autodiff();
    let (targets, weights): (Arc<[u32]>, Arc<[f32]>) = (Arc::from([4, 0, 6]), Arc::from([0.5, -2.0, 1.0]));
    let leaf = |seed, shape: [usize; 2], tracked: bool| {
        let values = TensorData::new(numbers(seed, shape[0] * shape[1]), shape);
        Tensor::<2>::from_data(values, &device).set_require_grad(tracked)
    };
    let run = |tracked: [bool; 2]| {
        let (hidden, head) = (leaf(1, [3, 5], tracked[0]), leaf(2, [7, 5], tracked[1]));
        let (sum, rows) = token_log_prob_sum(
            hidden.clone(),
            head.clone(),
            Arc::clone(&targets),
            Arc::clone(&weights),
            1.0,
        );
        let values = |tensor: Tensor<1>| tensor.into_data().try_into_vec::<f32>().expect("f32 values");
        let gradients = tracked.contains(&true).then(|| sum.backward());
        let gradient = |of: &Tensor<2>| {
            let gradient = gradients.as_ref().and_then(|gradients| of.grad(gradients));
            gradient.map(|gradient| gradient.into_data().try_into_vec::<f32>().expect("f32 values"))
        };
        let gradients = [gradient(&hidden), gradient(&head)];
        (values(sum), values(rows.log_prob), gradients)
    };
    let (sum, log_prob, [of_hidden, of_head]) = run([true, true]);
    assert!(of_hidden.is_some() && of_head.is_some());
    let close = |other: &[f32]| {
        sum.iter()
            .chain(&log_prob)
            .zip(other)
            .all(|(a, b)| (a - b).abs() < 1e-5)
    };
    for tracked in [[true, false], [false, true], [false, false]] {
        let (sum, log_prob, gradients) = run(tracked);
        assert!(close(&[sum, log_prob].concat()), "{tracked:?}");
        for ((gradient, expected), tracked) in gradients.iter().zip([&of_hidden, &of_head]).zip(tracked) {
            assert_eq!(gradient.is_some(), tracked);
            assert!(gradient.is_none() || gradient == expected);
        }
    }
}

#[test]
fn entropy_and_hits_are_those_of_the_distribution() {
    let device = Device::flex();
    // Logits ln 1, ln 2, ln 5: probabilities 1/8, 1/4, 5/8.
    let logits = [1.0_f32, 2.0, 5.0].map(f32::ln);
    let hidden = Tensor::<2>::from_data([[1.0_f32], [1.0]], &device);
    let head = Tensor::<2>::from_data(TensorData::new(logits.to_vec(), [3, 1]), &device);
    let found = token_log_prob(hidden, head, Arc::from([2, 1]), 1.0);
    let values = |tensor: Tensor<1>| tensor.into_data().try_to_vec::<f32>().expect("f32 values");
    assert_eq!(values(found.correct), [1.0, 0.0]);
    let entropy: f32 = [0.125_f32, 0.25, 0.625].iter().map(|p| -p * p.ln()).sum();
    assert!(values(found.entropy).iter().all(|found| (found - entropy).abs() < 1e-6));
    let log_prob = values(found.log_prob);
    assert!((log_prob[0] - 0.625_f32.ln()).abs() < 1e-6 && (log_prob[1] - 0.25_f32.ln()).abs() < 1e-6);
}

/// What all passes give: log-probabilities, entropies, hits, log-sums, and the gradients of hidden rows and head; and the
/// same but for the log-sums where the gradients are worked out at once.
fn everything(hidden: &FlexTensor, head: &FlexTensor, gradient: &FlexTensor, targets: &Arc<[u32]>) -> [FlexTensor; 12] {
    let (hidden, head) = (hidden.clone(), head.clone());
    let (log_prob, entropy, correct, sums) =
        Flex::token_log_prob_with_sums(hidden.clone(), head.clone(), targets.clone(), 0.8);
    let (of_hidden, of_head) = Flex::token_log_prob_gradients(
        hidden.clone(),
        head.clone(),
        sums.clone(),
        gradient.clone(),
        targets.clone(),
        0.8,
    );
    let alone = Flex::token_log_prob_hidden_gradient(
        hidden.clone(),
        head.clone(),
        sums.clone(),
        gradient.clone(),
        targets.clone(),
        0.8,
    );
    let at_once =
        Flex::token_log_prob_with_gradients(hidden, head, targets.clone(), values(gradient).into(), 0.8, true);
    [
        log_prob, entropy, correct, sums, of_hidden, of_head, alone, at_once.0, at_once.1, at_once.2, at_once.3,
        at_once.4,
    ]
}

fn targets(rows: usize, vocabulary: usize) -> Arc<[u32]> {
    (0..rows).map(|row| (row * 7919 % vocabulary) as u32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn fused_is_portable(rows in 0..450_usize, width in 1..20_usize, vocabulary in 1..10_000_usize, plain: [bool; 2]) {
        let stored = |tensor: FlexTensor, plain: bool| if plain { tensor } else { strided(&tensor) };
        // As many logits as take a moment.
        let vocabulary = vocabulary.min(1 + 200_000 / (rows + 1));
        let hidden = stored(random(1, [rows, width]), plain[0]);
        let head = stored(random(2, [vocabulary, width]), plain[1]);
        let (gradient, targets) = (random(3, [rows]), targets(rows, vocabulary));
        let fused = everything(&hidden, &head, &gradient, &targets);
        let (log_prob, entropy, correct, sums) =
            portable::forward::<Flex>(hidden.clone(), head.clone(), &targets, 0.8);
        let (of_hidden, of_head) =
            portable::gradients::<Flex>(hidden, head, sums.clone(), gradient, &targets, 0.8, true);
        let found = [&log_prob, &entropy, &correct, &sums, &of_hidden, &of_head, &of_hidden];
        let at_once = [&log_prob, &entropy, &correct, &of_hidden, &of_head];
        for (fused, expected) in fused.iter().zip(found.into_iter().chain(at_once)) {
            assert_close(fused, expected, 2e-5);
        }
    }
}

#[test]
fn neither_threads_nor_other_rows_change_anything() {
    let (rows, vocabulary) = (500, 3000);
    let (hidden, head, gradient) = (random(1, [rows, 33]), random(2, [vocabulary, 33]), random(3, [rows]));
    let targets = targets(rows, vocabulary);
    let run = || everything(&hidden, &head, &gradient, &targets).map(|tensor| values(&tensor));
    let expected = with_threads(1, run);
    for threads in 2..=4 {
        assert_eq!(with_threads(threads, run), expected, "{threads} threads");
    }
    let alone = everything(
        &hidden.narrow(0, 401, 1),
        &head,
        &gradient.narrow(0, 401, 1),
        &targets[401..402].into(),
    );
    for (index, row) in [
        (0, 1),
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 33),
        (7, 1),
        (8, 1),
        (9, 1),
        (10, 33),
    ] {
        assert_eq!(values(&alone[index]), expected[index][401 * row..402 * row]);
    }
}

/// Logits of thousands, and some or all that are no numbers.
#[test]
fn extreme_logits_are_what_they_should_be() {
    let head = FlexTensor::from_data(TensorData::new(vec![5000.0_f32, 0.0, -5000.0, 4999.0], [4, 1]));
    let hidden = FlexTensor::from_data(TensorData::new(vec![1.0_f32, f32::NAN], [2, 1]));
    let found = Flex::token_log_prob(hidden, head, Arc::from([3, 0]), 1.0);
    let log_prob = values(&found.0);
    let expected = -(1.0 + (-1.0_f64).exp().ln_1p()) as f32;
    assert!(
        (log_prob[0] - expected).abs() < 1e-3 && log_prob[1].is_nan(),
        "{log_prob:?}"
    );
    assert!(values(&found.1)[0].is_finite() && values(&found.1)[1].is_nan());
    for place in [0, 1, 700, 999] {
        let mut head = numbers(5, 1000);
        head[place] = f32::NAN;
        let head = FlexTensor::from_data(TensorData::new(head, [1000, 1]));
        let hidden = FlexTensor::from_data(TensorData::new(vec![1.0_f32], [1, 1]));
        let found = Flex::token_log_prob(hidden, head, Arc::from([3]), 1.0);
        assert!(
            values(&found.0)[0].is_nan() && values(&found.1)[0].is_nan(),
            "a NaN at {place} is lost"
        );
    }
}
