//! What diffusers would do differently, said out loud.

use super::{Scheduler, SchedulerConfig, TimestepSpacing};
use crate::process::Process;

/// Something about a configuration and step count that its user should know. The plan itself is correct.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Warning {
    /// The previous timestep is computed, not looked up.
    #[error(
        "diffusers steps to timestep t - {ratio} instead of the next one in its list, which is wrong in {wrong} of \
         the steps; the first is at {from}: it would go to {taken} instead of {right}"
    )]
    WrongPreviousTimestep {
        /// `num_train_timesteps // steps`.
        ratio: usize,
        /// How many steps go wrong.
        wrong: usize,
        /// Timestep of the first wrong step.
        from: i64,
        /// Where it goes; -1 is the end.
        taken: i64,
        /// Where it should go; -1 is the end.
        right: i64,
    },
    /// Trailing spacing rounds to one timestep too many.
    #[error("diffusers makes {made} timesteps of {steps} steps here; the last is {last}, which is no timestep")]
    ExtraTimestep {
        /// Steps asked for.
        steps: usize,
        /// Timesteps made.
        made: usize,
        /// The last of them.
        last: i64,
    },
    /// The logarithm of the variance is used as the variance.
    #[error("diffusers takes the root of log variance with fixed_large_log and returns NaN; this plan has fixed_large")]
    NotANumber,
    /// Noise in the last step.
    #[error(
        "diffusers adds noise of standard deviation {std} in the last step, at timestep {timestep}: it leaves it out \
         at timestep 0 only"
    )]
    NoiseAtLastStep {
        /// The last timestep.
        timestep: usize,
        /// Standard deviation of the noise in the output.
        std: f64,
    },
    /// The first timestep lies past the schedule.
    #[error("diffusers fails here: steps_offset {offset} puts the first timestep past the schedule; {used} is used")]
    OffsetPastEnd {
        /// The offset asked for.
        offset: usize,
        /// The largest that fits.
        used: usize,
    },
    /// One step with linspace.
    #[error(
        "diffusers takes its single linspace step from timestep 0, where there is no noise to remove; {from} is used"
    )]
    SingleStepFromZero {
        /// The last training timestep.
        from: usize,
    },
    /// One step with leading.
    #[error(
        "the single step that leading spacing makes starts at timestep {timestep}, where next to nothing is noise, and \
         leaves the noise that it is given as it is; set timestep_spacing to trailing"
    )]
    SingleStepFromStart {
        /// The timestep.
        timestep: usize,
    },
    /// The root of a difference that is zero up to rounding.
    #[error(
        "diffusers' first step takes the root of 1 - abar - std², which with eta = 1 and zero terminal SNR is 0 up to \
         rounding: where that falls below zero its samples are NaN (which step counts those are differs between \
         schedules and machines); this plan's are not"
    )]
    RootOfRounding,
    /// A last step that goes nowhere.
    #[error(
        "diffusers' last step goes from timestep 0 to timestep 0 and spends a network evaluation on nothing \
         (set_alpha_to_one is false and steps_offset 0); it is left out"
    )]
    LastStepDoesNothing,
    /// The estimate is clamped.
    #[error(
        "the estimate is clamped to ±{range} (clip_sample): errors on data outside it stay hidden, and the exact \
         analysis leaves the clamp out{}",
        if *.keeps_noise { "; diffusers' DDIM clamps the estimate but keeps the noise of the unclamped one, so its step is not along either" } else { "" }
    )]
    ClipsEstimate {
        /// The clamp.
        range: f64,
        /// Whether diffusers keeps the predicted noise of the estimate before clamping.
        keeps_noise: bool,
    },
    /// A schedule that the class does not have.
    #[error("diffusers refuses beta_schedule {schedule:?} in {class}")]
    ScheduleRefused {
        /// The schedule.
        schedule: String,
        /// The class.
        class: &'static str,
    },
    /// Zero terminal signal-to-noise ratio is patched.
    #[error("diffusers replaces the zero at the schedule's end by abar = 2^-24; this plan starts at infinite noise")]
    TerminalLevelReplaced,
    /// Levels between timesteps.
    #[error(
        "diffusers tells the network the nearest whole timestep of each Karras level (except with squaredcos_cap_v2), \
         not the level itself"
    )]
    RoundedConditioning,
    /// A key that does nothing.
    #[error("{key} has no effect in this configuration")]
    KeyWithoutEffect {
        /// The key.
        key: &'static str,
    },
}

/// Compares the correct timesteps with what diffusers makes and does with them.
pub(super) fn about_timesteps(
    config: &SchedulerConfig,
    steps: usize,
    timesteps: &[usize],
    warnings: &mut Vec<Warning>,
) {
    let total = config.schedule.len();
    let made = made_by_diffusers(config, steps);
    if config.spacing == TimestepSpacing::Trailing && made.len() > steps {
        warnings.push(Warning::ExtraTimestep {
            steps,
            made: made.len(),
            last: made[steps],
        });
    }
    if config.spacing == TimestepSpacing::Leading
        && let (Some(&first), Some(&last)) = (made.first(), timesteps.last())
        && first >= total as i64
    {
        // DPM-Solver leaves the lowest timestep of its list out: the offset is what the last one kept is above it.
        let above = if matches!(config.scheduler, Scheduler::DpmSolver { .. }) {
            total / (steps + 1)
        } else {
            0
        };
        warnings.push(Warning::OffsetPastEnd {
            offset: config.offset,
            used: last - above,
        });
    }
    if made == [0] && timesteps != [0] {
        warnings.push(Warning::SingleStepFromZero { from: total - 1 });
    }
    if let (TimestepSpacing::Leading, &[timestep]) = (config.spacing, timesteps)
        && !matches!(config.scheduler, Scheduler::DpmSolver { .. })
    {
        warnings.push(Warning::SingleStepFromStart { timestep });
    }
    match config.scheduler {
        Scheduler::Ddim { ends_clean } => {
            if !ends_clean && timesteps.last() == Some(&0) {
                warnings.push(Warning::LastStepDoesNothing);
            }
            warnings.extend(wrong_previous(&made, total / steps));
        }
        Scheduler::Ddpm { large_variance: true } => {
            if let Some(&timestep) = timesteps.last().filter(|&&timestep| timestep > 0) {
                let variance = Process::VariancePreserving.transition_variance(0.0, config.schedule.sigma(timestep));
                warnings.push(Warning::NoiseAtLastStep {
                    timestep,
                    std: variance.sqrt(),
                });
            }
        }
        Scheduler::Ddpm { large_variance: false } | Scheduler::DpmSolver { .. } => {}
    }
}

/// Steps whose `t - ratio` is not the next timestep, or below 0 at the end.
fn wrong_previous(made: &[i64], ratio: usize) -> Option<Warning> {
    let right = made.iter().skip(1).copied().chain([-1]);
    let wrong: Vec<(i64, i64, i64)> = made
        .iter()
        .zip(right)
        .map(|(&from, right)| (from, (from - ratio as i64).max(-1), right))
        .filter(|(_, taken, right)| taken != right)
        .collect();
    let &(from, taken, right) = wrong.first()?;
    Some(Warning::WrongPreviousTimestep {
        ratio,
        wrong: wrong.len(),
        from,
        taken,
        right,
    })
}

/// The timesteps that diffusers makes, mistakes included.
fn made_by_diffusers(config: &SchedulerConfig, steps: usize) -> Vec<i64> {
    let total = config.schedule.len() as f64;
    let extra = usize::from(matches!(config.scheduler, Scheduler::DpmSolver { .. }));
    let count = steps + extra;
    let mut made: Vec<i64> = match config.spacing {
        TimestepSpacing::Leading => {
            let ratio = config.schedule.len() / count;
            (0..count)
                .rev()
                .map(|index| (index * ratio + config.offset) as i64)
                .collect()
        }
        TimestepSpacing::Linspace if count == 1 => vec![0],
        TimestepSpacing::Linspace => {
            let step = (total - 1.0) / (count - 1) as f64;
            (0..count)
                .rev()
                .map(|index| (index as f64 * step).round_ties_even() as i64)
                .collect()
        }
        TimestepSpacing::Trailing => {
            // numpy.arange(total, 0, -ratio): as many numbers as the quotient, rounded up.
            let ratio = total / steps as f64;
            let difference = (total - ratio) - total;
            let count = (total / ratio).ceil() as usize;
            return (0..count)
                .map(|index| (total + index as f64 * difference).round_ties_even() as i64 - 1)
                .collect();
        }
    };
    made.truncate(steps);
    made
}
