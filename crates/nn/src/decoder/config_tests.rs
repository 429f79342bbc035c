use super::*;
use crate::decoder::rope::{Rope, RopeScaling};

fn llama(more: &str) -> Result<DecoderConfig, DecoderConfigError> {
    DecoderConfig::from_json(&format!(
        r#"{{"model_type": "llama", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 4, "intermediate_size": 64{more}}}"#
    ))
}

fn other(family: &str, more: &str) -> DecoderConfig {
    DecoderConfig::from_json(&format!(
        r#"{{"model_type": "{family}", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64{more}}}"#
    ))
    .unwrap()
}

#[test]
fn defaults_are_those_of_transformers() {
    let config = llama("").unwrap();
    assert_eq!((config.key_value_heads, config.head_size), (4, 8));
    assert_eq!(
        (config.tied, config.query_key_value_bias, config.norm_epsilon),
        (false, false, 1e-6)
    );
    assert_eq!(config.windows, [None; 3]);
    let plain = Rope {
        base: 10_000.0,
        scaling: RopeScaling::None,
    };
    assert_eq!(config.positions, Positions::Rotary(plain));
    // MistralConfig().sliding_window, Qwen2Config().use_sliding_window, Qwen3Config().head_dim (transformers 5.23)
    assert_eq!(other("mistral", "").windows, [Some(4096); 3]);
    assert_eq!(other("mistral", r#", "sliding_window": null"#).windows, [None; 3]);
    let qwen2 = other("qwen2", r#", "sliding_window": 8"#);
    assert_eq!(
        (qwen2.windows, qwen2.query_key_value_bias, qwen2.output_bias),
        (vec![None; 3], true, false)
    );
    let late = other(
        "qwen2",
        r#", "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 2"#,
    );
    assert_eq!(late.windows, [None, None, Some(8)]);
    let qwen3 = other("qwen3", "");
    assert_eq!(
        (qwen3.head_size, qwen3.query_key_norm, qwen3.query_size()),
        (128, true, 512)
    );
    let gemma = other("gemma", "");
    assert_eq!(
        (gemma.tied, gemma.norm, gemma.head_size),
        (true, Norm::OffsetRootMeanSquare, 256)
    );
}

#[test]
fn both_spellings_of_rotary_positions_are_read() {
    let scaling = r#""rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192"#;
    let old = llama(&format!(r#", "rope_theta": 500000.0, "rope_scaling": {{{scaling}}}"#)).unwrap();
    let new = llama(&format!(
        r#", "rope_parameters": {{"rope_theta": 500000.0, {scaling}}}"#
    ))
    .unwrap();
    assert_eq!(old.positions, new.positions);
    let Positions::Rotary(rope) = old.positions else {
        panic!("{:?}", old.positions)
    };
    assert_eq!(rope.base, 500_000.0);
    assert!(matches!(rope.scaling, RopeScaling::Llama3 { factor: 8.0, .. }));
}

#[test]
fn what_cannot_be_built_is_named() {
    for (more, part) in [
        (r#", "hidden_act": "relu""#, "hidden_act"),
        (r#", "num_key_value_heads": 3"#, "num_key_value_heads"),
        (r#", "num_key_value_heads": 0"#, "num_key_value_heads"),
        (r#", "head_dim": 7"#, "head_dim"),
        (r#", "rope_scaling": {"rope_type": "longrope"}"#, "longrope"),
        (r#", "rope_scaling": {"rope_type": "linear"}"#, "factor"),
        (r#", "rope_scaling": 3"#, "rope_scaling"),
        (r#", "rms_norm_eps": -1"#, "rms_norm_eps"),
        (r#", "tie_word_embeddings": "yes""#, "tie_word_embeddings"),
        (r#", "partial_rotary_factor": 0.5"#, "partial_rotary_factor"),
    ] {
        let error = llama(more).unwrap_err().to_string();
        assert!(error.contains(part), "{more}: {error}");
    }
    for (text, part) in [
        ("[]", "config.json"),
        ("{", "config.json"),
        ("{}", "model_type"),
        (r#"{"model_type": "bert"}"#, "bert"),
        (r#"{"model_type": "llama"}"#, "hidden_size"),
        (
            r#"{"model_type": "llama", "hidden_size": 1e30, "num_attention_heads": 1, "num_hidden_layers": 1}"#,
            "hidden_size",
        ),
        (
            r#"{"model_type": "llama", "hidden_size": 99999999999, "num_attention_heads": 0,
            "num_hidden_layers": 99999999999, "vocab_size": 1, "intermediate_size": 1}"#,
            "hidden_size",
        ),
    ] {
        let error = DecoderConfig::from_json(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn parameters_are_counted() {
    // Embedding and head 3,200 each; per block four maps of 32 x 32, three of 32 x 64, two norms of 32; the last norm.
    assert_eq!(
        llama("").unwrap().parameters(),
        6400 + 3 * (4 * 1024 + 3 * 2048 + 64) + 32
    );
    let gpt2 = r#"{"model_type": "gpt2", "vocab_size": 10, "n_embd": 4, "n_layer": 1, "n_head": 2, "n_positions": 8}"#;
    let gpt2 = DecoderConfig::from_json(gpt2).unwrap();
    // GPT2Model: wte 40, wpe 32, attention 4·12+12 + 4·4+4, feed-forward 4·16+16 + 16·4+4, three norms of 8.
    assert_eq!(gpt2.parameters(), 40 + 32 + 60 + 20 + 80 + 68 + 24);
}
