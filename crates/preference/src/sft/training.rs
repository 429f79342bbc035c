//! The optimiser steps of supervised fine-tuning.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module as _;
use burn::tensor::{Device, Tensor};
use nn::decoder::{Decoder, TrainingPass};
use nn::hub::{Environment, Watch};
use ops::{Forest, TokenLogProb};
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use train::adamw::AdamW;
use train::files::FileError;
use train::fingerprint::Fingerprint;
use train::gradients::NamedGradients;
use train::metrics::Metrics;
use train::random::{EpochOrder, Purpose, permutation, stream};
use train::schedule::Schedule;
use train::trainer::{Evaluation, Task};

use super::config::{ConfigError, SaveDtype, SftConfig};
use super::error::SftError;
use super::examples::{Examples, Rule};
use super::plan::{Place, Plan};
use crate::data::{Dataset, Kind, MEMORY};
use crate::model::LanguageModel;
use crate::text::Trace;

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
/// Tokens of an evaluation's batch.
const EVALUATION_TOKENS: usize = 4096;
/// Which examples are held out.
const HELD_OUT: Purpose = Purpose::named("held-out examples");

/// A language model in training, with its data.
#[derive(Debug)]
pub struct Sft {
    config: SftConfig,
    /// On the device with gradients.
    model: LanguageModel,
    data: Part,
    evaluation: Option<Part>,
    plan: Plan,
    learning_rate: Schedule,
    optimizer: AdamW,
    /// Tokens that went through the network, over all steps.
    tokens_seen: u64,
    /// The checksums of the data and of the weights that are not trained.
    fingerprints: Fingerprints,
}

/// A data set and its examples.
#[derive(Debug)]
struct Part {
    data: Dataset,
    examples: Examples,
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
}

/// Sequences side by side, and what is learned of them.
#[derive(Debug, Default)]
struct Batch {
    tokens: Vec<u32>,
    forest: Forest,
    /// The rows that foretell what is learned.
    rows: Vec<usize>,
    /// What is learned.
    targets: Vec<u32>,
}

/// Sums over learned tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    log_prob: f64,
    entropy: f64,
    correct: f64,
}

impl Batch {
    fn push(&mut self, trace: &Trace) {
        let start = self.tokens.len();
        self.forest.push(trace.ids.len(), None);
        self.tokens.extend(&trace.ids);
        for (at, (&id, &learned)) in trace.ids.iter().zip(&trace.learned).enumerate().skip(1) {
            if learned {
                self.rows.push(start + at - 1);
                self.targets.push(id);
            }
        }
    }
}

impl Sums {
    fn of(found: &TokenLogProb) -> Self {
        let sum = |tensor: &Tensor<1>| -> f64 {
            let values = tensor.clone().into_data().convert::<f32>().try_into_vec::<f32>();
            values.unwrap_or_default().into_iter().map(f64::from).sum()
        };
        Self {
            log_prob: sum(&found.log_prob),
            entropy: sum(&found.entropy),
            correct: sum(&found.correct),
        }
    }

    fn add(&mut self, other: Self) {
        self.log_prob += other.log_prob;
        self.entropy += other.entropy;
        self.correct += other.correct;
    }
}

impl Sft {
    /// Opens model and data and builds the optimiser.
    ///
    /// # Errors
    ///
    /// [`SftError`] for settings that make no run, and for models and data that cannot be read.
    pub fn new(
        config: SftConfig,
        environment: &Environment,
        watch: &mut Watch<'_>,
        device: &Device,
    ) -> Result<Self, SftError> {
        config.check()?;
        let lora = config.lora()?;
        // The data first: they are read in a moment, and what is wrong with them is better known before the weights are.
        let open = |path: &str| Dataset::open(&[path.into()], Kind::LanguageModelling, MEMORY);
        let mut data = open(&config.data)?;
        let mut evaluation = config.eval_data.as_deref().map(open).transpose()?;
        if config.held_out > 0 {
            let order = permutation(config.seed ^ HELD_OUT.value(), 0, data.len());
            let (rest, held_out) = data.split(config.held_out, &order)?;
            (data, evaluation) = (rest, Some(held_out));
        }
        let mut model = LanguageModel::open(&config.model, environment, watch, &device.clone().autodiff())?;
        match (lora, model.decoder.lora().is_some()) {
            (Some(_), true) => {
                return Err(SftError::AdapterOnAdapter {
                    model: config.model.clone(),
                });
            }
            (Some(lora), false) => {
                let mut rng = stream(config.seed, Purpose::INITIALIZATION, 0, 0);
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
        let architecture = model.decoder.config();
        if let Some(positions) = architecture
            .learned_positions()
            .filter(|&most| config.max_length > most)
        {
            return Err(SftError::Positions {
                max_length: config.max_length,
                positions,
            });
        }
        let rule = Rule {
            config: &config,
            tokenizer: &model.tokenizer,
            vocabulary: architecture.vocabulary_size,
        };
        let part = |data: Dataset| -> Result<Part, SftError> {
            let examples = Examples::new(&data, &rule)?;
            Ok(Part { data, examples })
        };
        let (data, evaluation) = (part(data)?, evaluation.map(part).transpose()?);
        let order = if config.shuffle {
            EpochOrder::new(config.seed, data.examples.len())?
        } else {
            EpochOrder::sequential(data.examples.len())?
        };
        let lengths = Arc::clone(data.examples.lengths());
        let plan = Plan::new(order, lengths, config.step_size(), config.cut(), config.length())?;
        let default = if model.decoder.lora().is_some() { 2e-4 } else { 2e-5 };
        let learning_rate = Schedule::new(
            config.learning_rate.unwrap_or(default),
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
            config,
            model,
            data,
            evaluation,
            plan,
            learning_rate,
            tokens_seen: 0,
            fingerprints,
        })
    }

    /// Optimiser steps of the whole run.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.plan.steps()
    }

    /// The model as it stands.
    #[must_use]
    pub fn model(&self) -> &LanguageModel {
        &self.model
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &SftConfig {
        &self.config
    }

    /// The examples trained on.
    #[must_use]
    pub fn examples(&self) -> &Examples {
        &self.data.examples
    }

    /// The examples evaluated on.
    #[must_use]
    pub fn evaluation_examples(&self) -> Option<&Examples> {
        self.evaluation.as_ref().map(|part| &part.examples)
    }

    /// What the user should know, in sentences.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.model.warnings.clone();
        for part in std::iter::once(&self.data).chain(&self.evaluation) {
            let own = part.data.notes().into_iter();
            let counted = part.examples.counts().notes(self.config.max_length).into_iter();
            notes.extend(own.chain(counted).map(|note| format!("{}: {note}", part.data.origin())));
        }
        notes
    }

    /// Trained parameters, and all.
    #[must_use]
    pub fn parameters(&self) -> (usize, usize) {
        train::parameters::count(&self.model.decoder)
    }

    fn rule(&self) -> Rule<'_> {
        Rule {
            config: &self.config,
            tokenizer: &self.model.tokenizer,
            vocabulary: self.model.decoder.config().vocabulary_size,
        }
    }

    fn batch(&self, part: &Part, examples: impl Iterator<Item = usize>) -> Result<Batch, SftError> {
        let mut batch = Batch::default();
        for example in examples {
            batch.push(&*part.examples.get(example, &part.data, &self.rule())?);
        }
        Ok(batch)
    }

    /// A key for each token, which depends on its example's place in the run and its place in the example alone.
    fn dropout_keys(&self, places: &[Place]) -> Option<Arc<[u64]>> {
        let dropout = self.model.decoder.lora().map_or(0.0, |lora| lora.dropout);
        if dropout == 0.0 {
            return None;
        }
        let mut keys = Vec::new();
        for place in places {
            let mut rng = stream(self.config.seed, Purpose::DROPOUT, place.position, 0);
            let length = self.data.examples.lengths()[place.example];
            keys.extend((0..length).map(|_| rng.next_u64()));
        }
        Some(keys.into())
    }

    /// The gradients of one part of a step with `learned` learned tokens in all.
    fn part(&self, places: &[Place], learned: f64, gradients: &mut NamedGradients) -> Result<(Sums, usize), SftError> {
        let decoder = &self.model.decoder;
        let Batch {
            tokens,
            forest,
            rows,
            targets,
        } = self.batch(&self.data, places.iter().map(|place| place.example))?;
        let pass = TrainingPass {
            dropout: self.dropout_keys(places),
            recompute: self.config.recompute,
        };
        let mut sums = Sums::default();
        let loss = |hidden: Tensor<2>| {
            // Normalised over the whole step, so that parts add up to what one large batch gives.
            let weights = vec![(-1.0 / learned) as f32; rows.len()];
            let (loss, found) = decoder.token_log_prob_sum(hidden, &rows, targets.into(), weights.into(), 1.0);
            sums = Sums::of(&found);
            loss
        };
        decoder.gradients(&tokens, &forest, &pass, loss, &mut |part| gradients.add(decoder, part));
        Ok((sums, tokens.len()))
    }

    /// Sums over the learned tokens of an evaluation, and their number.
    fn evaluate_part(&self, part: &Part) -> Result<(Sums, f64), SftError> {
        let decoder: Decoder = self.model.decoder.valid();
        let (mut sums, mut learned) = (Sums::default(), 0.0);
        let mut start = 0;
        while start < part.examples.len() {
            let mut end = start;
            let mut tokens = 0;
            while end < part.examples.len() && (end == start || tokens < EVALUATION_TOKENS) {
                tokens += part.examples.lengths()[end] as usize;
                end += 1;
            }
            let batch = self.batch(part, start..end)?;
            learned += batch.rows.len() as f64;
            let hidden = decoder.hidden(&batch.tokens, &batch.forest);
            sums.add(Sums::of(&decoder.token_log_prob(
                hidden,
                &batch.rows,
                batch.targets.into(),
                1.0,
            )));
            start = end;
        }
        Ok((sums, learned))
    }
}

impl Task for Sft {
    type Error = SftError;

    fn step(&mut self, step: u64) -> Result<Metrics, SftError> {
        let parts = self.plan.parts(step);
        let places = || parts.iter().flatten();
        let learned: f64 = places()
            .map(|place| f64::from(self.data.examples.learned(place.example)))
            .sum();
        let mut gradients = NamedGradients::default();
        let (mut sums, mut tokens) = (Sums::default(), 0);
        for part in &parts {
            let (found, count) = self.part(part, learned, &mut gradients)?;
            sums.add(found);
            tokens += count;
        }
        let learning_rate = self.learning_rate.rate(step);
        let norm = self.optimizer.step(&mut self.model.decoder, gradients, learning_rate);
        self.tokens_seen += tokens as u64;
        let epoch = self.plan.seen(step + 1) as f64 / self.data.examples.len() as f64;
        Ok(Metrics::new()
            .mean("loss", -sums.log_prob / learned)
            .mean("grad_norm", norm)
            .last("learning_rate", learning_rate)
            .last("epoch", epoch)
            .mean("mean_token_accuracy", sums.correct / learned)
            .mean("entropy", sums.entropy / learned)
            .last("num_tokens", self.tokens_seen as f64)
            .mean("tokens", tokens as f64))
    }

    fn evaluate(&mut self, _step: u64) -> Result<Evaluation, SftError> {
        let mut metrics = Metrics::new();
        if let Some(part) = &self.evaluation {
            let (sums, learned) = self.evaluate_part(part)?;
            metrics = metrics
                .last("eval_loss", -sums.log_prob / learned)
                .last("eval_mean_token_accuracy", sums.correct / learned)
                .last("eval_entropy", sums.entropy / learned);
        }
        Ok(Evaluation {
            metrics,
            images: Vec::new(),
        })
    }

    fn save(&self, directory: &Path) -> Result<(), SftError> {
        train::parameters::save_trained(&self.model.decoder, &directory.join(WEIGHTS))?;
        self.optimizer.save(&directory.join(OPTIMIZER))?;
        let path = directory.join(STATE);
        let state = State {
            tokens_seen: self.tokens_seen,
            fingerprints: self.fingerprints.clone(),
        };
        let text = serde_json::to_vec(&state).map_err(|error| FileError::because("write", &path)(error.into()))?;
        Ok(std::fs::write(&path, text).map_err(FileError::because("write", path))?)
    }

    fn load(&mut self, directory: &Path) -> Result<(), SftError> {
        let path = directory.join(STATE);
        let text = std::fs::read_to_string(&path).map_err(FileError::because("read", &path))?;
        let state: State = serde_json::from_str(&text).map_err(|error| SftError::State {
            path,
            reason: error.to_string(),
        })?;
        let (before, now) = (&state.fingerprints, &self.fingerprints);
        for (what, before, now) in [
            (self.data.data.origin(), &before.data, &now.data),
            (self.config.model.as_str(), &before.frozen, &now.frozen),
        ] {
            if before != now {
                return Err(SftError::Changed {
                    what: what.to_owned(),
                    before: before.clone(),
                    now: now.clone(),
                });
            }
        }
        self.load_weights(directory)?;
        let device = self.model.decoder.device().inner();
        self.optimizer = AdamW::load(self.config.adamw(), &directory.join(OPTIMIZER), &device)?;
        self.tokens_seen = state.tokens_seen;
        Ok(())
    }

    fn throughput(&self) -> Option<&str> {
        Some("tokens")
    }
}

impl Sft {
    /// Reads the weights of a checkpoint, and nothing else.
    ///
    /// # Errors
    ///
    /// [`SftError::Tensors`].
    pub fn load_weights(&mut self, directory: &Path) -> Result<(), SftError> {
        let decoder = self.model.decoder.clone();
        self.model.decoder = train::parameters::load_trained(decoder, &directory.join(WEIGHTS))?;
        Ok(())
    }
}
