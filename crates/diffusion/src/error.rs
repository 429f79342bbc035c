//! Everything that can go wrong between a data set and its samples.

use std::path::PathBuf;

use exact::prediction::PredictionError;
use train::files::FileError;
use train::tensors::TensorError;

use crate::config::ConfigError;
use crate::data::DataError;
use crate::picture::PictureError;

/// A training, sampling or evaluation failed.
#[derive(Debug, thiserror::Error)]
pub enum DiffusionError {
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The configuration makes no run.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The batch and its parts do not fit together.
    #[error(transparent)]
    Batch(#[from] train::batches::BatchError),
    /// The learning rate makes no schedule.
    #[error(transparent)]
    LearningRate(#[from] train::schedule::ScheduleError),
    /// The network is asked where it has no answer.
    #[error(transparent)]
    Prediction(#[from] PredictionError),
    /// Weights or optimiser state cannot be read or written.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A picture cannot be made.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// A file that belongs to a model is not what it should be.
    #[error("{} is not a posterior diffusion model's: {reason}; give the directory of a run, or of its model", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The data of a run are not what they were.
    #[error(
        "{origin} changed since the run was started (checksum {before} then, {now} now); put the data back as they were, \
         or start a new run with another --out"
    )]
    DataChanged {
        /// The data set.
        origin: String,
        /// Its checksum in the checkpoint.
        before: String,
        /// Its checksum now.
        now: String,
    },
    /// A class that the model does not know.
    #[error("the model has no class \"{class}\"; it knows {}", known(names))]
    Class {
        /// What was asked for.
        class: String,
        /// The model's classes.
        names: Vec<String>,
    },
    /// Something needs labels and there are none.
    #[error("{what} needs labels, which {origin} does not have; leave it out, or give labelled data")]
    NoLabels {
        /// What needs them.
        what: &'static str,
        /// The data set.
        origin: String,
    },
    /// Two sets of samples that do not compare.
    #[error("{left} has shape {left_shape}, {right} has shape {right_shape}; compare samples of one shape")]
    Shapes {
        /// One set.
        left: String,
        /// Its shape.
        left_shape: String,
        /// The other.
        right: String,
        /// Its shape.
        right_shape: String,
    },
    /// Too few samples to fit a Gaussian.
    #[error("{count} samples are too few to compare distributions; give at least 2")]
    TooFew {
        /// How many there are.
        count: usize,
    },
}

fn known(names: &[String]) -> String {
    if names.is_empty() {
        "no classes: it was trained without labels".to_owned()
    } else {
        names.join(", ")
    }
}
