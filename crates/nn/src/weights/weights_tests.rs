use burn::tensor::Device;

use super::*;
use crate::decoder::test_models::{self, GPT2, LLAMA, logits};
use crate::decoder::{Decoder, DecoderConfig};

fn random(text: &str) -> Decoder {
    test_models::random(text, &Device::flex())
}

#[test]
fn what_is_saved_is_loaded_bit_for_bit() {
    for text in [LLAMA, GPT2] {
        let decoder = random(text);
        // One file, and many.
        for shard_bytes in [u64::MAX, 3000] {
            let directory = tempfile::tempdir().unwrap();
            save(&decoder, directory.path(), Precision::F32, shard_bytes).unwrap();
            let files = std::fs::read_dir(directory.path()).unwrap().count();
            assert_eq!(files == 1, shard_bytes == u64::MAX);
            let source = SafetensorsDirectory::open(directory.path()).unwrap();
            let loaded = load(decoder.config(), &source, &Device::flex()).unwrap();
            assert_eq!(loaded.unused, Vec::<String>::new());
            assert_eq!(logits(&loaded.decoder), logits(&decoder));
        }
    }
}

#[test]
fn bf16_rounds_and_halves_the_file() {
    let (decoder, directory) = (random(LLAMA), tempfile::tempdir().unwrap());
    save(&decoder, directory.path(), Precision::Bf16, u64::MAX).unwrap();
    let source = SafetensorsDirectory::open(directory.path()).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let rounded = source.read(name).unwrap();
    save(&decoder, directory.path(), Precision::F32, u64::MAX).unwrap();
    let exact = SafetensorsDirectory::open(directory.path())
        .unwrap()
        .read(name)
        .unwrap();
    assert_eq!(rounded.shape, exact.shape);
    assert_ne!(rounded.values, exact.values);
    // Eight bits of precision.
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() / 256.0;
    assert!(rounded.values.iter().zip(&exact.values).all(close));
}

#[test]
fn gpt2_keeps_queries_keys_and_values_side_by_side() {
    let (decoder, directory) = (random(GPT2), tempfile::tempdir().unwrap());
    save(&decoder, directory.path(), Precision::F32, u64::MAX).unwrap();
    let source = SafetensorsDirectory::open(directory.path()).unwrap();
    assert_eq!(source.shape("transformer.h.1.attn.c_attn.weight"), Some(vec![16, 48]));
    assert_eq!(source.shape("transformer.h.1.mlp.c_fc.weight"), Some(vec![16, 64]));
    assert_eq!(source.shape("lm_head.weight"), None);
}

#[test]
fn weights_of_another_model_are_refused_by_name() {
    let (decoder, directory) = (random(LLAMA), tempfile::tempdir().unwrap());
    save(&decoder, directory.path(), Precision::F32, u64::MAX).unwrap();
    let source = SafetensorsDirectory::open(directory.path()).unwrap();
    let load_as = |from: &str, to: &str| {
        let config = DecoderConfig::from_json(&LLAMA.replace(from, to)).unwrap();
        load(&config, &source, &Device::flex())
            .map(drop)
            .unwrap_err()
            .to_string()
    };
    let error = load_as("\"intermediate_size\": 24", "\"intermediate_size\": 25");
    assert!(
        error.contains("gate_proj") && error.contains("[24, 16]") && error.contains("[25, 16]"),
        "{error}"
    );
    let error = load_as("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    assert!(error.contains("model.layers.2."), "{error}");
    // A configuration that asks for petabytes is refused before they are taken.
    let error = load_as("\"vocab_size\": 50", "\"vocab_size\": 16000000");
    assert!(error.contains("embed_tokens"), "{error}");
    let fewer =
        DecoderConfig::from_json(&LLAMA.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1")).unwrap();
    let loaded = load(&fewer, &source, &Device::flex()).unwrap();
    assert!(
        loaded.unused.iter().all(|name| name.starts_with("model.layers.1.")),
        "{:?}",
        loaded.unused
    );
    assert!(!loaded.unused.is_empty());
}

#[test]
fn files_that_lie_are_named() {
    let (decoder, directory) = (random(LLAMA), tempfile::tempdir().unwrap());
    let empty = SafetensorsDirectory::open(directory.path())
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(empty.contains("model.safetensors"), "{empty}");
    save(&decoder, directory.path(), Precision::F32, u64::MAX).unwrap();
    let path = directory.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let mut lying = whole.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    for damaged in [&whole[..whole.len() - 1], &whole[..4], &[][..], &lying] {
        std::fs::write(&path, damaged).unwrap();
        let error = SafetensorsDirectory::open(directory.path())
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(error.contains("model.safetensors"), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
    for index in [
        "{",
        r#"{"weight_map": {"a": "../b"}}"#,
        r#"{"weight_map": {"a": "none.safetensors"}}"#,
    ] {
        std::fs::write(directory.path().join("model.safetensors.index.json"), index).unwrap();
        let error = SafetensorsDirectory::open(directory.path())
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("index.json") || error.contains("none.safetensors"),
            "{error}"
        );
    }
}
