//! Everything that can go wrong between a data set and a tuned model.

use std::path::PathBuf;

use nn::decoder::LoraError;
use nn::weights::WeightsError;
use train::files::FileError;
use train::tensors::TensorError;

use super::config::ConfigError;
use crate::data::DataError;
use crate::generate::GenerateError;
use crate::model::ModelError;
use crate::text::TextError;

/// Tuning failed.
#[derive(Debug, thiserror::Error)]
pub enum TuningError {
    /// The settings make no run.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model cannot be opened.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The adapters cannot be put on.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// The model is an adapter already.
    #[error(
        "{model} is an adapter, which is trained on as it is: leave lora-rank out, or merge it first (posterior convert \
         --model {model} --out DIRECTORY) and tune the result"
    )]
    AdapterOnAdapter {
        /// The adapter.
        model: String,
    },
    /// The model has no head for tokens.
    #[error("the model is a reward model, which scores texts and writes none; give a language model")]
    RewardModel,
    /// Texts cannot be drawn.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A row makes no tokens.
    #[error("{origin}, example {row}: {error}")]
    Row {
        /// The data set.
        origin: String,
        /// The example, counted from 1.
        row: usize,
        /// Why.
        error: TextError,
    },
    /// Nothing is left to learn.
    #[error(
        "{origin}: all {rows} examples were left out, because they are longer than max-length {max_length} or have nothing \
         to learn; raise max-length, or choose another truncation"
    )]
    NothingLeft {
        /// The data set.
        origin: String,
        /// Its rows.
        rows: usize,
        /// The longest example that was allowed.
        max_length: usize,
    },
    /// A token that the model does not have.
    #[error(
        "{origin}, example {row}: token {token} is not one of the model's {vocabulary}; tokenizer and model do not belong \
         together"
    )]
    Token {
        /// The data set.
        origin: String,
        /// The example, counted from 1.
        row: usize,
        /// The token.
        token: u32,
        /// The model's number of tokens.
        vocabulary: usize,
    },
    /// Examples may be longer than the model's positions.
    #[error("max-length is {max_length}, but the model has {positions} positions; lower max-length to that or less")]
    Positions {
        /// The longest example that is allowed.
        max_length: usize,
        /// The model's positions.
        positions: usize,
    },
    /// The batch and its parts do not fit together.
    #[error(transparent)]
    Batch(#[from] train::batches::BatchError),
    /// The learning rate makes no schedule.
    #[error(transparent)]
    LearningRate(#[from] train::schedule::ScheduleError),
    /// There is nothing to train on.
    #[error(transparent)]
    Empty(#[from] train::random::EmptyDataSet),
    /// Weights or optimiser state cannot be read or written.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// The model's weights cannot be written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The state of a checkpoint cannot be read.
    #[error("{} cannot be read: {reason}; it was written by another program version", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What a run was started on is not what it was.
    #[error(
        "{what} changed since the run was started (checksum {before} then, {now} now); put it back as it was, or start a \
         new run with another --out"
    )]
    Changed {
        /// The data set or the model.
        what: String,
        /// Its checksum in the checkpoint.
        before: String,
        /// Its checksum now.
        now: String,
    },
    /// Before the first update policy and reference are one, so the loss is known.
    #[error(
        "before the first update the loss is {loss}, but with policy and reference the same it must be {expected} (ln 2 of \
         pairs, ln K! of rankings): they differ; this is a fault of the program, please report it with model and data"
    )]
    FirstLoss {
        /// The loss.
        loss: f64,
        /// What it must be.
        expected: f64,
    },
    /// A reference that counts other tokens.
    #[error(
        "the reference {reference} has {others} tokens, but the model has {own}; give a reference with the same tokenizer"
    )]
    ReferenceVocabulary {
        /// The reference.
        reference: String,
        /// The model's number of tokens.
        own: usize,
        /// The reference's.
        others: usize,
    },
    /// A reference that reads other tokens.
    #[error(
        "the reference {reference} has another vocabulary: {count} of the model's tokens are something else there, the first \
         of them token {id}, {own:?} for the model and {} for the reference; give a reference with the same tokenizer",
        there.as_ref().map_or("nothing".to_owned(), |there| format!("{there:?}"))
    )]
    ReferenceToken {
        /// The reference.
        reference: String,
        /// Tokens that are something else.
        count: usize,
        /// The first of them.
        id: u32,
        /// What it is for the model.
        own: String,
        /// And for the reference.
        there: Option<String>,
    },
    /// A reference that ends its answers otherwise.
    #[error(
        "the reference {reference} ends an answer with {others:?}, but the model with {own:?}, so that no answer of the \
         model's would ever end for it; give a reference that ends answers alike, or make both eos_token the same in \
         tokenizer_config.json"
    )]
    ReferenceEnd {
        /// The reference.
        reference: String,
        /// The model's end token.
        own: String,
        /// The reference's.
        others: String,
    },
    /// A reference that has no head for tokens.
    #[error("the reference {reference} is a reward model, which scores texts and writes none; give a language model")]
    ReferenceScores {
        /// The reference.
        reference: String,
    },
    /// The reference is broken.
    #[error(
        "the reference gives a response of example {} a log-probability that is no number; its weights are damaged", example + 1
    )]
    ReferenceNotFinite {
        /// The example, counted from 0.
        example: usize,
    },
    /// A response has no reward.
    #[error(transparent)]
    Judge(#[from] crate::judge::JudgeError),
    /// Nothing was learned between answering and the first update, so the policy is still the one that answered.
    #[error(
        "before the first update of a step the policy is the one that answered, but a token's probability is off by a factor \
         1 ± {off}; this is a fault of the program, please report it with model and data"
    )]
    FirstRatio {
        /// The largest distance of a ratio from 1.
        off: f64,
    },
    /// A loss or a gradient is no number.
    #[error(
        "loss or gradient of an update in step {step} is no number; what it saw is in {}. Lower learning-rate, or see whether \
         rewards are very large; posterior ppo --resume goes on from the last checkpoint", path.display()
    )]
    UpdateNotFinite {
        /// The step, from 1.
        step: u64,
        /// The file with the update's prompts and answers.
        path: PathBuf,
    },
    /// Nothing is left to answer.
    #[error("no prompt is left to be answered; give prompts that leave room for an answer in the model's positions")]
    NoPrompts,
    /// There is no reference yet.
    #[error("the policy has no reference yet; prepare it before training")]
    Unprepared,
    /// The reference was not worked out.
    #[error("the reference's log-probabilities of example {} are not there; prepare them before training", example + 1)]
    NoReference {
        /// The example, counted from 0.
        example: usize,
    },
}
