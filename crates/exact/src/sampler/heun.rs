//! Heun's second-order method for the probability flow.

use super::{Plan, SamplerError, Step, euler};
use crate::process::Process;
use crate::spacing::Levels;

/// Heun's method: an Euler step, then the same step again with the average of the slopes at both its ends; the last
/// step, to level 0, is Euler's alone (Karras et al. 2022, algorithm 1 without churn).
///
/// The corrector `x' = x + (to - from) ((x - xhat0) / from + (x_euler - xhat0') / to) / 2` refers to the state
/// before the Euler step. Solving the Euler step for it leaves
/// `x' = x_euler + (1 - r) / (2 r) (xhat0' - xhat0)` with `r = to / from`.
///
/// Two evaluations a step, one for the last.
///
/// # Errors
/// [`SamplerError::InfiniteStart`] at infinite noise, where sigma has no finite slope.
pub fn heun(process: Process, levels: &Levels) -> Result<Plan, SamplerError> {
    if levels.first().is_infinite() {
        let (sampler, remedy) = ("Heun's method", "take DDIM, or keep the schedule's last level finite");
        return Err(SamplerError::InfiniteStart { sampler, remedy });
    }
    let mut steps = Vec::with_capacity(2 * levels.steps());
    for predictor in euler(process, levels)?.steps {
        let Step { from, to, .. } = predictor;
        steps.push(predictor);
        if to > 0.0 {
            let weight = 0.5 * (from - to) / to;
            let corrector = Step {
                from: to,
                to,
                state: 1.0,
                denoised: weight,
                previous_denoised: -weight,
                noise: 0.0,
            };
            steps.push(corrector);
        }
    }
    Ok(Plan::new(process, levels, steps)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::assert_close;

    #[test]
    fn the_corrector_averages_the_slopes() {
        let levels = Levels::new(vec![3.0, 0.9, 0.0]).unwrap();
        let plan = heun(Process::VarianceExploding, &levels).unwrap();
        assert_eq!(plan.network_evaluations(), 3);
        let (x, first, second) = (0.7, -0.2, 0.1);
        let predicted = x + (0.9 - 3.0) * (x - first) / 3.0;
        let expected = x + (0.9 - 3.0) * 0.5 * ((x - first) / 3.0 + (predicted - second) / 0.9);
        let corrector = plan.steps[1];
        let actual = corrector.state * predicted + corrector.denoised * second + corrector.previous_denoised * first;
        assert_close(actual, expected, 1e-12);
    }

    #[test]
    fn infinite_noise_is_refused() {
        let levels = Levels::new(vec![f64::INFINITY, 1.0, 0.0]).unwrap();
        assert!(matches!(
            heun(Process::VariancePreserving, &levels),
            Err(SamplerError::InfiniteStart { .. })
        ));
    }
}
