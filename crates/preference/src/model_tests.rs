use std::fs;

use nn::decoder::parameters::Parameter;
use nn::weights::Precision;
use proptest::prelude::*;
use rand::SeedableRng as _;

use super::*;
use crate::save::{Card, Saving};
use crate::text::{Ranked, test_tokenizer};

const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 270, "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 12, "max_position_embeddings": 64,
    "torch_dtype": "bfloat16"}"#;

fn model() -> LanguageModel {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut make = |parameter: &Parameter| {
        let count = parameter.shape.iter().product();
        Ok::<_, std::convert::Infallible>((0..count).map(|_| rng.random::<f32>() - 0.5).collect())
    };
    let config = DecoderConfig::from_json(CONFIG).unwrap();
    let decoder = Decoder::build(&config, &Device::flex(), &mut make).unwrap_or_else(|never| match never {});
    LanguageModel {
        decoder,
        tokenizer: test_tokenizer(),
        path: PathBuf::from("nowhere"),
        base: "org/base".to_owned(),
        reward: Normalization::default(),
        warnings: Vec::new(),
    }
}

fn saving() -> Saving<'static> {
    Saving {
        precision: Precision::F32,
        shard_bytes: u64::MAX,
        card: Card {
            tags: &["sft"],
            text: "Made by a test.".to_owned(),
        },
    }
}

fn log_probs(model: &LanguageModel) -> Vec<Vec<f64>> {
    crate::score::log_probs_of(
        &model.decoder,
        [&Ranked {
            prompt: vec![1, 2, 3],
            responses: vec![vec![4, 5], vec![6]],
        }],
    )
}

#[test]
fn a_directory_has_what_transformers_asks_for() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("model");
    model().save(&out, &saving()).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"], serde_json::json!(["LlamaForCausalLM"]));
    assert_eq!(config["dtype"], "float32");
    assert!(config.get("torch_dtype").is_none());
    let text = fs::read(out.join("generation_config.json")).unwrap();
    let generation: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(generation["eos_token_id"], serde_json::json!([260, 262]));
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(
        card.starts_with("---\nbase_model: \"org/base\"\nlibrary_name: transformers\n"),
        "{card}"
    );
    assert!(
        card.contains("- sft\n") && card.ends_with("Made by a test.\n"),
        "{card}"
    );
    let read = LanguageModel::from_directory(&out, &Device::flex()).unwrap();
    assert_eq!(log_probs(&read), log_probs(&model()));
    // No second model in its place, unless that is meant.
    assert!(matches!(
        model().save(&out, &saving()),
        Err(crate::save::SaveError::NotEmpty { .. })
    ));
    model().replace(&out, &saving()).unwrap();
    let names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["model"]);
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(model().save(&file.join("model"), &saving()).is_err());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Any file of a model's directory, damaged anywhere: an error that names something, or a model; never a panic.
    #[test]
    fn damaged_directories_never_panic(
        which in 0usize..5,
        at in any::<prop::sample::Index>(),
        replacement in proptest::collection::vec(any::<u8>(), 0..6),
        number in prop::option::of(prop_oneof![Just("0"), Just("-1"), Just("1e99"), Just("18446744073709551615"), Just("null")]),
        cut in any::<bool>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("model");
        model().save(&out, &saving()).unwrap();
        let name = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"][which];
        let path = out.join(name);
        let mut bytes = fs::read(&path).unwrap();
        match number.filter(|_| which != 4) {
            // A number of the file becomes another.
            Some(number) => {
                let text = String::from_utf8(bytes).unwrap();
                let digits: Vec<usize> = text
                    .char_indices()
                    .filter(|(i, c)| c.is_ascii_digit() && !text[..*i].ends_with(|c: char| c.is_alphanumeric()))
                    .map(|(i, _)| i)
                    .collect();
                let start = if digits.is_empty() { 0 } else { digits[at.index(digits.len())] };
                let end = text[start..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |length| start + length);
                bytes = format!("{}{number}{}", &text[..start], &text[end..]).into_bytes();
            }
            None => {
                let place = at.index(bytes.len());
                if cut {
                    bytes.truncate(place);
                } else {
                    let end = (place + replacement.len()).min(bytes.len());
                    bytes.splice(place..end, replacement);
                }
            }
        }
        fs::write(&path, bytes).unwrap();
        match LanguageModel::from_directory(&out, &Device::flex()) {
            Ok(model) => drop(model.tokenizer.encode("ab a", true)),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
