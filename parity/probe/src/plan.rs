//! Running a configuration's plan with given network outputs.

use std::cell::Cell;

use diffusion::sample::{Denoise, Request, run};
use exact::prediction::{Prediction, PredictionError};
use exact::scheduler_config::Warning;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::{Value, json};
use train::random::{Purpose, fill_normal_f64, stream};

use crate::Answer;
use crate::schedule::{from_common, number, read};

/// A scheduler configuration, how it is to be sampled, and what the network puts out in each row.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunPlan {
    config: String,
    steps: usize,
    eta: Option<f64>,
    seed: u64,
    /// One list per network evaluation; at least as many as the plan has rows.
    outputs: Vec<Vec<f64>>,
}

/// A network that was asked before.
struct Given<'a> {
    prediction: Prediction,
    outputs: &'a [Vec<f64>],
    asked: Cell<usize>,
}

impl Denoise for Given<'_> {
    type Error = PredictionError;

    fn sample_size(&self) -> usize {
        self.outputs.first().map_or(0, Vec::len)
    }

    fn estimate(&self, states: &[f64], sigma: f64, _classes: &[Option<u32>]) -> Result<Vec<f64>, PredictionError> {
        let row = self.asked.replace(self.asked.get() + 1);
        let denoised = self.prediction.to_denoised(sigma)?;
        let outputs = self.outputs.get(row).into_iter().flatten();
        Ok(states
            .iter()
            .zip(outputs)
            .map(|(state, output)| denoised.apply(*state, *output))
            .collect())
    }
}

impl RunPlan {
    /// Start, noise and states in variance-preserving coordinates, the rows themselves, and the warnings.
    pub fn answer(self) -> Answer {
        let config = read(&self.config)?;
        let made = config.plan(self.steps, self.eta)?;
        let plan = &made.plan;
        if self.outputs.len() < plan.steps.len() {
            return Err(format!("{} rows need as many outputs", plan.steps.len()).into());
        }
        let given = Given {
            prediction: config.prediction,
            outputs: &self.outputs,
            asked: Cell::new(0),
        };
        let size = given.sample_size();
        let request = Request {
            seed: self.seed,
            first: 0,
            classes: vec![None],
            batch_size: 1,
        };
        let (mut states, mut estimates) = (Vec::new(), Vec::new());
        let output = run(plan, &given, &request, |moment| {
            let scaled = moment.states.iter().map(|state| from_common(*state, moment.step.to));
            states.push(scaled.collect::<Vec<_>>());
            estimates.push(moment.estimates.to_vec());
        })?;
        // The same addresses that the sampler draws from.
        let noise = |row: usize| normal(stream(self.seed, Purpose::SAMPLE_NOISE, 0, row as u64), size);
        let first = plan.steps[0].from;
        let start = normal(stream(self.seed, Purpose::SAMPLE_START, 0, 0), size);
        let start: Vec<f64> = start
            .iter()
            .map(|value| from_common(value * plan.prior_std, first))
            .collect();
        Ok(json!({
            "start": start,
            "noise": (0..plan.steps.len()).map(noise).collect::<Vec<_>>(),
            "rows": plan.steps.iter().map(|step| json!({
                "from": number(step.from), "to": step.to, "noise": step.noise,
            })).collect::<Vec<_>>(),
            "states": states,
            "estimates": estimates,
            "output": output,
            "warnings": made.warnings.iter().map(warning).collect::<Vec<_>>(),
        }))
    }
}

fn normal(mut stream: ChaCha8Rng, size: usize) -> Vec<f64> {
    let mut values = vec![0.0; size];
    fill_normal_f64(&mut stream, &mut values);
    values
}

/// A warning's name and text.
fn warning(warning: &Warning) -> Value {
    let debug = format!("{warning:?}");
    let name: String = debug
        .chars()
        .take_while(|character| character.is_alphanumeric())
        .collect();
    json!({ "name": name, "text": warning.to_string() })
}

/// Where samples start.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    seed: u64,
    samples: u64,
    size: usize,
}

impl Start {
    /// The unit noise from which each sample of a seed starts.
    pub fn answer(self) -> Answer {
        let start = |sample| normal(stream(self.seed, Purpose::SAMPLE_START, sample, 0), self.size);
        Ok(json!((0..self.samples).map(start).collect::<Vec<_>>()))
    }
}
