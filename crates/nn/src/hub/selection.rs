//! Which files of a repository a model needs.

use std::collections::BTreeSet;

use super::cache::INDEX;
use super::{HubError, ModelName};

/// Small files that say what the model is and how text becomes tokens; each is fetched if the repository has it.
const DESCRIPTIONS: [&str; 13] = [
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    INDEX,
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// Where the weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weights {
    /// In this one file.
    One(&'static str),
    /// In the files that the index names.
    Sharded,
}

/// The files to fetch, out of those that the repository has, and where the weights are; the latter are not among the
/// former. `None` for the weights if one file was named: it is then the only one.
///
/// # Errors
/// [`HubError::Unusable`] where the repository lacks what a model needs.
pub(super) fn select(name: &ModelName, listing: &BTreeSet<String>) -> Result<(Vec<String>, Option<Weights>), HubError> {
    let has = |file: &str| listing.contains(file);
    let gguf: Vec<&str> = listing
        .iter()
        .map(String::as_str)
        .filter(|file| file.to_ascii_lowercase().ends_with(".gguf"))
        .collect();
    let unusable = |missing: Vec<String>, remedy: String| HubError::Unusable {
        name: name.to_string(),
        missing,
        remedy,
    };
    if let Some(file) = name.file() {
        if has(file) {
            return Ok((vec![file.to_owned()], None));
        }
        let remedy = match gguf.as_slice() {
            [] => "it has no .gguf file at all: give org/name".to_owned(),
            some => format!("it has {}", some.join(", ")),
        };
        return Err(unusable(vec![file.to_owned()], remedy));
    }
    let weights = if has("adapter_config.json") && !has("config.json") {
        Weights::One("adapter_model.safetensors")
    } else if !has("model.safetensors") && has(INDEX) {
        Weights::Sharded
    } else {
        Weights::One("model.safetensors")
    };
    let needed: &[&str] = match weights {
        Weights::One("adapter_model.safetensors") => &["adapter_model.safetensors"],
        Weights::One(file) => &["config.json", "tokenizer.json", file],
        Weights::Sharded => &["config.json", "tokenizer.json"],
    };
    let missing: Vec<String> = needed
        .iter()
        .filter(|file| !has(file))
        .map(|file| (*file).to_owned())
        .collect();
    if !missing.is_empty() {
        let remedy = match gguf.first() {
            Some(first) => format!(
                "name one of its .gguf files instead, as in {}/{first} (it has {})",
                name.repository(),
                gguf.len()
            ),
            None => {
                "choose a repository that has them, or convert the model with transformers' save_pretrained".to_owned()
            }
        };
        return Err(unusable(missing, remedy));
    }
    let unsharded = weights != Weights::Sharded;
    let descriptions = DESCRIPTIONS
        .iter()
        .filter(|file| has(file) && !(unsharded && **file == INDEX));
    Ok((descriptions.map(|file| (*file).to_owned()).collect(), Some(weights)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(name: &str, listing: &[&str]) -> Result<(Vec<String>, Option<Weights>), String> {
        let listing = listing.iter().map(|file| (*file).to_owned()).collect();
        select(&ModelName::parse(name).unwrap(), &listing).map_err(|error| error.to_string())
    }

    #[test]
    fn only_what_is_needed_is_chosen() {
        let listing = [
            ".gitattributes",
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "merges.txt",
            "model.safetensors",
            INDEX,
            "onnx/model.onnx",
            "pytorch_model.bin",
            "tokenizer.json",
            "x.gguf",
        ];
        let (files, weights) = choose("org/name", &listing).unwrap();
        assert_eq!(files, ["config.json", "merges.txt", "tokenizer.json"]);
        assert_eq!(weights, Some(Weights::One("model.safetensors")));
        assert_eq!(
            choose("org/name/x.gguf", &listing).unwrap(),
            (vec!["x.gguf".to_owned()], None)
        );
        let (files, weights) =
            choose("org/name", &["config.json", "tokenizer.json", INDEX, "m-1.safetensors"]).unwrap();
        assert_eq!((files.len(), weights), (3, Some(Weights::Sharded)));
        let (_, weights) = choose("org/name", &["adapter_config.json", "adapter_model.safetensors"]).unwrap();
        assert_eq!(weights, Some(Weights::One("adapter_model.safetensors")));
    }

    #[test]
    fn what_is_missing_is_said_with_what_there_is() {
        for (name, listing, words) in [
            ("org/name/y.gguf", &["x.gguf"][..], "has no y.gguf; it has x.gguf"),
            ("org/name/y.gguf", &[], "no .gguf file at all"),
            ("org/name", &["q4.gguf"], "as in org/name/q4.gguf"),
            (
                "org/name",
                &["config.json", "tokenizer.json", "pytorch_model.bin"],
                "no model.safetensors; choose",
            ),
        ] {
            let message = choose(name, listing).unwrap_err();
            assert!(message.contains(words), "{message} lacks {words}");
        }
    }
}
