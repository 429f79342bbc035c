//! A sampler is a table: the steps it takes, with their coefficients, fixed before any network runs.
//!
//! Each sampler is one short function from [`Levels`] to a [`Plan`], in the file of its name. Whoever runs a plan
//! with a network and whoever analyses it ([`audit`](crate::audit)) read the same rows, so what is analysed is what
//! is run.
//!
//! All of them are written in the variance-exploding coordinate, in which the probability-flow equation reads
//! `dx/dsigma = (x - xhat0) / sigma` (Karras et al. 2022, eq. 3 and 4). With `r = to / from`:
//!
//! | sampler | state | denoised | previous_denoised | noise |
//! | --- | --- | --- | --- | --- |
//! | mean-only | `r²` | `1 - r²` | | |
//! | ancestral | `r²` | `1 - r²` | | by [`Variance`] |
//! | DDIM, eta | `r g` | `1 - r g` | | `eta to sqrt(1 - r²)`, with `g² = 1 - eta² (1 - r²)` |
//! | Euler | `r` | `1 - r` | | |
//! | Heun | Euler's row, then 1 | `(1 - r) / (2 r)` | `-(1 - r) / (2 r)` | |
//! | DPM-Solver++(2M) | `r` | `(1 - r) (1 + q)` | `-(1 - r) q`, `q = ln r / (2 ln r_before)` | |

mod ancestral;
mod ddim;
mod dpm_solver;
mod euler;
mod heun;
mod mean_only;
mod plan;
mod time;

pub use ancestral::{Variance, ancestral};
pub use ddim::ddim;
pub use dpm_solver::dpm_solver_plus_plus_2m;
pub use euler::euler;
pub use heun::heun;
pub use mean_only::mean_only;
pub use plan::{Plan, PlanError, Step};
pub use time::{TimeIntegrator, time_integrator};

use crate::process::Process;
use crate::spacing::Levels;

/// A sampler by its name and options, for callers that choose one at run time.
#[derive(Clone, Debug, PartialEq)]
pub enum Sampler {
    /// [`mean_only`].
    MeanOnly,
    /// [`ancestral`].
    Ancestral(Variance),
    /// [`ddim`].
    Ddim {
        /// Between 0, deterministic, and 1, ancestral sampling with the small variance.
        eta: f64,
    },
    /// [`euler`].
    Euler,
    /// [`heun`].
    Heun,
    /// [`dpm_solver_plus_plus_2m`].
    DpmSolverPlusPlus2M,
}

/// Why a sampler has no table on these levels.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// eta outside its range.
    #[error("eta is {0}: it lies between 0 (deterministic) and 1 (ancestral sampling with the small variance)")]
    EtaOutOfRange(f64),
    /// A sampler without a limit at infinite noise.
    #[error("{sampler} cannot start at infinite noise (zero terminal signal-to-noise ratio): {remedy}")]
    InfiniteStart {
        /// The sampler.
        sampler: &'static str,
        /// What to take instead.
        remedy: &'static str,
    },
    /// Time steps so long that an update divides by zero or takes the root of a negative number.
    #[error("the step from t = {from} to t = {to} is too long for {integrator}: take more steps")]
    StepTooLong {
        /// Time at the start of the step.
        from: f64,
        /// Time at its end.
        to: f64,
        /// The integrator.
        integrator: &'static str,
    },
    /// The integrator's drift is not defined where it would be evaluated.
    #[error("{0} evaluates the score at the last time, where it is undefined at t = 0: stop at a time above 0")]
    UndefinedAtZero(&'static str),
    /// A time interval that cannot be integrated over.
    #[error("time runs from 1 down to {0}: the end lies in [0, 1)")]
    BadEndTime(f64),
    /// No steps.
    #[error("a sampler takes at least one step")]
    NoSteps,
    /// The coefficients do not form a table.
    #[error("these levels give no usable table")]
    Plan(#[from] PlanError),
}

impl Sampler {
    /// The sampler's table on these levels.
    ///
    /// # Errors
    /// [`SamplerError`] for options out of range or levels that the sampler has no rule for.
    pub fn plan(&self, process: Process, levels: &Levels) -> Result<Plan, SamplerError> {
        match self {
            Self::MeanOnly => mean_only(process, levels),
            Self::Ancestral(variance) => ancestral(process, levels, variance),
            Self::Ddim { eta } => ddim(process, levels, *eta),
            Self::Euler => euler(process, levels),
            Self::Heun => heun(process, levels),
            Self::DpmSolverPlusPlus2M => dpm_solver_plus_plus_2m(process, levels),
        }
    }
}

/// The coefficient of the state for a row that multiplies the state at a finite level by `factor · to / from`.
///
/// At an infinite level the state is `x / from`, so its coefficient there is `factor · to`.
fn scaled_state(to: f64, from: f64, factor: f64) -> f64 {
    if from.is_infinite() {
        factor * to
    } else {
        factor * (to / from)
    }
}
