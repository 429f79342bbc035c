//! The optimiser steps of a language model's training, whatever it learns.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module as _;
use burn::tensor::Device;
use nn::decoder::TrainingPass;
use nn::hub::{Environment, Watch};
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use train::adamw::AdamW;
use train::files::FileError;
use train::fingerprint::Fingerprint;
use train::gradients::NamedGradients;
use train::metrics::Metrics;
use train::random::{EpochOrder, Purpose, permutation, stream};
use train::schedule::Schedule;
use train::trainer::{Evaluation, Task};

use super::config::{ConfigError, SaveDtype, TrainerConfig as _, TuningConfig};
use super::error::TuningError;
use super::examples::{Examples, Rule, Sample as _};
use super::objective::{Batch, Objective, Snapshot, Split, Update};
use super::plan::{Place, Plan};
use crate::data::{Dataset, MEMORY};
use crate::model::LanguageModel;

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
/// Tokens of an evaluation's batch.
const EVALUATION_TOKENS: usize = 4096;
/// Which examples are held out.
const HELD_OUT: Purpose = Purpose::named("held-out examples");

/// A language model in training, with its data.
#[derive(Debug)]
pub struct Tuner<O: Objective> {
    objective: O,
    /// On the device with gradients.
    model: LanguageModel,
    data: Part<O::Example>,
    evaluation: Option<Part<O::Example>>,
    plan: Plan,
    learning_rate: Schedule,
    optimizer: AdamW,
    /// Tokens that updates saw, over all steps.
    tokens_seen: u64,
    /// The checksums of the data and of the weights that are not trained.
    fingerprints: Fingerprints,
}

/// A step's examples, as the objective made them.
type Experience<O> = Batch<'static, <O as Objective>::Example>;

/// A data set and its examples.
#[derive(Debug)]
struct Part<E> {
    split: Split,
    data: Dataset,
    examples: Examples<E>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fingerprints {
    data: String,
    frozen: String,
}

/// What a checkpoint holds besides tensors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    tokens_seen: u64,
    #[serde(flatten)]
    fingerprints: Fingerprints,
    /// The objective's own.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    objective: Value,
}

impl<O: Objective> Tuner<O> {
    /// Opens model and data and builds the optimiser.
    ///
    /// # Errors
    ///
    /// [`TuningError`] for settings that make no run, and for models and data that cannot be read.
    pub fn new(
        mut objective: O,
        environment: &Environment,
        watch: &mut Watch<'_>,
        device: &Device,
    ) -> Result<Self, TuningError> {
        objective.config().check()?;
        let config = objective.config().tuning().clone();
        let lora = config.lora()?;
        // The data first: they are read in a moment, and what is wrong with them is better known before the weights are.
        let open = |path: &str| Dataset::open(&[path.into()], O::KIND, MEMORY);
        let mut data = open(&config.data)?;
        let mut evaluation = config.eval_data.as_deref().map(open).transpose()?;
        if config.held_out > 0 {
            let order = permutation(config.seed ^ HELD_OUT.value(), 0, data.len());
            let (rest, held_out) = data.split(config.held_out, &order)?;
            (data, evaluation) = (rest, Some(held_out));
        }
        let mut model = LanguageModel::open(&config.model, environment, watch, &device.clone().autodiff())?;
        let mut rng = stream(config.seed, Purpose::INITIALIZATION, 0, 0);
        objective.start(&mut model.decoder, &mut rng)?;
        match (lora, model.decoder.lora().is_some()) {
            (Some(_), true) => {
                return Err(TuningError::AdapterOnAdapter {
                    model: config.model.clone(),
                });
            }
            (Some(mut lora), false) => {
                let whole = O::TRAINED_WHOLE.iter().map(|&name| name.to_owned());
                lora.modules_to_save.extend(whole);
                model.decoder.adapt(&lora, &mut rng)?;
            }
            (None, true) if config.save_dtype != SaveDtype::F32 => {
                return Err(ConfigError::NoEffect {
                    key: "save-dtype",
                    circumstance: "with adapters, which are small and kept in f32",
                }
                .into());
            }
            (None, _) => {}
        }
        objective.begin(&mut model.decoder);
        let architecture = model.decoder.config();
        if let Some(positions) = architecture
            .learned_positions()
            .filter(|&most| config.max_length > most)
        {
            return Err(TuningError::Positions {
                max_length: config.max_length,
                positions,
            });
        }
        let adapters = model.decoder.lora().is_some();
        objective
            .config_mut()
            .tuning_mut()
            .resolve(&O::Config::DEFAULTS, adapters);
        let config = objective.config().tuning().clone();
        let rule = Rule {
            objective: &objective,
            tokenizer: &model.tokenizer,
            vocabulary: architecture.vocabulary_size,
        };
        let part = |split, data: Dataset| -> Result<_, TuningError> {
            let examples = Examples::new(&data, &rule)?;
            Ok(Part { split, data, examples })
        };
        let data = part(Split::Training, data)?;
        let evaluation = evaluation.map(|data| part(Split::Evaluation, data)).transpose()?;
        let order = if config.shuffle {
            EpochOrder::new(config.seed, data.examples.len())?
        } else {
            EpochOrder::sequential(data.examples.len())?
        };
        let lengths = Arc::clone(data.examples.lengths());
        let plan = Plan::new(order, lengths, config.step_size(), config.cut(), config.length())?;
        let learning_rate = Schedule::new(
            config.learning_rate.unwrap_or(O::Config::DEFAULTS.learning_rate),
            config.warmup_steps,
            plan.steps(),
            config.learning_rate_schedule,
        )?;
        let mut fingerprint = Fingerprint::default();
        data.data.fingerprint(&mut |piece| fingerprint.bytes(piece))?;
        if let Some(evaluation) = &evaluation {
            evaluation.data.fingerprint(&mut |piece| fingerprint.bytes(piece))?;
        }
        let fingerprints = Fingerprints {
            data: fingerprint.finish(),
            frozen: train::parameters::fingerprint_frozen(&model.decoder),
        };
        Ok(Self {
            optimizer: AdamW::new(config.adamw()),
            objective,
            model,
            data,
            evaluation,
            plan,
            learning_rate,
            tokens_seen: 0,
            fingerprints,
        })
    }

    /// Takes away what the model only needed to be trained.
    pub fn complete(&mut self) {
        self.objective.complete(&mut self.model.decoder);
    }

    fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            decoder: self.model.decoder.valid(),
            tokenizer: &self.model.tokenizer,
        }
    }

    /// Steps of the whole run.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.plan.steps()
    }

    /// The model as it stands.
    #[must_use]
    pub fn model(&self) -> &LanguageModel {
        &self.model
    }

    /// What is learned.
    #[must_use]
    pub fn objective(&self) -> &O {
        &self.objective
    }

    /// The settings, with everything filled in that was not given.
    #[must_use]
    pub fn config(&self) -> &O::Config {
        self.objective.config()
    }

    pub(crate) fn model_mut(&mut self) -> &mut LanguageModel {
        &mut self.model
    }

    pub(crate) fn objective_mut(&mut self) -> &mut O {
        &mut self.objective
    }

    /// The checksum of the rows.
    pub(crate) fn data_fingerprint(&self) -> &str {
        &self.fingerprints.data
    }

    /// The examples that the run will see.
    pub(crate) fn needed(&mut self) -> Vec<(Split, Vec<usize>)> {
        let evaluation = self
            .evaluation
            .iter()
            .map(|part| (part.split, (0..part.examples.len()).collect()));
        let mut needed: Vec<_> = evaluation.collect();
        needed.insert(0, (Split::Training, self.plan.examples()));
        needed
    }

    fn tuning(&self) -> &TuningConfig {
        self.config().tuning()
    }

    /// The examples trained on.
    #[must_use]
    pub fn examples(&self) -> &Examples<O::Example> {
        &self.data.examples
    }

    /// What the user should know, in sentences.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.model.warnings.clone();
        for part in std::iter::once(&self.data).chain(&self.evaluation) {
            let own = part.data.notes().into_iter();
            let counted = part.examples.counts().notes(self.tuning().max_length).into_iter();
            notes.extend(own.chain(counted).map(|note| format!("{}: {note}", part.data.origin())));
        }
        notes
    }

    /// Trained parameters, and all.
    #[must_use]
    pub fn parameters(&self) -> (usize, usize) {
        train::parameters::count(&self.model.decoder)
    }

    /// How rows become examples.
    pub(crate) fn rule(&self) -> Rule<'_, O> {
        Rule {
            objective: &self.objective,
            tokenizer: &self.model.tokenizer,
            vocabulary: self.model.decoder.config().vocabulary_size,
        }
    }

    fn batch<'a>(
        &'a self,
        part: &'a Part<O::Example>,
        numbers: impl Iterator<Item = usize>,
    ) -> Result<Batch<'a, O::Example>, TuningError> {
        let rule = self.rule();
        let get = |number| Ok((number, part.examples.get(number, &part.data, &rule)?));
        Ok(Batch {
            split: part.split,
            examples: numbers.map(get).collect::<Result<_, TuningError>>()?,
        })
    }

    /// A key for each token, which depends on its example's place in the run and its place in the example alone.
    fn dropout_keys(&self, examples: impl Iterator<Item = (Place, usize)>) -> Option<Arc<[u64]>> {
        let dropout = self.model.decoder.lora().map_or(0.0, |lora| lora.dropout);
        if dropout == 0.0 {
            return None;
        }
        let mut keys = Vec::new();
        for (place, tokens) in examples {
            let mut rng = stream(self.tuning().seed, Purpose::DROPOUT, place.position, 0);
            keys.extend((0..tokens).map(|_| rng.next_u64()));
        }
        Some(keys.into())
    }

    /// The examples of a step, and what the objective makes of them.
    fn experience(&mut self, step: u64, places: &[Place]) -> Result<(Experience<O>, O::Sums), TuningError> {
        let batch = self.batch(&self.data, places.iter().map(|place| place.example))?;
        let owned = |(number, example): (usize, Cow<'_, O::Example>)| (number, Cow::Owned(example.into_owned()));
        let mut batch = Batch {
            split: batch.split,
            examples: batch.examples.into_iter().map(owned).collect(),
        };
        let snapshot = Snapshot {
            decoder: self.model.decoder.valid(),
            tokenizer: &self.model.tokenizer,
        };
        let sums = self.objective.experience(&snapshot, &mut batch, step)?;
        Ok((batch, sums))
    }

    /// Batches of the examples `numbers`, of about [`EVALUATION_TOKENS`] each; none of data that there are not.
    pub(crate) fn batches<'a>(
        &'a self,
        split: Split,
        numbers: &'a [usize],
    ) -> impl Iterator<Item = Result<Batch<'a, O::Example>, TuningError>> {
        let part = match split {
            Split::Training => Some(&self.data),
            Split::Evaluation => self.evaluation.as_ref(),
        };
        part.into_iter().flat_map(|part| self.batches_of(part, numbers))
    }

    fn batches_of<'a>(
        &'a self,
        part: &'a Part<O::Example>,
        numbers: &'a [usize],
    ) -> impl Iterator<Item = Result<Batch<'a, O::Example>, TuningError>> {
        let mut rest = numbers;
        std::iter::from_fn(move || {
            let (mut count, mut tokens) = (0, 0);
            while count < rest.len() && (count == 0 || tokens < EVALUATION_TOKENS) {
                tokens += part.examples.lengths()[rest[count]] as usize;
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            rest = later;
            (count > 0).then(|| self.batch(part, now.iter().copied()))
        })
    }

    /// The metrics of held-out examples, if there are any.
    fn evaluate_part(&self, part: &Part<O::Example>) -> Result<Metrics, TuningError> {
        let snapshot = self.snapshot();
        let numbers: Vec<usize> = (0..part.examples.len()).collect();
        let mut sums = O::Sums::default();
        for batch in self.batches_of(part, &numbers) {
            sums += self.objective.evaluate(&snapshot, &batch?)?;
        }
        let total = numbers
            .iter()
            .map(|&number| f64::from(part.examples.weight(number)))
            .sum();
        let metrics = self.objective.metrics(&sums, total).into_iter();
        let metrics = metrics.fold(Metrics::new(), |metrics, (name, value)| {
            metrics.last(format!("eval_{name}"), value)
        });
        let measured = self.objective.measured().min(numbers.len());
        let examples = self.batch(part, 0..measured)?;
        let measured = self.objective.measure(&snapshot, &examples)?.into_iter();
        Ok(measured.fold(metrics, |metrics, (name, value)| metrics.last(name, value)))
    }
}

impl<O: Objective> Task for Tuner<O> {
    type Error = TuningError;

    fn step(&mut self, step: u64) -> Result<Metrics, TuningError> {
        let places = self.plan.places(step);
        let (batch, mut sums) = self.experience(step, &places)?;
        let learning_rate = self.learning_rate.rate(step);
        let (mut weights, mut tokens, mut norms, mut made) = (0.0, 0, 0.0, 0.0);
        for (number, chosen) in self.objective.updates(step, places.len()).into_iter().enumerate() {
            let seen = batch.part(&chosen);
            let lengths: Vec<usize> = seen.examples.iter().map(|(_, example)| example.tokens()).collect();
            let weight = |(_, example): &(usize, Cow<'_, O::Example>)| f64::from(self.objective.weight(example));
            let total: f64 = seen.examples.iter().map(weight).sum();
            let mut gradients = NamedGradients::default();
            let mut own = O::Sums::default();
            for part in self.plan.cut().parts(&lengths) {
                let keyed = part.clone().map(|at| (places[chosen[at]], lengths[at]));
                let pass = TrainingPass {
                    dropout: self.dropout_keys(keyed),
                    recompute: self.tuning().recompute,
                };
                let decoder = &self.model.decoder;
                let mut collect = |part| gradients.add(decoder, part);
                let part = batch.part(&chosen[part]);
                own += self
                    .objective
                    .differentiate(decoder, &part, &pass, total, &mut collect)?;
            }
            let gradient_norm = self.optimizer.step(&mut self.model.decoder, gradients, learning_rate);
            sums += own;
            weights += total;
            tokens += lengths.iter().sum::<usize>();
            norms += gradient_norm;
            made += 1.0;
            let update = Update {
                step,
                number,
                batch: &seen,
                sums: own,
                total,
                gradient_norm,
            };
            if self.objective.updated(&update)?.is_break() {
                break;
            }
        }
        self.tokens_seen += tokens as u64;
        let epoch = self.plan.seen(step + 1) as f64 / self.data.examples.len() as f64;
        let metrics = self.objective.metrics(&sums, weights).into_iter();
        let metrics = metrics.fold(Metrics::new(), |metrics, (name, value)| metrics.mean(name, value));
        Ok(metrics
            .mean("grad_norm", norms / made)
            .last("learning_rate", learning_rate)
            .last("epoch", epoch)
            .last("num_tokens", self.tokens_seen as f64)
            .mean("tokens", tokens as f64))
    }

    fn take_notes(&mut self) -> Vec<String> {
        self.objective.take_notes()
    }

    fn evaluate(&mut self, _step: u64) -> Result<Evaluation, TuningError> {
        let metrics = self.evaluation.as_ref().map(|part| self.evaluate_part(part));
        Ok(Evaluation {
            metrics: metrics.transpose()?.unwrap_or_default(),
            images: Vec::new(),
        })
    }

    fn save(&self, directory: &Path) -> Result<(), TuningError> {
        train::parameters::save_trained(&self.model.decoder, &directory.join(WEIGHTS))?;
        self.optimizer.save(&directory.join(OPTIMIZER))?;
        let path = directory.join(STATE);
        let state = State {
            tokens_seen: self.tokens_seen,
            fingerprints: self.fingerprints.clone(),
            objective: self.objective.state(),
        };
        let text = serde_json::to_vec(&state).map_err(|error| FileError::because("write", &path)(error.into()))?;
        Ok(std::fs::write(&path, text).map_err(FileError::because("write", path))?)
    }

    fn load(&mut self, directory: &Path) -> Result<(), TuningError> {
        let path = directory.join(STATE);
        let text = std::fs::read_to_string(&path).map_err(FileError::because("read", &path))?;
        let wrong = |reason: String| TuningError::State {
            path: path.clone(),
            reason,
        };
        let state: State = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        self.objective.restore(&state.objective).map_err(&wrong)?;
        let (before, now) = (&state.fingerprints, &self.fingerprints);
        for (what, before, now) in [
            (self.data.data.origin(), &before.data, &now.data),
            (self.tuning().model.as_str(), &before.frozen, &now.frozen),
        ] {
            if before != now {
                return Err(TuningError::Changed {
                    what: what.to_owned(),
                    before: before.clone(),
                    now: now.clone(),
                });
            }
        }
        self.load_weights(directory)?;
        let device = self.model.decoder.device().inner();
        self.optimizer = AdamW::load(self.tuning().adamw(), &directory.join(OPTIMIZER), &device)?;
        self.tokens_seen = state.tokens_seen;
        Ok(())
    }

    fn throughput(&self) -> Option<&str> {
        Some("tokens")
    }
}

impl<O: Objective> Tuner<O> {
    /// Reads the weights of a checkpoint, and nothing else.
    ///
    /// # Errors
    ///
    /// [`TuningError::Tensors`].
    pub fn load_weights(&mut self, directory: &Path) -> Result<(), TuningError> {
        let decoder = self.model.decoder.clone();
        self.model.decoder = train::parameters::load_trained(decoder, &directory.join(WEIGHTS))?;
        Ok(())
    }
}
