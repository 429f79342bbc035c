use super::super::Value;
use super::super::test_file::TestFile;
use super::*;

fn model(architecture: &str) -> TestFile {
    let key = |name: &str| format!("{architecture}.{name}");
    TestFile::of(architecture)
        .size(&key("block_count"), 2)
        .size(&key("context_length"), 64)
        .size(&key("embedding_length"), 32)
        .size(&key("feed_forward_length"), 96)
        .size(&key("attention.head_count"), 4)
        .with(&key("attention.layer_norm_rms_epsilon"), Value::F32(0.5))
        .with(&key("attention.layer_norm_epsilon"), Value::F32(0.25))
        .floats("token_embd.weight", &[7, 1], &[0.0; 7])
}

fn config(file: &TestFile) -> Map<String, Json> {
    file.parse().unwrap().config().unwrap()
}

#[test]
fn a_llama_is_described_as_by_hugging_face() {
    let file = model("llama")
        .size("llama.attention.head_count_kv", 2)
        .size("llama.rope.dimension_count", 8)
        .with("llama.rope.freq_base", Value::F32(100_000.0))
        .size("tokenizer.ggml.bos_token_id", 1)
        .size("tokenizer.ggml.eos_token_id", 2);
    let expected = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "max_position_embeddings": 64, "num_hidden_layers": 2, "intermediate_size": 96, "hidden_size": 32,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 0.5, "rope_theta": 100000.0,
        "vocab_size": 7, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    });
    assert_eq!(Json::Object(config(&file)), expected);
    let untied = file
        .floats("output.weight", &[1, 1], &[0.0])
        .floats("blk.0.attn_q.bias", &[1], &[0.0]);
    let config = config(&untied);
    assert_eq!(
        (&config["tie_word_embeddings"], &config["attention_bias"]),
        (&json!(false), &json!(true))
    );
}

#[test]
fn the_other_architectures_have_their_own_keys() {
    let gpt2 = config(&model("gpt2"));
    assert_eq!(
        (&gpt2["n_positions"], &gpt2["n_inner"], &gpt2["n_head"]),
        (&json!(64), &json!(96), &json!(4))
    );
    assert_eq!(gpt2["layer_norm_epsilon"], json!(0.25));
    let qwen3 = config(&model("qwen3").size("qwen3.attention.key_length", 16));
    assert_eq!(
        (&qwen3["model_type"], &qwen3["head_dim"]),
        (&json!("qwen3"), &json!(16))
    );
    // The rotation's width says nothing about the head's outside of llama; the keys' heads default to the queries'.
    let qwen2 = config(&model("qwen2").size("qwen2.rope.dimension_count", 4));
    assert_eq!(
        (qwen2.get("head_dim"), &qwen2["num_key_value_heads"]),
        (None, &json!(4))
    );
    assert_eq!(qwen2["rope_theta"], json!(10000.0));
    let mistral = config(&model("llama").size("llama.attention.sliding_window", 48));
    assert_eq!(
        (&mistral["model_type"], &mistral["sliding_window"]),
        (&json!("mistral"), &json!(48))
    );
    let gemma = config(&model("gemma2").with("gemma2.final_logit_softcapping", Value::F32(30.0)));
    assert_eq!(
        (&gemma["final_logit_softcapping"], &gemma["query_pre_attn_scalar"]),
        (&json!(30.0), &json!(8))
    );
}

#[test]
fn rotary_scaling_is_kept() {
    let scaled = |kind: Option<&str>, factor: Option<f32>| {
        let mut file = model("llama");
        if let Some(kind) = kind {
            file = file.text("llama.rope.scaling.type", kind);
        }
        if let Some(factor) = factor {
            file = file.with("llama.rope.scaling.factor", Value::F32(factor));
        }
        file.size("llama.rope.scaling.original_context_length", 16)
    };
    let scaling = |kind, factor| config(&scaled(kind, factor)).get("rope_scaling").cloned();
    assert_eq!(scaling(None, None), None);
    assert_eq!(scaling(Some("none"), Some(4.0)), None);
    assert_eq!(scaling(Some("linear"), Some(1.0)), None);
    assert_eq!(
        scaling(None, Some(4.0)),
        Some(json!({ "rope_type": "linear", "factor": 4.0 }))
    );
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16 });
    assert_eq!(scaling(Some("yarn"), Some(4.0)), Some(yarn));
    let refused = |kind, factor| scaled(kind, factor).parse().unwrap().config().unwrap_err().to_string();
    assert!(refused(Some("longrope"), Some(4.0)).contains("longrope"));
    let attention = scaled(Some("yarn"), Some(4.0)).with("llama.rope.scaling.attn_factor", Value::F32(2.0));
    assert!(
        attention
            .parse()
            .unwrap()
            .config()
            .unwrap_err()
            .to_string()
            .contains("attn_factor")
    );
    assert!(refused(Some("yarn"), None).contains("llama.rope.scaling.factor"));
}

/// The converter's divisors (llama.cpp, `convert_hf_to_gguf.py`, `generate_extra_tensors` of Llama).
fn llama3_divisors(factor: f64, low: f64, high: f64, context: f64, theta: f64, count: usize) -> Vec<f32> {
    let divisor = |i: usize| {
        let wavelength = TAU * theta.powf(i as f64 / count as f64);
        if wavelength < context / high {
            1.0
        } else if wavelength > context / low {
            factor
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..count).map(|i| divisor(i) as f32).collect()
}

#[test]
fn llama_3s_scaling_is_recovered_from_its_tensor() {
    // The published configurations of Llama 3.1 8B and 3.2 1B: 64 and 32 frequencies, theta 500,000.
    for (factor, context, count) in [(8.0, 8192, 64), (32.0, 8192, 32), (4.0, 5000, 16)] {
        let divisors = llama3_divisors(factor, 1.0, 4.0, f64::from(context), 500_000.0, count);
        let file = model("llama").with("llama.rope.freq_base", Value::F32(500_000.0));
        let config = config(&file.floats("rope_freqs.weight", &[count], &divisors));
        let expected = json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": context,
        });
        assert_eq!(config["rope_scaling"], expected);
    }
    for other in [
        llama3_divisors(8.0, 1.0, 8.0, 8192.0, 500_000.0, 64),
        vec![1.0, 2.0, 1.5, 3.0],
        vec![f32::NAN],
        vec![],
    ] {
        let file = model("llama").with("llama.rope.freq_base", Value::F32(500_000.0));
        let gguf = file
            .floats("rope_freqs.weight", &[other.len()], &other)
            .parse()
            .unwrap();
        assert!(
            gguf.config().unwrap_err().to_string().contains("rope_freqs.weight"),
            "{other:?}"
        );
    }
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let without = |key: &str| {
        let mut file = model("llama");
        file.metadata.retain(|(name, _)| name != key);
        file.parse().unwrap().config().unwrap_err()
    };
    for key in [
        "llama.block_count",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    ] {
        let error = without(key);
        assert!(
            matches!(&error, GgufError::MissingKey { key: found, .. } if found == key),
            "{error}"
        );
    }
    let error = model("llama")
        .text("llama.attention.key_length", "8")
        .parse()
        .unwrap()
        .config()
        .unwrap_err();
    assert!(
        matches!(&error, GgufError::Key { key, .. } if key == "llama.attention.key_length"),
        "{error}"
    );
}
