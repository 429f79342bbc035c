//! Noise schedules, forward noising, conversions between predictions, learning rates.

use exact::prediction::Prediction;
use exact::process::Process;
use exact::scheduler_config::SchedulerConfig;
use serde::Deserialize;
use serde_json::{Value, json};
use train::schedule::{Decay, Schedule as Rates};

use crate::Answer;

const PROCESS: Process = Process::VariancePreserving;

/// The text of a `scheduler_config.json`.
pub fn read(config: &str) -> Result<SchedulerConfig, Box<dyn std::error::Error>> {
    Ok(SchedulerConfig::from_json(config)?)
}

/// A level for JSON, which has no infinity.
pub fn number(sigma: f64) -> Value {
    if sigma.is_infinite() {
        json!("inf")
    } else {
        json!(sigma)
    }
}

/// All training timesteps' levels.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Levels {
    config: String,
}

impl Levels {
    /// `sigma`, `abar` and `1 - abar` of every timestep.
    pub fn answer(self) -> Answer {
        let schedule = read(&self.config)?.schedule;
        let all = 0..schedule.len();
        Ok(json!({
            "sigma": all.clone().map(|timestep| number(schedule.sigma(timestep))).collect::<Vec<_>>(),
            "alpha_bar": all.clone().map(|timestep| schedule.alpha_bar(timestep)).collect::<Vec<_>>(),
            "one_minus_alpha_bar": all.map(|timestep| schedule.one_minus_alpha_bar(timestep)).collect::<Vec<_>>(),
        }))
    }
}

/// The law of noisy states: one timestep for each clean value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    config: String,
    timesteps: Vec<usize>,
    clean: Vec<f64>,
}

impl Forward {
    /// Mean and standard deviation of `q(y_t | x_0)`.
    pub fn answer(self) -> Answer {
        let schedule = read(&self.config)?.schedule;
        let laws = self.timesteps.iter().zip(&self.clean);
        let laws: Vec<_> = laws
            .map(|(timestep, clean)| PROCESS.forward(*clean, schedule.sigma(*timestep)))
            .collect();
        Ok(json!({
            "mean": laws.iter().map(|law| law.mean).collect::<Vec<_>>(),
            "std": laws.iter().map(|law| law.variance.sqrt()).collect::<Vec<_>>(),
        }))
    }
}

/// Predictions in other terms: one timestep, variance-preserving state and value each.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Convert {
    config: String,
    from: Prediction,
    to: Prediction,
    timesteps: Vec<usize>,
    states: Vec<f64>,
    values: Vec<f64>,
}

impl Convert {
    /// The converted values.
    pub fn answer(self) -> Answer {
        let schedule = read(&self.config)?.schedule;
        let mut converted = Vec::with_capacity(self.values.len());
        for ((&timestep, state), &value) in self.timesteps.iter().zip(&self.states).zip(&self.values) {
            let sigma = schedule.sigma(timestep);
            converted.push(
                self.from
                    .convert(self.to, sigma)?
                    .apply(to_common(*state, sigma), value),
            );
        }
        Ok(json!(converted))
    }
}

/// A variance-preserving state in the coordinate of plans; at an infinite level both are the unit noise.
pub fn to_common(state: f64, sigma: f64) -> f64 {
    if sigma.is_infinite() {
        state
    } else {
        state / PROCESS.signal(sigma)
    }
}

/// The inverse of [`to_common`].
pub fn from_common(state: f64, sigma: f64) -> f64 {
    if sigma.is_infinite() {
        state
    } else {
        state * PROCESS.signal(sigma)
    }
}

/// Learning rates over a run.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearningRate {
    peak: f64,
    warmup: u64,
    steps: u64,
    decay: Decay,
}

impl LearningRate {
    /// The rate of each step.
    pub fn answer(self) -> Answer {
        let rates = Rates::new(self.peak, self.warmup, self.steps, self.decay)?;
        Ok(json!((0..self.steps).map(|step| rates.rate(step)).collect::<Vec<_>>()))
    }
}
