//! A few training steps, with the batches that they saw.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::Device;
use diffusion::config::TrainConfig;
use diffusion::model::Statistics;
use diffusion::training::Training;
use rand::RngExt as _;
use serde::Deserialize;
use serde_json::json;
use train::random::{EpochOrder, Purpose, stream};
use train::tensors::{HostTensor, write_tensors};
use train::trainer::Task as _;

use crate::Answer;

/// A configuration and where its files go.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    config: TrainConfig,
    directory: PathBuf,
}

impl Train {
    /// Trains, writing `start/` and `end/` as checkpoints and `batches.safetensors` with `input.N`, `target.N` and
    /// `weight.N` of each step; answers the network's configuration, each step's metrics, noise and classes.
    pub fn answer(self) -> Answer {
        let Self { config, directory } = self;
        let mut training = Training::new(config.clone(), &Device::flex())?;
        for name in ["start", "end"] {
            std::fs::create_dir_all(directory.join(name))?;
        }
        training.save(&directory.join("start"))?;
        let (seed, size) = (config.seed, training.data().shape().values());
        let objective = config.objective(Statistics::of(training.data()).root_mean_square)?;
        let mut order = EpochOrder::new(seed, training.data().len())?;
        let mut tensors = BTreeMap::new();
        let mut steps = Vec::new();
        for step in 0..training.steps() {
            // The examples that the step draws, from the addresses that it draws them from. Were they others, the
            // losses would not be those of the batches.
            let first = step * config.batch_size as u64;
            let (mut input, mut target, mut weight) = (Vec::new(), Vec::new(), Vec::new());
            let (mut noise, mut classes) = (Vec::new(), Vec::new());
            for (number, index) in (first..).zip(order.indices(first, config.batch_size)) {
                let mut clean = vec![0.0; size];
                training.data().sample_into(index, &mut clean);
                let sigma = objective
                    .levels
                    .draw(&mut stream(seed, Purpose::TRAINING_LEVEL, number, 0));
                let example =
                    objective.example(&clean, sigma, &mut stream(seed, Purpose::TRAINING_NOISE, number, 0))?;
                let dropout = stream(seed, Purpose::CONDITION_DROPOUT, number, 0).random::<f64>();
                classes.push(training.data().label(index).filter(|_| dropout >= config.class_dropout));
                input.extend(example.input);
                target.extend(example.target);
                weight.push(example.weight as f32);
                noise.push(example.noise);
            }
            for (name, data) in [("input", input), ("target", target), ("weight", weight)] {
                let shape = vec![config.batch_size, data.len() / config.batch_size];
                tensors.insert(format!("{name}.{step}"), HostTensor { shape, data });
            }
            let metrics: BTreeMap<String, f64> = training
                .step(step)?
                .iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            steps.push(json!({ "metrics": metrics, "noise": noise, "classes": classes }));
        }
        training.save(&directory.join("end"))?;
        write_tensors(&directory.join("batches.safetensors"), &tensors, &BTreeMap::new())?;
        Ok(json!({ "network": training.model().config.network, "steps": steps }))
    }
}
