//! Reading `config.json`: the families' keys and defaults, as transformers has them.

use serde_json::{Map, Value, json};

use super::config::{DecoderConfig, DecoderConfigError, Family, FeedForward, Norm, Positions};
use super::rope::{Rope, RopeScaling};

type Result<T> = std::result::Result<T, DecoderConfigError>;

/// The keys of one configuration.
struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    /// A value that is there and not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn wrong<T>(&self, key: &'static str, value: &Value, expected: &'static str) -> Result<T> {
        Err(DecoderConfigError::Value {
            key,
            value: value.to_string(),
            expected,
        })
    }

    fn maybe_size(&self, key: &'static str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64().and_then(|size| usize::try_from(size).ok()) {
            Some(size) => Ok(Some(size)),
            None => self.wrong(key, value, "a whole number"),
        }
    }

    fn size(&self, key: &'static str) -> Result<usize> {
        self.maybe_size(key)?.ok_or(DecoderConfigError::Missing(key))
    }

    fn maybe_number(&self, key: &'static str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().filter(|number| number.is_finite() && *number > 0.0) {
            Some(number) => Ok(Some(number)),
            None => self.wrong(key, value, "a positive number"),
        }
    }

    fn number(&self, key: &'static str, default: f64) -> Result<f64> {
        Ok(self.maybe_number(key)?.unwrap_or(default))
    }

    fn flag(&self, key: &'static str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        match value.as_bool() {
            Some(flag) => Ok(flag),
            None => self.wrong(key, value, "true or false"),
        }
    }

    fn text(&self, key: &'static str) -> Result<Option<&str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_str() {
            Some(text) => Ok(Some(text)),
            None => self.wrong(key, value, "a text"),
        }
    }

    /// Fails unless the key is absent or has the only value that is supported.
    fn only(&self, key: &'static str, supported: &Value, instead: &'static str) -> Result<()> {
        match self.get(key) {
            Some(value) if value != supported => Err(DecoderConfigError::Unsupported {
                key,
                value: value.to_string(),
                instead,
            }),
            _ => Ok(()),
        }
    }

    fn activation(&self, key: &'static str, default: &'static str) -> Result<&str> {
        Ok(self.text(key)?.unwrap_or(default))
    }
}

/// Reads a configuration; sizes are not checked against each other yet.
pub(super) fn read(source: Map<String, Value>) -> Result<DecoderConfig> {
    let keys = Keys(&source);
    let family = match keys
        .text("model_type")?
        .ok_or(DecoderConfigError::Missing("model_type"))?
    {
        "llama" => Family::Llama,
        "mistral" => Family::Mistral,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        "gemma" => Family::Gemma,
        "gpt2" => Family::Gpt2,
        other => return Err(DecoderConfigError::Family(other.to_owned())),
    };
    let config = match family {
        Family::Gpt2 => gpt2(&keys)?,
        _ => llama_like(family, &keys)?,
    };
    let scores = scores(&keys)?;
    Ok(DecoderConfig {
        source,
        scores,
        ..config
    })
}

/// What follows the family's name in that of a class of reward models.
const SCORER: &str = "ForSequenceClassification";

/// Whether the model gives a score: one of its kind with one label.
fn scores(keys: &Keys<'_>) -> Result<bool> {
    let name = |value: &Value| value.as_str().is_some_and(|name| name.ends_with(SCORER));
    let architectures = keys.get("architectures").and_then(Value::as_array);
    if !architectures.is_some_and(|names| names.iter().any(name)) {
        return Ok(false);
    }
    // transformers writes the names of labels, and their number only where they have none; without either there are two.
    let labels = match keys.get("id2label").and_then(Value::as_object) {
        Some(names) => names.len(),
        None => keys.maybe_size("num_labels")?.unwrap_or(2),
    };
    if labels != 1 {
        return Err(DecoderConfigError::Unsupported {
            key: "num_labels",
            value: labels.to_string(),
            instead: "a reward model has one label",
        });
    }
    Ok(true)
}

impl DecoderConfig {
    /// The name of transformers' class.
    #[must_use]
    pub fn class(&self) -> String {
        let family = match self.family {
            Family::Llama => "Llama",
            Family::Mistral => "Mistral",
            Family::Qwen2 => "Qwen2",
            Family::Qwen3 => "Qwen3",
            Family::Gemma => "Gemma",
            Family::Gpt2 => "GPT2",
        };
        let kind = match (self.scores, self.family) {
            (true, _) => SCORER,
            (false, Family::Gpt2) => "LMHeadModel",
            (false, _) => "ForCausalLM",
        };
        format!("{family}{kind}")
    }

    /// Describes the same network with a score for a head.
    pub(super) fn score(&mut self) {
        self.scores = true;
        self.source.remove("num_labels");
        for (key, value) in [
            ("architectures", json!([self.class()])),
            ("id2label", json!({ "0": "LABEL_0" })),
            ("label2id", json!({ "LABEL_0": 0 })),
        ] {
            self.source.insert(key.to_owned(), value);
        }
    }
}

fn llama_like(family: Family, keys: &Keys<'_>) -> Result<DecoderConfig> {
    let (hidden_size, heads, layers) = (
        keys.size("hidden_size")?,
        keys.size("num_attention_heads")?,
        keys.size("num_hidden_layers")?,
    );
    let usual_head = match family {
        Family::Qwen3 => 128,
        Family::Gemma => 256,
        _ => hidden_size / heads.max(1),
    };
    let head_size = keys.maybe_size("head_dim")?.unwrap_or(usual_head);
    let key_value_heads = keys.maybe_size("num_key_value_heads")?.unwrap_or(heads);
    let max_positions = keys.maybe_size("max_position_embeddings")?.unwrap_or(2048);
    let gemma = family == Family::Gemma;
    let (key, activation) = match keys.get("hidden_activation") {
        Some(_) if gemma => ("hidden_activation", keys.activation("hidden_activation", "")?),
        // Gemma's first configurations say "gelu" and mean the approximation.
        _ if gemma => ("hidden_act", "gelu_pytorch_tanh"),
        _ => ("hidden_act", keys.activation("hidden_act", "silu")?),
    };
    let feed_forward = match (activation, gemma) {
        ("silu", false) => FeedForward::Swiglu,
        ("gelu_pytorch_tanh", true) => FeedForward::Geglu,
        _ => {
            return Err(DecoderConfigError::Unsupported {
                key,
                value: format!("\"{activation}\""),
                instead: "silu, and gelu_pytorch_tanh for gemma, are",
            });
        }
    };
    let attention_bias = keys.flag("attention_bias", false)?;
    Ok(DecoderConfig {
        family,
        vocabulary_size: keys.size("vocab_size")?,
        hidden_size,
        layers,
        heads,
        key_value_heads,
        head_size,
        inner_size: keys.size("intermediate_size")?,
        max_positions,
        norm: if gemma {
            Norm::OffsetRootMeanSquare
        } else {
            Norm::RootMeanSquare
        },
        norm_epsilon: keys.number("rms_norm_eps", 1e-6)?,
        positions: Positions::Rotary(rope(keys, max_positions)?),
        feed_forward,
        query_key_value_bias: attention_bias || family == Family::Qwen2,
        output_bias: attention_bias && family != Family::Qwen2,
        feed_forward_bias: family == Family::Llama && keys.flag("mlp_bias", false)?,
        query_key_norm: family == Family::Qwen3,
        windows: windows(family, keys, layers)?,
        tied: keys.flag("tie_word_embeddings", gemma)?,
        embedding_scale: if gemma {
            // transformers rounds the factor to the weights' type; in f32 it is the root itself.
            f64::from((hidden_size as f32).sqrt())
        } else {
            1.0
        },
        scores: false,
        source: Map::new(),
    })
}

fn gpt2(keys: &Keys<'_>) -> Result<DecoderConfig> {
    let (hidden_size, heads, layers) = (keys.size("n_embd")?, keys.size("n_head")?, keys.size("n_layer")?);
    let no = Value::Bool(false);
    keys.only("scale_attn_by_inverse_layer_idx", &no, "only false is")?;
    keys.only("scale_attn_weights", &Value::Bool(true), "only true is")?;
    keys.only("add_cross_attention", &no, "only false is")?;
    let activation = keys.activation("activation_function", "gelu_new")?;
    if !matches!(activation, "gelu_new" | "gelu_pytorch_tanh") {
        return Err(DecoderConfigError::Unsupported {
            key: "activation_function",
            value: format!("\"{activation}\""),
            instead: "gelu_new is",
        });
    }
    Ok(DecoderConfig {
        family: Family::Gpt2,
        vocabulary_size: keys.size("vocab_size")?,
        hidden_size,
        layers,
        heads,
        key_value_heads: heads,
        head_size: hidden_size / heads.max(1),
        inner_size: keys.maybe_size("n_inner")?.unwrap_or(4 * hidden_size),
        max_positions: keys.size("n_positions")?,
        norm: Norm::Layer,
        norm_epsilon: keys.number("layer_norm_epsilon", 1e-5)?,
        positions: Positions::Learned,
        feed_forward: FeedForward::Gelu,
        query_key_value_bias: true,
        output_bias: true,
        feed_forward_bias: true,
        query_key_norm: false,
        windows: vec![None; layers.min(1 << 24)],
        tied: keys.flag("tie_word_embeddings", true)?,
        embedding_scale: 1.0,
        scores: false,
        source: Map::new(),
    })
}

/// How far back each layer sees.
fn windows(family: Family, keys: &Keys<'_>, layers: usize) -> Result<Vec<Option<usize>>> {
    // A count beyond reason is refused later, by name.
    let layers = layers.min(1 << 24);
    let none = vec![None; layers];
    let (window, first) = match family {
        Family::Mistral => {
            let window = match keys.0.get("sliding_window") {
                None => Some(4096),
                Some(_) => keys.maybe_size("sliding_window")?,
            };
            (window, 0)
        }
        Family::Qwen2 | Family::Qwen3 if keys.flag("use_sliding_window", false)? => {
            let window = keys.maybe_size("sliding_window")?.unwrap_or(4096);
            (Some(window), keys.maybe_size("max_window_layers")?.unwrap_or(28))
        }
        _ => (None, 0),
    };
    let Some(window) = window else { return Ok(none) };
    if window == 0 {
        return Err(DecoderConfigError::Value {
            key: "sliding_window",
            value: "0".to_owned(),
            expected: "at least 1, or null",
        });
    }
    let Some(types) = keys.get("layer_types") else {
        return Ok((0..layers).map(|layer| (layer >= first).then_some(window)).collect());
    };
    let kind = |value: &Value| match value.as_str() {
        Some("sliding_attention") => Some(Some(window)),
        Some("full_attention") => Some(None),
        _ => None,
    };
    let read = types
        .as_array()
        .filter(|types| types.len() == layers)
        .and_then(|types| types.iter().map(kind).collect());
    match read {
        Some(windows) => Ok(windows),
        None => keys.wrong(
            "layer_types",
            types,
            "a list of \"full_attention\" or \"sliding_attention\", one for each layer",
        ),
    }
}

/// Rotary positions by either of transformers' spellings: `rope_theta` beside `rope_scaling`, or `rope_parameters`.
fn rope(keys: &Keys<'_>, max_positions: usize) -> Result<Rope> {
    keys.only("partial_rotary_factor", &Value::from(1.0), "whole heads are rotated")?;
    let (name, parameters) = match (keys.get("rope_parameters"), keys.get("rope_scaling")) {
        (Some(parameters), _) => ("rope_parameters", Some(parameters)),
        (None, Some(scaling)) => ("rope_scaling", Some(scaling)),
        (None, None) => ("rope_scaling", None),
    };
    let empty = Map::new();
    let parameters = match parameters {
        None => &empty,
        Some(Value::Object(parameters)) => parameters,
        Some(other) => return keys.wrong(name, other, "an object"),
    };
    let nested = Keys(parameters);
    let base = match nested.maybe_number("rope_theta")? {
        Some(base) => base,
        None => keys.number("rope_theta", 10_000.0)?,
    };
    let kind = match nested.text("rope_type")? {
        Some(kind) => kind,
        None => nested.text("type")?.unwrap_or("default"),
    };
    let required =
        |key: &'static str| -> Result<f64> { nested.maybe_number(key)?.ok_or(DecoderConfigError::Missing(key)) };
    let original = |default: usize| nested.number("original_max_position_embeddings", default as f64);
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear {
            factor: required("factor")?,
        },
        "llama3" => {
            let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
            if low >= high {
                return Err(DecoderConfigError::Sizes(
                    "low_freq_factor and high_freq_factor",
                    format!("{low} is not below {high}"),
                ));
            }
            RopeScaling::Llama3 {
                factor: required("factor")?,
                low,
                high,
                original: required("original_max_position_embeddings")?,
            }
        }
        "yarn" => {
            for key in ["mscale", "mscale_all_dim"] {
                nested.only(key, &Value::Null, "leave it out")?;
            }
            nested.only("truncate", &Value::Bool(true), "only true is")?;
            let factor = required("factor")?;
            RopeScaling::Yarn {
                factor,
                fast: nested.number("beta_fast", 32.0)?,
                slow: nested.number("beta_slow", 1.0)?,
                original: original(max_positions)?,
                // Peng et al. 2023, equation 22.
                attention: nested.number("attention_factor", 0.1 * factor.max(1.0).ln() + 1.0)?,
            }
        }
        other => {
            return Err(DecoderConfigError::Unsupported {
                key: "rope_type",
                value: format!("\"{other}\""),
                instead: "default, linear, llama3 and yarn are",
            });
        }
    };
    Ok(Rope { base, scaling })
}
