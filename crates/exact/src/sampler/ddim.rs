//! Denoising diffusion implicit models.

use super::{Plan, SamplerError, Step, scaled_state};
use crate::process::{Process, one_minus_squared_ratio, squared_ratio};
use crate::spacing::Levels;

/// DDIM: `x' = xhat0 + sqrt(to² - c²) (x - xhat0) / from + c z`, with noise
/// `c = eta to sqrt(1 - to²/from²)` (Song, Meng & Ermon 2021, eq. 12 and 16, in the common coordinate).
///
/// `eta = 0` is deterministic: `x + (1 - to/from) (xhat0 - x)`, Euler's step for the probability flow. Written in
/// `t = from²`, `d = from² - to²` it is the ancestral mean step shortened by `sqrt(t) / (sqrt(t - d) + sqrt(t))`.
/// `eta = 1` is ancestral sampling with the small variance.
///
/// # Errors
/// [`SamplerError::EtaOutOfRange`] unless eta lies in [0, 1]; [`SamplerError::Plan`] where coefficients overflow.
pub fn ddim(process: Process, levels: &Levels, eta: f64) -> Result<Plan, SamplerError> {
    if !(0.0..=1.0).contains(&eta) {
        return Err(SamplerError::EtaOutOfRange(eta));
    }
    let steps = levels
        .pairs()
        .map(|(from, to)| {
            // sqrt(to² - c²) / to = sqrt(1 - eta² (1 - r²)), written so that eta = 1 leaves r without cancellation.
            let direction = ((1.0 - eta) * (1.0 + eta) + eta * eta * squared_ratio(to, from)).sqrt();
            Step {
                from,
                to,
                state: scaled_state(to, from, direction),
                denoised: 1.0 - to / from * direction,
                previous_denoised: 0.0,
                noise: eta * to * one_minus_squared_ratio(to, from).sqrt(),
            }
        })
        .collect();
    Ok(Plan::new(process, levels, steps)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{Variance, ancestral, mean_only};
    use crate::test::assert_close;

    fn levels() -> Levels {
        Levels::new(vec![40.0, 3.0, 0.9, 1e-3, 0.0]).unwrap()
    }

    #[test]
    fn eta_one_is_ancestral_with_the_small_variance() {
        for levels in [levels(), Levels::new(vec![f64::INFINITY, 2.0, 0.0]).unwrap()] {
            let implicit = ddim(Process::VariancePreserving, &levels, 1.0).unwrap();
            let ancestral = ancestral(Process::VariancePreserving, &levels, &Variance::Small).unwrap();
            for (left, right) in implicit.steps.iter().zip(&ancestral.steps) {
                assert_close(left.state, right.state, 1e-12);
                assert_close(left.denoised, right.denoised, 1e-12);
                assert_close(left.noise, right.noise, 1e-12);
            }
        }
    }

    #[test]
    fn eta_zero_shortens_the_ancestral_step() {
        // The step along xhat0 - x times eta(t, d) = sqrt(t) / (sqrt(t - d) + sqrt(t)).
        let implicit = ddim(Process::VarianceExploding, &levels(), 0.0).unwrap();
        let mean = mean_only(Process::VarianceExploding, &levels()).unwrap();
        for (left, right) in implicit.steps.iter().zip(&mean.steps) {
            assert_close(left.denoised, right.denoised * left.from / (left.to + left.from), 1e-12);
            assert_close(left.state + left.denoised, 1.0, 1e-12);
        }
    }

    #[test]
    fn follows_the_papers_formula() {
        // Song, Meng & Ermon 2021, eq. 12 in variance-preserving coordinates.
        let (eta, from, to) = (0.6_f64, 3.0_f64, 0.9_f64);
        let abar = |sigma: f64| 1.0 / (1.0 + sigma * sigma);
        let deviation = eta * ((1.0 - abar(to)) / (1.0 - abar(from)) * (1.0 - abar(from) / abar(to))).sqrt();
        let (y, denoised) = (0.4, -1.1);
        let epsilon = (y - abar(from).sqrt() * denoised) / (1.0 - abar(from)).sqrt();
        let expected = abar(to).sqrt() * denoised + (1.0 - abar(to) - deviation * deviation).sqrt() * epsilon;
        let step = ddim(Process::VariancePreserving, &levels(), eta).unwrap().steps[1];
        let state = step.state * y / abar(from).sqrt() + step.denoised * denoised;
        assert_close(abar(to).sqrt() * state, expected, 1e-12);
        assert_close(abar(to).sqrt() * step.noise, deviation, 1e-12);
    }

    #[test]
    fn eta_stays_in_its_range() {
        for eta in [-0.1, 1.1, f64::NAN] {
            assert!(matches!(
                ddim(Process::VarianceExploding, &levels(), eta),
                Err(SamplerError::EtaOutOfRange(_))
            ));
        }
    }
}
