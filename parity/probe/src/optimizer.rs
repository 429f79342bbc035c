//! AdamW, gradient clipping and the running average, driven with given gradients.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;
use serde_json::json;
use train::adamw::{AdamW, AdamWConfig};
use train::ema::Ema;
use train::gradients::NamedGradients;

use crate::Answer;

/// Vectors to optimise.
#[derive(Module, Debug)]
struct Vectors {
    values: Vec<Param<Tensor<1>>>,
}

impl Vectors {
    fn host(&self) -> Vec<Vec<f32>> {
        let read = |value: &Param<Tensor<1>>| {
            value
                .val()
                .into_data()
                .convert::<f32>()
                .try_into_vec()
                .unwrap_or_default()
        };
        self.values.iter().map(read).collect()
    }
}

/// Parameters, and the gradient and learning rate of each step.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimize {
    adamw: AdamWConfig,
    ema_decay: f64,
    parameters: Vec<Vec<f32>>,
    gradients: Vec<Vec<Vec<f32>>>,
    learning_rates: Vec<f64>,
}

impl Optimize {
    /// After each step: the parameters, the gradient's norm before clipping, and the average.
    pub fn answer(self) -> Answer {
        let device = Device::flex().autodiff();
        let vector = |values: &Vec<f32>| TensorData::new(values.clone(), [values.len()]);
        let values = self
            .parameters
            .iter()
            .map(|values| Param::from_data(vector(values), &device));
        let mut vectors = Vectors {
            values: values.collect(),
        };
        let mut optimizer = AdamW::new(self.adamw);
        let mut average = Ema::new(&vectors, self.ema_decay);
        let mut steps = Vec::new();
        for (gradients, learning_rate) in self.gradients.iter().zip(&self.learning_rates) {
            // The gradient of sum(parameter · constant) is the constant.
            let terms =
                vectors.values.iter().zip(gradients).map(|(parameter, gradient)| {
                    (parameter.val() * Tensor::from_data(vector(gradient), &device)).sum()
                });
            let loss = terms.reduce(|sum, term| sum + term).ok_or("there are no parameters")?;
            let mut named = NamedGradients::default();
            named.add(&vectors, loss.backward());
            let norm = optimizer.step(&mut vectors, named, *learning_rate);
            average.update(&vectors);
            steps.push(json!({ "parameters": vectors.host(), "norm": norm, "average": average.average().host() }));
        }
        Ok(json!(steps))
    }
}
