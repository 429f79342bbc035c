//! What the tests of language models share.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

#[allow(dead_code, reason = "each test file uses a part")]
pub mod training;

/// What the tokenizer knows; ids count from 0.
pub const WORDS: &[&str] = &[
    "<unk>",
    "<end>",
    "the",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "a",
    "mat",
    "tree",
    "and",
    "then",
    "it",
    "slept",
    "user",
    "assistant",
    ":",
    "hello",
];

/// A directory with a small Llama of random weights and a tokenizer of whole words.
pub fn model(directory: &Path) -> PathBuf {
    model_of(directory, WORDS)
}

/// The same of these words; the second ends a text.
pub fn model_of(directory: &Path, words: &[&str]) -> PathBuf {
    let out = directory.join("model");
    fs::create_dir(&out).unwrap();
    let (vocabulary, width, inner, layers) = (words.len(), 16, 24, 2);
    let config = json!({
        "model_type": "llama", "vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": inner, "max_position_embeddings": 128,
    });
    fs::write(out.join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocabulary, width]),
        ("model.norm.weight".to_owned(), vec![width]),
        ("lm_head.weight".to_owned(), vec![vocabulary, width]),
    ];
    for layer in 0..layers {
        for (name, shape) in [
            ("input_layernorm", vec![width]),
            ("self_attn.q_proj", vec![width, width]),
            ("self_attn.k_proj", vec![width / 2, width]),
            ("self_attn.v_proj", vec![width / 2, width]),
            ("self_attn.o_proj", vec![width, width]),
            ("post_attention_layernorm", vec![width]),
            ("mlp.gate_proj", vec![inner, width]),
            ("mlp.up_proj", vec![inner, width]),
            ("mlp.down_proj", vec![width, inner]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    let mut state = 1_u64;
    for (name, shape) in shapes {
        let start = data.len();
        for _ in 0..shape.iter().product::<usize>() {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let value = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
            data.extend((value * 0.8).to_le_bytes());
        }
        let tensor = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(name, tensor);
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend(data);
    fs::write(out.join("model.safetensors"), bytes).unwrap();
    let vocabulary: serde_json::Map<String, Value> = words
        .iter()
        .enumerate()
        .map(|(id, word)| ((*word).to_owned(), json!(id)))
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "decoder": null,
        "added_tokens": [{ "id": 1, "content": words[1], "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": false, "special": true }],
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    });
    fs::write(out.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }} <end> {% endfor %}\
                    {% if add_generation_prompt %}assistant : {% endif %}";
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": words[1], "unk_token": "<unk>",
        "clean_up_tokenization_spaces": false, "chat_template": template,
    });
    fs::write(out.join("tokenizer_config.json"), settings.to_string()).unwrap();
    out
}

/// Runs the program.
pub fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posterior"));
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// What the program said on standard error, in one line.
pub fn message(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).replace(['\n', '│'], " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
