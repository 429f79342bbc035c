//! What can be wrong with a GGUF file, said so that its owner can put it right.

use std::path::PathBuf;

/// Why a GGUF file, or a part of it, could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// The file is not GGUF at all.
    #[error("{}: not a GGUF file ({found}); give the path of a .gguf file", path.display())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// What it starts with.
        found: String,
    },
    /// The file contradicts the format, or itself.
    #[error(
        "{}, byte {offset}: {problem}; the file is damaged or incomplete: download or convert it again", path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in it, counted from its start.
        offset: usize,
        /// What is wrong.
        problem: String,
    },
    /// The file is in order, but holds something that is not understood here.
    #[error("{}: {found}; {remedy}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What to do about it.
        remedy: String,
    },
    /// A metadata key that is needed is absent.
    #[error("{}: the metadata have no key \"{key}\"; convert the model again with a current converter", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A metadata value makes no sense under its key.
    #[error(
        "{}: the metadata key \"{key}\": {problem}; convert the model again with a current converter", path.display()
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// A tensor that was asked for is absent.
    #[error("{}: no tensor \"{name}\"; the file holds another model than the one asked for", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
    },
    /// A tensor is not what the model's architecture needs.
    #[error("{}: tensor \"{name}\": {problem}; {remedy}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
}
