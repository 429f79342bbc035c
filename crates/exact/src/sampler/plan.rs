//! The table that sampling runs and the audit analyses.

use serde::{Deserialize, Serialize};

/// One row of a sampler's table: evaluate the denoiser at `from`, then move to `to`.
///
/// With the denoiser's estimate `xhat0 = D(x, from)`, the state becomes
/// `state · x + denoised · xhat0 + previous_denoised · xhat0_previous + noise · z`, where `z` is standard normal
/// and `xhat0_previous` is the estimate of the row before (never used by the first row).
///
/// Levels are standard deviations of the added noise in variance-exploding coordinates, `sigma = sqrt(t)`; a
/// variance-preserving state is this one times `1 / sqrt(1 + sigma²)`. At an infinite level (zero terminal
/// signal-to-noise ratio) the state is the limit of `x / sigma`, which is the standard normal noise itself.
///
/// Both levels are named in every row, so "the level before" is never recomputed from a step count. A corrector
/// such as Heun's second half has `from == to`: it is evaluated where the predictor arrived.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Level at which the denoiser is evaluated, in units of the data; may be infinite in the first row.
    pub from: f64,
    /// Level of the state after the step; 0 in the last row of a sampler that finishes.
    pub to: f64,
    /// Coefficient of the state.
    pub state: f64,
    /// Coefficient of the denoiser's estimate.
    pub denoised: f64,
    /// Coefficient of the previous row's estimate; 0 for one-step methods.
    pub previous_denoised: f64,
    /// Standard deviation of the fresh noise; 0 for deterministic steps.
    pub noise: f64,
}

/// A complete sampler: where it starts and the steps it takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Standard deviation of the initial draw N(0, prior_std²), in the state's own coordinates: sigma for the
    /// variance-exploding process, `sqrt(1 + sigma²)` for the variance-preserving one, 1 at an infinite level.
    pub prior_std: f64,
    /// The rows, from the noisiest level to the last. Never empty.
    pub steps: Vec<Step>,
    /// Factor from the final state to the output: 1, except where a variance-preserving sampler stops early and
    /// hands out its scaled state.
    pub output_scale: f64,
    /// The denoiser's estimate is clamped to ± this, if given. The audit is exact only without it.
    pub clip: Option<f64>,
}
