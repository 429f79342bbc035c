//! The reverse process's mean without its noise: the sampler that shows why the noise is needed.

use super::{Plan, SamplerError, Step};
use crate::process::{Process, one_minus_squared_ratio, squared_ratio};
use crate::spacing::Levels;

/// The mean of every reverse step and no noise: `x' = x + (d / t) (xhat0 - x)`, with `t = from²`,
/// `d = from² - to²` (the mean of Ho et al. 2020, eq. 7, in the common coordinate).
///
/// On Gaussian data with variance s² each step multiplies the state by `(s² + to²) / (s² + from²)`. The factors
/// telescope: from N(0, 1) at t = 1 to t = 0 the variance becomes `(s² / (s² + 1))²` however many steps are taken,
/// far below s². The missing variance is the noise that [`ancestral`](super::ancestral) adds.
///
/// # Errors
/// [`SamplerError::Plan`] where coefficients overflow.
pub fn mean_only(process: Process, levels: &Levels) -> Result<Plan, SamplerError> {
    let steps = levels
        .pairs()
        .map(|(from, to)| Step {
            from,
            to,
            state: squared_ratio(to, from),
            denoised: one_minus_squared_ratio(to, from),
            previous_denoised: 0.0,
            noise: 0.0,
        })
        .collect();
    Ok(Plan::new(process, levels, steps)?)
}
