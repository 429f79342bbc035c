//! The table that sampling runs and the audit analyses.

use serde::{Deserialize, Serialize};

use crate::process::Process;
use crate::spacing::Levels;

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
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Level at which the denoiser is evaluated, in units of the data; may be infinite in the first row, which is
    /// written as the string `"inf"`.
    #[serde(with = "number_or_inf")]
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
#[serde(deny_unknown_fields)]
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

/// Why a table is not a sampler.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// No rows.
    #[error("a plan needs at least one step")]
    Empty,
    /// A row starts elsewhere than the row before ended.
    #[error("step {step} starts at noise level {from}, but the step before ended at {arrived}")]
    Broken {
        /// Row, from 0.
        step: usize,
        /// Its starting level.
        from: f64,
        /// Where the row before ended.
        arrived: f64,
    },
    /// A number that makes no sense where it stands.
    #[error("step {step} has {field} = {value}: {requirement}")]
    BadStep {
        /// Row, from 0.
        step: usize,
        /// The field's name.
        field: &'static str,
        /// What stands there.
        value: f64,
        /// What would be allowed.
        requirement: &'static str,
    },
    /// The same for a number of the plan as a whole.
    #[error("the plan has {field} = {value}: it must be positive and finite")]
    BadPlan {
        /// The field's name.
        field: &'static str,
        /// What stands there.
        value: f64,
    },
}

impl Plan {
    /// The plan of `process` from the first of `levels` to the last with these rows, without clipping. A sampler
    /// that ends above level 0 hands out its state in the process's own coordinates.
    ///
    /// # Errors
    /// [`PlanError`] where the rows do not chain or a number is not finite.
    pub fn new(process: Process, levels: &Levels, steps: Vec<Step>) -> Result<Self, PlanError> {
        let plan = Self {
            prior_std: process.prior_std(levels.first()),
            steps,
            output_scale: process.signal(levels.last()),
            clip: None,
        };
        plan.check()?;
        Ok(plan)
    }

    /// Checks what a plan from elsewhere, such as a file, promises: at least one row, each starting where the one
    /// before ended and never moving to a higher level, and numbers that can be computed with.
    ///
    /// # Errors
    /// [`PlanError`] names the first row and field that is wrong.
    pub fn check(&self) -> Result<(), PlanError> {
        for (field, value) in [("prior_std", self.prior_std), ("output_scale", self.output_scale)]
            .into_iter()
            .chain(self.clip.map(|clip| ("clip", clip)))
        {
            if !(value > 0.0 && value.is_finite()) {
                return Err(PlanError::BadPlan { field, value });
            }
        }
        let mut arrived = None;
        for (step, row) in self.steps.iter().enumerate() {
            row.check(step)?;
            if let Some(arrived) = arrived.filter(|&arrived| arrived != row.from) {
                return Err(PlanError::Broken {
                    step,
                    from: row.from,
                    arrived,
                });
            }
            arrived = Some(row.to);
        }
        if arrived.is_none() {
            Err(PlanError::Empty)
        } else {
            Ok(())
        }
    }

    /// How often sampling evaluates the denoiser: once a row.
    pub fn network_evaluations(&self) -> usize {
        self.steps.len()
    }

    /// Whether any row draws fresh noise.
    pub fn is_stochastic(&self) -> bool {
        self.steps.iter().any(|step| step.noise > 0.0)
    }

    /// The levels that states are at: the start, and every row's end, correctors aside.
    pub fn levels(&self) -> Vec<f64> {
        let start = self.steps.first().map(|step| step.from);
        start
            .into_iter()
            .chain(
                self.steps
                    .iter()
                    .filter(|step| step.from != step.to)
                    .map(|step| step.to),
            )
            .collect()
    }
}

/// Levels whose squares can be computed with.
const SMALLEST: f64 = 1e-150;
const LARGEST: f64 = 1e150;

impl Step {
    fn check(&self, step: usize) -> Result<(), PlanError> {
        let bad = |field, value, requirement| {
            Err(PlanError::BadStep {
                step,
                field,
                value,
                requirement,
            })
        };
        if !((SMALLEST..=LARGEST).contains(&self.from) || (self.from == f64::INFINITY && step == 0)) {
            return bad(
                "from",
                self.from,
                "a denoiser is evaluated at 1e-150 to 1e150, at infinity only in the first step",
            );
        }
        if !(self.to >= 0.0 && self.to.is_finite() && self.to <= self.from) {
            return bad(
                "to",
                self.to,
                "a step ends at a finite level, not above where it starts",
            );
        }
        for (field, value) in [("state", self.state), ("denoised", self.denoised)] {
            if !value.is_finite() {
                return bad(field, value, "coefficients are finite");
            }
        }
        if !(self.noise >= 0.0 && self.noise.is_finite()) {
            return bad("noise", self.noise, "a standard deviation is finite and not negative");
        }
        if !self.previous_denoised.is_finite() || (step == 0 && self.previous_denoised != 0.0) {
            return bad(
                "previous_denoised",
                self.previous_denoised,
                "it is finite, and 0 in the first step",
            );
        }
        Ok(())
    }
}

/// JSON has no infinity: an infinite number is the string `"inf"`.
mod number_or_inf {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Repr {
        Number(f64),
        Word(String),
    }

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_infinite() {
            serializer.serialize_str("inf")
        } else {
            serializer.serialize_f64(*value)
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        match Repr::deserialize(deserializer)? {
            Repr::Number(value) => Ok(value),
            Repr::Word(word) if word == "inf" => Ok(f64::INFINITY),
            Repr::Word(word) => Err(de::Error::invalid_value(
                de::Unexpected::Str(&word),
                &"a number or \"inf\"",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(from: f64, to: f64) -> Step {
        Step {
            from,
            to,
            state: 0.5,
            denoised: 0.5,
            previous_denoised: 0.0,
            noise: 0.0,
        }
    }

    fn plan(steps: Vec<Step>) -> Plan {
        Plan {
            prior_std: 1.0,
            steps,
            output_scale: 1.0,
            clip: None,
        }
    }

    #[test]
    fn broken_tables_are_refused() {
        assert_eq!(plan(vec![]).check(), Err(PlanError::Empty));
        assert_eq!(plan(vec![row(2.0, 1.0), row(1.0, 0.0)]).check(), Ok(()));
        assert_eq!(plan(vec![row(f64::INFINITY, 1.0)]).check(), Ok(()));
        let broken = plan(vec![row(2.0, 1.0), row(0.9, 0.0)]);
        assert_eq!(
            broken.check(),
            Err(PlanError::Broken {
                step: 1,
                from: 0.9,
                arrived: 1.0
            })
        );
        for bad in [
            row(1.0, 2.0),
            row(0.0, 0.0),
            row(1.0, f64::NAN),
            Step {
                state: f64::INFINITY,
                ..row(1.0, 0.5)
            },
            Step {
                noise: -1.0,
                ..row(1.0, 0.5)
            },
            Step {
                previous_denoised: 0.1,
                ..row(1.0, 0.5)
            },
        ] {
            assert!(
                matches!(plan(vec![bad]).check(), Err(PlanError::BadStep { step: 0, .. })),
                "{bad:?}"
            );
        }
        assert!(matches!(
            Plan {
                clip: Some(0.0),
                ..plan(vec![row(1.0, 0.0)])
            }
            .check(),
            Err(PlanError::BadPlan { .. })
        ));
    }

    #[test]
    fn levels_skip_correctors() {
        let plan = plan(vec![row(2.0, 1.0), row(1.0, 1.0), row(1.0, 0.0)]);
        assert_eq!(plan.levels(), [2.0, 1.0, 0.0]);
        assert_eq!(plan.network_evaluations(), 3);
    }

    #[test]
    fn an_infinite_level_is_a_word() {
        let text = serde_json::to_string(&row(f64::INFINITY, 1.0)).unwrap();
        assert!(text.contains(r#""from":"inf""#), "{text}");
        assert!(serde_json::from_str::<Step>(&text.replace("inf", "lots")).is_err());
    }

    proptest! {
        #[test]
        fn a_plan_survives_json(
            numbers in prop::collection::vec((0.0..1e3_f64, -1e3..1e3_f64, -1e3..1e3_f64, 0.0..1e3_f64), 1..20),
            clip in prop::option::of(1e-3..1e3_f64),
            infinite: bool,
        ) {
            // A table need not be a sensible sampler to be written down.
            let mut steps: Vec<Step> = numbers
                .iter()
                .map(|&(to, state, denoised, noise)| Step { from: to, to, state, denoised, previous_denoised: -state, noise })
                .collect();
            if infinite {
                steps[0].from = f64::INFINITY;
            }
            let plan = Plan { prior_std: 1.5, steps, output_scale: 0.9, clip };
            let text = serde_json::to_string(&plan).unwrap();
            prop_assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        }
    }
}
