//! Euler's method for the probability flow.

use super::{Plan, SamplerError, ddim};
use crate::process::Process;
use crate::spacing::Levels;

/// Euler's method on `dx/dsigma = (x - xhat0) / sigma`: `x' = x + (to - from) (x - xhat0) / from`
/// (Karras et al. 2022, algorithm 1 without its corrector).
///
/// The same rows as [`ddim`] with `eta = 0`, for any process (Karras et al. 2022, appendix B.4): one rule, known
/// by two names.
///
/// # Errors
/// [`SamplerError::Plan`] where coefficients overflow.
pub fn euler(process: Process, levels: &Levels) -> Result<Plan, SamplerError> {
    ddim(process, levels, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::assert_close;

    #[test]
    fn a_step_follows_the_tangent() {
        let levels = Levels::new(vec![3.0, 0.9, 0.0]).unwrap();
        let step = euler(Process::VarianceExploding, &levels).unwrap().steps[0];
        let (x, denoised) = (0.7, -0.2);
        let expected = x + (0.9 - 3.0) * (x - denoised) / 3.0;
        assert_close(step.state * x + step.denoised * denoised, expected, 1e-12);
    }
}
