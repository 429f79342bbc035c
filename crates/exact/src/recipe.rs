//! A plan by name: a process, a spacing, a sampler and a number of steps.
//!
//! The rules for what goes with what stand here once, for every caller that lets people choose. An option that has
//! no effect with the others is an error.

use crate::audit::Start;
use crate::linear_beta::LinearBeta;
use crate::optimize::{OptimizeError, optimize};
use crate::process::Process;
use crate::sampler::{Plan, Sampler, SamplerError, TimeIntegrator, time_integrator};
use crate::schedule::Schedule;
use crate::spacing::{Levels, SpacingError, leading, linspace_timesteps, trailing};
use crate::spectrum::Spectrum;

/// A noise process with the range of its levels.
#[derive(Clone, Debug, PartialEq)]
pub enum Noise {
    /// The variance-exploding process in `t = sigma²` from 0 to `sigma_max²`.
    VarianceExploding {
        /// The noisiest level.
        sigma_max: f64,
    },
    /// A variance-preserving process on training timesteps.
    Discrete(Schedule),
    /// A variance-preserving process in continuous time from 0 to 1.
    Continuous(LinearBeta),
}

/// How levels are spaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spacing {
    /// [`leading`] timesteps.
    Leading,
    /// [`trailing`] timesteps.
    Trailing,
    /// [`linspace_timesteps`].
    Linspace,
    /// Equal steps in the process's own time: t = sigma², or the continuous process's t.
    Uniform,
    /// [`Levels::karras`] with rho = 7.
    Karras,
    /// [`Levels::tangent`] for the data's root mean square.
    Tangent,
    /// [`optimize`] for the data's spectrum.
    Optimized,
}

/// Which rule makes the rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// A sampler on levels.
    Sampler(Sampler),
    /// An integrator in the continuous process's time.
    Time(TimeIntegrator),
}

/// What to make a plan of.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// The rule that makes the rows.
    pub rule: Rule,
    /// Where levels go; `None` is the usual choice: uniform, or leading on training timesteps.
    pub spacing: Option<Spacing>,
    /// Number of steps.
    pub steps: usize,
    /// Time at which a uniform spacing ends; `None` is 0.
    pub end_time: Option<f64>,
    /// The lowest level above 0 under Karras and optimised spacing; `None` is the process's own lowest level, and a
    /// tenth of it for optimised spacing.
    pub sigma_min: Option<f64>,
    /// What an optimised spacing assumes sampling starts from.
    pub start: Start,
}

/// Why a recipe makes no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RecipeError {
    /// A spacing that needs training timesteps.
    #[error(
        "{0} spacing picks training timesteps, which this process has none of: use uniform, karras, tangent or optimized"
    )]
    NeedsTimesteps(&'static str),
    /// A spacing in a time that the process does not have.
    #[error("uniform spacing is in continuous time; training timesteps are spaced by leading, trailing or linspace")]
    NeedsTime,
    /// A time integrator with another process.
    #[error("integrators in time belong to the continuous variance-preserving process (vp-sde)")]
    NeedsContinuous,
    /// A time integrator with levels.
    #[error("integrators in time take equal time steps: leave the spacing out")]
    TimeStepsOnly,
    /// An end time without uniform spacing.
    #[error("an end time has an effect with uniform spacing only")]
    EndTimeWithoutTime,
    /// A lowest level where nothing reads it.
    #[error("a lowest level has an effect with karras and optimized spacing only")]
    LowestLevelWithoutEffect,
    /// An end time outside the process.
    #[error("time runs from {first} down to {end}: the end lies between 0 and that")]
    BadEndTime {
        /// Where time starts.
        first: f64,
        /// The end asked for.
        end: f64,
    },
    /// The levels cannot be placed.
    #[error(transparent)]
    Spacing(#[from] SpacingError),
    /// The sampler has no table on these levels.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The search for levels fails.
    #[error(transparent)]
    Optimize(#[from] OptimizeError),
}

impl Noise {
    /// The coordinates of the process's states.
    pub fn process(&self) -> Process {
        match self {
            Self::VarianceExploding { .. } => Process::VarianceExploding,
            Self::Discrete(_) | Self::Continuous(_) => Process::VariancePreserving,
        }
    }

    /// The noisiest level.
    pub fn sigma_max(&self) -> f64 {
        match self {
            Self::VarianceExploding { sigma_max } => *sigma_max,
            Self::Discrete(schedule) => schedule.sigma_max(),
            Self::Continuous(process) => process.sigma(1.0),
        }
    }

    /// The lowest level above 0 that a denoiser is usually trained for: the first training timestep's, t = 1e-3 in
    /// continuous variance-preserving time (Song et al. 2021, appendix C), or 0.002 (Karras et al. 2022, table 1).
    pub fn sigma_min(&self) -> f64 {
        match self {
            Self::VarianceExploding { .. } => 0.002,
            Self::Discrete(schedule) => schedule.sigma_min(),
            Self::Continuous(process) => process.sigma(1e-3),
        }
    }
}

impl Recipe {
    /// The plan on `noise`, for data of this spectrum where the spacing depends on it.
    ///
    /// # Errors
    /// [`RecipeError`] for options that do not go together, or out of range.
    pub fn plan(&self, noise: &Noise, spectrum: &Spectrum) -> Result<Plan, RecipeError> {
        let sampler = match (&self.rule, noise) {
            (Rule::Sampler(sampler), _) => sampler,
            (Rule::Time(_), Noise::VarianceExploding { .. } | Noise::Discrete(_)) => {
                return Err(RecipeError::NeedsContinuous);
            }
            (Rule::Time(integrator), Noise::Continuous(process)) => {
                if self.spacing.is_some_and(|spacing| spacing != Spacing::Uniform) {
                    return Err(RecipeError::TimeStepsOnly);
                }
                self.check_options(Spacing::Uniform)?;
                return Ok(time_integrator(
                    process,
                    *integrator,
                    self.steps,
                    self.end_time.unwrap_or(0.0),
                )?);
            }
        };
        let spacing = self.spacing.unwrap_or(match noise {
            Noise::Discrete(_) => Spacing::Leading,
            Noise::VarianceExploding { .. } | Noise::Continuous(_) => Spacing::Uniform,
        });
        self.check_options(spacing)?;
        let levels = self.levels(noise, spacing, sampler, spectrum)?;
        Ok(sampler.plan(noise.process(), &levels)?)
    }

    fn check_options(&self, spacing: Spacing) -> Result<(), RecipeError> {
        if self.end_time.is_some() && spacing != Spacing::Uniform {
            return Err(RecipeError::EndTimeWithoutTime);
        }
        if self.sigma_min.is_some() && !matches!(spacing, Spacing::Karras | Spacing::Optimized) {
            return Err(RecipeError::LowestLevelWithoutEffect);
        }
        Ok(())
    }

    fn levels(
        &self,
        noise: &Noise,
        spacing: Spacing,
        sampler: &Sampler,
        spectrum: &Spectrum,
    ) -> Result<Levels, RecipeError> {
        let steps = self.steps;
        let pick = |name, rule: &dyn Fn(usize) -> Result<Vec<usize>, SpacingError>| match noise {
            Noise::Discrete(schedule) => Ok(Levels::of_timesteps(schedule, &rule(schedule.len())?)?),
            Noise::VarianceExploding { .. } | Noise::Continuous(_) => Err(RecipeError::NeedsTimesteps(name)),
        };
        match spacing {
            Spacing::Leading => pick("leading", &|timesteps| leading(timesteps, steps, 0)),
            Spacing::Trailing => pick("trailing", &|timesteps| trailing(timesteps, steps)),
            Spacing::Linspace => pick("linspace", &|timesteps| linspace_timesteps(timesteps, steps)),
            Spacing::Uniform => self.uniform(noise),
            Spacing::Karras => {
                let sigma_min = self.sigma_min.unwrap_or_else(|| noise.sigma_min());
                Ok(Levels::karras(sigma_min, noise.sigma_max(), 7.0, steps)?)
            }
            Spacing::Tangent => Ok(Levels::tangent(spectrum.rms(), noise.sigma_max(), steps)?),
            Spacing::Optimized => {
                let sigma_min = self.sigma_min.unwrap_or_else(|| noise.sigma_min() / 10.0);
                let plan = |levels: &Levels| sampler.plan(noise.process(), levels);
                Ok(optimize(spectrum, self.start, sigma_min, noise.sigma_max(), steps, plan)?.levels)
            }
        }
    }

    fn uniform(&self, noise: &Noise) -> Result<Levels, RecipeError> {
        let end = self.end_time.unwrap_or(0.0);
        let check = |first: f64| {
            if (0.0..first).contains(&end) {
                Ok(())
            } else {
                Err(RecipeError::BadEndTime { first, end })
            }
        };
        match noise {
            Noise::Discrete(_) => Err(RecipeError::NeedsTime),
            Noise::VarianceExploding { sigma_max } => {
                check(sigma_max * sigma_max)?;
                Ok(Levels::uniform(end, sigma_max * sigma_max, self.steps)?)
            }
            Noise::Continuous(process) => {
                check(1.0)?;
                if self.steps == 0 {
                    return Err(SpacingError::NoSteps.into());
                }
                let times = crate::schedule::linspace(1.0, end, self.steps + 1);
                Ok(Levels::new(
                    times.into_iter().map(|time| process.sigma(time)).collect(),
                )?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::audit;
    use crate::schedule::BetaShape;
    use crate::test::assert_close;

    fn recipe(sampler: Sampler, spacing: Option<Spacing>) -> Recipe {
        let rule = Rule::Sampler(sampler);
        Recipe {
            rule,
            spacing,
            steps: 10,
            end_time: None,
            sigma_min: None,
            start: Start::Prior,
        }
    }

    fn discrete() -> Noise {
        Noise::Discrete(Schedule::new(&BetaShape::Linear { start: 1e-4, end: 0.02 }, 1000).unwrap())
    }

    const EXPLODING: Noise = Noise::VarianceExploding { sigma_max: 1.0 };

    fn half() -> Spectrum {
        Spectrum::from_std(0.5).unwrap()
    }

    #[test]
    fn the_usual_spacings() {
        let plan = recipe(Sampler::Ddim { eta: 0.0 }, None)
            .plan(&discrete(), &half())
            .unwrap();
        let std = audit(&plan, &half(), Start::Prior).unwrap().output_std[0];
        assert_eq!((std * 1e4).round(), 3741.0);
        let plan = recipe(Sampler::MeanOnly, None).plan(&EXPLODING, &half()).unwrap();
        assert_close(audit(&plan, &half(), Start::Prior).unwrap().output_std[0], 0.2, 1e-12);
        let continuous = Noise::Continuous(LinearBeta::default());
        let plan = recipe(Sampler::Ddim { eta: 0.0 }, None)
            .plan(&continuous, &half())
            .unwrap();
        assert_close(plan.steps[4].to, LinearBeta::default().sigma(0.5), 1e-12);
    }

    #[test]
    fn every_spacing_of_every_process_runs_or_says_why_not() {
        use Spacing::{Karras, Leading, Linspace, Optimized, Tangent, Trailing, Uniform};
        for noise in [discrete(), EXPLODING, Noise::Continuous(LinearBeta::default())] {
            for spacing in [Leading, Trailing, Linspace, Uniform, Karras, Tangent, Optimized] {
                let made = recipe(Sampler::DpmSolverPlusPlus2M, Some(spacing)).plan(&noise, &half());
                let on_timesteps = matches!(spacing, Leading | Trailing | Linspace);
                let discrete = matches!(noise, Noise::Discrete(_));
                match made {
                    Ok(plan) => {
                        // Leading spacing leaves the noisiest timesteps out.
                        assert_eq!((plan.network_evaluations(), plan.steps[9].to), (10, 0.0));
                        assert_eq!(plan.steps[0].from < noise.sigma_max(), spacing == Leading);
                    }
                    Err(RecipeError::NeedsTimesteps(_)) => assert!(on_timesteps && !discrete),
                    Err(RecipeError::NeedsTime) => assert!(spacing == Uniform && discrete),
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }

    #[test]
    fn options_without_effect_are_errors() {
        let ddim = || recipe(Sampler::Ddim { eta: 0.0 }, Some(Spacing::Karras));
        let ending = Recipe {
            end_time: Some(0.1),
            ..ddim()
        };
        assert_eq!(ending.plan(&EXPLODING, &half()), Err(RecipeError::EndTimeWithoutTime));
        let lowest = Recipe {
            sigma_min: Some(0.1),
            spacing: None,
            ..ddim()
        };
        assert_eq!(
            lowest.plan(&EXPLODING, &half()),
            Err(RecipeError::LowestLevelWithoutEffect)
        );
        let past = Recipe {
            end_time: Some(1.0),
            spacing: None,
            ..ddim()
        };
        assert_eq!(
            past.plan(&EXPLODING, &half()),
            Err(RecipeError::BadEndTime { first: 1.0, end: 1.0 })
        );
        let time = Recipe {
            rule: Rule::Time(TimeIntegrator::Euler),
            spacing: None,
            ..ddim()
        };
        assert_eq!(time.plan(&EXPLODING, &half()), Err(RecipeError::NeedsContinuous));
        let spaced = Recipe {
            spacing: Some(Spacing::Karras),
            ..time
        };
        assert_eq!(
            spaced.plan(&Noise::Continuous(LinearBeta::default()), &half()),
            Err(RecipeError::TimeStepsOnly)
        );
    }

    #[test]
    fn an_end_time_truncates() {
        let recipe = Recipe {
            end_time: Some(0.04),
            ..recipe(Sampler::Euler, None)
        };
        let plan = recipe.plan(&EXPLODING, &half()).unwrap();
        assert_close(plan.steps[9].to, 0.2, 1e-12);
        let audit = audit(&plan, &half(), Start::Exact).unwrap();
        assert_close(audit.error.truncation, 0.29_f64.sqrt() - 0.5, 1e-12);
    }
}
