//! A language model with its tokenizer: from a directory, a GGUF file, or a name on the Hub.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use nn::decoder::{Decoder, DecoderConfig, DecoderConfigError};
use nn::gguf::{Gguf, GgufError, TokenizerParts};
use nn::hub::{Environment, HubError, Watch, locate};
use nn::weights::{GgufWeights, Loaded, SafetensorsDirectory, WeightsError, load};
use ops::MappedFile;

use crate::text::{Parts, SpecialToken, SpecialTokens, TextError, Tokenizer};

/// A model that can read and write text.
#[derive(Debug)]
pub struct LanguageModel {
    /// The network.
    pub decoder: Decoder,
    /// Its tokenizer and chat template.
    pub tokenizer: Tokenizer,
    /// The directory or file that it came from.
    pub path: PathBuf,
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
}

impl LanguageModel {
    /// Opens the model that `name` stands for: a directory, a `.gguf` file, or `org/name` on the Hub.
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
        if path.is_dir() {
            Self::from_directory(&path, device)
        } else {
            Self::from_gguf(&path, device)
        }
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
        Ok(Self::of(loaded, tokenizer, directory, Vec::new()))
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
            warnings,
        }
    }
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
        end_ids: Vec::new(),
        chat_template: parts.chat_template,
        origin,
    })
}
