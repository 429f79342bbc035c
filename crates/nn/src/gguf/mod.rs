//! GGUF, the one-file format of llama.cpp: weights, configuration, tokenizer and chat template of a language model.
//!
//! [`Gguf::parse`] checks the whole file's structure and copies nothing but the metadata; tensors are converted to f32
//! one at a time when they are asked for. Above the container stands what makes such a file equal to a model directory
//! of the Hugging Face ecosystem: [`Gguf::weights`] and [`Gguf::weight`] in its names and layouts, [`Gguf::config`] for
//! `config.json`, and [`Gguf::tokenizer`] for `tokenizer.json` and the chat template. So a model's loader has one form
//! to understand, not two.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod byte_level;
mod config;
mod container;
mod cursor;
mod dequantize;
mod error;
mod kind;
mod names;
mod sentencepiece;
mod tokenizer;
mod value;
mod weights;

pub use self::container::TensorInfo;
pub use self::error::GgufError;
pub use self::kind::{OtherKind, TensorKind};
pub use self::names::hugging_face_name;
pub use self::tokenizer::TokenizerParts;
pub use self::value::{Array, Value};
pub use self::weights::WeightInfo;

use self::container::Container;

/// A GGUF file whose structure has been checked.
///
/// ```no_run
/// # use std::{fs, path::PathBuf, sync::Arc};
/// # use posterior_nn::gguf::Gguf;
/// let path = PathBuf::from("model.gguf");
/// let gguf = Gguf::parse(path.clone(), Arc::new(fs::read(&path)?))?;
/// for weight in gguf.weights()? {
///     let (shape, values) = gguf.weight(&weight.name)?;
///     assert_eq!(shape.iter().product::<usize>(), values.len());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Gguf {
    path: PathBuf,
    bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
    container: Arc<Container>,
}

impl fmt::Debug for Gguf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Gguf")
            .field("path", &self.path)
            .field("version", &self.container.version)
            .field("metadata", &self.container.metadata.len())
            .field("tensors", &self.container.tensors.len())
            .finish_non_exhaustive()
    }
}

impl Gguf {
    /// Reads the metadata and the table of tensors of a file's content, which `bytes` holds (a memory map, say); `path`
    /// is for messages.
    ///
    /// # Errors
    /// [`GgufError::NotGguf`], [`GgufError::Malformed`] with the byte at which the file departs from the format, or
    /// [`GgufError::Unsupported`] for big-endian files and versions other than 2 and 3.
    pub fn parse<B>(path: PathBuf, bytes: Arc<B>) -> Result<Self, GgufError>
    where
        B: AsRef<[u8]> + Send + Sync + 'static,
    {
        let container = container::parse((*bytes).as_ref(), &path)?;
        Ok(Self {
            path,
            bytes,
            container: Arc::new(container),
        })
    }

    /// The path that messages name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version of the format, 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.container.version
    }

    /// The multiple of bytes at which each tensor starts.
    #[must_use]
    pub fn alignment(&self) -> usize {
        self.container.alignment
    }

    /// The metadata by key.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.container.metadata
    }

    /// The tensors in the order of the file, under the file's own names.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.container.tensors
    }

    /// One tensor's entry, by the file's own name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.container.tensors.get(*self.container.places.get(name)?)
    }

    /// A tensor's shape and its values in f32, row-major, as the file has them (see [`Self::weight`] for the layout of
    /// Hugging Face).
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`], or [`GgufError::Unsupported`] for a kind that is not converted here.
    pub fn read(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), GgufError> {
        let Some(info) = self.tensor(name) else {
            return Err(GgufError::MissingTensor {
                path: self.path.clone(),
                name: name.to_owned(),
            });
        };
        let Some(bytes) = (*self.bytes).as_ref().get(info.bytes.clone()) else {
            // The bytes were there when the file was opened: someone has changed them since.
            return Err(GgufError::Malformed {
                path: self.path.clone(),
                offset: info.bytes.start,
                problem: format!("the tensor {name:?} has gone: the file has become shorter while it was read"),
            });
        };
        match dequantize::dequantize(info.kind, bytes) {
            Some(values) => Ok((info.shape.clone(), values)),
            None => Err(GgufError::Tensor {
                path: self.path.clone(),
                name: name.to_owned(),
                problem: format!("it is stored as {}, which is not read", info.kind),
                remedy: "use a file of the same model in F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0 or Q4_1"
                    .to_owned(),
            }),
        }
    }

    /// The architecture that the file names, such as `llama`.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`] or [`GgufError::Key`].
    pub fn architecture(&self) -> Result<&str, GgufError> {
        self.text("general.architecture")?
            .ok_or_else(|| self.missing("general.architecture"))
    }

    fn missing(&self, key: &str) -> GgufError {
        GgufError::MissingKey {
            path: self.path.clone(),
            key: key.to_owned(),
        }
    }

    fn key_error(&self, key: &str, problem: impl Into<String>) -> GgufError {
        GgufError::Key {
            path: self.path.clone(),
            key: key.to_owned(),
            problem: problem.into(),
        }
    }

    fn unsupported(&self, found: impl Into<String>, remedy: impl Into<String>) -> GgufError {
        GgufError::Unsupported {
            path: self.path.clone(),
            found: found.into(),
            remedy: remedy.into(),
        }
    }

    /// The value under `key` as `as_type` understands it.
    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        as_type: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.metadata().get(key) else {
            return Ok(None);
        };
        as_type(value)
            .map(Some)
            .ok_or_else(|| self.key_error(key, format!("its value is not {wanted}")))
    }

    fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", Value::as_str)
    }

    fn truth(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn size(&self, key: &str) -> Result<Option<usize>, GgufError> {
        self.typed(key, "a whole number that is not negative", |value| {
            value.as_u64().and_then(|value| usize::try_from(value).ok())
        })
    }

    fn number(&self, key: &str) -> Result<Option<f64>, GgufError> {
        let number = self.typed(key, "a finite number", |value| {
            value.as_f64().filter(|value| value.is_finite())
        })?;
        Ok(number)
    }

    fn strings(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.typed(key, "a list of strings", |value| {
            value.as_array().and_then(Array::as_strings)
        })
    }

    fn list(&self, key: &str) -> Result<Option<&Array>, GgufError> {
        self.typed(key, "a list", Value::as_array)
    }
}

#[cfg(test)]
mod test_file;
