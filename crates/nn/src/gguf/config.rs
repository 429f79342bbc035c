//! The model's configuration as Hugging Face's `config.json` has it.
//!
//! The keys and their sources are those of transformers 5.23.0 (`integrations/ggml.py`, `GGUF_CONFIG_MAPPING`); what it
//! leaves at a default although the file states it (rotary scaling, `head_dim`, GPT-2's number of positions) is set
//! here too.

use std::f64::consts::TAU;

use serde_json::{Map, Value as Json, json};

use super::{Gguf, GgufError};

/// Llama 3's rotary scaling leaves wavelengths below `context / 4` alone and divides the frequencies of those above
/// `context / 1` by the factor (transformers, `modeling_rope_utils.py`, `_compute_llama3_parameters`). All released
/// models have these two numbers.
const LOW_FREQUENCY_FACTOR: f64 = 1.0;
const HIGH_FREQUENCY_FACTOR: f64 = 4.0;

impl Gguf {
    /// The content of `config.json`.
    ///
    /// # Errors
    /// [`GgufError::Unsupported`] for an architecture that is not known here, [`GgufError::MissingKey`] and
    /// [`GgufError::Key`] for metadata that do not describe a model of it.
    pub fn config(&self) -> Result<Map<String, Json>, GgufError> {
        let architecture = self.known_architecture()?.to_owned();
        let mut config = Map::new();
        let mut set = |key: &str, value: Json| {
            if !value.is_null() {
                config.insert(key.to_owned(), value);
            }
        };
        set("tie_word_embeddings", json!(self.tensor("output.weight").is_none()));
        set("vocab_size", json!(self.vocabulary_size(&architecture)?));
        for (key, source) in [
            ("bos_token_id", "bos_token_id"),
            ("eos_token_id", "eos_token_id"),
            ("pad_token_id", "padding_token_id"),
            ("unk_token_id", "unknown_token_id"),
        ] {
            set(key, json!(self.size(&format!("tokenizer.ggml.{source}"))?));
        }
        if architecture == "gpt2" {
            config.extend(self.gpt2_config()?);
        } else {
            config.extend(self.llama_like_config(&architecture)?);
        }
        Ok(config)
    }

    fn gpt2_config(&self) -> Result<Map<String, Json>, GgufError> {
        let need = |name: &str| {
            let key = format!("gpt2.{name}");
            self.layer_size(&key)?.ok_or_else(|| self.missing(&key))
        };
        let epsilon = "gpt2.attention.layer_norm_epsilon";
        let (positions, width) = (need("context_length")?, need("embedding_length")?);
        // Null stands for four times the width.
        let inner = Some(need("feed_forward_length")?).filter(|inner| Some(*inner) != width.checked_mul(4));
        Ok(object(json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "n_positions": positions,
            "n_ctx": positions,
            "n_embd": width,
            "n_layer": need("block_count")?,
            "n_head": need("attention.head_count")?,
            "n_inner": inner,
            "layer_norm_epsilon": self.number(epsilon)?.ok_or_else(|| self.missing(epsilon))?,
        })))
    }

    fn llama_like_config(&self, architecture: &str) -> Result<Map<String, Json>, GgufError> {
        let key = |name: &str| format!("{architecture}.{name}");
        let need = |name: &str| self.layer_size(&key(name))?.ok_or_else(|| self.missing(&key(name)));
        let window = self
            .size(&key("attention.sliding_window"))?
            .filter(|window| *window > 0);
        // llama.cpp files Mistral's models under llama; a window is what tells them apart.
        let (model_type, class) = match architecture {
            "llama" if window.is_some() => ("mistral", "MistralForCausalLM"),
            "llama" => ("llama", "LlamaForCausalLM"),
            "qwen2" => ("qwen2", "Qwen2ForCausalLM"),
            "qwen3" => ("qwen3", "Qwen3ForCausalLM"),
            "gemma" => ("gemma", "GemmaForCausalLM"),
            _ => ("gemma2", "Gemma2ForCausalLM"),
        };
        let epsilon = key("attention.layer_norm_rms_epsilon");
        let (width, heads) = (need("embedding_length")?, self.heads(architecture)?);
        let mut config = object(json!({
            "architectures": [class],
            "model_type": model_type,
            "hidden_act": if architecture.starts_with("gemma") { "gelu_pytorch_tanh" } else { "silu" },
            "max_position_embeddings": need("context_length")?,
            "num_hidden_layers": need("block_count")?,
            "intermediate_size": need("feed_forward_length")?,
            "hidden_size": width,
            "num_attention_heads": heads,
            "num_key_value_heads": self.key_value_heads(architecture)?,
            "rms_norm_eps": self.number(&epsilon)?.ok_or_else(|| self.missing(&epsilon))?,
        }));
        // llama.cpp's default where a file does not say.
        let theta = self.number(&key("rope.freq_base"))?.unwrap_or(10_000.0);
        config.insert("rope_theta".to_owned(), json!(theta));
        let stated = match self.size(&key("attention.key_length"))? {
            // Llama's converter states the width of a head as that of the rotation, which covers it whole.
            None if architecture == "llama" => self.size(&key("rope.dimension_count"))?,
            stated => stated,
        };
        if let Some(head) = stated {
            config.insert("head_dim".to_owned(), json!(head));
        }
        if let Some(window) = window {
            config.insert("sliding_window".to_owned(), json!(window));
        }
        for (flag, tensor) in [
            ("attention_bias", "blk.0.attn_q.bias"),
            ("mlp_bias", "blk.0.ffn_up.bias"),
        ] {
            if architecture == "llama" && self.tensor(tensor).is_some() {
                config.insert(flag.to_owned(), json!(true));
            }
        }
        if architecture.starts_with("gemma") {
            config.insert("hidden_activation".to_owned(), json!("gelu_pytorch_tanh"));
        }
        if architecture == "gemma2" {
            for (name, source) in [
                ("attn_logit_softcapping", "attn_logit_softcapping"),
                ("final_logit_softcapping", "final_logit_softcapping"),
            ] {
                if let Some(cap) = self.number(&key(source))? {
                    config.insert(name.to_owned(), json!(cap));
                }
            }
            // No key has it: the 27B model (46 layers) scales by width / heads, the others by the width of a head.
            let by_head = stated.unwrap_or_else(|| width.checked_div(heads).unwrap_or(0));
            let by_width = width.checked_div(heads).unwrap_or(0);
            let scalar = if need("block_count")? == 46 { by_width } else { by_head };
            config.insert("query_pre_attn_scalar".to_owned(), json!(scalar));
        }
        if let Some(scaling) = self.rotary_scaling(architecture, theta)? {
            config.insert("rope_scaling".to_owned(), scaling);
        }
        Ok(config)
    }

    /// The number of rows of the embedding, which is what the model needs; else what the metadata state.
    fn vocabulary_size(&self, architecture: &str) -> Result<usize, GgufError> {
        if let Some(rows) = self.tensor("token_embd.weight").and_then(|info| info.shape.first()) {
            return Ok(*rows);
        }
        if let Some(size) = self.size(&format!("{architecture}.vocab_size"))? {
            return Ok(size);
        }
        let key = "tokenizer.ggml.tokens";
        self.list(key)?.map(super::Array::len).ok_or_else(|| self.missing(key))
    }

    /// `rope_scaling`, from the metadata or, for Llama 3, from the tensor `rope_freqs.weight`.
    fn rotary_scaling(&self, architecture: &str, theta: f64) -> Result<Option<Json>, GgufError> {
        let key = |name: &str| format!("{architecture}.rope.{name}");
        if self.tensor("rope_freqs.weight").is_some() {
            return self.llama3_scaling(theta).map(Some);
        }
        let factor = match self.number(&key("scaling.factor"))? {
            None => self.number(&key("scale_linear"))?,
            stated => stated,
        };
        let kind_key = key("scaling.type");
        // A factor without a type is linear: so llama.cpp reads it.
        let kind = self.text(&kind_key)?.unwrap_or("linear");
        // The value 0 stands for "not scaled" in old files.
        let Some(factor) = factor.filter(|factor| *factor != 0.0 && *factor != 1.0) else {
            return match kind {
                "none" | "linear" => Ok(None),
                _ => Err(self.missing(&key("scaling.factor"))),
            };
        };
        match kind {
            "none" => Ok(None),
            "linear" => Ok(Some(json!({ "rope_type": "linear", "factor": factor }))),
            "yarn" => {
                // llama.cpp multiplies YaRN's own attention factor by this, Hugging Face's key replaces it.
                let attention = key("scaling.attn_factor");
                if self.number(&attention)?.is_some_and(|attention| attention != 1.0) {
                    return Err(self.unsupported(
                        format!("YaRN with an attention factor of its own (key \"{attention}\")"),
                        "use the original model in safetensors",
                    ));
                }
                let mut scaling = object(json!({ "rope_type": "yarn", "factor": factor }));
                let original = self.size(&key("scaling.original_context_length"))?;
                for (name, value) in [
                    ("original_max_position_embeddings", json!(original)),
                    ("beta_fast", json!(self.number(&key("scaling.yarn_beta_fast"))?)),
                    ("beta_slow", json!(self.number(&key("scaling.yarn_beta_slow"))?)),
                ] {
                    if !value.is_null() {
                        scaling.insert(name.to_owned(), value);
                    }
                }
                Ok(Some(Json::Object(scaling)))
            }
            other => Err(self.unsupported(
                format!("rotary positions scaled by the method \"{other}\" (key \"{kind_key}\")"),
                "the methods read here are linear, yarn and Llama 3's",
            )),
        }
    }

    /// Llama 3's scaling, recovered from what llama.cpp's converter made of it: for each frequency, the number that
    /// divides it.
    fn llama3_scaling(&self, theta: f64) -> Result<Json, GgufError> {
        let (_, divisors) = self.read("rope_freqs.weight")?;
        let recovered = recover_llama3(&divisors, theta);
        let Some((factor, context)) = recovered else {
            return Err(self.unsupported(
                "rotary frequencies (tensor \"rope_freqs.weight\") that are not those of Llama 3's scaling",
                "use the original model in safetensors",
            ));
        };
        Ok(json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": LOW_FREQUENCY_FACTOR,
            "high_freq_factor": HIGH_FREQUENCY_FACTOR,
            "original_max_position_embeddings": context,
        }))
    }
}

/// The factor and the original context that lead to these divisors, if Llama 3's rule does.
///
/// Between the two wavelengths, 1/divisor = (1 - s)/factor + s with s = (context/wavelength - low)/(high - low), which
/// is solved for the context at each frequency there; then all divisors are computed anew and compared.
fn recover_llama3(divisors: &[f32], theta: f64) -> Option<(f64, u64)> {
    let factor = f64::from(*divisors.last()?);
    if !factor.is_finite() || factor < 1.0 {
        return None;
    }
    let wavelength = |i: usize| TAU * theta.powf(i as f64 / divisors.len() as f64);
    let span = HIGH_FREQUENCY_FACTOR - LOW_FREQUENCY_FACTOR;
    let solved = divisors.iter().enumerate().filter_map(|(i, divisor)| {
        let divisor = f64::from(*divisor);
        (divisor > 1.001 && divisor < factor * 0.999).then(|| {
            let smooth = (1.0 / divisor - 1.0 / factor) / (1.0 - 1.0 / factor);
            (smooth * span + LOW_FREQUENCY_FACTOR) * wavelength(i)
        })
    });
    let solved: Vec<f64> = solved.collect();
    // Without a frequency in between, any context of the right size does; 8,192 is that of all released models.
    let context = match solved.get(solved.len() / 2) {
        Some(context) => context.round(),
        None => 8192.0,
    };
    let agrees = divisors.iter().enumerate().all(|(i, divisor)| {
        let turns = context / wavelength(i);
        let smooth = ((turns - LOW_FREQUENCY_FACTOR) / span).clamp(0.0, 1.0);
        let expected = 1.0 / ((1.0 - smooth) / factor + smooth);
        (f64::from(*divisor) / expected - 1.0).abs() < 1e-3
    });
    (agrees && context >= 1.0).then_some((factor, context as u64))
}

/// The map of a JSON object.
fn object(value: Json) -> Map<String, Json> {
    match value {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
