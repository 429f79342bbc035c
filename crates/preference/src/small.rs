//! Small models of whole words, with random weights: for worlds in which everything can be listed.

use std::convert::Infallible;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use nn::decoder::parameters::{Initial, Parameter};
use nn::decoder::{Decoder, DecoderConfig};
use nn::weights::{Precision, SHARD_BYTES, WeightsError, save};
use rand::RngExt as _;
use serde_json::{Value, json};
use train::files::FileError;
use train::random::{Purpose, stream};

/// What a model of this kind is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmallModel {
    /// Its words; texts are words with spaces between them, and the first word ends a text.
    pub words: Vec<String>,
    /// The width of its hidden rows.
    pub width: usize,
    /// Its blocks.
    pub layers: usize,
    /// Tokens of its longest text.
    pub positions: usize,
}

/// A small model cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum SmallModelError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl SmallModel {
    /// Of these words, 32 wide with two blocks.
    #[must_use]
    pub fn of(words: &[&str]) -> Self {
        Self {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            width: 32,
            layers: 2,
            positions: 16,
        }
    }

    /// The number of a word.
    #[must_use]
    pub fn id(&self, word: &str) -> Option<u32> {
        self.words.iter().position(|known| known == word).map(|id| id as u32)
    }

    fn config(&self) -> Value {
        json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": self.words.len(),
            "hidden_size": self.width, "num_hidden_layers": self.layers, "num_attention_heads": 4,
            "intermediate_size": 2 * self.width, "max_position_embeddings": self.positions, "eos_token_id": 0,
        })
    }

    /// Writes a model of random weights, with its tokenizer, into a directory that is there.
    ///
    /// # Errors
    ///
    /// [`SmallModelError`] for files.
    pub fn write(&self, directory: &Path, seed: u64) -> Result<(), SmallModelError> {
        let vocabulary: serde_json::Map<String, Value> = (0..)
            .zip(&self.words)
            .map(|(id, word): (u32, _)| (word.clone(), json!(id)))
            .collect();
        let end = &self.words[0];
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "decoder": null,
            "added_tokens": [{ "id": 0, "content": end, "single_word": false, "lstrip": false, "rstrip": false,
                               "normalized": false, "special": true }],
            "pre_tokenizer": { "type": "WhitespaceSplit" },
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": end },
        });
        let settings = json!({ "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end });
        for (name, value) in [
            ("config.json", self.config()),
            ("tokenizer.json", tokenizer),
            ("tokenizer_config.json", settings),
        ] {
            let path = directory.join(name);
            fs::write(&path, value.to_string()).map_err(FileError::because("write", path))?;
        }
        Ok(save(
            &decoder(self, seed, &Device::flex()),
            directory,
            Precision::F32,
            SHARD_BYTES,
        )?)
    }
}

/// The network, with weights of this seed.
///
/// # Panics
///
/// When the sizes make no network: the width is a multiple of eight.
#[must_use]
pub fn decoder(model: &SmallModel, seed: u64, device: &Device) -> Decoder {
    let config = DecoderConfig::from_json(&model.config().to_string());
    let config = config.unwrap_or_else(|error| panic!("the sizes make a network: {error}"));
    let mut rng = stream(seed, Purpose::INITIALIZATION, 0, 0);
    let mut make = |parameter: &Parameter| {
        let count = parameter.shape.iter().product::<usize>();
        let value = |_| match parameter.initial {
            // The sum of twelve uniform numbers: near enough to a normal one.
            Initial::Normal => (0.2 * ((0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0)) as f32,
            Initial::Ones => 1.0,
            Initial::Zeros => 0.0,
        };
        Ok::<_, Infallible>((0..count).map(value).collect())
    };
    Decoder::build(&config, device, &mut make).unwrap_or_else(|never| match never {})
}
