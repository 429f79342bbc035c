//! A language model with its tokenizer: from a directory, a GGUF file, or a name on the Hub.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use nn::decoder::{Decoder, DecoderConfig, DecoderConfigError};
use nn::gguf::{Gguf, GgufError, TokenizerParts};
use nn::hub::{Environment, HubError, Watch, locate};
use nn::weights::{AdapterDirectory, GgufWeights, Loaded, SafetensorsDirectory, WeightsError, load};
use ops::MappedFile;

use crate::reward::{Normalization, REWARD};
use crate::text::{Parts, SpecialToken, SpecialTokens, TextError, Tokenizer};

/// A model that can read and write text.
#[derive(Debug)]
pub struct LanguageModel {
    /// The network.
    pub decoder: Decoder,
    /// Its tokenizer and chat template.
    pub tokenizer: Tokenizer,
    /// The directory or file that the network came from; an adapter's is that of its base.
    pub path: PathBuf,
    /// The name under which an adapter's directory refers to the network: a Hub name, or an absolute path.
    pub base: String,
    /// What becomes of a reward model's scores.
    pub reward: Normalization,
    /// What is worth telling whoever opened it.
    pub warnings: Vec<String>,
}

/// A model could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// There is no such model.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The configuration describes nothing that can be built.
    #[error("{}: {error}", path.display())]
    Config {
        /// The configuration.
        path: PathBuf,
        /// What is wrong.
        error: DecoderConfigError,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {cause}; give the directory of a model in Hugging Face's format, or a .gguf file", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The tokenizer.
    #[error(transparent)]
    Text(#[from] TextError),
    /// An adapter does not say what it belongs to.
    #[error("{} does not name the model that the adapter belongs to: give that with --model, and this with --adapter", path.display())]
    NoBase {
        /// The adapter's directory.
        path: PathBuf,
    },
    /// The model that an adapter belongs to cannot be opened.
    #[error(
        "the adapter in {} belongs to {base}, which cannot be opened: {error} (if it is somewhere else, give it with \
         --model, and the adapter with --adapter)", path.display()
    )]
    Base {
        /// The adapter's directory.
        path: PathBuf,
        /// What it belongs to.
        base: String,
        /// Why not.
        error: Box<ModelError>,
    },
    /// What becomes of the scores cannot be read.
    #[error("{} cannot be read: {reason}; correct it, or remove it to have the scores as they are", path.display())]
    Reward {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A second adapter.
    #[error("{} is put on a model that has an adapter already; merge that one first, with posterior convert", path.display())]
    SecondAdapter {
        /// The adapter's directory.
        path: PathBuf,
    },
}

impl LanguageModel {
    /// Opens the model that `name` stands for: a directory of a model or of an adapter (whose base is opened, too), a
    /// `.gguf` file, or `org/name` on the Hub.
    ///
    /// # Errors
    ///
    /// [`ModelError`] names the file and what is wrong with it.
    pub fn open(
        name: &str,
        environment: &Environment,
        watch: &mut Watch<'_>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let path = locate(name, environment, watch)?;
        let mut model = if AdapterDirectory::is_one(&path) {
            return Self::from_adapter(&path, environment, watch, device);
        } else if path.is_dir() {
            Self::from_directory(&path, device)?
        } else {
            Self::from_gguf(&path, device)?
        };
        if !Path::new(name).exists() {
            name.clone_into(&mut model.base);
        }
        Ok(model)
    }

    /// Opens the model that an adapter belongs to, and puts the adapter on.
    fn from_adapter(
        directory: &Path,
        environment: &Environment,
        watch: &mut Watch<'_>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let adapter = AdapterDirectory::open(directory)?;
        let path = directory.to_owned();
        let Some(base) = adapter.base().filter(|base| !base.is_empty()) else {
            return Err(ModelError::NoBase { path });
        };
        // A relative path may have been meant from where the adapter is.
        let beside = directory.join(base);
        let name = if !Path::new(base).exists() && beside.exists() {
            beside.display().to_string()
        } else {
            base.to_owned()
        };
        // An adapter that names another adapter could do so in a circle.
        let chained = AdapterDirectory::is_one(Path::new(&name));
        let opened = if chained {
            Err(ModelError::SecondAdapter { path: path.clone() })
        } else {
            Self::open(&name, environment, watch, device)
        };
        let model = opened.map_err(|error| ModelError::Base {
            path,
            base: name,
            error: Box::new(error),
        })?;
        model.put_on(directory, &adapter)
    }

    /// The model with the adapter of this directory on it.
    ///
    /// # Errors
    ///
    /// [`ModelError`] for an adapter that does not fit, or a model that has one already.
    pub fn with_adapter(self, directory: &Path) -> Result<Self, ModelError> {
        let adapter = AdapterDirectory::open(directory)?;
        self.put_on(directory, &adapter)
    }

    fn put_on(mut self, directory: &Path, adapter: &AdapterDirectory) -> Result<Self, ModelError> {
        if self.decoder.lora().is_some() {
            return Err(ModelError::SecondAdapter {
                path: directory.to_owned(),
            });
        }
        adapter.put_on(&mut self.decoder)?;
        self.reward = read_reward(directory)?;
        if directory.join("tokenizer.json").is_file() {
            self.tokenizer = Tokenizer::from_directory(directory)?;
        }
        Ok(self)
    }

    /// Opens a directory in Hugging Face's format.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn from_directory(directory: &Path, device: &Device) -> Result<Self, ModelError> {
        let path = directory.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|cause| ModelError::File {
            path: path.clone(),
            cause,
        })?;
        let config = DecoderConfig::from_json(&text).map_err(|error| ModelError::Config { path, error })?;
        // The tokenizer first: it is read in a moment, and what is wrong with it is better known before the weights are.
        let tokenizer = Tokenizer::from_directory(directory)?;
        let loaded = load(&config, &SafetensorsDirectory::open(directory)?, device)?;
        let mut model = Self::of(loaded, tokenizer, directory, Vec::new());
        model.reward = read_reward(directory)?;
        Ok(model)
    }

    /// Opens a GGUF file.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn from_gguf(path: &Path, device: &Device) -> Result<Self, ModelError> {
        let map = MappedFile::open(path).map_err(|cause| ModelError::File {
            path: path.to_owned(),
            cause,
        })?;
        let file = Gguf::parse(path.to_owned(), Arc::new(map))?;
        let config = DecoderConfig::from_map(file.config()?).map_err(|error| ModelError::Config {
            path: path.to_owned(),
            error,
        })?;
        let mut parts = file.tokenizer()?;
        let warnings = std::mem::take(&mut parts.warnings);
        let tokenizer = gguf_tokenizer(parts, path.display().to_string())?;
        let loaded = load(&config, &GgufWeights::new(file)?, device)?;
        Ok(Self::of(loaded, tokenizer, path, warnings))
    }

    fn of(loaded: Loaded, tokenizer: Tokenizer, path: &Path, mut warnings: Vec<String>) -> Self {
        if !loaded.unused.is_empty() {
            warnings.push(format!(
                "tensors that the model has no place for: {}",
                loaded.unused.join(", ")
            ));
        }
        let vocabulary = loaded.decoder.config().vocabulary_size;
        if tokenizer.largest_id() as usize >= vocabulary {
            warnings.push(format!(
                "the tokenizer has tokens up to {}, but the model has {vocabulary}; a text with the others is refused",
                tokenizer.largest_id()
            ));
        }
        Self {
            decoder: loaded.decoder,
            tokenizer,
            path: path.to_owned(),
            base: path
                .canonicalize()
                .unwrap_or_else(|_| path.to_owned())
                .display()
                .to_string(),
            reward: Normalization::default(),
            warnings,
        }
    }
}

/// What the directory of a reward model says about its scores; nothing where nothing is said.
fn read_reward(directory: &Path) -> Result<Normalization, ModelError> {
    let path = directory.join(REWARD);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Normalization::default()),
        Err(cause) => return Err(ModelError::File { path, cause }),
    };
    let wrong = |reason: String| ModelError::Reward {
        path: path.clone(),
        reason,
    };
    let read: Normalization = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if !(read.gain.is_finite() && read.gain > 0.0 && read.bias.is_finite()) {
        return Err(wrong("gain is a positive and bias any finite number".to_owned()));
    }
    Ok(read)
}

/// The tokenizer of a GGUF file, from what the file holds of one. `origin` says in messages where it comes from.
///
/// # Errors
///
/// [`TextError`] if the parts make no tokenizer.
pub fn gguf_tokenizer(parts: TokenizerParts, origin: String) -> Result<Tokenizer, TextError> {
    let mut special = SpecialTokens::default();
    for (name, token) in [
        ("bos_token", parts.bos_token),
        ("eos_token", parts.eos_token),
        ("pad_token", parts.pad_token),
        ("unk_token", parts.unk_token),
    ] {
        if let Some(token) = token {
            special.set(name, SpecialToken::from(token.as_str()));
        }
    }
    Tokenizer::from_parts(Parts {
        tokenizer: parts.tokenizer,
        special,
        end_ids: parts.end_ids,
        chat_template: parts.chat_template,
        origin,
    })
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
