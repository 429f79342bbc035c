use super::*;
use crate::finite::FiniteProblem;
use crate::ranking::bradley_terry;
use crate::ranking::davidson_luce::{self, TiePrevalence};
use crate::ranking::sample;
use proptest::prelude::*;
use rand::SeedableRng as _;

const NONE: [&str; 0] = [];

fn strengths(fit: &Fit) -> Vec<f64> {
    fit.items.iter().map(|item| item.log_strength).collect()
}

fn errors(fit: &Fit) -> Vec<f64> {
    fit.items.iter().map(|item| item.std_error.unwrap()).collect()
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance, "{found} is not {expected}");
    }
}

#[test]
fn two_items_have_a_closed_form() {
    // p = w / (w + l), so the strengths differ by ln(w/l) with variance 1/w + 1/l, and each is half the difference.
    let mut data = Dataset::new();
    data.add_comparison("a", "b", 30.0).unwrap();
    data.add_comparison("b", "a", 12.0).unwrap();
    let fit = fit(&data, FitOptions::default()).unwrap();
    let (half, error) = (0.5 * (30f64 / 12.0).ln(), 0.5 * (1.0 / 30.0 + 1.0 / 12.0f64).sqrt());
    assert_close(&strengths(&fit), &[half, -half], 1e-13);
    assert_close(&errors(&fit), &[error, error], 1e-13);
    assert_close(&[fit.items[0].probability], &[30.0 / 42.0], 1e-13);
    let expected = 30.0 * (30.0 / 42.0f64).ln() + 12.0 * (12.0 / 42.0f64).ln();
    assert!((fit.log_likelihood - expected).abs() < 1e-12);
    assert_eq!(fit.observations, 42.0);
    assert_eq!([fit.items[0].rank, fit.items[1].rank], [1, 2]);
}

#[test]
fn partial_rankings_match_choix_and_a_pseudo_inverse() {
    // choix 0.4.1 and numpy 2.4:
    //   data = [(0,1,2), (2,0,1), (1,2,0), (3,0), (0,3,2), (2,3,1), (1,0)]
    //   h = choix.opt_rankings(4, data, alpha=0, tol=1e-14); h -= h.mean()        (agrees to 5e-9)
    //   I = zeros((4,4)); for every choice of every ranking, s the items left, p = softmax(h[s]):
    //       I[ix_(s,s)] += diag(p) - outer(p, p)
    //   sqrt(diag(pinv(I))), choix.log_likelihood_rankings(data, h)
    let data: [&[&str]; 7] = [
        &["0", "1", "2"],
        &["2", "0", "1"],
        &["1", "2", "0"],
        &["3", "0"],
        &["0", "3", "2"],
        &["2", "3", "1"],
        &["1", "0"],
    ];
    let mut dataset = Dataset::new();
    for ranking in data {
        let places: Vec<[&str; 1]> = ranking.iter().map(|item| [*item]).collect();
        dataset.add_ranking(&places, &NONE, 1.0).unwrap();
    }
    assert_eq!(dataset.names(), ["0", "1", "2", "3"]);
    let fit = fit(&dataset, FitOptions::default()).unwrap();
    let choix = [
        -0.21041159096155615,
        -0.21041159096155618,
        -0.10529207163906155,
        0.5261152535621738,
    ];
    assert_close(&strengths(&fit), &choix, 1e-10);
    let pseudo_inverse = [
        0.569137521671196,
        0.5691375216711961,
        0.5603927772897628,
        0.6969314832688652,
    ];
    assert_close(&errors(&fit), &pseudo_inverse, 1e-10);
    assert!((fit.log_likelihood - -10.048627239540227).abs() < 1e-10);
}

/// The rankings of the R package PlackettLuce's own tests (test-S3-methods.R), one of them twice.
fn fruits() -> Dataset {
    let mut data = Dataset::new();
    data.add_ranking(&[["apple"], ["banana"]], &NONE, 1.0).unwrap();
    data.add_ranking(&[["banana"], ["orange"], ["apple"]], &NONE, 1.0)
        .unwrap();
    data.add_ranking(&[vec!["banana", "orange"], vec!["apple"]], &NONE, 2.0)
        .unwrap();
    data.add_ranking(&[["apple"], ["banana"], ["orange"]], &NONE, 1.0)
        .unwrap();
    data.add_ranking(&[["apple"], ["orange"]], &NONE, 1.0).unwrap();
    data
}

#[test]
fn ties_match_the_r_package() {
    // PlackettLuce 0.4.4, tests/testthat/_snaps/S3-methods.md: PlackettLuce(rankings = R), whose default prior is
    // npseudo = 0.5; log-strengths against apple, ln delta_2 and its standard error, and fitted probabilities.
    let fit = fit(
        &fruits(),
        FitOptions {
            prior: 0.5,
            ..FitOptions::default()
        },
    )
    .unwrap();
    let strengths = strengths(&fit);
    let against_apple = [strengths[1] - strengths[0], strengths[2] - strengths[0]];
    assert_close(&against_apple, &[0.2867987, -0.4636687], 1e-6);
    assert_eq!(fit.tie_parameters[0].size, 2);
    assert_close(&[fit.tie_parameters[0].log_prevalence], &[-1.0701129], 1e-6);
    // R leaves the prior out of its standard errors: of banana and of orange against apple, and of ln delta_2.
    let likelihood = Likelihood::new(&fruits(), 0.0);
    let mut information = likelihood.empty_information();
    let parameters = [strengths.clone(), vec![fit.tie_parameters[0].log_prevalence]].concat();
    likelihood.fill_information(&parameters, &mut information);
    for (contrast, error) in [
        ([-1.0, 1.0, 0.0, 0.0], 1.0129),
        ([-1.0, 0.0, 1.0, 0.0], 1.0280),
        ([0.0, 0.0, 0.0, 1.0], 0.9043),
    ] {
        let variance: f64 = newton::solve(&information, &contrast)
            .iter()
            .zip(contrast)
            .map(|(x, c)| x * c)
            .sum();
        assert_close(&[variance.sqrt()], &[error], 5e-5);
    }
    // Here it counts as what it is, one more observation, and lowers them.
    assert!(fit.tie_parameters[0].std_error < 0.9043);
    // Residual deviance 21.61.
    assert!((fit.log_likelihood - -21.61 / 2.0).abs() < 0.005);
    let ties = [TiePrevalence {
        size: 2,
        log_prevalence: fit.tie_parameters[0].log_prevalence,
    }];
    let probability = |items: &[usize], groups: &[usize]| {
        let scores: Vec<f64> = items.iter().map(|&item| strengths[item]).collect();
        davidson_luce::log_likelihood(&scores, groups, &ties).exp()
    };
    let fitted = [
        probability(&[0, 1], &[1]),
        probability(&[1, 0, 2], &[1]),
        probability(&[1, 2, 0], &[2]),
        probability(&[0, 1, 2], &[1]),
    ];
    assert_close(&fitted, &[0.36656777, 0.33785994, 0.07962156, 0.2536189], 1e-6);
}

#[test]
fn davidsons_puddings_meet_his_likelihood_equations() {
    // Davidson 1970, table 1: pairs of chocolate puddings, wins of the first, of the second, and ties.
    let table = [
        (1, 2, 19, 22, 16),
        (1, 3, 16, 19, 12),
        (2, 3, 19, 19, 10),
        (1, 4, 18, 23, 13),
        (2, 4, 23, 19, 9),
        (3, 4, 19, 20, 15),
        (1, 5, 13, 19, 18),
        (2, 5, 16, 20, 12),
        (3, 5, 16, 15, 17),
        (4, 5, 17, 14, 16),
        (1, 6, 18, 21, 12),
        (2, 6, 22, 20, 12),
        (3, 6, 13, 18, 10),
        (4, 6, 14, 19, 18),
        (5, 6, 11, 21, 12),
    ];
    let mut data = Dataset::new();
    for (first, second, wins, losses, ties) in table {
        let (first, second) = (first.to_string(), second.to_string());
        data.add_comparison(&first, &second, f64::from(wins)).unwrap();
        data.add_comparison(&second, &first, f64::from(losses)).unwrap();
        data.add_tie(&first, &second, f64::from(ties)).unwrap();
    }
    let fit = fit(&data, FitOptions::default()).unwrap();
    // At the maximum every item's wins plus half its ties, and all ties together, are what the model expects.
    let strengths = strengths(&fit);
    let (mut observed, mut expected) = ([0.0; 7], [0.0; 7]);
    for (first, second, wins, losses, ties) in table {
        let (first, second) = (first - 1, second - 1);
        let outcome = bradley_terry::davidson(
            strengths[first],
            strengths[second],
            fit.tie_parameters[0].log_prevalence,
        );
        let count = f64::from(wins + losses + ties);
        observed[first] += f64::from(wins) + 0.5 * f64::from(ties);
        observed[second] += f64::from(losses) + 0.5 * f64::from(ties);
        observed[6] += f64::from(ties);
        expected[first] += count * (outcome.first.exp() + 0.5 * outcome.tie.exp());
        expected[second] += count * (outcome.second.exp() + 0.5 * outcome.tie.exp());
        expected[6] += count * outcome.tie.exp();
    }
    assert_close(&expected, &observed, 1e-9);
    assert!(fit.iterations < 10, "{} steps", fit.iterations);
}

#[test]
fn balanced_items_have_known_errors() {
    // N equal items, n comparisons of each pair: the information is n/4 (N I - 11ᵀ), so each variance is 4(N-1)/(nN²).
    let (items, count) = (100, 8.0);
    let mut data = Dataset::new();
    for i in 0..items {
        for j in 0..i {
            data.add_comparison(&i.to_string(), &j.to_string(), count / 2.0)
                .unwrap();
            data.add_comparison(&j.to_string(), &i.to_string(), count / 2.0)
                .unwrap();
        }
    }
    let fit = fit(&data, FitOptions::default()).unwrap();
    let error = (4.0 * f64::from(items - 1) / (count * f64::from(items * items))).sqrt();
    assert_close(&errors(&fit), &vec![error; 100], 1e-12);
    assert!(
        fit.items
            .iter()
            .all(|item| item.rank == 1 || item.log_strength.abs() < 1e-12)
    );
}

#[test]
fn a_prior_is_the_imagined_item_of_the_documentation() {
    // Spelled out: an item "0" against which everyone wins and loses a half. Up to the shift it is the same fit.
    let mut data = Dataset::new();
    data.add_comparison("a", "b", 3.0).unwrap();
    data.add_comparison("b", "c", 2.0).unwrap();
    let with_prior = fit(
        &data,
        FitOptions {
            prior: 0.5,
            ..FitOptions::default()
        },
    )
    .unwrap();
    for item in ["a", "b", "c"] {
        data.add_comparison("0", item, 0.5).unwrap();
        data.add_comparison(item, "0", 0.5).unwrap();
    }
    let spelled_out = fit(&data, FitOptions::default()).unwrap();
    let (a, b) = (strengths(&with_prior), strengths(&spelled_out));
    assert_close(&[a[0] - a[1], a[1] - a[2]], &[b[0] - b[1], b[1] - b[2]], 1e-10);
    assert!(a.iter().sum::<f64>().abs() < 1e-12);
}

#[test]
fn one_sided_data_are_refused_by_name() {
    let mut data = Dataset::new();
    assert_eq!(fit(&data, FitOptions::default()), Err(FitError::TooFewItems(0)));
    data.add_comparison("a", "b", 1.0).unwrap();
    data.add_comparison("b", "a", 1.0).unwrap();
    data.add_comparison("b", "c", 1.0).unwrap();
    data.add_comparison("c", "d", 1.0).unwrap();
    data.add_comparison("d", "e", 1.0).unwrap();
    data.add_comparison("e", "c", 1.0).unwrap();
    let error = fit(&data, FitOptions::default()).unwrap_err();
    assert_eq!(error, FitError::Unbeaten(vec!["a".into(), "b".into()]));
    assert!(
        error
            .to_string()
            .starts_with("the items {\"a\", \"b\"} never lost to any other item")
    );
    let mut names = vec!["a".to_owned()];
    assert!(
        FitError::Winless(names.clone())
            .to_string()
            .starts_with("the item \"a\" never beat")
    );
    names.extend((0..9).map(|i| i.to_string()));
    assert!(
        FitError::Separate(names)
            .to_string()
            .contains("\"6\", and 2 more} and the others share no")
    );
    assert!(
        fit(
            &data,
            FitOptions {
                prior: 0.1,
                ..FitOptions::default()
            }
        )
        .is_ok()
    );
    assert_eq!(
        fit(
            &data,
            FitOptions {
                prior: -1.0,
                ..FitOptions::default()
            }
        ),
        Err(FitError::Prior(-1.0))
    );
}

#[test]
fn tie_parameters_without_a_maximum_are_refused() {
    // Only ties.
    let mut data = Dataset::new();
    data.add_tie("a", "b", 5.0).unwrap();
    assert_eq!(fit(&data, FitOptions::default()), Err(FitError::Ties(2)));
    // One win and one tie: (1/2, 1/2, 0) is the limit of a strength and a prevalence that grow together.
    data.add_comparison("a", "b", 5.0).unwrap();
    assert_eq!(fit(&data, FitOptions::default()), Err(FitError::Ties(2)));
    // A triple tie and one of two, and nobody ever first alone.
    let mut data = Dataset::new();
    data.add_ranking(&[["a", "b", "c"]], &NONE, 1.0).unwrap();
    data.add_ranking(&[vec!["a", "b"], vec!["c"]], &NONE, 1.0).unwrap();
    assert!(matches!(fit(&data, FitOptions::default()), Err(FitError::Ties(_))));
    // A loss settles all of it.
    let mut data = Dataset::new();
    data.add_tie("a", "b", 5.0).unwrap();
    data.add_comparison("a", "b", 5.0).unwrap();
    data.add_comparison("b", "a", 1.0).unwrap();
    let fit = fit(&data, FitOptions::default()).unwrap();
    // Saturated: tie² / (win · loss) = delta².
    assert_close(
        &[fit.tie_parameters[0].log_prevalence],
        &[0.5 * (25.0f64 / 5.0).ln()],
        1e-12,
    );
    assert_close(
        &[fit.tie_parameters[0].std_error],
        &[(0.2f64 + 0.25 * (0.2 + 1.0)).sqrt()],
        1e-10,
    );
}

#[test]
fn a_long_sparse_chain_is_fitted() {
    // Neighbours only, 9 wins to 1: neighbours differ by ln 9 exactly, over a spread of 2,000 nats.
    let mut data = Dataset::new();
    for i in 0..1000 {
        data.add_comparison(&i.to_string(), &(i + 1).to_string(), 9.0).unwrap();
        data.add_comparison(&(i + 1).to_string(), &i.to_string(), 1.0).unwrap();
    }
    let fit = fit(&data, FitOptions::default()).unwrap();
    for pair in strengths(&fit).windows(2) {
        assert!((pair[0] - pair[1] - 9f64.ln()).abs() < 1e-8);
    }
}

/// Fits data that are exactly as frequent as the model says, and must return the model.
#[test]
fn exact_frequencies_return_the_model() {
    let scores = [0.8, -0.5, 0.3, -0.6];
    let ties = [
        TiePrevalence {
            size: 2,
            log_prevalence: -0.7,
        },
        TiePrevalence {
            size: 3,
            log_prevalence: -1.4,
        },
        TiePrevalence {
            size: 4,
            log_prevalence: -2.0,
        },
    ];
    let mut data = Dataset::new();
    for order in weak_orders(&[0, 1, 2, 3]) {
        let ranked: Vec<f64> = order.iter().flatten().map(|&item| scores[item]).collect();
        let groups: Vec<usize> = order.iter().map(Vec::len).collect();
        let probability = davidson_luce::log_likelihood(&ranked, &groups, &ties).exp();
        let places: Vec<Vec<String>> = order
            .iter()
            .map(|tied| tied.iter().map(usize::to_string).collect())
            .collect();
        data.add_ranking(&places, &NONE, probability).unwrap();
    }
    assert!((data.observations() - 1.0).abs() < 1e-12);
    let fit = fit(&data, FitOptions::default()).unwrap();
    for item in &fit.items {
        let index: usize = item.item.parse().unwrap();
        assert!((item.log_strength - scores[index]).abs() < 1e-9);
    }
    for (found, expected) in fit.tie_parameters.iter().zip(ties) {
        assert!((found.log_prevalence - expected.log_prevalence).abs() < 1e-9);
    }
}

fn weak_orders(items: &[usize]) -> Vec<Vec<Vec<usize>>> {
    if items.is_empty() {
        return vec![vec![]];
    }
    let mut orders = vec![];
    for bits in 1..1usize << items.len() {
        let (first, rest): (Vec<_>, Vec<_>) = items.iter().enumerate().partition(|(i, _)| bits >> i & 1 == 1);
        let indices = |chosen: Vec<(usize, &usize)>| chosen.into_iter().map(|(_, &item)| item).collect::<Vec<_>>();
        let first = indices(first);
        for rest in weak_orders(&indices(rest)) {
            orders.push([vec![first.clone()], rest].concat());
        }
    }
    orders
}

#[test]
fn the_optimal_policys_implicit_reward_is_recovered_from_sampled_rankings() {
    // The reward beta ln(pi*/pi_ref) of the exact optimum ranks responses by Plackett-Luce; fitting the rankings
    // returns the reward up to its mean: neither the reference nor Z has to be known.
    let reward = vec![1.2, 0.1, -0.4, 0.6, -1.5];
    let (reference, beta) = ([0.1, 0.3, 0.2, 0.15, 0.25], 0.3);
    let optimum = FiniteProblem::new(&reference, reward.clone(), beta).unwrap().optimum();
    let implicit: Vec<f64> = optimum
        .log_policy
        .iter()
        .zip(reference)
        .map(|(policy, p): (&f64, f64)| beta * (policy - p.ln()))
        .collect();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(11);
    let mut data = Dataset::new();
    for _ in 0..20_000 {
        let uniforms: Vec<f64> = (0..5).map(|_| random.sample(rand::distr::Open01)).collect();
        let order = sample::ranking(&implicit, &uniforms).unwrap();
        // The first two of five in order, the others behind.
        let places: Vec<[String; 1]> = order[..2].iter().map(|item| [item.to_string()]).collect();
        let others: Vec<String> = order[2..].iter().map(usize::to_string).collect();
        data.add_ranking(&places, &others, 1.0).unwrap();
    }
    let fit = fit(&data, FitOptions::default()).unwrap();
    let mean = reward.iter().sum::<f64>() / 5.0;
    for item in &fit.items {
        let expected = reward[item.item.parse::<usize>().unwrap()] - mean;
        let error = item.std_error.unwrap();
        assert!(error < 0.03);
        assert!((item.log_strength - expected).abs() < 4.0 * error);
    }
}

#[test]
fn errors_are_optional() {
    let mut data = Dataset::new();
    data.add_comparison("a", "b", 2.0).unwrap();
    data.add_comparison("b", "a", 1.0).unwrap();
    let without = fit(
        &data,
        FitOptions {
            standard_errors: false,
            ..FitOptions::default()
        },
    )
    .unwrap();
    assert!(without.items.iter().all(|item| item.std_error.is_none()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_data_are_fitted_or_refused(
        rankings in prop::collection::vec((prop::collection::vec((0..6usize, prop::bool::weighted(0.2)), 1..6), 0.5..3.0f64), 1..12),
        prior in prop::option::of(0.01..1.0f64),
    ) {
        let mut data = Dataset::new();
        for (items, count) in rankings {
            let mut places: Vec<Vec<String>> = vec![];
            for (item, tied) in items {
                match places.last_mut() {
                    Some(last) if tied => last.push(item.to_string()),
                    _ => places.push(vec![item.to_string()]),
                }
            }
            // A ranking with an item twice is refused and leaves nothing behind.
            let _ = data.add_ranking(&places, &NONE, count);
        }
        if let Ok(fitted) = fit(&data, FitOptions { prior: prior.unwrap_or(0.0), ..FitOptions::default() }) {
            prop_assert!(strengths(&fitted).iter().sum::<f64>().abs() < 1e-9);
            prop_assert!(errors(&fitted).iter().all(|error| error.is_finite() && *error > 0.0));
            prop_assert!((fitted.items.iter().map(|item| item.probability).sum::<f64>() - 1.0).abs() < 1e-12);
            prop_assert!(fitted.log_likelihood <= 0.0);
            // The gradient vanishes at what is called the maximum.
            if prior.is_none() {
                let likelihood = Likelihood::new(&data, 0.0);
                let ties = fitted.tie_parameters.iter().map(|tie| tie.log_prevalence);
                let parameters: Vec<f64> = strengths(&fitted).into_iter().chain(ties).collect();
                prop_assert!(likelihood.gradient(&parameters).iter().all(|slope| slope.abs() < 1e-8));
            }
        }
    }
}
