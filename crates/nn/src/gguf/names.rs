//! From llama.cpp's tensor names to Hugging Face's.
//!
//! llama.cpp's names are those of `MODEL_TENSORS` in its `gguf-py/gguf/constants.py`: `token_embd.weight`,
//! `blk.0.attn_q.weight` and so on, the same words in every architecture; Hugging Face's are the parameter names of the
//! `...ForCausalLM` class.

/// The architectures whose tensors have Hugging Face names here, as `general.architecture` names them.
pub(super) const ARCHITECTURES: [&str; 6] = ["llama", "qwen2", "qwen3", "gpt2", "gemma", "gemma2"];

/// The name that Hugging Face's model gives to a tensor of a GGUF file, or `None` for an architecture that is not known
/// here or a tensor that its model has no parameter for (such as `rope_freqs.weight`, which is a configuration value).
///
/// ```
/// # use posterior_nn::gguf::hugging_face_name;
/// let name = hugging_face_name("llama", "blk.3.attn_q.weight");
/// assert_eq!(name.as_deref(), Some("model.layers.3.self_attn.q_proj.weight"));
/// let name = hugging_face_name("gpt2", "blk.3.ffn_up.bias");
/// assert_eq!(name.as_deref(), Some("transformer.h.3.mlp.c_fc.bias"));
/// ```
#[must_use]
pub fn hugging_face_name(architecture: &str, gguf_name: &str) -> Option<String> {
    let (stem, kind) = gguf_name
        .rsplit_once('.')
        .filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    if architecture == "gpt2" {
        return gpt2(stem, kind);
    }
    if !ARCHITECTURES.contains(&architecture) {
        return None;
    }
    let Some((layer, part)) = layer(stem) else {
        let module = match stem {
            "token_embd" => "model.embed_tokens",
            "output_norm" => "model.norm",
            "output" => "lm_head",
            _ => return None,
        };
        return Some(format!("{module}.{kind}"));
    };
    let module = match (architecture, part) {
        (_, "attn_q") => "self_attn.q_proj",
        (_, "attn_k") => "self_attn.k_proj",
        (_, "attn_v") => "self_attn.v_proj",
        (_, "attn_output") => "self_attn.o_proj",
        (_, "ffn_gate") => "mlp.gate_proj",
        (_, "ffn_up") => "mlp.up_proj",
        (_, "ffn_down") => "mlp.down_proj",
        (_, "attn_norm") => "input_layernorm",
        // Gemma 2 has a norm on either side of both halves of a layer.
        ("gemma2", "post_attention_norm") => "post_attention_layernorm",
        ("gemma2", "ffn_norm") => "pre_feedforward_layernorm",
        ("gemma2", "post_ffw_norm") => "post_feedforward_layernorm",
        (_, "ffn_norm") => "post_attention_layernorm",
        ("qwen3", "attn_q_norm") => "self_attn.q_norm",
        ("qwen3", "attn_k_norm") => "self_attn.k_norm",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{module}.{kind}"))
}

fn gpt2(stem: &str, kind: &str) -> Option<String> {
    let Some((layer, part)) = layer(stem) else {
        let module = match stem {
            "token_embd" => "transformer.wte",
            "position_embd" => "transformer.wpe",
            "output_norm" => "transformer.ln_f",
            "output" => "lm_head",
            _ => return None,
        };
        return Some(format!("{module}.{kind}"));
    };
    let module = match part {
        "attn_norm" => "ln_1",
        "ffn_norm" => "ln_2",
        "attn_qkv" => "attn.c_attn",
        "attn_output" => "attn.c_proj",
        "ffn_up" => "mlp.c_fc",
        "ffn_down" => "mlp.c_proj",
        _ => return None,
    };
    Some(format!("transformer.h.{layer}.{module}.{kind}"))
}

/// The number and the rest of `blk.NUMBER.REST`.
fn layer(stem: &str) -> Option<(usize, &str)> {
    let (number, part) = stem.strip_prefix("blk.")?.split_once('.')?;
    // One spelling of a number only, so that two tensors never get the same name.
    let layer: usize = number.parse().ok()?;
    (layer.to_string() == number).then_some((layer, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_names_its_parts() {
        for (architecture, gguf, hugging_face) in [
            ("llama", "token_embd.weight", "model.embed_tokens.weight"),
            ("llama", "output.weight", "lm_head.weight"),
            ("llama", "output_norm.weight", "model.norm.weight"),
            (
                "llama",
                "blk.0.attn_norm.weight",
                "model.layers.0.input_layernorm.weight",
            ),
            (
                "llama",
                "blk.11.ffn_norm.weight",
                "model.layers.11.post_attention_layernorm.weight",
            ),
            (
                "llama",
                "blk.1.attn_output.weight",
                "model.layers.1.self_attn.o_proj.weight",
            ),
            ("llama", "blk.1.ffn_gate.weight", "model.layers.1.mlp.gate_proj.weight"),
            ("qwen2", "blk.1.attn_k.bias", "model.layers.1.self_attn.k_proj.bias"),
            (
                "qwen3",
                "blk.1.attn_q_norm.weight",
                "model.layers.1.self_attn.q_norm.weight",
            ),
            ("gpt2", "position_embd.weight", "transformer.wpe.weight"),
            ("gpt2", "blk.2.attn_qkv.bias", "transformer.h.2.attn.c_attn.bias"),
            (
                "gemma",
                "blk.2.ffn_norm.weight",
                "model.layers.2.post_attention_layernorm.weight",
            ),
            (
                "gemma2",
                "blk.2.ffn_norm.weight",
                "model.layers.2.pre_feedforward_layernorm.weight",
            ),
            (
                "gemma2",
                "blk.2.post_attention_norm.weight",
                "model.layers.2.post_attention_layernorm.weight",
            ),
        ] {
            assert_eq!(
                hugging_face_name(architecture, gguf).as_deref(),
                Some(hugging_face),
                "{architecture}"
            );
        }
    }

    #[test]
    fn what_the_models_do_not_have_has_no_name() {
        for (architecture, gguf) in [
            ("llama", "rope_freqs.weight"),
            ("llama", "blk.0.ffn_gate_exps.weight"),
            ("llama", "blk.0.attn_q_norm.weight"),
            ("llama", "blk.00.attn_q.weight"),
            ("llama", "blk.+1.attn_q.weight"),
            ("llama", "token_embd.scale"),
            ("llama", "token_embd"),
            ("mamba", "token_embd.weight"),
        ] {
            assert_eq!(hugging_face_name(architecture, gguf), None, "{architecture} {gguf}");
        }
    }
}
