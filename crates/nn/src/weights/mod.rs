//! Weights from files and back.
//!
//! A [`WeightSource`] gives tensors by Hugging Face's names, one at a time, in f32, whatever the file holds; a decoder is
//! built from any of them by its table of parameters.

mod adapter;
mod directory;
mod gguf_file;
mod load;
pub(crate) mod save;

use std::path::PathBuf;

pub use adapter::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterDirectory, save_adapter};
pub use directory::SafetensorsDirectory;
pub use gguf_file::GgufWeights;
pub use load::{Loaded, load};
pub use save::{Precision, SHARD_BYTES, save};

/// A tensor in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Sizes of the dimensions.
    pub shape: Vec<usize>,
    /// The values, row-major; as many as the product of the shape.
    pub values: Vec<f32>,
}

/// Somewhere that tensors come from.
pub trait WeightSource {
    /// The names of all tensors.
    fn names(&self) -> Vec<String>;

    /// The shape of a tensor, if there is one of this name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// A tensor's values.
    ///
    /// # Errors
    ///
    /// [`WeightsError`]: no such tensor, or a file that cannot be read.
    fn read(&self, name: &str) -> Result<HostTensor, WeightsError>;

    /// The file or directory, for messages.
    fn origin(&self) -> PathBuf;
}

/// Weights could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The system refused.
    #[error("cannot {action} {}: {cause}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// There are no weights.
    #[error(
        "{} holds no weights: there is neither model.safetensors nor model.safetensors.index.json; give the directory of a \
         model in Hugging Face's format, or a .gguf file (weights in PyTorch's .bin format can be converted by \
         transformers' save_pretrained)", path.display()
    )]
    NoWeights {
        /// The directory.
        path: PathBuf,
    },
    /// A file contradicts itself.
    #[error("{}: {reason}; it was cut short or changed: copy or download it again", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A type of numbers that is not read.
    #[error("tensor \"{name}\" in {} has type {kind}; f32, f16 and bf16 are read: save the model as one of them", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        kind: String,
    },
    /// A tensor that the architecture needs is not there.
    #[error("{} has no tensor \"{name}\", which its config.json asks for; the two do not belong together", path.display())]
    Missing {
        /// The file or directory.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the architecture needs.
    #[error(
        "tensor \"{name}\" in {} has shape {found:?}, but config.json asks for {expected:?}; the two do not belong together",
        path.display()
    )]
    Shape {
        /// The file or directory.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape needed.
        expected: Vec<usize>,
    },
    /// An adapter that cannot be used.
    #[error("{}: {problem}; {remedy}", path.display())]
    Adapter {
        /// The adapter's directory or configuration.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// Another source's error.
    #[error(transparent)]
    Source(Box<dyn std::error::Error + Send + Sync>),
}

impl WeightsError {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| Self::File { action, path, cause }
    }
}

/// The transpose of a row-major matrix.
pub(crate) fn transposed(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    // Blocks that fit into the nearest cache both ways.
    const SIDE: usize = 32;
    let mut result = vec![0.0; values.len()];
    for top in (0..rows).step_by(SIDE) {
        for left in (0..columns).step_by(SIDE) {
            for row in top..rows.min(top + SIDE) {
                for column in left..columns.min(left + SIDE) {
                    result[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    result
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
