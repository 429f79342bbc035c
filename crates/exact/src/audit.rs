//! The exact error of a sampler on Gaussian data.
//!
//! On Gaussian data the ideal denoiser is linear, one number an axis, so a [`Plan`] is a linear recursion and the
//! law of its output is known exactly (Pierret & Galerne 2024). What is run here is the plan's own rows, the same
//! that sampling runs with a network.
//!
//! The recursion follows, on each axis, how the state and the previous estimate answer to the starting draw (two
//! gains), and the second moments of what the fresh noise has added to both (three numbers, a multistep method's
//! companion state). Start and noise are independent, so one pass gives the output for any variance of the start.

use serde::Serialize;

use crate::sampler::{Plan, PlanError, Step};
use crate::spectrum::Spectrum;

/// What sampling starts from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// N(0, prior_std²) on every axis, which is all that can be drawn without knowing the data.
    Prior,
    /// The data's own law at the first level, N(0, s² + sigma²).
    Exact,
}

/// A sampler's exact error.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Audit {
    /// Standard deviation of the output, per axis in the spectrum's order.
    pub output_std: Vec<f64>,
    /// Standard deviation of the data, per axis.
    pub target_std: Vec<f64>,
    /// 2-Wasserstein distance from output to data, `sqrt(Σ (output_std - target_std)²)`.
    pub w2: f64,
    /// Kullback-Leibler divergence KL(output ‖ data) in nats, `Σ (v/w - 1 - ln(v/w)) / 2` over output variances v and
    /// data variances w. Infinite where one of the two is 0 and the other is not.
    pub kl: f64,
    /// Where the distance comes from.
    pub error: ErrorSplit,
    /// How often sampling evaluates the denoiser.
    pub network_evaluations: usize,
}

/// Three sources of error, each the 2-Wasserstein distance between two laws that differ by it alone.
///
/// After Pierret & Galerne 2024, section 4: let the exact reversal be the reverse-time process without
/// discretisation, as stochastic differential equation for a plan that draws noise and as probability flow for one
/// that does not. The way from the plan's output to the data then has three parts, and by the triangle inequality
/// `w2 <= discretization + initialization + truncation`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ErrorSplit {
    /// From the exact reversal of the plan's start to the exact reversal of the data's own law at the first level,
    /// both down to the plan's last level. 0 for [`Start::Exact`].
    pub initialization: f64,
    /// From the data's law at the plan's last level, as handed out, to the data. 0 for a plan that ends at level 0.
    pub truncation: f64,
    /// From the plan's output to the exact reversal with the same start and end: the error of taking finite steps,
    /// and of leaving out noise in a plan such as mean-only.
    pub discretization: f64,
}

/// The states at one level along the way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Waypoint {
    /// The level; infinite levels are in unit-noise coordinates.
    pub sigma: f64,
    /// Standard deviation of the sampler's state, per axis.
    pub sampler_std: Vec<f64>,
    /// Standard deviation of the data's law at this level, `sqrt(s² + sigma²)`, per axis.
    pub target_std: Vec<f64>,
}

/// The exact law of a plan's output on data with this spectrum, against the data.
///
/// A plan's clipping is left out: clamping is not linear, and the answer is that of the plan without it.
///
/// # Errors
/// [`PlanError`] for a plan that does not pass [`Plan::check`].
pub fn audit(plan: &Plan, spectrum: &Spectrum, start: Start) -> Result<Audit, PlanError> {
    plan.check()?;
    let variances = spectrum.variances();
    let mut output_std = Vec::with_capacity(variances.len());
    // A block of axes stays in the first-level cache while all rows pass over it.
    for block in variances.chunks(BLOCK) {
        let mut recursion = Recursion::new(block, plan.is_stochastic());
        plan.steps.iter().for_each(|step| recursion.step(step));
        output_std.extend(recursion.std(plan, start).iter().map(|std| plan.output_scale * std));
    }
    let target_std: Vec<f64> = variances.iter().map(|variance| variance.sqrt()).collect();
    Ok(Audit {
        w2: distance(output_std.iter().zip(&target_std).map(|(&a, &b)| (a, b))),
        kl: output_std
            .iter()
            .zip(variances)
            .map(|(std, &variance)| divergence(std * std, variance))
            .sum(),
        error: split(plan, variances, start, &output_std),
        network_evaluations: plan.network_evaluations(),
        output_std,
        target_std,
    })
}

/// The states' standard deviations at every level of the plan, correctors aside, in the plan's coordinates.
///
/// # Errors
/// [`PlanError`] for a plan that does not pass [`Plan::check`].
pub fn trajectory(plan: &Plan, spectrum: &Spectrum, start: Start) -> Result<Vec<Waypoint>, PlanError> {
    plan.check()?;
    let variances = spectrum.variances();
    let mut recursion = Recursion::new(variances, plan.is_stochastic());
    let waypoint = |recursion: &Recursion, sigma: f64| Waypoint {
        sigma,
        sampler_std: recursion.std(plan, start),
        target_std: variances
            .iter()
            .map(|&variance| marginal_variance(variance, sigma).sqrt())
            .collect(),
    };
    let mut waypoints = vec![waypoint(&recursion, plan.steps[0].from)];
    for (index, step) in plan.steps.iter().enumerate() {
        recursion.step(step);
        let corrected_next = plan.steps.get(index + 1).is_some_and(|next| next.from == next.to);
        if !corrected_next {
            waypoints.push(waypoint(&recursion, step.to));
        }
    }
    Ok(waypoints)
}

/// Axes that go through the rows together: 8 arrays of 512 numbers fill a 32 KiB cache.
const BLOCK: usize = 512;

/// The plan's linear recursion on a block of axes, one array a quantity.
struct Recursion<'a> {
    variances: &'a [f64],
    /// Answer of the state, and of the previous estimate, to the start.
    state: Vec<f64>,
    estimate: Vec<f64>,
    /// Second moments of what fresh noise added: state², state · estimate, estimate². `None` without noise.
    noise: Option<Moments>,
}

struct Moments {
    state: Vec<f64>,
    cross: Vec<f64>,
    estimate: Vec<f64>,
}

impl<'a> Recursion<'a> {
    fn new(variances: &'a [f64], stochastic: bool) -> Self {
        let zeros = || vec![0.0; variances.len()];
        Self {
            variances,
            state: vec![1.0; variances.len()],
            estimate: zeros(),
            noise: stochastic.then(|| Moments {
                state: zeros(),
                cross: zeros(),
                estimate: zeros(),
            }),
        }
    }

    fn step(&mut self, step: &Step) {
        let Step {
            state: a,
            denoised: b,
            previous_denoised: memory,
            noise,
            ..
        } = *step;
        let level = step.from * step.from;
        // At the level's infinity the gain is variance / infinity = 0, as it should be.
        let gain = |variance: f64| variance / (variance + level);
        for ((state, estimate), &variance) in self.state.iter_mut().zip(&mut self.estimate).zip(self.variances) {
            let gain = gain(variance);
            let moved = (a + b * gain) * *state + memory * *estimate;
            *estimate = gain * *state;
            *state = moved;
        }
        let Some(moments) = &mut self.noise else { return };
        let fresh = noise * noise;
        let axes = moments
            .state
            .iter_mut()
            .zip(&mut moments.cross)
            .zip(&mut moments.estimate)
            .zip(self.variances);
        for (((state, cross), estimate), &variance) in axes {
            let gain = gain(variance);
            let factor = a + b * gain;
            let through = factor * *state + memory * *cross;
            let moved = factor * through + memory * (factor * *cross + memory * *estimate) + fresh;
            *estimate = gain * gain * *state;
            *cross = gain * through;
            *state = moved;
        }
    }

    fn std(&self, plan: &Plan, start: Start) -> Vec<f64> {
        let added = self.noise.as_ref().map(|moments| &moments.state);
        let first = plan.steps.first().map_or(0.0, |step| step.from);
        (0..self.variances.len())
            .map(|axis| {
                let started = start_variance(plan, start, self.variances[axis], first);
                (self.state[axis].powi(2) * started + added.map_or(0.0, |added| added[axis])).sqrt()
            })
            .collect()
    }
}

fn start_variance(plan: &Plan, start: Start, variance: f64, first: f64) -> f64 {
    match start {
        Start::Prior => plan.prior_std.powi(2),
        Start::Exact => marginal_variance(variance, first),
    }
}

/// `s² + sigma²`; 1 at an infinite level, where states are unit noise.
fn marginal_variance(variance: f64, sigma: f64) -> f64 {
    if sigma.is_infinite() {
        1.0
    } else {
        variance + sigma * sigma
    }
}

fn split(plan: &Plan, variances: &[f64], start: Start, output_std: &[f64]) -> ErrorSplit {
    let (first, last) = (plan.steps[0].from, plan.steps[plan.steps.len() - 1].to);
    let stochastic = plan.is_stochastic();
    let reversed: Vec<f64> = variances
        .iter()
        .map(|&variance| {
            let started = start_variance(plan, start, variance, first);
            plan.output_scale * reversed_variance(variance, first, last, started, stochastic).sqrt()
        })
        .collect();
    let ending: Vec<f64> = variances
        .iter()
        .map(|&variance| plan.output_scale * marginal_variance(variance, last).sqrt())
        .collect();
    let pair = |(&a, &b): (&f64, &f64)| (a, b);
    ErrorSplit {
        initialization: match start {
            Start::Prior => distance(reversed.iter().zip(&ending).map(pair)),
            Start::Exact => 0.0,
        },
        truncation: match last {
            0.0 => 0.0,
            _ => distance(
                ending
                    .iter()
                    .zip(variances)
                    .map(|(&std, &variance)| (std, variance.sqrt())),
            ),
        },
        discretization: distance(output_std.iter().zip(&reversed).map(pair)),
    }
}

/// Variance at level `last` of the exact reversal from variance `started` at level `first`, in the plan's
/// coordinates.
///
/// Probability flow: the state is scaled by `sqrt((s² + last²) / (s² + first²))`. Reverse-time process: the exact
/// conditional N(k x, k (first² - last²)) with `k = (s² + last²) / (s² + first²)`.
fn reversed_variance(variance: f64, first: f64, last: f64, started: f64, stochastic: bool) -> f64 {
    let end = variance + last * last;
    if first.is_infinite() {
        return if stochastic { end } else { end * started };
    }
    let kept = end / (variance + first * first);
    if stochastic {
        kept * kept * started + kept * (first - last) * (first + last)
    } else {
        kept * started
    }
}

fn distance(stds: impl Iterator<Item = (f64, f64)>) -> f64 {
    stds.map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

/// KL(N(0, v) ‖ N(0, w)).
fn divergence(v: f64, w: f64) -> f64 {
    if v == w {
        return 0.0;
    }
    if v == 0.0 || w == 0.0 {
        return f64::INFINITY;
    }
    let excess = (v - w) / w;
    // Near 0 the difference needs ln(1 + x); far below 0, v is lost in 1 + x, and the logarithm of the ratio is exact.
    let log_ratio = if excess > -0.5 { excess.ln_1p() } else { v.ln() - w.ln() };
    0.5 * (excess - log_ratio)
}

#[cfg(test)]
mod tests;
