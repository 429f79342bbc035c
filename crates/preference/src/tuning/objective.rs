//! What a trainer learns: the one thing in which trainers of language models differ.
//!
//! A step of [`Tuner`](super::Tuner) takes some examples, lets the objective make experience of them, and updates the
//! model with it, once or more often. Where examples are learned as they are, they are the experience, and there is one
//! update.

use std::borrow::Cow;
use std::fmt;
use std::ops::{AddAssign, ControlFlow};

use burn::tensor::Gradients;
use nn::decoder::{Decoder, TrainingPass};
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use train::checkpoint::Better;

use super::config::TrainerConfig;
use super::error::TuningError;
use super::examples::{Made, Room, Sample};
use crate::data::{Kind, Row};
use crate::encode::RowEncoder;
use crate::text::{TextError, Tokenizer};

/// Examples that go through the network together.
#[derive(Debug)]
pub struct Batch<'a, E: Clone> {
    /// The data that they are of.
    pub split: Split,
    /// Their numbers there, and they themselves.
    pub examples: Vec<(usize, Cow<'a, E>)>,
}

impl<E: Clone> Batch<'_, E> {
    /// Some of the examples.
    #[must_use]
    pub fn part(&self, chosen: &[usize]) -> Batch<'_, E> {
        let borrowed = |&at: &usize| {
            let (number, example) = &self.examples[at];
            (*number, Cow::Borrowed(&**example))
        };
        Batch {
            split: self.split,
            examples: chosen.iter().map(borrowed).collect(),
        }
    }
}

/// The model as it stands, without gradients.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// The network.
    pub decoder: Decoder,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
}

/// Which data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// What is learned.
    Training,
    /// What is held out.
    Evaluation,
}

/// What is learned of a row, and how.
pub trait Objective: fmt::Debug + Sync {
    /// The trainer's settings.
    type Config: TrainerConfig;
    /// A row in tokens.
    type Example: Sample + 'static;
    /// Sums over examples, of which metrics are made.
    type Sums: Clone + Copy + Default + AddAssign + fmt::Debug;

    /// The rows that it reads.
    const KIND: Kind;
    /// Modules that are trained whole beside adapters.
    const TRAINED_WHOLE: &'static [&'static str] = &[];
    /// By which metric of an evaluation a checkpoint is best.
    const BEST: (&'static str, Better) = ("eval_loss", Better::Lower);

    /// The settings.
    fn config(&self) -> &Self::Config;

    /// The settings, to be filled in.
    fn config_mut(&mut self) -> &mut Self::Config;

    /// Makes of a model what is tuned.
    ///
    /// # Errors
    ///
    /// [`TuningError`] for a model that cannot be tuned so.
    fn start(&self, decoder: &mut Decoder, _rng: &mut dyn Rng) -> Result<(), TuningError> {
        if decoder.config().scores {
            return Err(TuningError::RewardModel);
        }
        Ok(())
    }

    /// Adds what is trained besides and is no part of the model, once adapters are on.
    fn begin(&self, _decoder: &mut Decoder) {}

    /// Takes away what [`Objective::begin`] added.
    fn complete(&self, _decoder: &mut Decoder) {}

    /// The example of a row.
    ///
    /// # Errors
    ///
    /// [`TextError`] for a row that makes no tokens.
    fn encode(&self, encoder: &RowEncoder<'_>, row: &Row, room: Room) -> Result<Made<Self::Example>, TextError>;

    /// What an example counts in the average over a step.
    fn weight(&self, example: &Self::Example) -> u32;

    /// Makes of a step's examples what is learned from, and gives the sums of it.
    ///
    /// # Errors
    ///
    /// [`TuningError`] if nothing can be made of them.
    fn experience(
        &mut self,
        _model: &Snapshot<'_>,
        _batch: &mut Batch<'_, Self::Example>,
        _step: u64,
    ) -> Result<Self::Sums, TuningError> {
        Ok(Self::Sums::default())
    }

    /// Which of a step's examples each of its updates sees.
    fn updates(&self, _step: u64, examples: usize) -> Vec<Vec<usize>> {
        vec![(0..examples).collect()]
    }

    /// Differentiates the loss of a part of a step, normalised by `total`, the weights of the whole update together, so
    /// that parts add up to what one large batch gives.
    ///
    /// # Errors
    ///
    /// [`TuningError`] for what makes no sense to go on with.
    fn differentiate(
        &self,
        decoder: &Decoder,
        batch: &Batch<'_, Self::Example>,
        pass: &TrainingPass,
        total: f64,
        collect: &mut dyn FnMut(Gradients),
    ) -> Result<Self::Sums, TuningError>;

    /// Looks at an update that was made: the examples that it saw, their sums and weights, the length of the gradient. A
    /// break leaves the rest of the step's updates out.
    ///
    /// # Errors
    ///
    /// [`TuningError`] for an update after which nothing makes sense.
    fn updated(&self, _update: &Update<'_, Self>) -> Result<ControlFlow<()>, TuningError> {
        Ok(ControlFlow::Continue(()))
    }

    /// The sums of held-out examples.
    ///
    /// # Errors
    ///
    /// As [`Objective::differentiate`].
    fn evaluate(&self, model: &Snapshot<'_>, batch: &Batch<'_, Self::Example>) -> Result<Self::Sums, TuningError>;

    /// The metrics of sums over examples whose weights are `total`; `loss` is one of them.
    fn metrics(&self, sums: &Self::Sums, total: f64) -> Vec<(&'static str, f64)>;

    /// What else an evaluation measures, under full names, of the model and the held-out examples.
    ///
    /// # Errors
    ///
    /// [`TuningError`] for what cannot be measured.
    fn measure(
        &self,
        _model: &Snapshot<'_>,
        _examples: &Batch<'_, Self::Example>,
    ) -> Result<Vec<(&'static str, f64)>, TuningError> {
        Ok(Vec::new())
    }

    /// How many held-out examples, from the first on, [`Objective::measure`] is given.
    fn measured(&self) -> usize {
        0
    }

    /// What whoever watches should read, since the last time.
    fn take_notes(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// What a checkpoint keeps of the objective itself.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Takes up what [`Objective::state`] gave.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    fn restore(&mut self, _state: &Value) -> Result<(), String> {
        Ok(())
    }
}

/// An update that was made.
#[derive(Debug)]
pub struct Update<'a, O: Objective + ?Sized> {
    /// The step that it is part of, from 0.
    pub step: u64,
    /// Its number in the step, from 0.
    pub number: usize,
    /// What it saw.
    pub batch: &'a Batch<'a, O::Example>,
    /// The sums of it, before the update.
    pub sums: O::Sums,
    /// The weights of its examples.
    pub total: f64,
    /// The gradient's length.
    pub gradient_norm: f64,
}
