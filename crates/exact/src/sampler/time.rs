//! Integrators that step in the variance-preserving process's own time.
//!
//! The samplers beside this file step in sigma. Older ones discretise
//! `dy = -beta(t)/2 y dt + sqrt(beta(t)) dw` (Song et al. 2021) in t itself, in the process's own coordinates. They
//! are tables too: with the score `(sqrt(abar) xhat0 - y) / (1 - abar)` every update is linear in the state, the
//! estimate and the noise. Pierret & Galerne 2024 compare them on Gaussian data; their table comes out of these rows.

use super::{Plan, SamplerError, Step};
use crate::linear_beta::LinearBeta;
use crate::process::Process;
use crate::schedule::linspace;
use crate::spacing::Levels;

/// How one time step is taken. `b = beta(t) h` for a step of length h, `score` as above.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TimeIntegrator {
    /// `y' = y + b (y/2 + score) + sqrt(b) z`: Euler & Maruyama on the reverse equation.
    EulerMaruyama,
    /// `y' = y + (exp(B/2) - 1) (y + 2 score) + sqrt(exp(B) - 1) z` with `B = ∫ beta` over the step: the linear part
    /// exactly, the score frozen.
    Exponential,
    /// `y' = (y + b score) / sqrt(1 - b) + sqrt(b) z`: ancestral sampling as Song et al. 2021, eq. 4 write it.
    Ddpm,
    /// `y' = y + b/2 (y + score)`: Euler on the probability flow.
    Euler,
    /// Heun on the probability flow: Euler's step, then again with the average of the slopes at both its ends. Two
    /// evaluations a step.
    Heun,
}

impl TimeIntegrator {
    fn name(self) -> &'static str {
        match self {
            Self::EulerMaruyama => "Euler-Maruyama",
            Self::Exponential => "the exponential integrator",
            Self::Ddpm => "DDPM in time",
            Self::Euler => "Euler in time",
            Self::Heun => "Heun in time",
        }
    }
}

/// The table of an integrator over `steps` equal time steps from t = 1 to `end_time`.
///
/// A positive `end_time` truncates: the output is the state there, in the process's own coordinates.
///
/// # Errors
/// [`SamplerError`] for no steps, an end outside [0, 1), Heun to t = 0, where the slope is undefined, or steps too
/// long for the integrator.
pub fn time_integrator(
    process: &LinearBeta,
    integrator: TimeIntegrator,
    steps: usize,
    end_time: f64,
) -> Result<Plan, SamplerError> {
    if steps == 0 {
        return Err(SamplerError::NoSteps);
    }
    if !(0.0..1.0).contains(&end_time) {
        return Err(SamplerError::BadEndTime(end_time));
    }
    if integrator == TimeIntegrator::Heun && end_time == 0.0 {
        return Err(SamplerError::UndefinedAtZero(integrator.name()));
    }
    let times = linspace(1.0, end_time, steps + 1);
    let mut rows = Vec::new();
    for pair in times.windows(2) {
        let update = Update::new(process, pair[0], pair[1]);
        let too_long = SamplerError::StepTooLong {
            from: pair[0],
            to: pair[1],
            integrator: integrator.name(),
        };
        let half = 0.5 * update.beta_step;
        match integrator {
            TimeIntegrator::EulerMaruyama => {
                rows.push(update.row(1.0 + half, update.beta_step, update.beta_step.sqrt()));
            }
            TimeIntegrator::Exponential => {
                let growth = (0.5 * update.integral).exp_m1();
                rows.push(update.row(1.0 + growth, 2.0 * growth, update.integral.exp_m1().sqrt()));
            }
            TimeIntegrator::Ddpm if update.beta_step >= 1.0 => return Err(too_long),
            TimeIntegrator::Ddpm => {
                let root = (1.0 - update.beta_step).sqrt();
                rows.push(update.row(1.0 / root, update.beta_step / root, update.beta_step.sqrt()));
            }
            TimeIntegrator::Euler => rows.push(update.row(1.0 + half, half, 0.0)),
            TimeIntegrator::Heun => {
                let predictor = update.row(1.0 + half, half, 0.0);
                if predictor.state == 0.0 {
                    return Err(too_long);
                }
                rows.push(predictor);
                rows.push(corrector(process, &update, &predictor, pair[1]));
            }
        }
    }
    let sigmas = times.iter().map(|&time| process.sigma(time)).collect();
    // Times decrease strictly and sigma grows with time, so only an absurd step count can make two levels coincide.
    let levels = Levels::new(sigmas).map_err(|_| SamplerError::StepTooLong {
        from: 1.0,
        to: end_time,
        integrator: integrator.name(),
    })?;
    Ok(Plan::new(Process::VariancePreserving, &levels, rows)?)
}

/// Heun's second half, from the predicted state: `x' = (x + x_predicted) / 2 + h/2 slope(x_predicted)`, with x
/// eliminated through the predictor, all in the common coordinate.
fn corrector(process: &LinearBeta, update: &Update, predictor: &Step, end: f64) -> Step {
    let half = 0.25 * process.beta(end) * update.length;
    // y_predicted = state · k y + denoised · xhat0 in the common coordinate, k the ratio of scales; halved and solved.
    let kept = update.scale / (2.0 * predictor.state);
    let noise_variance = -process.log_alpha_bar(end).exp_m1();
    Step {
        from: predictor.to,
        to: predictor.to,
        state: 0.5 + kept + half * (1.0 - 1.0 / noise_variance),
        denoised: half / noise_variance,
        previous_denoised: -kept * predictor.denoised,
        noise: 0.0,
    }
}

/// What one time step from `t` to `t - length` needs.
struct Update {
    from: f64,
    to: f64,
    length: f64,
    /// `beta(t) · length`.
    beta_step: f64,
    /// `∫ beta` over the step.
    integral: f64,
    /// `1 - abar` at the start.
    noise_variance: f64,
    /// `sqrt(abar_start / abar_end)`.
    scale: f64,
    /// `sqrt(abar_end)`.
    signal: f64,
}

impl Update {
    fn new(process: &LinearBeta, start: f64, end: f64) -> Self {
        let (log_start, log_end) = (process.log_alpha_bar(start), process.log_alpha_bar(end));
        Self {
            from: process.sigma(start),
            to: process.sigma(end),
            length: start - end,
            beta_step: process.beta(start) * (start - end),
            integral: log_end - log_start,
            noise_variance: -log_start.exp_m1(),
            scale: (0.5 * (log_start - log_end)).exp(),
            signal: (0.5 * log_end).exp(),
        }
    }

    /// The row of `y' = state · y + score · score(y) + noise · z`, taken to the common coordinate `x = y / sqrt(abar)`.
    fn row(&self, state: f64, score: f64, noise: f64) -> Step {
        let pull = score / self.noise_variance;
        Step {
            from: self.from,
            to: self.to,
            state: self.scale * (state - pull),
            denoised: self.scale * pull,
            previous_denoised: 0.0,
            noise: noise / self.signal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Start, audit};
    use crate::spectrum::Spectrum;
    use crate::test::assert_close;

    /// Output variance on one axis by Pierret & Galerne's recursions (2024, eq. 11 to 17), in the process's own
    /// coordinates, with the score of Gaussian data, -y / variance(t).
    fn recursion(process: &LinearBeta, integrator: TimeIntegrator, steps: usize, end: f64, data: f64) -> f64 {
        let marginal = |time: f64| {
            let log = process.log_alpha_bar(time);
            log.exp() * data - log.exp_m1()
        };
        let mut variance = 1.0;
        for pair in linspace(1.0, end, steps + 1).windows(2) {
            let length = pair[0] - pair[1];
            let slope = |time: f64| 0.5 * process.beta(time) * (1.0 - 1.0 / marginal(time));
            let rate = process.beta(pair[0]) * length;
            let integral = process.log_alpha_bar(pair[1]) - process.log_alpha_bar(pair[0]);
            let pull = 1.0 / marginal(pair[0]);
            let (gain, noise) = match integrator {
                TimeIntegrator::EulerMaruyama => (1.0 + rate * (0.5 - pull), rate),
                TimeIntegrator::Exponential => {
                    (1.0 + (0.5 * integral).exp_m1() * (1.0 - 2.0 * pull), integral.exp_m1())
                }
                TimeIntegrator::Ddpm => ((1.0 - rate * pull) / (1.0 - rate).sqrt(), rate),
                TimeIntegrator::Euler => (1.0 + length * slope(pair[0]), 0.0),
                TimeIntegrator::Heun => {
                    let predicted = 1.0 + length * slope(pair[0]);
                    (1.0 + 0.5 * length * (slope(pair[0]) + slope(pair[1]) * predicted), 0.0)
                }
            };
            variance = gain * gain * variance + noise;
        }
        variance
    }

    #[test]
    fn rows_follow_the_published_recursions() {
        let process = LinearBeta::default();
        use TimeIntegrator::{Ddpm, Euler, EulerMaruyama, Exponential, Heun};
        for integrator in [EulerMaruyama, Exponential, Ddpm, Euler, Heun] {
            for (steps, end, data) in [(49, 1e-3, 0.25), (49, 0.01, 30.0), (500, 1e-5, 1.5)] {
                let plan = time_integrator(&process, integrator, steps, end).unwrap();
                let spectrum = Spectrum::new(vec![data]).unwrap();
                let std = audit(&plan, &spectrum, Start::Prior).unwrap().output_std[0];
                // Prior N(0, 1 + sigma²) there is N(0, 1) here; both recursions round at every step.
                assert_close(std * std, recursion(&process, integrator, steps, end, data), 1e-10);
            }
        }
    }

    #[test]
    fn stochastic_integrators_reach_time_zero() {
        let plan = time_integrator(&LinearBeta::default(), TimeIntegrator::Exponential, 20, 0.0).unwrap();
        assert_eq!((plan.steps.len(), plan.steps[19].to, plan.output_scale), (20, 0.0, 1.0));
    }

    #[test]
    fn impossible_integrations_are_refused() {
        let run = |integrator, steps, end| time_integrator(&LinearBeta::default(), integrator, steps, end);
        assert_eq!(run(TimeIntegrator::Euler, 0, 0.0), Err(SamplerError::NoSteps));
        assert_eq!(run(TimeIntegrator::Euler, 5, 1.0), Err(SamplerError::BadEndTime(1.0)));
        assert!(matches!(
            run(TimeIntegrator::Heun, 50, 0.0),
            Err(SamplerError::UndefinedAtZero(_))
        ));
        // beta(1) · 1/10 = 2: no variance is left.
        assert!(matches!(
            run(TimeIntegrator::Ddpm, 10, 0.0),
            Err(SamplerError::StepTooLong { .. })
        ));
    }
}
