use super::super::{bradley_terry, plackett_luce};
use super::*;
use proptest::prelude::*;

fn ties(log_prevalence: &[f64]) -> Vec<TiePrevalence> {
    let sized = |(index, &log_prevalence)| TiePrevalence {
        size: index + 2,
        log_prevalence,
    };
    log_prevalence.iter().enumerate().map(sized).collect()
}

/// The definition, subset by subset.
fn by_enumeration(scores: &[f64], groups: &[usize], ties: &[TiePrevalence]) -> f64 {
    let weight = |set: &[f64]| {
        let prevalence = match set.len() {
            1 => 1.0,
            size => ties
                .iter()
                .find(|tie| tie.size == size)
                .map_or(0.0, |tie| tie.log_prevalence.exp()),
        };
        prevalence * (set.iter().sum::<f64>() / set.len() as f64).exp()
    };
    let mut left = scores;
    let mut log_likelihood = 0.0;
    for &size in groups {
        let members = |bits: usize| {
            (0..left.len())
                .filter(|i| bits >> i & 1 == 1)
                .map(|i| left[i])
                .collect::<Vec<_>>()
        };
        let total: f64 = (1..1usize << left.len()).map(|bits| weight(&members(bits))).sum();
        log_likelihood += (weight(&left[..size]) / total).ln();
        left = &left[size..];
    }
    log_likelihood
}

/// Every ranking with ties of the given items.
fn weak_orders(items: &[usize]) -> Vec<Vec<Vec<usize>>> {
    if items.is_empty() {
        return vec![vec![]];
    }
    let mut orders = vec![];
    for bits in 1..1usize << items.len() {
        let pick = |wanted: usize| {
            let chosen = items.iter().enumerate().filter(move |(i, _)| bits >> i & 1 == wanted);
            chosen.map(|(_, &item)| item).collect::<Vec<_>>()
        };
        for mut rest in weak_orders(&pick(0)) {
            rest.insert(0, pick(1));
            orders.push(rest);
        }
    }
    orders
}

#[test]
fn equal_items_by_hand() {
    // Three equal items, delta_2 = 1/2: sets of one weigh 3, of two 3/2. Two tie for first, then the last is alone.
    let prevalence = [TiePrevalence {
        size: 2,
        log_prevalence: 0.5f64.ln(),
    }];
    let found = log_likelihood(&[4.0; 3], &[2, 1], &prevalence);
    assert!((found - (0.5f64 / 4.5).ln()).abs() < 1e-14);
}

#[test]
fn a_size_without_prevalence_is_impossible() {
    assert_eq!(log_likelihood(&[0.0, 0.0], &[2], &[]), f64::NEG_INFINITY);
}

#[test]
fn the_largest_tie_stays_in_range() {
    // All of a thousand equal items: the polynomial is 1000 choose 64.
    let size = MAXIMUM_TIE;
    let prevalence = [TiePrevalence {
        size,
        log_prevalence: 0.0,
    }];
    let found = log_likelihood(&[700.0; 1000], &[size], &prevalence);
    let log_choose: f64 = (0..size)
        .map(|i| ((1000 - i) as f64).ln() - ((i + 1) as f64).ln())
        .sum();
    let expected = -(log_choose + (1000.0 * (-log_choose).exp()).ln_1p());
    assert!((found - expected).abs() < 1e-10, "{found} is not {expected}");
    // And with one item far above the rest.
    let mut scores = vec![-800.0; 1000];
    scores[0] = 800.0;
    assert!(log_likelihood(&scores, &[1], &prevalence).abs() < 1e-12);
    let derivatives = gradient(&scores, &[size], &prevalence);
    assert!(derivatives.scores.iter().all(|d| d.is_finite()));
}

fn rankings() -> impl Strategy<Value = (Vec<f64>, Vec<usize>, Vec<TiePrevalence>)> {
    (
        prop::collection::vec(-4.0..4.0f64, 1..7),
        prop::collection::vec(1..4usize, 0..6),
        prop::collection::vec(-3.0..2.0f64, 2),
    )
        .prop_map(|(scores, mut groups, log_prevalence)| {
            let mut left = scores.len();
            groups.retain_mut(|size| {
                *size = (*size).min(left);
                left -= *size;
                *size > 0
            });
            (scores, groups, ties(&log_prevalence))
        })
}

proptest! {
    #[test]
    fn equals_the_definition((scores, groups, ties) in rankings()) {
        let expected = by_enumeration(&scores, &groups, &ties);
        prop_assert!((log_likelihood(&scores, &groups, &ties) - expected).abs() < 1e-11);
    }

    #[test]
    fn all_weak_orders_have_probability_one(scores in prop::collection::vec(-5.0..5.0f64, 1..5), log_prevalence in prop::collection::vec(-2.0..2.0f64, 3)) {
        let items: Vec<usize> = (0..scores.len()).collect();
        let total: f64 = weak_orders(&items)
            .iter()
            .map(|order| {
                let ranked: Vec<f64> = order.iter().flatten().map(|&item| scores[item]).collect();
                let groups: Vec<usize> = order.iter().map(Vec::len).collect();
                log_likelihood(&ranked, &groups, &ties(&log_prevalence)).exp()
            })
            .sum();
        prop_assert!((total - 1.0).abs() < 1e-12);
    }

    #[test]
    fn two_items_are_davidson(first in -20.0..20.0f64, second in -20.0..20.0f64, log_prevalence in -4.0..4.0f64) {
        let ties = ties(&[log_prevalence]);
        let outcome = bradley_terry::davidson(first, second, log_prevalence);
        prop_assert!((log_likelihood(&[first, second], &[1, 1], &ties) - outcome.first).abs() < 1e-12);
        prop_assert!((log_likelihood(&[first, second], &[2], &ties) - outcome.tie).abs() < 1e-12);
        prop_assert!((log_likelihood(&[second, first], &[1, 1], &ties) - outcome.second).abs() < 1e-12);
    }

    #[test]
    fn no_ties_are_plackett_luce(scores in prop::collection::vec(-8.0..8.0f64, 1..8), places in 1..8usize) {
        let groups = vec![1; places.min(scores.len())];
        prop_assert!((log_likelihood(&scores, &groups, &[]) - plackett_luce::log_likelihood(&scores, places)).abs() < 1e-12);
        let derivatives = gradient(&scores, &groups, &[]).scores;
        for (a, b) in derivatives.iter().zip(plackett_luce::gradient(&scores, places)) {
            prop_assert!((a - b).abs() < 1e-12);
        }
    }

    #[test]
    fn gradient_and_information_are_the_derivatives((scores, groups, ties) in rankings()) {
        let (n, t) = (scores.len(), ties.len());
        let size = n + t;
        let mut information = vec![0.0; size * size];
        super::information(&scores, &groups, &ties, |entry, value| match entry {
            Entry::Scores(i, j) => {
                information[i * size + j] += value;
                information[j * size + i] += value;
                information[i * size + i] -= value;
                information[j * size + j] -= value;
            }
            Entry::ScoreAndTie(i, u) => {
                information[i * size + n + u] += value;
                information[(n + u) * size + i] += value;
            }
            Entry::Ties(u, v) => {
                information[(n + u) * size + n + v] += value;
                if u != v {
                    information[(n + v) * size + n + u] += value;
                }
            }
        });
        let flat = |gradient: Gradient| [gradient.scores, gradient.log_prevalence].concat();
        let analytic = flat(gradient(&scores, &groups, &ties));
        let step = 1e-5;
        for parameter in 0..size {
            let moved = |by: f64| {
                let (mut scores, mut ties) = (scores.clone(), ties.clone());
                if parameter < n { scores[parameter] += by } else { ties[parameter - n].log_prevalence += by }
                (scores, ties)
            };
            let ((high, high_ties), (low, low_ties)) = (moved(step), moved(-step));
            let difference = (log_likelihood(&high, &groups, &high_ties) - log_likelihood(&low, &groups, &low_ties)) / (2.0 * step);
            prop_assert!((difference - analytic[parameter]).abs() < 1e-8);
            let above = flat(gradient(&high, &groups, &high_ties));
            let below = flat(gradient(&low, &groups, &low_ties));
            for other in 0..size {
                let curvature = -(above[other] - below[other]) / (2.0 * step);
                prop_assert!((curvature - information[parameter * size + other]).abs() < 1e-8);
            }
        }
    }
}
