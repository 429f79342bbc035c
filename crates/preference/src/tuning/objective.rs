//! What a trainer learns: the one thing in which trainers of language models differ.

use std::borrow::Cow;
use std::fmt;
use std::ops::AddAssign;

use burn::tensor::Gradients;
use nn::decoder::{Decoder, TrainingPass};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::config::TrainerConfig;
use super::error::TuningError;
use super::examples::{Made, Room, Sample};
use crate::data::{Kind, Row};
use crate::encode::RowEncoder;
use crate::model::LanguageModel;
use crate::text::TextError;

/// Examples that go through the network together.
#[derive(Debug)]
pub struct Batch<'a, E: Clone> {
    /// The data that they are of.
    pub split: Split,
    /// Their numbers there, and they themselves.
    pub examples: Vec<(usize, Cow<'a, E>)>,
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
    type Example: Sample;
    /// Sums over examples, of which metrics are made.
    type Sums: Default + AddAssign + fmt::Debug;

    /// The rows that it reads.
    const KIND: Kind;
    /// Modules that are trained whole beside adapters.
    const TRAINED_WHOLE: &'static [&'static str] = &[];

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

    /// The example of a row.
    ///
    /// # Errors
    ///
    /// [`TextError`] for a row that makes no tokens.
    fn encode(&self, encoder: &RowEncoder<'_>, row: &Row, room: Room) -> Result<Made<Self::Example>, TextError>;

    /// What an example counts in the average over a step.
    fn weight(&self, example: &Self::Example) -> u32;

    /// Differentiates the loss of a part of a step, normalised by `total`, the weights of the whole step together, so
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

    /// The same sums without a derivative.
    ///
    /// # Errors
    ///
    /// As [`Objective::differentiate`].
    fn evaluate(&self, decoder: &Decoder, batch: &Batch<'_, Self::Example>) -> Result<Self::Sums, TuningError>;

    /// The metrics of sums over examples whose weights are `total`; `loss` is one of them.
    fn metrics(&self, sums: &Self::Sums, total: f64) -> Vec<(&'static str, f64)>;

    /// What else an evaluation measures, under full names, of the model and the held-out examples.
    ///
    /// # Errors
    ///
    /// [`TuningError`] for what cannot be measured.
    fn measure(
        &self,
        _model: &LanguageModel,
        _examples: &Batch<'_, Self::Example>,
    ) -> Result<Vec<(&'static str, f64)>, TuningError> {
        Ok(Vec::new())
    }

    /// How many held-out examples, from the first on, [`Objective::measure`] is given.
    fn measured(&self) -> usize {
        0
    }

    /// Whether a run's first step, before its update, is what it must be.
    ///
    /// # Errors
    ///
    /// [`TuningError`] if not.
    fn check_first(&self, _sums: &Self::Sums, _total: f64) -> Result<(), TuningError> {
        Ok(())
    }
}
