//! The loss of supervised fine-tuning.

use std::ops::AddAssign;

use burn::tensor::{Gradients, Tensor};
use nn::decoder::{Decoder, TrainingPass};
use ops::{Forest, TokenLogProb};

use super::config::SftConfig;
use crate::data::{Kind, Row};
use crate::encode::{RowEncoder, SftExample};
use crate::score::host;
use crate::text::{Outcome, TextError, Trace, truncate_example, truncate_trace};
use crate::tuning::examples::{LeftOut, Made, Room, Sample};
use crate::tuning::objective::{Batch, Objective, Snapshot};
use crate::tuning::{Tuner, TuningError};

/// A language model in training on examples.
pub type Sft = Tuner<Completions>;

/// Maximum likelihood of what is learned of each example (P1 in the book's mathematics), averaged over the tokens of a
/// step.
#[derive(Clone, Debug)]
pub struct Completions {
    config: SftConfig,
}

/// Sums over learned tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    log_prob: f64,
    entropy: f64,
    correct: f64,
}

/// Sequences side by side, and what is learned of them.
#[derive(Debug, Default)]
struct Sequences {
    tokens: Vec<u32>,
    forest: Forest,
    /// The rows that foretell what is learned.
    rows: Vec<usize>,
    /// What is learned.
    targets: Vec<u32>,
}

impl Sample for Trace {
    fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Nothing foretells the first token.
    fn learned(&self) -> usize {
        self.learned.iter().skip(1).filter(|learned| **learned).count()
    }

    fn ids(&self) -> impl Iterator<Item = u32> {
        self.ids.iter().copied()
    }
}

impl Sequences {
    fn of(batch: &Batch<'_, Trace>) -> Self {
        let mut sequences = Self::default();
        for (_, trace) in &batch.examples {
            let start = sequences.tokens.len();
            sequences.forest.push(trace.ids.len(), None);
            sequences.tokens.extend(&trace.ids);
            for (at, (&id, &learned)) in trace.ids.iter().zip(&trace.learned).enumerate().skip(1) {
                if learned {
                    sequences.rows.push(start + at - 1);
                    sequences.targets.push(id);
                }
            }
        }
        sequences
    }
}

impl Sums {
    fn of(found: &TokenLogProb) -> Self {
        let sum = |tensor: &Tensor<1>| -> f64 { host(tensor).into_iter().sum() };
        Self {
            log_prob: sum(&found.log_prob),
            entropy: sum(&found.entropy),
            correct: sum(&found.correct),
        }
    }
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.log_prob += other.log_prob;
        self.entropy += other.entropy;
        self.correct += other.correct;
    }
}

impl Completions {
    /// With these settings.
    #[must_use]
    pub fn new(config: SftConfig) -> Self {
        Self { config }
    }
}

impl Objective for Completions {
    type Config = SftConfig;
    type Example = Trace;
    type Sums = Sums;

    const KIND: Kind = Kind::LanguageModelling;

    fn config(&self) -> &SftConfig {
        &self.config
    }

    fn config_mut(&mut self) -> &mut SftConfig {
        &mut self.config
    }

    fn encode(&self, encoder: &RowEncoder<'_>, row: &Row, room: Room) -> Result<Made<Trace>, TextError> {
        let example = encoder.example(row, self.config.train_on.trained())?;
        if example.learned_tokens() == 0 {
            return Ok(Made::LeftOut(LeftOut::NothingToLearn));
        }
        let (trace, outcome) = match example {
            SftExample::Completion(mut ranked) => {
                let outcome = truncate_example(&mut ranked, room.length, room.keep, room.begin)?;
                (Trace::from(SftExample::Completion(ranked)), outcome)
            }
            SftExample::Trace(mut trace) => {
                let outcome = truncate_trace(&mut trace, room.length, room.keep)?;
                (trace, outcome)
            }
        };
        if outcome == Outcome::LeftOut || trace.learned() == 0 {
            return Ok(Made::LeftOut(LeftOut::TooLong));
        }
        Ok(Made::Example(trace, outcome))
    }

    fn weight(&self, example: &Trace) -> u32 {
        example.learned() as u32
    }

    fn differentiate(
        &self,
        decoder: &Decoder,
        batch: &Batch<'_, Trace>,
        pass: &TrainingPass,
        total: f64,
        collect: &mut dyn FnMut(Gradients),
    ) -> Result<Sums, TuningError> {
        let Sequences {
            tokens,
            forest,
            rows,
            targets,
        } = Sequences::of(batch);
        let mut sums = Sums::default();
        let loss = |hidden: Tensor<2>| {
            let weights = vec![(-1.0 / total) as f32; rows.len()];
            let (loss, found) = decoder.token_log_prob_sum(hidden, &rows, targets.into(), weights.into(), 1.0);
            sums = Sums::of(&found);
            loss
        };
        decoder.gradients(&tokens, &forest, pass, loss, collect);
        Ok(sums)
    }

    fn evaluate(&self, model: &Snapshot<'_>, batch: &Batch<'_, Trace>) -> Result<Sums, TuningError> {
        let sequences = Sequences::of(batch);
        let decoder = &model.decoder;
        let hidden = decoder.hidden(&sequences.tokens, &sequences.forest);
        let found = decoder.token_log_prob(hidden, &sequences.rows, sequences.targets.into(), 1.0);
        Ok(Sums::of(&found))
    }

    fn metrics(&self, sums: &Sums, total: f64) -> Vec<(&'static str, f64)> {
        vec![
            ("loss", -sums.log_prob / total),
            ("mean_token_accuracy", sums.correct / total),
            ("entropy", sums.entropy / total),
        ]
    }
}
