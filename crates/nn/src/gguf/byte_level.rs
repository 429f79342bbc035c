//! Byte-level BPE, the tokenizer of GPT-2 and most models since: `tokenizer.ggml.model` "gpt2".
//!
//! The file has the vocabulary, spelled in GPT-2's alphabet of 256 printable characters for the 256 bytes, and the
//! merges in order. How text is split into words before merging is not in the file, only a name for it
//! (`tokenizer.ggml.pre`); the patterns are those of the models' own `tokenizer.json`, grouped under llama.cpp's names
//! (`llama-vocab.cpp`).

use serde_json::{Value as Json, json};

use super::tokenizer::{Parts, TokenType, Vocabulary};
use super::{Gguf, GgufError};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// How a family of models prepares text for merging.
struct Preparation {
    normalizer: Json,
    pre_tokenizer: Json,
    /// Whether a word that is a token is taken whole, without merging.
    ignore_merges: bool,
    add_bos: bool,
}

/// The byte-level tokenizer's parts of `tokenizer.json`.
pub(super) fn parts(gguf: &Gguf, vocabulary: &Vocabulary<'_>, warnings: &mut Vec<String>) -> Result<Parts, GgufError> {
    let ids = gguf.token_ids(vocabulary.tokens)?;
    let key = "tokenizer.ggml.merges";
    let merges = gguf.merges()?.ok_or_else(|| gguf.missing(key))?;
    for (number, (left, right)) in merges.iter().enumerate() {
        let joined = format!("{left}{right}");
        if let Some(absent) = [*left, *right, &joined]
            .into_iter()
            .find(|token| !ids.contains_key(*token))
        {
            return Err(gguf.key_error(
                key,
                format!(
                    "entry {number} (\"{left} {right}\") needs the token {absent:?}, which is not in the vocabulary"
                ),
            ));
        }
    }
    let preparation = preparation(gguf, warnings)?;
    let added = vocabulary.types.iter().zip(vocabulary.tokens).enumerate();
    let added = added.filter_map(|(id, (kind, token))| match kind {
        TokenType::Control => Some((id, token.clone(), true)),
        TokenType::UserDefined => Some((id, token.clone(), false)),
        _ => None,
    });
    Ok(Parts {
        normalizer: preparation.normalizer,
        pre_tokenizer: preparation.pre_tokenizer,
        decoder: json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
        added: added.collect(),
        add_bos: preparation.add_bos,
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": preparation.ignore_merges,
            "vocab": ids,
            "merges": merges,
        }),
    })
}

fn preparation(gguf: &Gguf, warnings: &mut Vec<String>) -> Result<Preparation, GgufError> {
    let stated = gguf.text("tokenizer.ggml.pre")?;
    let name = match (stated, gguf.architecture()?) {
        (Some(name), _) => name,
        // Files from before April 2024 have no name; these architectures have one splitting each.
        (None, "gpt2") => "gpt-2",
        (None, "qwen2" | "qwen3") => "qwen2",
        (None, _) => "",
    };
    let plain = |pre_tokenizer: Json| Preparation {
        normalizer: Json::Null,
        pre_tokenizer,
        ignore_merges: false,
        add_bos: false,
    };
    Ok(match name {
        "gpt-2" | "phi-2" | "roberta-bpe" | "mpt" | "olmo" | "jais" | "gigachat" | "jina-es" | "jina-de"
        | "jina-v1-en" | "jina-v2-es" | "jina-v2-de" | "jina-v2-code" => plain(byte_level(true)),
        // Each digit by itself, then as GPT-2.
        "smollm" | "starcoder" | "refact" | "codeshell" => plain(json!({
            "type": "Sequence",
            "pretokenizers": [{ "type": "Digits", "individual_digits": true }, byte_level(true)],
        })),
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2" => {
            Preparation {
                ignore_merges: true,
                add_bos: true,
                ..plain(split(&[LLAMA3]))
            }
        }
        "dbrx" | "smaug-bpe" => plain(split(&[LLAMA3])),
        "tekken" => Preparation {
            ignore_merges: true,
            add_bos: true,
            ..plain(split(&[TEKKEN]))
        },
        "qwen2" | "deepseek-r1-qwen" | "megrez" => Preparation {
            normalizer: json!({ "type": "NFC" }),
            ..plain(split(&[QWEN2]))
        },
        "stablelm2" => plain(split(&[QWEN2])),
        other => {
            if other != "default" {
                let what = match stated {
                    Some(name) => format!("the tokenizer splits words in the way \"{name}\", which is not known here"),
                    None => "the file does not say how the tokenizer splits words".to_owned(),
                };
                warnings.push(format!(
                    "{what}: llama.cpp's default way is used, and some texts may get other tokens than in training"
                ));
            }
            plain(split(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]))
        }
    })
}

/// The step that spells words in the alphabet of bytes; with `use_regex`, splitting them GPT-2's way first.
fn byte_level(use_regex: bool) -> Json {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex })
}

/// Splitting by each pattern in turn; what a pattern does not match stays whole.
fn split(patterns: &[&str]) -> Json {
    let mut steps: Vec<Json> = patterns
        .iter()
        .map(|pattern| {
            json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false })
        })
        .collect();
    steps.push(byte_level(false));
    json!({ "type": "Sequence", "pretokenizers": steps })
}
