//! What distinguishes one decoder from another, as data.

use serde_json::{Map, Value};

use super::family;
use super::rope::Rope;

/// A decoder-only language model's architecture. The families differ in these values and in nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The family, by which files name the weights.
    pub family: Family,
    /// Number of token ids.
    pub vocabulary_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub key_value_heads: usize,
    /// Width of a head.
    pub head_size: usize,
    /// Width of the feed-forward layer.
    pub inner_size: usize,
    /// The longest text that the model was made for.
    pub max_positions: usize,
    /// How tokens are normalised before each layer and at the end.
    pub norm: Norm,
    /// Added to the mean square, or variance, before the root.
    pub norm_epsilon: f64,
    /// How tokens know their places.
    pub positions: Positions,
    /// The feed-forward layer.
    pub feed_forward: FeedForward,
    /// Whether queries, keys and values have biases.
    pub query_key_value_bias: bool,
    /// Whether attention's output has a bias.
    pub output_bias: bool,
    /// Whether the feed-forward layer has biases.
    pub feed_forward_bias: bool,
    /// Whether each head's queries and keys are normalised.
    pub query_key_norm: bool,
    /// How many positions back each layer sees; all of them where absent. As many as there are layers.
    pub windows: Vec<Option<usize>>,
    /// Whether the head's weights are the embedding's.
    pub tied: bool,
    /// Whether the head gives one number, a text's score, in place of the tokens' logits: `…ForSequenceClassification`.
    pub scores: bool,
    /// Factor on the embeddings.
    pub embedding_scale: f64,
    /// The `config.json` that this was read from; what is not understood here is carried along in it.
    pub source: Map<String, Value>,
}

/// A family of decoders: `model_type` in `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama, SmolLM2, TinyLlama.
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3.
    Qwen3,
    /// The first Gemma.
    Gemma,
    /// GPT-2.
    Gpt2,
}

/// A normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// By the root mean square, times a weight.
    RootMeanSquare,
    /// By the root mean square, times one plus a weight.
    OffsetRootMeanSquare,
    /// By mean and standard deviation, times a weight, plus a bias.
    Layer,
}

/// How tokens know their places.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// Queries and keys are rotated.
    Rotary(Rope),
    /// A learned vector is added to each embedding.
    Learned,
}

/// A feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// `down(silu(gate(x)) * up(x))`.
    Swiglu,
    /// `down(gelu(gate(x)) * up(x))`.
    Geglu,
    /// `down(gelu(up(x)))`.
    Gelu,
}

impl FeedForward {
    /// Whether there is a gate beside the way up.
    #[must_use]
    pub fn is_gated(self) -> bool {
        matches!(self, Self::Swiglu | Self::Geglu)
    }
}

/// Why a `config.json` describes no model that can be built here.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DecoderConfigError {
    /// Not a JSON object.
    #[error("config.json cannot be read: {0}")]
    Json(String),
    /// A key that must be there.
    #[error("config.json has no \"{0}\"; it is not a complete model configuration")]
    Missing(&'static str),
    /// A value of the wrong type, or out of range.
    #[error("\"{key}\" is {value} in config.json; it must be {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value, as JSON.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A family that is not built here.
    #[error(
        "model_type \"{0}\" is not supported; supported are llama (SmolLM2, TinyLlama, Llama 3), mistral, qwen2, qwen3, \
         gemma and gpt2"
    )]
    Family(String),
    /// A variant that is not built here.
    #[error("\"{key}\" is {value} in config.json, which is not supported: {instead}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value, as JSON.
        value: String,
        /// What is.
        instead: &'static str,
    },
    /// Sizes that do not fit together.
    #[error("{0} in config.json do not fit together: {1}")]
    Sizes(&'static str, String),
}

impl DecoderConfig {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    ///
    /// [`DecoderConfigError`] names the key.
    pub fn from_json(text: &str) -> Result<Self, DecoderConfigError> {
        let map = serde_json::from_str(text).map_err(|error| DecoderConfigError::Json(error.to_string()))?;
        Self::from_map(map)
    }

    /// Reads a `config.json` that was parsed already.
    ///
    /// # Errors
    ///
    /// [`DecoderConfigError`] names the key.
    pub fn from_map(source: Map<String, Value>) -> Result<Self, DecoderConfigError> {
        let config = family::read(source)?;
        config.check()?;
        Ok(config)
    }

    /// Width of all query heads together.
    #[must_use]
    pub fn query_size(&self) -> usize {
        self.heads * self.head_size
    }

    /// Width of all key heads together.
    #[must_use]
    pub fn key_size(&self) -> usize {
        self.key_value_heads * self.head_size
    }

    /// How many positions were learned; rotary positions have no end.
    #[must_use]
    pub fn learned_positions(&self) -> Option<usize> {
        (self.positions == Positions::Learned).then_some(self.max_positions)
    }

    /// Number of parameters.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let sizes = super::parameters::of(self);
        sizes
            .iter()
            .map(|parameter| parameter.shape.iter().map(|&size| size as u64).product::<u64>())
            .sum()
    }

    fn check(&self) -> Result<(), DecoderConfigError> {
        // No published model comes near; what passes this is noticed before anything is multiplied.
        const MOST: usize = 1 << 24;
        for (key, value) in [
            ("vocab_size", self.vocabulary_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.key_value_heads),
            ("head_dim", self.head_size),
            ("intermediate_size", self.inner_size),
        ] {
            if !(1..=MOST).contains(&value) {
                return Err(DecoderConfigError::Value {
                    key,
                    value: value.to_string(),
                    expected: "a whole number from 1 to 16777216",
                });
            }
        }
        if !self.heads.is_multiple_of(self.key_value_heads) {
            return Err(DecoderConfigError::Sizes(
                "num_attention_heads and num_key_value_heads",
                format!("{} is not a multiple of {}", self.heads, self.key_value_heads),
            ));
        }
        if matches!(self.positions, Positions::Rotary(_)) && !self.head_size.is_multiple_of(2) {
            return Err(DecoderConfigError::Value {
                key: "head_dim",
                value: self.head_size.to_string(),
                expected: "even, for rotary positions turn pairs",
            });
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
