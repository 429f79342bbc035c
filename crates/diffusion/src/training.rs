//! Training a denoiser: spec of the run in, the task that the shared loop drives out.

use std::path::Path;

use burn::module::Module as _;
use burn::tensor::{Device, Tensor, TensorData};
use nn::{Conditions, Denoiser};
use rand::RngExt as _;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use train::adamw::AdamW;
use train::batches::Batches;
use train::ema::Ema;
use train::files::FileError;
use train::gradients::NamedGradients;
use train::metrics::Metrics;
use train::random::{EpochOrder, Purpose, stream};
use train::schedule::Schedule as LearningRate;
use train::trainer::{Evaluation, Task};

use crate::config::{ConfigError, TrainConfig};
use crate::data::Dataset;
use crate::error::DiffusionError;
use crate::model::{Model, ModelConfig, Statistics};
use crate::objective::{Example, Objective};

const WEIGHTS: &str = "weights.safetensors";
const AVERAGE: &str = "average.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// A denoiser in training, with its data.
#[derive(Debug)]
pub struct Training {
    config: TrainConfig,
    model: ModelConfig,
    objective: Objective,
    data: Dataset,
    held_out: Dataset,
    /// The checksum of both.
    fingerprint: String,
    batches: Batches,
    order: EpochOrder,
    learning_rate: LearningRate,
    steps: u64,
    /// Where training runs: the device with gradients.
    device: Device,
    network: Denoiser,
    optimizer: AdamW,
    average: Ema<Denoiser>,
}

/// What a checkpoint holds besides tensors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    average_updates: u64,
    /// The checksum of the data.
    data: String,
}

/// Noisy examples on the device.
struct Batch {
    input: Tensor<2>,
    target: Tensor<2>,
    weight: Tensor<2>,
    conditions: Conditions,
}

impl Training {
    /// Reads the data and builds network, optimiser and average.
    ///
    /// # Errors
    /// [`DiffusionError`] for a configuration that makes no run, or data that cannot be read.
    pub fn new(config: TrainConfig, device: &Device) -> Result<Self, DiffusionError> {
        config.check()?;
        let mut dataset = crate::data::open(&config.data, &config.data_options())?;
        if let Some(limit) = config.limit {
            dataset = dataset.limit(limit);
        }
        Self::on(config, &dataset, device)
    }

    /// The same for data that were read already.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn on(config: TrainConfig, dataset: &Dataset, device: &Device) -> Result<Self, DiffusionError> {
        let (data, held_out) = dataset.split(config.held_out_count(dataset.len()), config.seed)?;
        let network = config.denoiser(data.shape(), data.class_names().len())?;
        let statistics = Statistics::of(&data);
        let objective = config.objective(statistics.root_mean_square)?;
        let batches = Batches::new(config.batch_size, config.accumulate)?;
        let order = EpochOrder::new(config.seed, data.len()).map_err(|_| ConfigError::Value {
            key: "held-out",
            value: held_out.len().to_string(),
            remedy: "it leaves nothing to train on",
        })?;
        let steps = config.steps(data.len());
        let learning_rate = LearningRate::new(
            config.learning_rate,
            config.warmup_steps.min(steps),
            steps,
            config.learning_rate_schedule,
        )?;
        let device = device.clone().autodiff();
        let weights = network
            .build(&mut stream(config.seed, Purpose::INITIALIZATION, 0, 0), &device)
            .map_err(ConfigError::Network)?;
        let model = ModelConfig {
            network,
            prediction: config.prediction,
            process: config.process,
            schedule: config.schedule,
            zero_terminal_snr: config.zero_terminal_snr,
            shape: data.shape(),
            scaling: data.scaling().clone(),
            class_names: data.class_names().to_vec(),
            data: statistics,
        };
        Ok(Self {
            optimizer: AdamW::new(config.adamw()),
            average: Ema::new(&weights, config.ema_decay),
            network: weights,
            config,
            model,
            objective,
            data,
            held_out,
            fingerprint: dataset.fingerprint(),
            batches,
            order,
            learning_rate,
            steps,
            device,
        })
    }

    /// Optimiser steps of the whole run.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Number of trained parameters.
    pub fn parameters(&self) -> usize {
        self.network.num_params()
    }

    /// The samples trained on.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// The samples kept out of training.
    pub fn held_out(&self) -> &Dataset {
        &self.held_out
    }

    /// The model as it stands: the averaged weights.
    pub fn model(&self) -> Model {
        Model::new(
            self.model.clone(),
            self.average.average().clone(),
            &self.device.clone().inner(),
        )
    }

    /// Noisy examples of the given samples; `keys` address their randomness.
    fn examples(
        &self,
        data: &Dataset,
        indices: &[usize],
        keys: impl Fn(usize) -> (Purpose, Purpose, Purpose, u64) + Sync,
    ) -> Result<Vec<(Example, Option<u32>)>, DiffusionError> {
        let size = data.shape().values();
        let seed = self.config.seed;
        let make = |(i, &index): (usize, &usize)| {
            let mut clean = vec![0.0; size];
            data.sample_into(index, &mut clean);
            let (level, noise, dropout, number) = keys(i);
            let sigma = self.objective.levels.draw(&mut stream(seed, level, number, 0));
            let example = self
                .objective
                .example(&clean, sigma, &mut stream(seed, noise, number, 0))?;
            let hidden = stream(seed, dropout, number, 0).random::<f64>() < self.config.class_dropout;
            Ok((example, data.label(index).filter(|_| !hidden)))
        };
        indices.par_iter().enumerate().map(make).collect()
    }

    fn batch(examples: Vec<(Example, Option<u32>)>, device: &Device) -> Batch {
        let count = examples.len();
        let size = examples.first().map_or(0, |(example, _)| example.input.len());
        let (mut input, mut target) = (Vec::with_capacity(count * size), Vec::with_capacity(count * size));
        let (mut weight, mut noise, mut classes) = (Vec::new(), Vec::new(), Vec::new());
        for (example, class) in examples {
            input.extend(example.input);
            target.extend(example.target);
            weight.push(example.weight as f32);
            noise.push(example.noise);
            classes.push(class);
        }
        Batch {
            input: Tensor::from_data(TensorData::new(input, [count, size]), device),
            target: Tensor::from_data(TensorData::new(target, [count, size]), device),
            weight: Tensor::from_data(TensorData::new(weight, [count, 1]), device),
            conditions: Conditions { noise, classes },
        }
    }

    /// Sum over the batch of the weighted mean squared error.
    fn loss(network: &Denoiser, batch: Batch) -> Tensor<1> {
        let size = batch.input.dims()[1] as f64;
        let error = network.forward(batch.input, &batch.conditions) - batch.target;
        (error.clone() * error * batch.weight).sum().div_scalar(size)
    }
}

impl Task for Training {
    type Error = DiffusionError;

    fn step(&mut self, step: u64) -> Result<Metrics, DiffusionError> {
        let mut gradients = NamedGradients::default();
        let mut loss = 0.0;
        let batch_size = self.batches.batch() as f64;
        for part in self.batches.parts(step) {
            let indices = self.order.indices(part.start, (part.end - part.start) as usize);
            let keys = |i: usize| {
                let number = part.start + i as u64;
                (
                    Purpose::TRAINING_LEVEL,
                    Purpose::TRAINING_NOISE,
                    Purpose::CONDITION_DROPOUT,
                    number,
                )
            };
            let batch = Self::batch(self.examples(&self.data, &indices, keys)?, &self.device);
            // Normalised over the whole step's batch, so that parts add up to what one large batch gives.
            let part_loss = Self::loss(&self.network, batch).div_scalar(batch_size);
            gradients.add(&self.network, part_loss.backward());
            loss += f64::from(part_loss.into_scalar::<f32>());
        }
        let learning_rate = self.learning_rate.rate(step);
        let norm = self.optimizer.step(&mut self.network, gradients, learning_rate);
        self.average.update(&self.network);
        let epoch = (step + 1) as f64 * batch_size / self.data.len() as f64;
        Ok(Metrics::new()
            .mean("loss", loss)
            .mean("grad_norm", norm)
            .last("learning_rate", learning_rate)
            .last("epoch", epoch))
    }

    fn evaluate(&mut self, _step: u64) -> Result<Evaluation, DiffusionError> {
        let network = self.average.average();
        let device = self.device.clone().inner();
        let all: Vec<usize> = (0..self.held_out.len()).collect();
        let mut total = 0.0;
        for (chunk, indices) in all.chunks(self.config.batch_size).enumerate() {
            let first = chunk * self.config.batch_size;
            let keys = |i: usize| {
                let number = (first + i) as u64;
                (EVALUATION_LEVEL, Purpose::EVALUATION, EVALUATION_DROPOUT, number)
            };
            let batch = Self::batch(self.examples(&self.held_out, indices, keys)?, &device);
            total += f64::from(Self::loss(network, batch).into_scalar::<f32>());
        }
        let loss = total / self.held_out.len().max(1) as f64;
        Ok(Evaluation {
            metrics: Metrics::new().last("eval_loss", loss),
            images: Vec::new(),
        })
    }

    fn save(&self, directory: &Path) -> Result<(), DiffusionError> {
        train::parameters::save(&self.network, &directory.join(WEIGHTS))?;
        train::parameters::save(self.average.average(), &directory.join(AVERAGE))?;
        self.optimizer.save(&directory.join(OPTIMIZER))?;
        let path = directory.join(STATE);
        let state = State {
            average_updates: self.average.updates(),
            data: self.fingerprint.clone(),
        };
        let text = serde_json::to_vec(&state).map_err(|error| FileError::because("write", &path)(error.into()))?;
        Ok(std::fs::write(&path, text).map_err(FileError::because("write", path))?)
    }

    fn load(&mut self, directory: &Path) -> Result<(), DiffusionError> {
        let path = directory.join(STATE);
        let text = std::fs::read_to_string(&path).map_err(FileError::because("read", &path))?;
        let state: State = serde_json::from_str(&text).map_err(|error| DiffusionError::Model {
            path,
            reason: error.to_string(),
        })?;
        if state.data != self.fingerprint {
            return Err(DiffusionError::DataChanged {
                origin: self.data.origin().to_owned(),
                before: state.data,
                now: self.fingerprint.clone(),
            });
        }
        self.network = train::parameters::load(self.network.clone(), &directory.join(WEIGHTS))?;
        let average = train::parameters::load(self.average.average().clone(), &directory.join(AVERAGE))?;
        let device = self.device.clone().inner();
        self.optimizer = AdamW::load(self.config.adamw(), &directory.join(OPTIMIZER), &device)?;
        self.average = Ema::resume(average, self.config.ema_decay, state.average_updates);
        Ok(())
    }
}

const EVALUATION_LEVEL: Purpose = Purpose::named("evaluation level");
const EVALUATION_DROPOUT: Purpose = Purpose::named("evaluation condition dropout");
