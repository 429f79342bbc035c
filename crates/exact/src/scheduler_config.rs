//! A plan from a diffusers `scheduler_config.json`.
//!
//! Reads the configurations that `DDPMScheduler`, `DDIMScheduler` and `DPMSolverMultistepScheduler` write, and makes
//! the plan they stand for. A key that would change the result and is not understood is an error; one without
//! effect is a [`Warning`]. Where diffusers itself would compute something else for the same configuration and step
//! count, the plan is the correct one and a [`Warning`] says what diffusers would do. Checked against diffusers
//! 0.42.1.

mod fields;
mod warning;

pub use warning::Warning;

use crate::prediction::{Prediction, PredictionError};
use crate::process::Process;
use crate::sampler::{Plan, Sampler, SamplerError, Variance};
use crate::schedule::{Schedule, ScheduleError};
use crate::spacing::{Levels, SpacingError, leading, linspace_timesteps, trailing};

/// Which training timesteps a configuration samples at (`timestep_spacing`).
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// See [`leading`].
    Leading,
    /// See [`trailing`].
    Trailing,
    /// See [`linspace_timesteps`].
    Linspace,
}

/// The scheduler class of a configuration and the options that only it has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scheduler {
    /// `DDPMScheduler`: ancestral sampling.
    Ddpm {
        /// Whether the noise has the forward process's variance (`fixed_large`, `fixed_large_log`) or the posterior's (`fixed_small`,
        /// `fixed_small_log`).
        large_variance: bool,
    },
    /// `DDIMScheduler`.
    Ddim {
        /// Whether sampling ends at the clean data, or at the first training level (`set_alpha_to_one`).
        ends_clean: bool,
    },
    /// `DPMSolverMultistepScheduler` with `dpmsolver++`.
    DpmSolver {
        /// Whether steps are second order (`solver_order` 2) or first (1).
        second_order: bool,
        /// Whether levels are Karras's (`use_karras_sigmas`).
        karras: bool,
    },
}

/// A checked scheduler configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// The class, with its own options.
    pub scheduler: Scheduler,
    /// The noise schedule.
    pub schedule: Schedule,
    /// What the network predicts.
    pub prediction: Prediction,
    /// Which timesteps are sampled.
    pub spacing: TimestepSpacing,
    /// Added to every timestep under `leading` (`steps_offset`).
    pub offset: usize,
    /// Clamp of the estimate (`clip_sample_range` where `clip_sample` is set).
    pub clip: Option<f64>,
    /// What is odd about the configuration itself, whatever the step count.
    pub warnings: Vec<Warning>,
}

/// Why a configuration makes no plan.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or a value of the wrong type.
    #[error("not a scheduler configuration: {0}")]
    Json(#[from] serde_json::Error),
    /// No class name.
    #[error("the configuration has no \"_class_name\": it names the scheduler, such as \"DDIMScheduler\"")]
    NoClass,
    /// A class that is not read.
    #[error("scheduler class {0:?} is not supported: use DDPMScheduler, DDIMScheduler or DPMSolverMultistepScheduler")]
    Class(String),
    /// A key that may change the result.
    #[error("unknown key {key:?} in a {class} configuration: remove it if it has no effect on sampling")]
    UnknownKey {
        /// The key.
        key: String,
        /// The configuration's class.
        class: &'static str,
    },
    /// A value that is understood but not supported.
    #[error("{key} = {value} is not supported: {remedy}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value, as JSON.
        value: String,
        /// What to set instead.
        remedy: &'static str,
    },
    /// eta given to a sampler without one.
    #[error("eta has an effect with DDIMScheduler only")]
    EtaWithoutDdim,
    /// The betas make no schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The prediction cannot be used on this schedule.
    #[error(transparent)]
    Prediction(#[from] PredictionError),
    /// The number of steps does not fit.
    #[error(transparent)]
    Spacing(#[from] SpacingError),
    /// The sampler has no table on these levels.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
}

/// A plan from a configuration, and what there is to say about it.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfiguredPlan {
    /// The plan.
    pub plan: Plan,
    /// The configuration's warnings and those of this step count.
    pub warnings: Vec<Warning>,
}

impl SchedulerConfig {
    /// Reads the text of a `scheduler_config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] names the key or value that is wrong or not supported.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        fields::parse(text)
    }

    /// The plan for `steps` steps. `eta` is DDIM's, which diffusers takes when sampling and does not store; `None`
    /// is its default, 0.
    ///
    /// # Errors
    /// [`ConfigError`] for a step count that does not fit, an eta out of range or without DDIM.
    pub fn plan(&self, steps: usize, eta: Option<f64>) -> Result<ConfiguredPlan, ConfigError> {
        let mut warnings = self.warnings.clone();
        let levels = self.levels(steps, &mut warnings)?;
        let sampler = match self.scheduler {
            Scheduler::Ddim { .. } => Sampler::Ddim {
                eta: eta.unwrap_or(0.0),
            },
            _ if eta.is_some() => return Err(ConfigError::EtaWithoutDdim),
            Scheduler::Ddpm { large_variance: true } => Sampler::Ancestral(Variance::Large),
            Scheduler::Ddpm { large_variance: false } => Sampler::Ancestral(Variance::Small),
            Scheduler::DpmSolver { second_order: true, .. } => Sampler::DpmSolverPlusPlus2M,
            Scheduler::DpmSolver {
                second_order: false, ..
            } => Sampler::Euler,
        };
        let mut plan = sampler.plan(Process::VariancePreserving, &levels)?;
        plan.clip = self.clip;
        if let (Scheduler::Ddim { .. }, Some(1.0), Some(first)) = (self.scheduler, eta, plan.steps.first())
            && first.from.is_infinite()
            && first.to > 0.0
        {
            warnings.push(Warning::RootOfRounding);
        }
        Ok(ConfiguredPlan { plan, warnings })
    }

    fn levels(&self, steps: usize, warnings: &mut Vec<Warning>) -> Result<Levels, ConfigError> {
        if let Scheduler::DpmSolver { karras: true, .. } = self.scheduler {
            warnings.push(Warning::RoundedConditioning);
            return Ok(Levels::karras(
                self.schedule.sigma_min(),
                self.schedule.sigma_max(),
                7.0,
                steps,
            )?);
        }
        let timesteps = self.timesteps(steps)?;
        warning::about_timesteps(self, steps, &timesteps, warnings);
        let mut sigmas: Vec<f64> = timesteps
            .iter()
            .map(|&timestep| self.schedule.sigma(timestep))
            .collect();
        match self.scheduler {
            Scheduler::Ddim { ends_clean: false } => {
                // A last timestep of 0 is already where such a configuration ends.
                if timesteps.last() != Some(&0) {
                    sigmas.push(self.schedule.sigma_min());
                }
            }
            _ => sigmas.push(0.0),
        }
        Ok(Levels::new(sigmas)?)
    }

    /// The training timesteps of `steps` steps, noisiest first.
    fn timesteps(&self, steps: usize) -> Result<Vec<usize>, SpacingError> {
        let total = self.schedule.len();
        // DPM-Solver counts level 0's place as one of the timesteps and leaves it out.
        let extra = usize::from(matches!(self.scheduler, Scheduler::DpmSolver { .. }));
        let mut timesteps = match self.spacing {
            TimestepSpacing::Trailing => return trailing(total, steps),
            TimestepSpacing::Linspace => linspace_timesteps(total, steps + extra)?,
            TimestepSpacing::Leading => match leading(total, steps + extra, self.offset) {
                Err(SpacingError::OffsetTooLarge { largest, .. }) => leading(total, steps + extra, largest)?,
                timesteps => timesteps?,
            },
        };
        timesteps.truncate(steps);
        Ok(timesteps)
    }
}

#[cfg(test)]
mod tests;
