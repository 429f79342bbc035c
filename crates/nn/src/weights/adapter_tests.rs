use burn::tensor::Device;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::saving::FileTensor;
use super::*;
use crate::decoder::test_models::{GPT2, LLAMA, QWEN3, logits, random, with_live_adapters};
use crate::weights::save::write;

fn adapted(text: &str, targets: Targets, saved: &[&str]) -> Decoder {
    let mut decoder = random(text, &Device::flex());
    let config = LoraConfig {
        rank: 2,
        alpha: 4.0,
        dropout: 0.25,
        rank_stabilized: false,
        targets,
        modules_to_save: saved.iter().map(|name| (*name).to_owned()).collect(),
    };
    decoder.adapt(&config, &mut ChaCha8Rng::seed_from_u64(5)).unwrap();
    with_live_adapters(decoder)
}

fn reread(text: &str, directory: &Path) -> Result<Decoder, WeightsError> {
    let mut decoder = random(text, &Device::flex());
    AdapterDirectory::open(directory)?.put_on(&mut decoder)?;
    Ok(decoder)
}

fn names(directory: &Path) -> Vec<String> {
    SafetensorsDirectory::open_named(directory, ADAPTER_WEIGHTS)
        .unwrap()
        .names()
}

#[test]
fn what_is_saved_is_read_bit_for_bit() {
    let some = Targets::Named(vec!["q_proj".to_owned(), "down_proj".to_owned()]);
    for (text, targets, saved) in [
        (LLAMA, Targets::AllLinear, &[][..]),
        (LLAMA, some.clone(), &["lm_head", "norm"]),
        (QWEN3, some, &["embed_tokens"]),
        (GPT2, Targets::AllLinear, &["ln_f"]),
    ] {
        let decoder = adapted(text, targets, saved);
        let directory = tempfile::tempdir().unwrap();
        save_adapter(&decoder, directory.path(), "some/base").unwrap();
        let opened = AdapterDirectory::open(directory.path()).unwrap();
        assert_eq!(opened.base(), Some("some/base"));
        let read = reread(text, directory.path()).unwrap();
        assert_eq!(logits(&read), logits(&decoder), "{text}");
        assert_ne!(logits(&read), logits(&random(text, &Device::flex())));
        // And once more: nothing grows.
        let again = tempfile::tempdir().unwrap();
        save_adapter(&read, again.path(), "some/base").unwrap();
        assert_eq!(
            std::fs::read(again.path().join(ADAPTER_WEIGHTS)).unwrap(),
            std::fs::read(directory.path().join(ADAPTER_WEIGHTS)).unwrap()
        );
    }
}

#[test]
fn the_names_are_those_of_peft() {
    let directory = tempfile::tempdir().unwrap();
    let decoder = adapted(
        LLAMA,
        Targets::Named(vec!["layers.1.self_attn.v_proj".to_owned()]),
        &["lm_head"],
    );
    save_adapter(&decoder, directory.path(), "base").unwrap();
    assert_eq!(
        names(directory.path()),
        [
            "base_model.model.lm_head.weight",
            "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight",
            "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight",
        ]
    );
    let tying = || {
        let text = std::fs::read_to_string(directory.path().join(ADAPTER_CONFIG)).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["ensure_weight_tying"].clone()
    };
    assert_eq!(tying(), json!(false));
    // A tied embedding that is trained takes the head with it; PEFT has to be told.
    let decoder = adapted(QWEN3, Targets::Named(vec!["q_proj".to_owned()]), &["embed_tokens"]);
    save_adapter(&decoder, directory.path(), "base").unwrap();
    assert_eq!(tying(), json!(true));
    let names = names(directory.path());
    assert!(
        names.contains(&"base_model.model.lm_head.weight".to_owned()),
        "{names:?}"
    );
    assert!(
        names.contains(&"base_model.model.model.embed_tokens.weight".to_owned()),
        "{names:?}"
    );
}

/// PEFT's own adapter of GPT-2's fused matrix may happen to have three times the rank of the others.
#[test]
fn a_full_adapter_of_three_times_the_rank_is_read_whole() {
    let directory = tempfile::tempdir().unwrap();
    let decoder = adapted(GPT2, Targets::Named(vec!["c_attn".to_owned()]), &[]);
    save_adapter(&decoder, directory.path(), "base").unwrap();
    let source = SafetensorsDirectory::open_named(directory.path(), ADAPTER_WEIGHTS).unwrap();
    // One value outside the blocks: the first query now depends on the last rank, which is the values' own.
    let tensors = source.names().into_iter().map(|name| {
        let mut tensor = source.read(&name).unwrap();
        if name.ends_with("h.0.attn.c_attn.lora_B.weight") {
            tensor.values[5] = 3.0;
        }
        (name, FileTensor(tensor.shape, tensor.values))
    });
    let tensors: Vec<_> = tensors.collect();
    write(&directory.path().join(ADAPTER_WEIGHTS), tensors).unwrap();
    let read = reread(GPT2, directory.path()).unwrap();
    assert_ne!(logits(&read), logits(&decoder));
    assert_eq!(read.adapters()["blocks.0.query"].rank(), 6);
    assert_eq!(read.adapters()["blocks.1.query"].rank(), 2);
}

#[test]
fn a_head_of_its_own_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let decoder = adapted(QWEN3, Targets::Named(vec!["q_proj".to_owned()]), &["embed_tokens"]);
    save_adapter(&decoder, directory.path(), "base").unwrap();
    let source = SafetensorsDirectory::open_named(directory.path(), ADAPTER_WEIGHTS).unwrap();
    let tensors = source.names().into_iter().map(|name| {
        let tensor = source.read(&name).unwrap();
        let factor = if name.ends_with("lm_head.weight") { 2.0 } else { 1.0 };
        let values = tensor.values.iter().map(|value| value * factor).collect();
        (name, FileTensor(tensor.shape, values))
    });
    let tensors: Vec<_> = tensors.collect();
    write(&directory.path().join(ADAPTER_WEIGHTS), tensors).unwrap();
    let read = reread(QWEN3, directory.path()).unwrap();
    assert!(!read.config().tied);
    for (doubled, plain) in logits(&read).iter().zip(logits(&decoder)) {
        assert_eq!(*doubled, 2.0 * plain);
    }
}

/// Changes a key of a valid configuration.
fn with(directory: &Path, key: &str, value: Value) -> String {
    let path = directory.join(ADAPTER_CONFIG);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut config: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    config.insert(key.to_owned(), value);
    std::fs::write(&path, Value::from(config).to_string()).unwrap();
    let error = reread(LLAMA, directory).map(drop).unwrap_err().to_string();
    std::fs::write(&path, text).unwrap();
    error
}

#[test]
fn adapters_that_cannot_be_used_are_told_why() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let decoder = adapted(LLAMA, Targets::AllLinear, &["lm_head"]);
    save_adapter(&decoder, directory, "base").unwrap();
    for (key, value, expected) in [
        ("peft_type", json!("IA3"), "IA3"),
        ("use_dora", json!(true), "use_dora"),
        ("bias", json!("all"), "bias"),
        ("lora_bias", json!(true), "lora_bias"),
        ("trainable_token_indices", json!([1]), "trainable_token_indices"),
        ("alpha_pattern", json!({".*q_proj": 7}), "regular expression"),
        ("lora_dropout", json!(1.5), "lora_dropout"),
        ("r", json!(0), "\"r\""),
        ("r", json!(3), "rank 3"),
        ("rank_pattern", json!({"q_proj": 7}), "rank 7"),
        ("r", json!("two"), "no LoRA configuration"),
    ] {
        let error = with(directory, key, value);
        assert!(error.contains(expected), "{key}: {error}");
    }
    // Of another model.
    for other in [GPT2, &LLAMA.replace("\"hidden_size\": 16", "\"hidden_size\": 32")] {
        assert!(reread(other, directory).is_err(), "{other}");
    }
    std::fs::write(directory.join(ADAPTER_CONFIG), "{").unwrap();
    let error = reread(LLAMA, directory).map(drop).unwrap_err().to_string();
    assert!(error.contains(ADAPTER_CONFIG) && error.contains("not JSON"), "{error}");
    std::fs::remove_file(directory.join(ADAPTER_CONFIG)).unwrap();
    assert!(reread(LLAMA, directory).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn changed_bytes_never_panic(at in 0usize..4000, byte in any::<u8>(), cut in 0usize..4000, config in any::<bool>()) {
        let directory = tempfile::tempdir().unwrap();
        let decoder = adapted(LLAMA, Targets::Named(vec!["q_proj".to_owned()]), &["norm"]);
        save_adapter(&decoder, directory.path(), "base").unwrap();
        let path = directory.path().join(if config { ADAPTER_CONFIG } else { ADAPTER_WEIGHTS });
        let mut bytes = std::fs::read(&path).unwrap();
        let length = bytes.len();
        bytes[at % length] = byte;
        if cut % 3 == 0 {
            bytes.truncate(cut % length);
        }
        std::fs::write(&path, bytes).unwrap();
        if let Err(error) = reread(LLAMA, directory.path()) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
