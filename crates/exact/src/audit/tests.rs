use proptest::prelude::*;

use super::*;
use crate::process::Process::{self, VarianceExploding, VariancePreserving};
use crate::process::ideal_gain;
use crate::sampler::{Sampler, Variance, ddim, mean_only};
use crate::schedule::{BetaShape, Schedule};
use crate::spacing::{Levels, leading};
use crate::test::assert_close;

fn linear() -> Schedule {
    Schedule::new(&BetaShape::Linear { start: 1e-4, end: 0.02 }, 1000).unwrap()
}

fn output_variance(plan: &Plan, std: f64) -> f64 {
    audit(plan, &Spectrum::from_std(std).unwrap(), Start::Prior)
        .unwrap()
        .output_std[0]
        .powi(2)
}

/// t from 1 to 0 in equal steps, from N(0, 1).
fn time_levels(steps: usize) -> Levels {
    Levels::uniform(0.0, 1.0, steps).unwrap()
}

#[test]
fn mean_only_telescopes_to_far_too_little() {
    for (std, steps) in [(0.5, 1), (0.5, 7), (0.5, 1000), (2.0, 50), (0.01, 100)] {
        let plan = mean_only(VarianceExploding, &time_levels(steps)).unwrap();
        let variance = std * std;
        assert_close(
            output_variance(&plan, std),
            (variance / (variance + 1.0_f64)).powi(2),
            1e-12,
        );
    }
}

#[test]
fn adding_the_increment_gives_the_known_sum_and_limit() {
    for (std, steps) in [(0.5_f64, 1_usize), (0.5, 10), (0.5, 1000), (1.5, 250)] {
        let variance = std * std;
        let sampler = Sampler::Ancestral(Variance::Increment);
        let plan = sampler.plan(VarianceExploding, &time_levels(steps)).unwrap();
        let step = 1.0 / steps as f64;
        // Var = (s² / (s² + 1))² + d Σ_{k=0}^{T-1} (s² / (s² + k d))².
        let sum: f64 = (0..steps)
            .map(|k| (variance / (variance + k as f64 * step)).powi(2))
            .sum();
        let expected = (variance / (variance + 1.0)).powi(2) + step * sum;
        assert_close(output_variance(&plan, std), expected, 1e-12);
    }
    // Its limit is s² - s⁶ / (s² + 1)² from N(0, 1); the sum is off by a term of the order of the step.
    let plan = Sampler::Ancestral(Variance::Increment)
        .plan(VarianceExploding, &time_levels(100_000))
        .unwrap();
    let variance = 0.25_f64;
    let limit = variance - variance.powi(3) / (variance + 1.0).powi(2);
    assert_close(output_variance(&plan, 0.5), limit, 1e-4);
}

#[test]
fn ddim_is_a_product_of_cosines() {
    let karras = Levels::karras(0.002, 80.0, 7.0, 18).unwrap();
    let timesteps = Levels::of_timesteps(&linear(), &leading(1000, 10, 0).unwrap()).unwrap();
    for levels in [time_levels(20), karras, timesteps] {
        for std in [0.02_f64, 0.5, 3.0] {
            let plan = ddim(VarianceExploding, &levels, 0.0).unwrap();
            let angle = |sigma: f64| (sigma / std).atan();
            let product: f64 = levels
                .pairs()
                .map(|(from, to)| (angle(from) - angle(to)).cos())
                .product();
            let gain = std / std.hypot(levels.first()) * product;
            assert_close(output_variance(&plan, std).sqrt(), gain * levels.first(), 1e-12);
        }
    }
    // The limit of small steps: from N(0, 1) at t = 1 the variance tends to s² / (s² + 1).
    let fine = ddim(VarianceExploding, &Levels::tangent(0.5, 1.0, 100_000).unwrap(), 0.0).unwrap();
    assert_close(output_variance(&fine, 0.5), 0.25 / 1.25, 1e-4);
}

#[test]
fn published_values_for_ten_steps() {
    // VP with linear betas, data std 0.5, ten steps from N(0, 1); four digits each as known beforehand.
    let leading = Levels::of_timesteps(&linear(), &leading(1000, 10, 0).unwrap()).unwrap();
    let std = |sampler: Sampler, levels: &Levels| {
        output_variance(&sampler.plan(VariancePreserving, levels).unwrap(), 0.5).sqrt()
    };
    let spectrum = Spectrum::from_std(0.5).unwrap();
    let rounded = |value: f64, digits: i32| (value * 10_f64.powi(digits)).round() / 10_f64.powi(digits);
    assert_eq!(rounded(std(Sampler::Ddim { eta: 0.0 }, &leading), 4), 0.3741);
    let tangent = Levels::tangent(0.5, linear().sigma_max(), 10).unwrap();
    assert_eq!(rounded(std(Sampler::Ddim { eta: 0.0 }, &tangent), 4), 0.4420);
    assert_eq!(rounded(std(Sampler::Ancestral(Variance::Small), &leading), 3), 0.333);
    assert_eq!(rounded(std(Sampler::Ancestral(Variance::Large), &leading), 3), 0.589);
    assert_eq!(
        rounded(std(Sampler::Ancestral(Variance::Optimal(spectrum)), &leading), 3),
        0.500
    );
}

// import torch; from diffusers import DDIMScheduler, DDPMScheduler                       (diffusers 0.42.1, in f64)
// s = DDIMScheduler(clip_sample=False, prediction_type="sample")
// s.betas = torch.linspace(1e-4, .02, 1000, dtype=torch.float64); s.alphas_cumprod = torch.cumprod(1 - s.betas, 0)
// s.final_alpha_cumprod = torch.tensor(1., dtype=torch.float64); s.set_timesteps(n)
// x = torch.tensor([1.], dtype=torch.float64)
// for t in s.timesteps:
//     a = s.alphas_cumprod[t]; x = s.step(a.sqrt() * .25 / (a * .25 + 1 - a) * x, t, x).prev_sample
#[test]
fn ddim_leading_agrees_with_diffusers() {
    for (steps, expected) in [
        (10, 0.37412849379099433),
        (50, 0.4724391130283339),
        (1000, 0.49849528299606927),
    ] {
        let levels = Levels::of_timesteps(&linear(), &leading(1000, steps, 0).unwrap()).unwrap();
        let plan = ddim(VariancePreserving, &levels, 0.0).unwrap();
        assert_close(output_variance(&plan, 0.5).sqrt(), expected, 1e-9);
    }
}

#[test]
fn a_sampler_does_not_depend_on_the_coordinate() {
    // Ancestral sampling written out in variance-preserving coordinates (Ho et al. 2020, eq. 7).
    let schedule = linear();
    let timesteps = leading(1000, 20, 0).unwrap();
    let levels = Levels::of_timesteps(&schedule, &timesteps).unwrap();
    let plan = Sampler::Ancestral(Variance::Small)
        .plan(VariancePreserving, &levels)
        .unwrap();
    let data = 0.25;
    let mut variance = 1.0;
    for (index, &timestep) in timesteps.iter().enumerate() {
        let (abar, next) = (
            schedule.alpha_bar(timestep),
            timesteps.get(index + 1).map_or(1.0, |&next| schedule.alpha_bar(next)),
        );
        let beta = 1.0 - abar / next;
        let estimate = abar.sqrt() * data / (abar * data + 1.0 - abar);
        let gain = (1.0 - beta).sqrt() * (1.0 - next) / (1.0 - abar) + next.sqrt() * beta / (1.0 - abar) * estimate;
        variance = gain * gain * variance + (1.0 - next) / (1.0 - abar) * beta;
    }
    // 1 - abar above cancels at the last timestep, where it is 1e-4.
    assert_close(output_variance(&plan, 0.5), variance, 1e-11);
    // From the data's own law it makes no difference which process the levels are said to belong to.
    let spectrum = Spectrum::new(vec![0.01, 0.25, 4.0]).unwrap();
    for sampler in deterministic_and_small() {
        let run = |process| audit(&sampler.plan(process, &levels).unwrap(), &spectrum, Start::Exact).unwrap();
        assert_eq!(run(VarianceExploding), run(VariancePreserving));
    }
}

fn deterministic_and_small() -> [Sampler; 6] {
    [
        Sampler::MeanOnly,
        Sampler::Ancestral(Variance::Small),
        Sampler::Ddim { eta: 0.4 },
        Sampler::Euler,
        Sampler::Heun,
        Sampler::DpmSolverPlusPlus2M,
    ]
}

#[test]
fn the_optimal_variance_is_exact_on_one_axis() {
    let levels = Levels::karras(1e-4, 50.0, 7.0, 6).unwrap();
    let spectrum = Spectrum::from_std(0.5).unwrap();
    let plan = Sampler::Ancestral(Variance::Optimal(spectrum.clone()))
        .plan(VarianceExploding, &levels)
        .unwrap();
    let waypoints = trajectory(&plan, &spectrum, Start::Exact).unwrap();
    for waypoint in &waypoints[..6] {
        assert_close(waypoint.sampler_std[0], waypoint.target_std[0], 1e-12);
    }
    // The last step adds no noise: it loses the posterior's variance at level 1e-4.
    assert_close(waypoints[6].sampler_std[0], 0.25 / (0.25_f64 + 1e-8).sqrt(), 1e-12);
}

#[test]
fn infinite_noise_starts_from_unit_noise() {
    let levels = Levels::tangent(0.5, f64::INFINITY, 8).unwrap();
    let plan = ddim(VariancePreserving, &levels, 0.0).unwrap();
    // θ_T = π/2: the gain is s Π cos(π/16), and prior and exact start are one and the same.
    let expected = 0.5 * (std::f64::consts::PI / 16.0).cos().powi(8);
    for start in [Start::Prior, Start::Exact] {
        let audit = audit(&plan, &Spectrum::from_std(0.5).unwrap(), start).unwrap();
        assert_close(audit.output_std[0], expected, 1e-12);
        assert_eq!(audit.error.initialization, 0.0);
    }
}

#[test]
fn the_split_follows_its_definitions() {
    let spectrum = Spectrum::new(vec![0.25, 4.0]).unwrap();
    // Probability flow from N(0, 1) at t = 1 scales by s / sqrt(s² + 1).
    let flow = audit(
        &ddim(VarianceExploding, &time_levels(10), 0.0).unwrap(),
        &spectrum,
        Start::Prior,
    )
    .unwrap();
    let off = |variance: f64| (variance / (variance + 1.0)).sqrt() - variance.sqrt();
    assert_close(flow.error.initialization, off(0.25).hypot(off(4.0)), 1e-12);
    assert_eq!(flow.error.truncation, 0.0);
    // The reverse-time process from N(0, 1): s² - s⁴ (s²) / (s² + 1)², the limit of ancestral sampling.
    let plan = Sampler::Ancestral(Variance::Small)
        .plan(VarianceExploding, &time_levels(10))
        .unwrap();
    let noisy = audit(&plan, &spectrum, Start::Prior).unwrap();
    let off = |v: f64| (v - v.powi(3) / (v + 1.0).powi(2)).sqrt() - v.sqrt();
    assert_close(noisy.error.initialization, off(0.25).hypot(off(4.0)), 1e-12);
    // Stopping at t = 0.01 leaves that variance on top; a preserving process hands out its shrunk state.
    let stopped = Levels::new(vec![1.0, 0.5, 0.1]).unwrap();
    for process in [VarianceExploding, VariancePreserving] {
        let early = audit(&ddim(process, &stopped, 0.0).unwrap(), &spectrum, Start::Exact).unwrap();
        let off = |v: f64| process.marginal(v, 0.1).variance.sqrt() - v.sqrt();
        assert_close(early.error.truncation, off(0.25).hypot(off(4.0)), 1e-12);
        assert_eq!(early.error.initialization, 0.0);
    }
}

#[test]
fn divergence_is_the_closed_form() {
    // KL(N(0, 2) ‖ N(0, 1)) = (2 - 1 - ln 2) / 2.
    assert_close(divergence(2.0, 1.0), 0.5 * (1.0 - 2.0_f64.ln()), 1e-12);
    assert_eq!(divergence(0.0, 0.0), 0.0);
    assert_eq!(divergence(1.0, 0.0), f64::INFINITY);
    assert_eq!(divergence(0.0, 1.0), f64::INFINITY);
}

#[test]
fn a_constant_axis_stays_constant() {
    let spectrum = Spectrum::new(vec![0.0, 1.0]).unwrap();
    let levels = Levels::karras(0.01, 10.0, 7.0, 10).unwrap();
    for sampler in deterministic_and_small() {
        let audit = audit(
            &sampler.plan(VarianceExploding, &levels).unwrap(),
            &spectrum,
            Start::Prior,
        )
        .unwrap();
        assert!(audit.output_std[0].abs() < 1e-12, "{sampler:?}");
    }
}

/// Samplers that sample the data exactly in the limit of many steps.
fn consistent() -> impl Strategy<Value = Sampler> {
    prop_oneof![
        Just(Sampler::Ancestral(Variance::Small)),
        Just(Sampler::Ancestral(Variance::Large)),
        Just(Sampler::Ancestral(Variance::Increment)),
        (0.0..=1.0).prop_map(|eta| Sampler::Ddim { eta }),
        Just(Sampler::Heun),
        Just(Sampler::DpmSolverPlusPlus2M),
    ]
}

fn process() -> impl Strategy<Value = Process> {
    prop_oneof![Just(VarianceExploding), Just(VariancePreserving)]
}

fn spectra() -> impl Strategy<Value = Spectrum> {
    prop::collection::vec(1e-3..1e2_f64, 1..20).prop_map(|variances| Spectrum::new(variances).unwrap())
}

proptest! {
    #[test]
    fn many_steps_converge_from_the_exact_start(sampler in consistent(), process in process(), spectrum in spectra()) {
        let error = |steps| {
            let levels = Levels::karras(1e-3, 30.0, 7.0, steps).unwrap();
            let plan = sampler.plan(process, &levels).unwrap();
            audit(&plan, &spectrum, Start::Exact).unwrap().w2 / spectrum.rms() / (spectrum.axes() as f64).sqrt()
        };
        let (coarse, fine) = (error(50), error(2000));
        prop_assert!(fine < 0.02, "{fine}");
        prop_assert!(fine < 0.2 * coarse || coarse < 1e-3, "{coarse} to {fine}");
    }

    #[test]
    fn the_split_bounds_the_distance(
        sampler in consistent(), process in process(), spectrum in spectra(), steps in 1..40_usize, end in 0.0..0.5_f64,
    ) {
        let mut sigmas = Levels::karras(0.6, 30.0, 7.0, steps).unwrap().sigmas().to_vec();
        sigmas[steps] = end;
        let plan = sampler.plan(process, &Levels::new(sigmas).unwrap()).unwrap();
        let audit = audit(&plan, &spectrum, Start::Prior).unwrap();
        let ErrorSplit { initialization, truncation, discretization } = audit.error;
        prop_assert!(audit.w2 <= (initialization + truncation + discretization) * (1.0 + 1e-9));
        prop_assert!(audit.kl >= 0.0);
    }

    /// Any table, memory and noise together: the moments must equal the sum of squared answers to each random draw.
    #[test]
    fn moments_are_sums_of_squared_answers(
        rows in prop::collection::vec((-1.5..1.5_f64, -1.5..1.5_f64, -1.0..1.0_f64, 0.0..1.0_f64), 1..8),
        variance in 0.01..10.0_f64,
    ) {
        let steps: Vec<Step> = rows
            .iter()
            .enumerate()
            .map(|(index, &(state, denoised, memory, noise))| Step {
                from: 8.0 - index as f64,
                to: 7.0 - index as f64,
                state,
                denoised,
                previous_denoised: if index == 0 { 0.0 } else { memory },
                noise,
            })
            .collect();
        let plan = Plan { prior_std: 1.3, steps, output_scale: 1.0, clip: None };
        // The final state's answer to one draw alone: the start, or the noise of one row.
        let answer = |draw: Option<usize>| {
            let (mut state, mut before) = (if draw.is_none() { plan.prior_std } else { 0.0 }, 0.0);
            for (index, step) in plan.steps.iter().enumerate() {
                let estimate = ideal_gain(variance, step.from) * state;
                state = step.state * state + step.denoised * estimate + step.previous_denoised * before;
                before = estimate;
                if draw == Some(index) {
                    state += step.noise;
                }
            }
            state * state
        };
        let expected: f64 = (0..plan.steps.len()).map(Some).chain([None]).map(answer).sum();
        let spectrum = Spectrum::new(vec![variance]).unwrap();
        let output = audit(&plan, &spectrum, Start::Prior).unwrap().output_std[0].powi(2);
        // The moments cancel where memory and state do: compare against the largest term that may have cancelled.
        prop_assert!((output - expected).abs() <= 1e-9 * expected.max(1e-3), "{output} {expected}");
    }
}

#[test]
fn the_divergence_is_finite_wherever_both_variances_are_positive() {
    // 0.5 (r - 1 - ln r), with r the ratio of the variances.
    for ratio in [1e-300_f64, 1e-20, 0.3, 0.9999999, 1.5, 1e20] {
        let (found, expected) = (divergence(ratio, 1.0), 0.5 * (ratio - 1.0 - ratio.ln()));
        assert!(
            (found - expected).abs() <= 1e-8 * expected.max(1e-6),
            "{ratio}: {found}, not {expected}"
        );
    }
}
