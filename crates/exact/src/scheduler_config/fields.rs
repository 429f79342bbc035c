//! The keys of the configuration files, and their checks.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{ConfigError, Scheduler, SchedulerConfig, TimestepSpacing, Warning};
use crate::prediction::Prediction;
use crate::schedule::{BetaShape, Schedule};

/// Schedules longer than this are taken for a typing error; each timestep costs memory.
const MOST_TIMESTEPS: usize = 1_000_000;

/// Every key that one of the classes reads, as its file has it. `None` is diffusers' default, which for some keys
/// depends on the class.
#[derive(Debug, Deserialize)]
struct Fields {
    num_train_timesteps: Option<usize>,
    beta_start: Option<f64>,
    beta_end: Option<f64>,
    beta_schedule: Option<String>,
    trained_betas: Option<Vec<f64>>,
    rescale_betas_zero_snr: Option<bool>,
    prediction_type: Option<String>,
    timestep_spacing: Option<TimestepSpacing>,
    steps_offset: Option<usize>,
    thresholding: Option<bool>,
    dynamic_thresholding_ratio: Option<f64>,
    sample_max_value: Option<f64>,
    clip_sample: Option<bool>,
    clip_sample_range: Option<f64>,
    variance_type: Option<String>,
    set_alpha_to_one: Option<bool>,
    solver_order: Option<u64>,
    algorithm_type: Option<String>,
    solver_type: Option<String>,
    lower_order_final: Option<bool>,
    euler_at_final: Option<bool>,
    final_sigmas_type: Option<String>,
    use_karras_sigmas: Option<bool>,
    use_exponential_sigmas: Option<bool>,
    use_beta_sigmas: Option<bool>,
    use_lu_lambdas: Option<bool>,
    use_flow_sigmas: Option<bool>,
    use_dynamic_shifting: Option<bool>,
    lambda_min_clipped: Option<f64>,
    flow_shift: Option<f64>,
    time_shift_type: Option<String>,
    skip_prk_steps: Option<bool>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Class {
    Ddpm,
    Ddim,
    DpmSolver,
}

impl Class {
    fn name(self) -> &'static str {
        match self {
            Self::Ddpm => "DDPMScheduler",
            Self::Ddim => "DDIMScheduler",
            Self::DpmSolver => "DPMSolverMultistepScheduler",
        }
    }

    fn parse(name: &str) -> Result<Self, ConfigError> {
        [Self::Ddpm, Self::Ddim, Self::DpmSolver]
            .into_iter()
            .find(|class| class.name() == name)
            .ok_or_else(|| ConfigError::Class(name.to_owned()))
    }
}

pub(super) fn parse(text: &str) -> Result<SchedulerConfig, ConfigError> {
    // diffusers writes DPM-Solver's default of minus infinity as Python does, which is not JSON.
    let text = text.replace("\"lambda_min_clipped\": -Infinity", "\"lambda_min_clipped\": null");
    let fields: Fields = serde_json::from_str(&text)?;
    let class = match fields.rest.get("_class_name") {
        Some(Value::String(name)) => Class::parse(name)?,
        _ => return Err(ConfigError::NoClass),
    };
    // Keys with an underscore describe the file.
    if let Some(key) = fields.rest.keys().find(|key| !key.starts_with('_')) {
        return Err(ConfigError::UnknownKey {
            key: key.clone(),
            class: class.name(),
        });
    }
    fields.refuse_unsupported(class)?;
    let schedule = fields.schedule()?;
    let prediction = fields.prediction()?;
    prediction.check(schedule.sigma_max())?;
    let spacing = fields.timestep_spacing.unwrap_or(match class {
        Class::DpmSolver => TimestepSpacing::Linspace,
        Class::Ddpm | Class::Ddim => TimestepSpacing::Leading,
    });
    let clip = (class != Class::DpmSolver && fields.clip_sample != Some(false))
        .then(|| fields.clip_sample_range.unwrap_or(1.0));
    if let Some(range) = clip.filter(|range| !(*range > 0.0 && range.is_finite())) {
        return Err(unsupported(
            "clip_sample_range",
            &range.to_string(),
            "give a positive, finite range",
        ));
    }
    Ok(SchedulerConfig {
        scheduler: fields.scheduler(class)?,
        warnings: fields.warnings(class, spacing, clip),
        schedule,
        prediction,
        spacing,
        offset: fields.steps_offset.unwrap_or(0),
        clip,
    })
}

fn unsupported(key: &'static str, value: &str, remedy: &'static str) -> ConfigError {
    ConfigError::Unsupported {
        key,
        value: value.to_owned(),
        remedy,
    }
}

impl Fields {
    /// Options that would change the result and have no plan here.
    fn refuse_unsupported(&self, class: Class) -> Result<(), ConfigError> {
        if self.thresholding == Some(true) {
            return Err(unsupported(
                "thresholding",
                "true",
                "its clamp depends on the sample; set it to false",
            ));
        }
        if class != Class::DpmSolver {
            return Ok(());
        }
        for (key, value) in [
            ("use_exponential_sigmas", self.use_exponential_sigmas),
            ("use_beta_sigmas", self.use_beta_sigmas),
            ("use_lu_lambdas", self.use_lu_lambdas),
            ("use_flow_sigmas", self.use_flow_sigmas),
            ("use_dynamic_shifting", self.use_dynamic_shifting),
        ] {
            if value == Some(true) {
                return Err(unsupported(key, "true", "use Karras's levels or the timestep spacings"));
            }
        }
        for (key, value, only, remedy) in [
            ("algorithm_type", &self.algorithm_type, "dpmsolver++", "use dpmsolver++"),
            ("solver_type", &self.solver_type, "midpoint", "use midpoint"),
            ("final_sigmas_type", &self.final_sigmas_type, "zero", "use zero"),
        ] {
            if let Some(value) = value.as_deref().filter(|value| *value != only) {
                return Err(unsupported(key, &format!("{value:?}"), remedy));
            }
        }
        match (self.lambda_min_clipped, &self.variance_type) {
            (Some(bound), _) => Err(unsupported("lambda_min_clipped", &bound.to_string(), "remove it")),
            (_, Some(kind)) => Err(unsupported(
                "variance_type",
                kind,
                "a learned variance needs the network's own",
            )),
            _ => Ok(()),
        }
    }

    fn scheduler(&self, class: Class) -> Result<Scheduler, ConfigError> {
        match class {
            Class::Ddim => Ok(Scheduler::Ddim {
                ends_clean: self.set_alpha_to_one.unwrap_or(true),
            }),
            Class::Ddpm => {
                let kind = self.variance_type.as_deref().unwrap_or("fixed_small");
                let large_variance = match kind {
                    "fixed_small" | "fixed_small_log" => false,
                    "fixed_large" | "fixed_large_log" => true,
                    other => {
                        let remedy = "use fixed_small or fixed_large; a learned variance needs the network's own";
                        return Err(unsupported("variance_type", &format!("{other:?}"), remedy));
                    }
                };
                Ok(Scheduler::Ddpm { large_variance })
            }
            Class::DpmSolver => {
                let second_order = match self.solver_order.unwrap_or(2) {
                    1 => false,
                    2 => true,
                    other => return Err(unsupported("solver_order", &other.to_string(), "use 1 or 2")),
                };
                Ok(Scheduler::DpmSolver {
                    second_order,
                    karras: self.use_karras_sigmas.unwrap_or(false),
                })
            }
        }
    }

    fn schedule(&self) -> Result<Schedule, ConfigError> {
        let timesteps = self.num_train_timesteps.unwrap_or(1000);
        if timesteps > MOST_TIMESTEPS {
            let remedy = "training schedules have at most a million timesteps";
            return Err(unsupported("num_train_timesteps", &timesteps.to_string(), remedy));
        }
        let (start, end) = (self.beta_start.unwrap_or(1e-4), self.beta_end.unwrap_or(0.02));
        let shape = match (&self.trained_betas, self.beta_schedule.as_deref().unwrap_or("linear")) {
            (Some(betas), _) => BetaShape::Betas(betas.clone()),
            (None, "linear") => BetaShape::Linear { start, end },
            (None, "scaled_linear") => BetaShape::ScaledLinear { start, end },
            (None, "squaredcos_cap_v2") => BetaShape::Cosine,
            (None, "sigmoid") => BetaShape::Sigmoid { start, end },
            (None, "laplace") => BetaShape::Laplace,
            (None, other) => {
                let remedy = "use linear, scaled_linear, squaredcos_cap_v2, sigmoid or laplace";
                return Err(unsupported("beta_schedule", &format!("{other:?}"), remedy));
            }
        };
        let schedule = Schedule::new(&shape, timesteps)?;
        match self.rescale_betas_zero_snr {
            Some(true) => Ok(schedule.rescaled_to_zero_terminal_snr()?),
            _ => Ok(schedule),
        }
    }

    fn prediction(&self) -> Result<Prediction, ConfigError> {
        match self.prediction_type.as_deref().unwrap_or("epsilon") {
            "epsilon" => Ok(Prediction::Epsilon),
            "sample" => Ok(Prediction::Sample),
            "v_prediction" => Ok(Prediction::Velocity),
            other => {
                let remedy = "use epsilon, sample or v_prediction";
                Err(unsupported("prediction_type", &format!("{other:?}"), remedy))
            }
        }
    }

    fn warnings(&self, class: Class, spacing: TimestepSpacing, clip: Option<f64>) -> Vec<Warning> {
        let mut warnings = Vec::new();
        if let Some(range) = clip {
            warnings.push(Warning::ClipsEstimate {
                range,
                keeps_noise: class == Class::Ddim,
            });
        }
        if class != Class::Ddpm
            && let (None, Some(schedule @ ("sigmoid" | "laplace"))) =
                (&self.trained_betas, self.beta_schedule.as_deref())
        {
            warnings.push(Warning::ScheduleRefused {
                schedule: schedule.to_owned(),
                class: class.name(),
            });
        }
        if self.variance_type.as_deref() == Some("fixed_large_log") && class == Class::Ddpm {
            warnings.push(Warning::NotANumber);
        }
        if class == Class::DpmSolver && self.rescale_betas_zero_snr == Some(true) {
            warnings.push(Warning::TerminalLevelReplaced);
        }
        // diffusers writes all defaults into its files: only what differs from them was meant to do something.
        let differs = |set: bool, key: &'static str| set.then_some(Warning::KeyWithoutEffect { key });
        let trained = self.trained_betas.is_some();
        let solver = class == Class::DpmSolver;
        warnings.extend(
            [
                differs(
                    trained && self.beta_start.is_some_and(|value| value != 1e-4),
                    "beta_start",
                ),
                differs(trained && self.beta_end.is_some_and(|value| value != 0.02), "beta_end"),
                differs(
                    trained && self.beta_schedule.as_ref().is_some_and(|name| name != "linear"),
                    "beta_schedule",
                ),
                differs(
                    self.dynamic_thresholding_ratio.is_some_and(|value| value != 0.995),
                    "dynamic_thresholding_ratio",
                ),
                differs(
                    self.sample_max_value.is_some_and(|value| value != 1.0),
                    "sample_max_value",
                ),
                differs(
                    clip.is_none() && self.clip_sample_range.is_some_and(|value| value != 1.0),
                    "clip_sample_range",
                ),
                differs(solver && self.clip_sample == Some(true), "clip_sample"),
                differs(class == Class::Ddim && self.variance_type.is_some(), "variance_type"),
                differs(
                    class != Class::Ddim && self.set_alpha_to_one == Some(false),
                    "set_alpha_to_one",
                ),
                differs(self.skip_prk_steps == Some(true), "skip_prk_steps"),
                differs(
                    spacing != TimestepSpacing::Leading && self.steps_offset.is_some_and(|value| value != 0),
                    "steps_offset",
                ),
                // Level 0 at the end makes the last step first order anyway.
                differs(self.lower_order_final == Some(false), "lower_order_final"),
                differs(self.euler_at_final == Some(true), "euler_at_final"),
                differs(self.flow_shift.is_some_and(|value| value != 1.0), "flow_shift"),
                differs(
                    self.time_shift_type.as_ref().is_some_and(|name| name != "exponential"),
                    "time_shift_type",
                ),
                differs(!solver && self.use_karras_sigmas == Some(true), "use_karras_sigmas"),
                differs(
                    !solver && self.use_exponential_sigmas == Some(true),
                    "use_exponential_sigmas",
                ),
                differs(!solver && self.use_beta_sigmas == Some(true), "use_beta_sigmas"),
                differs(!solver && self.use_lu_lambdas == Some(true), "use_lu_lambdas"),
                differs(!solver && self.use_flow_sigmas == Some(true), "use_flow_sigmas"),
                differs(
                    !solver && self.use_dynamic_shifting == Some(true),
                    "use_dynamic_shifting",
                ),
                differs(!solver && self.lambda_min_clipped.is_some(), "lambda_min_clipped"),
                differs(!solver && self.solver_order.is_some(), "solver_order"),
                differs(!solver && self.algorithm_type.is_some(), "algorithm_type"),
                differs(!solver && self.solver_type.is_some(), "solver_type"),
                differs(!solver && self.final_sigmas_type.is_some(), "final_sigmas_type"),
            ]
            .into_iter()
            .flatten(),
        );
        warnings
    }
}
