//! Which noise levels a sampler visits.
//!
//! Discrete rules pick training timesteps of a [`Schedule`]; continuous ones place levels directly. Either way the
//! result is [`Levels`]: the whole list, from the noisiest level to the last, so that a step's successor is always
//! the next entry and is never recomputed.

use crate::schedule::{Schedule, linspace};

/// A sampler's levels: sigmas, strictly decreasing, at least two. The first may be infinite, the last may be 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    sigmas: Vec<f64>,
}

/// Why levels cannot be placed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpacingError {
    /// No steps.
    #[error("a sampler takes at least one step")]
    NoSteps,
    /// More steps than training timesteps.
    #[error("{steps} steps do not fit into {timesteps} training timesteps: take at most {timesteps} steps")]
    TooManySteps {
        /// Steps asked for.
        steps: usize,
        /// Training timesteps there are.
        timesteps: usize,
    },
    /// The offset pushes the first timestep past the schedule's end.
    #[error("an offset of {offset} puts {steps} steps past the last training timestep: at most {largest} fits")]
    OffsetTooLarge {
        /// Offset asked for.
        offset: usize,
        /// Steps asked for.
        steps: usize,
        /// The largest offset that fits.
        largest: usize,
    },
    /// Not a decreasing list of levels.
    #[error("noise levels must decrease strictly, but level {index} is {value} after {previous}")]
    NotDecreasing {
        /// Position in the list, from 0.
        index: usize,
        /// The level there.
        value: f64,
        /// The level before.
        previous: f64,
    },
    /// Fewer than two levels.
    #[error("a list of noise levels needs a start and an end: it has {0}")]
    TooFewLevels(usize),
    /// A level that is none.
    #[error("noise level {index} is {value}: levels are finite and not negative; only the first may be infinite")]
    NotALevel {
        /// Position in the list, from 0.
        index: usize,
        /// The level there.
        value: f64,
    },
    /// A range of levels that cannot be divided.
    #[error("levels cannot run from {sigma_max} down to {sigma_min}: {requirement}")]
    BadRange {
        /// Lower end.
        sigma_min: f64,
        /// Upper end.
        sigma_max: f64,
        /// What would be needed.
        requirement: &'static str,
    },
}

/// Training timesteps `0, r, 2r, ... + offset` with `r = timesteps / steps` rounded down, noisiest first
/// (diffusers' `leading`; Lin et al. 2024, table 2). The noisiest training timesteps are not used.
///
/// # Errors
/// [`SpacingError`] for no steps, more steps than timesteps, or an offset past the end.
pub fn leading(timesteps: usize, steps: usize, offset: usize) -> Result<Vec<usize>, SpacingError> {
    check_steps(timesteps, steps)?;
    let ratio = timesteps / steps;
    let largest = timesteps - 1 - (steps - 1) * ratio;
    if offset > largest {
        return Err(SpacingError::OffsetTooLarge { offset, steps, largest });
    }
    Ok((0..steps).rev().map(|index| index * ratio + offset).collect())
}

/// Training timesteps `timesteps - i · timesteps / steps - 1`, rounded, noisiest first: it starts at the last one
/// (diffusers' `trailing`; Lin et al. 2024, table 2).
///
/// Ties and their floating-point noise round as in diffusers, so both agree wherever diffusers yields `steps`
/// timesteps.
///
/// # Errors
/// [`SpacingError`] for no steps or more steps than timesteps.
pub fn trailing(timesteps: usize, steps: usize) -> Result<Vec<usize>, SpacingError> {
    check_steps(timesteps, steps)?;
    let last = timesteps as f64;
    // numpy.arange(last, 0, -ratio) adds multiples of the difference of its first two numbers.
    let difference = (last - last / steps as f64) - last;
    Ok((0..steps)
        .map(|index| (last + index as f64 * difference).round_ties_even() as usize - 1)
        .collect())
}

/// Training timesteps equally spaced from the last one to 0, both included, rounded (diffusers' `linspace`). A
/// single step starts from the last timestep.
///
/// # Errors
/// [`SpacingError`] for no steps or more steps than timesteps.
pub fn linspace_timesteps(timesteps: usize, steps: usize) -> Result<Vec<usize>, SpacingError> {
    check_steps(timesteps, steps)?;
    if steps == 1 {
        return Ok(vec![timesteps - 1]);
    }
    let step = (timesteps - 1) as f64 / (steps - 1) as f64;
    Ok((0..steps)
        .rev()
        .map(|index| {
            if index == steps - 1 {
                timesteps - 1
            } else {
                (index as f64 * step).round_ties_even() as usize
            }
        })
        .collect())
}

fn check_steps(timesteps: usize, steps: usize) -> Result<(), SpacingError> {
    match steps {
        0 => Err(SpacingError::NoSteps),
        _ if steps > timesteps => Err(SpacingError::TooManySteps { steps, timesteps }),
        _ => Ok(()),
    }
}

impl Levels {
    /// Checks a list of levels, noisiest first.
    ///
    /// # Errors
    /// [`SpacingError`] unless it has two levels or more, decreases strictly, and is finite but for the first.
    pub fn new(sigmas: Vec<f64>) -> Result<Self, SpacingError> {
        if sigmas.len() < 2 {
            return Err(SpacingError::TooFewLevels(sigmas.len()));
        }
        for (index, &value) in sigmas.iter().enumerate() {
            if value.is_nan() || value < 0.0 || (value.is_infinite() && index > 0) {
                return Err(SpacingError::NotALevel { index, value });
            }
            if index > 0 && value >= sigmas[index - 1] {
                return Err(SpacingError::NotDecreasing {
                    index,
                    value,
                    previous: sigmas[index - 1],
                });
            }
        }
        Ok(Self { sigmas })
    }

    /// The levels of training timesteps, noisiest first, and then 0.
    ///
    /// # Errors
    /// [`SpacingError`] if the timesteps do not decrease or lie outside the schedule.
    pub fn of_timesteps(schedule: &Schedule, timesteps: &[usize]) -> Result<Self, SpacingError> {
        if let Some(&outside) = timesteps.iter().find(|&&timestep| timestep >= schedule.len()) {
            return Err(SpacingError::TooManySteps {
                steps: outside + 1,
                timesteps: schedule.len(),
            });
        }
        Self::new(
            timesteps
                .iter()
                .map(|&timestep| schedule.sigma(timestep))
                .chain([0.0])
                .collect(),
        )
    }

    /// `steps` equal steps in the added variance `t = sigma²`, from `time_max` to `time_min`.
    ///
    /// # Errors
    /// [`SpacingError`] for no steps or an empty range.
    pub fn uniform(time_min: f64, time_max: f64, steps: usize) -> Result<Self, SpacingError> {
        if steps == 0 {
            return Err(SpacingError::NoSteps);
        }
        Self::new(
            linspace(time_max, time_min, steps + 1)
                .into_iter()
                .map(f64::sqrt)
                .collect(),
        )
    }

    /// Karras's levels: equal steps in `sigma^(1/rho)` from `sigma_max` to `sigma_min`, and then 0
    /// (Karras et al. 2022, eq. 5; `rho = 7` there).
    ///
    /// # Errors
    /// [`SpacingError`] for no steps, or unless `0 < sigma_min < sigma_max < infinity` and `rho > 0`.
    pub fn karras(sigma_min: f64, sigma_max: f64, rho: f64, steps: usize) -> Result<Self, SpacingError> {
        if steps == 0 {
            return Err(SpacingError::NoSteps);
        }
        if !(sigma_min > 0.0 && sigma_min < sigma_max && sigma_max.is_finite() && rho > 0.0 && rho.is_finite()) {
            let requirement = "Karras's levels need 0 < lowest < highest < infinity and a positive rho; a schedule that \
                               ends in pure noise takes trailing, linspace or tangent spacing";
            return Err(SpacingError::BadRange {
                sigma_min,
                sigma_max,
                requirement,
            });
        }
        let roots = linspace(sigma_max.powf(1.0 / rho), sigma_min.powf(1.0 / rho), steps);
        let mut sigmas: Vec<f64> = roots.into_iter().map(|root| root.powf(rho)).collect();
        // The ends are given numbers; a power of a root only comes back to them up to rounding.
        sigmas[0] = sigma_max;
        if steps > 1 {
            sigmas[steps - 1] = sigma_min;
        }
        sigmas.push(0.0);
        Self::new(sigmas)
    }

    /// Equal steps in the angle `arctan(sigma / std)`, from `sigma_max`, which may be infinite, to 0.
    ///
    /// On Gaussian data of standard deviation `std` a DDIM step from angle a to angle b has the gain
    /// `cos a / cos b · cos(a - b)`, so the whole product is largest, and exact to second order, at equal angles.
    ///
    /// # Errors
    /// [`SpacingError`] for no steps, or unless `std` is positive and finite and `sigma_max` positive.
    pub fn tangent(std: f64, sigma_max: f64, steps: usize) -> Result<Self, SpacingError> {
        if steps == 0 {
            return Err(SpacingError::NoSteps);
        }
        if !(std > 0.0 && std.is_finite() && sigma_max > 0.0) {
            let requirement = "equal angles need a positive highest level and a positive, finite data std";
            return Err(SpacingError::BadRange {
                sigma_min: 0.0,
                sigma_max,
                requirement,
            });
        }
        let mut sigmas: Vec<f64> = linspace((sigma_max / std).atan(), 0.0, steps + 1)
            .into_iter()
            .map(|angle| std * angle.tan())
            .collect();
        sigmas[0] = sigma_max;
        Self::new(sigmas)
    }

    /// The levels, noisiest first.
    pub fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// The level where sampling starts.
    pub fn first(&self) -> f64 {
        self.sigmas[0]
    }

    /// The level where sampling ends.
    pub fn last(&self) -> f64 {
        self.sigmas[self.sigmas.len() - 1]
    }

    /// Number of steps: one less than levels.
    pub fn steps(&self) -> usize {
        self.sigmas.len() - 1
    }

    /// Each level with its successor.
    pub fn pairs(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.sigmas.windows(2).map(|pair| (pair[0], pair[1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::BetaShape;
    use crate::test::assert_close;

    // from diffusers import DDIMScheduler                                                    (diffusers 0.42.1)
    // s = DDIMScheduler(timestep_spacing=...); s.set_timesteps(n); print(s.timesteps.tolist())
    #[test]
    fn timesteps_agree_with_diffusers() {
        assert_eq!(
            leading(1000, 10, 0).unwrap(),
            [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
        );
        assert_eq!(leading(1000, 7, 1).unwrap(), [853, 711, 569, 427, 285, 143, 1]);
        assert_eq!(
            trailing(1000, 10).unwrap(),
            [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
        );
        assert_eq!(trailing(1000, 7).unwrap(), [999, 856, 713, 570, 428, 285, 142]);
        assert_eq!(linspace_timesteps(1000, 7).unwrap(), [999, 832, 666, 500, 333, 166, 0]);
    }

    // The sum over i of (i + 1) timesteps[i], over all step counts n; trailing cut to its first n timesteps:
    //   total = 0
    //   for n in range(1, 1001):
    //       s.set_timesteps(n); t = s.timesteps.numpy()[:n]; total += int((np.arange(1, n + 1) * t).sum())
    // For linspace from n = 2, since diffusers' single step starts from timestep 0.
    #[test]
    fn every_step_count_agrees_with_diffusers() {
        let total = |spacing: &dyn Fn(usize) -> Vec<usize>, from: usize| -> usize {
            let weighted = |steps| spacing(steps).into_iter().zip(1..).map(|(t, i)| t * i).sum::<usize>();
            (from..=1000).map(weighted).sum()
        };
        assert_eq!(total(&|steps| leading(1000, steps, 0).unwrap(), 1), 45_193_435_419);
        assert_eq!(total(&|steps| trailing(1000, steps).unwrap(), 1), 55_722_100_764);
        assert_eq!(
            total(&|steps| linspace_timesteps(1000, steps).unwrap(), 2),
            55_666_399_370
        );
    }

    #[test]
    fn every_step_count_gives_levels() {
        let schedule = Schedule::new(&BetaShape::Linear { start: 1e-4, end: 0.02 }, 1000).unwrap();
        for steps in 1..=1000 {
            for timesteps in [
                leading(1000, steps, 0),
                trailing(1000, steps),
                linspace_timesteps(1000, steps),
            ] {
                let levels = Levels::of_timesteps(&schedule, &timesteps.unwrap()).unwrap();
                assert_eq!(levels.steps(), steps);
            }
        }
    }

    #[test]
    fn more_steps_than_levels_is_an_error() {
        let error = SpacingError::TooManySteps {
            steps: 1001,
            timesteps: 1000,
        };
        assert_eq!(leading(1000, 1001, 0), Err(error.clone()));
        assert_eq!(trailing(1000, 1001), Err(error.clone()));
        assert_eq!(linspace_timesteps(1000, 1001), Err(error));
        assert_eq!(leading(1000, 0, 0), Err(SpacingError::NoSteps));
        assert_eq!(
            leading(1000, 1000, 1),
            Err(SpacingError::OffsetTooLarge {
                offset: 1,
                steps: 1000,
                largest: 0
            })
        );
    }

    #[test]
    fn continuous_spacings_follow_their_definitions() {
        let uniform = Levels::uniform(0.0, 1.0, 4).unwrap();
        for (sigma, time) in uniform.sigmas().iter().zip([1.0, 0.75, 0.5, 0.25, 0.0]) {
            assert_close(sigma * sigma, time, 1e-12);
        }
        let karras = Levels::karras(0.002, 80.0, 7.0, 5).unwrap();
        assert_eq!((karras.first(), karras.sigmas()[4], karras.last()), (80.0, 0.002, 0.0));
        let (low, high) = (0.002_f64.powf(1.0 / 7.0), 80.0_f64.powf(1.0 / 7.0));
        assert_close(karras.sigmas()[1], (high + 0.25 * (low - high)).powi(7), 1e-12);
        let tangent = Levels::tangent(0.5, f64::INFINITY, 3).unwrap();
        assert_eq!(tangent.first(), f64::INFINITY);
        assert_close(tangent.sigmas()[1], 0.5 * 3.0_f64.sqrt(), 1e-12);
        assert_close(tangent.sigmas()[2], 0.5 / 3.0_f64.sqrt(), 1e-12);
        assert_eq!(tangent.last(), 0.0);
    }

    #[test]
    fn senseless_levels_are_refused() {
        let infinite = f64::INFINITY;
        assert!(Levels::new(vec![1.0]).is_err());
        assert!(Levels::new(vec![1.0, 1.0]).is_err());
        assert!(Levels::new(vec![infinite, infinite, 0.0]).is_err());
        assert!(Levels::new(vec![1.0, -0.5]).is_err());
        assert!(Levels::new(vec![f64::NAN, 0.0]).is_err());
        assert!(Levels::karras(0.1, infinite, 7.0, 5).is_err());
        assert!(Levels::karras(0.0, 1.0, 7.0, 5).is_err());
        assert!(Levels::tangent(0.0, 1.0, 5).is_err());
        assert!(Levels::uniform(1.0, 1.0, 5).is_err());
    }
}
