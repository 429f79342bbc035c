//! DPM-Solver++(2M): a second-order multistep method in log sigma.

use super::{Plan, SamplerError, Step, scaled_state};
use crate::process::Process;
use crate::spacing::Levels;

/// DPM-Solver++(2M): with `lambda = -log sigma`, `h = lambda_to - lambda_from` and `r = to / from = exp(-h)`,
/// `x' = r x + (1 - r) (xhat0 + h / (2 h_before) (xhat0 - xhat0_before))`
/// (Lu et al. 2022, algorithm 2, in the common coordinate). First and last step are first order: there is no
/// estimate before the first, and the last, to level 0, is infinitely long in lambda.
///
/// # Errors
/// [`SamplerError::Plan`] where coefficients overflow.
pub fn dpm_solver_plus_plus_2m(process: Process, levels: &Levels) -> Result<Plan, SamplerError> {
    let last = levels.steps() - 1;
    let mut before = None;
    let steps = levels
        .pairs()
        .enumerate()
        .map(|(index, (from, to))| {
            let length = (from / to).ln();
            // After an infinite level the step before was infinitely long, and the correction vanishes.
            let weight = before
                .filter(|_| index < last)
                .map_or(0.0, |before: f64| length / (2.0 * before));
            before = Some(length);
            let moved = 1.0 - to / from;
            Step {
                from,
                to,
                state: scaled_state(to, from, 1.0),
                denoised: moved * (1.0 + weight),
                previous_denoised: -moved * weight,
                noise: 0.0,
            }
        })
        .collect();
    Ok(Plan::new(process, levels, steps)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::assert_close;

    #[test]
    fn the_middle_steps_extrapolate() {
        let levels = Levels::new(vec![8.0, 4.0, 1.0, 0.0]).unwrap();
        let plan = dpm_solver_plus_plus_2m(Process::VarianceExploding, &levels).unwrap();
        // h = ln 4, h_before = ln 2: weight 1.
        let middle = plan.steps[1];
        assert_close(middle.state, 0.25, 1e-12);
        assert_close(middle.denoised, 0.75 * 2.0, 1e-12);
        assert_close(middle.previous_denoised, -0.75, 1e-12);
        for first_order in [plan.steps[0], plan.steps[2]] {
            assert_eq!(first_order.previous_denoised, 0.0);
            assert_close(first_order.state + first_order.denoised, 1.0, 1e-12);
        }
    }

    // from diffusers import DPMSolverMultistepScheduler                                  (diffusers 0.42.1)
    // s = DPMSolverMultistepScheduler(beta_schedule="linear", use_karras_sigmas=True, prediction_type="sample")
    // s.betas = torch.linspace(1e-4, .02, 1000, dtype=torch.float64); s.alphas_cumprod = torch.cumprod(1 - s.betas, 0)
    // s.set_timesteps(5); x = torch.tensor([1.], dtype=torch.float64)
    // s.sigmas = torch.tensor([8., 4., 1., .25, .1, 0.], dtype=torch.float64)
    // for t in s.timesteps: x = s.step(.3 * x, t, x).prev_sample
    #[test]
    fn agrees_with_diffusers() {
        let levels = Levels::new(vec![8.0, 4.0, 1.0, 0.25, 0.1, 0.0]).unwrap();
        let process = Process::VariancePreserving;
        let plan = dpm_solver_plus_plus_2m(process, &levels).unwrap();
        let (mut state, mut before) = (1.0 / process.signal(8.0), 0.0);
        for step in &plan.steps {
            let denoised = 0.3 * process.signal(step.from) * state;
            state = step.state * state + step.denoised * denoised + step.previous_denoised * before;
            before = denoised;
        }
        // diffusers casts the state to f32 in every step.
        assert_close(state, 0.08018715973188666, 1e-6);
    }

    #[test]
    fn starts_at_infinite_noise() {
        let levels = Levels::new(vec![f64::INFINITY, 4.0, 1.0, 0.0]).unwrap();
        let plan = dpm_solver_plus_plus_2m(Process::VariancePreserving, &levels).unwrap();
        assert_eq!((plan.steps[0].state, plan.steps[0].denoised), (4.0, 1.0));
        assert_eq!(plan.steps[1].previous_denoised, 0.0);
    }
}
