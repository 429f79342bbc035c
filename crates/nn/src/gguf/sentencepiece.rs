//! SentencePiece BPE, the tokenizer of Llama 1 and 2, Mistral and Gemma: `tokenizer.ggml.model` "llama".
//!
//! The file has pieces with scores and no merges: a piece with a greater score is merged earlier. `tokenizer.json`
//! wants merges in order, so every way to make a piece out of two others becomes one, as transformers 5.23.0 has it
//! (`generate_merges`): greater score first, then the longer left part, then the longer right part, then the lower ids.
//! Spaces are the character U+2581, and bytes that no piece spells are the tokens `<0x00>` to `<0xFF>`.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::tokenizer::{Parts, TokenType, Vocabulary};
use super::{Array, Gguf, GgufError};

/// U+2581, which stands for a space.
const SPACE: &str = "\u{2581}";

const TOKENS: &str = "tokenizer.ggml.tokens";

/// Pieces are looked at in all their divisions, so a file must not have endless ones; Gemma's longest has 93 bytes.
const LONGEST_PIECE: usize = 1024;

/// How many times the vocabulary's own size its merges may take; Llama's and Gemma's take about 3 times.
const MOST_MERGES: usize = 64;

/// The SentencePiece tokenizer's parts of `tokenizer.json`.
pub(super) fn parts(gguf: &Gguf, vocabulary: &Vocabulary<'_>, unknown: Option<usize>) -> Result<Parts, GgufError> {
    let gemma = gguf.architecture()?.starts_with("gemma");
    let respelled: Vec<String>;
    let tokens = if gemma {
        respelled = gemma_spelling(vocabulary.tokens);
        &respelled
    } else {
        vocabulary.tokens
    };
    let ids = gguf.token_ids(tokens)?;
    let merges: Vec<(String, String)> = match gguf.merges()? {
        Some(merges) => merges
            .into_iter()
            .map(|(left, right)| (left.to_owned(), right.to_owned()))
            .collect(),
        // Gemma's scores do not follow the order of its merges; the order of its pieces does (so transformers).
        None if gemma => derived_merges(tokens, Reverse).map_err(|problem| gguf.key_error(TOKENS, problem))?,
        None => {
            let scores = scores(gguf, tokens.len())?;
            derived_merges(tokens, |id| Score(scores[id])).map_err(|problem| gguf.key_error(TOKENS, problem))?
        }
    };
    let added = vocabulary.types.iter().zip(vocabulary.tokens).enumerate();
    let added = added.filter_map(|(id, (kind, token))| match kind {
        TokenType::Control | TokenType::Unknown => Some((id, token.clone(), true)),
        // A token that was respelled is an ordinary piece.
        TokenType::UserDefined if tokens[id] == *token => Some((id, token.clone(), false)),
        _ => None,
    });
    let prefix = !gemma && gguf.truth("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(Parts {
        normalizer: if gemma {
            json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE })
        } else {
            Json::Null
        },
        pre_tokenizer: if gemma {
            Json::Null
        } else {
            let scheme = if prefix { "first" } else { "never" };
            json!({ "type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false })
        },
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        added: added.collect(),
        add_bos: true,
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown.map(|id| &tokens[id]),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": ids,
            "merges": merges,
        }),
    })
}

/// Gemma's runs of spaces, which its files spell as spaces, in the spelling of all other pieces; unless that is taken.
fn gemma_spelling(tokens: &[String]) -> Vec<String> {
    let taken: std::collections::HashSet<&str> = tokens.iter().map(String::as_str).collect();
    let spell = |token: &String| {
        let spelled = token.replace(' ', SPACE);
        let spaces = !token.is_empty() && token.bytes().all(|byte| byte == b' ');
        if spaces && !taken.contains(spelled.as_str()) {
            spelled
        } else {
            token.clone()
        }
    };
    tokens.iter().map(spell).collect()
}

fn scores(gguf: &Gguf, count: usize) -> Result<Vec<f32>, GgufError> {
    let key = "tokenizer.ggml.scores";
    match gguf.list(key)?.ok_or_else(|| gguf.missing(key))? {
        Array::F32(scores) if scores.len() == count && scores.iter().all(|score| !score.is_nan()) => Ok(scores.clone()),
        Array::F32(scores) if scores.len() != count => {
            Err(gguf.key_error(key, format!("it has {} scores for {count} tokens", scores.len())))
        }
        _ => Err(gguf.key_error(key, "its value is not a list of 32-bit numbers")),
    }
}

/// A score, which is never NaN.
#[derive(Clone, Copy, PartialEq)]
struct Score(f32);

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.partial_cmp(&other.0).unwrap_or(std::cmp::Ordering::Equal)
    }
}

/// All ways to make a token out of two others, best first; a greater `rank` is better.
fn derived_merges<R: Ord>(tokens: &[String], rank: impl Fn(usize) -> R) -> Result<Vec<(String, String)>, String> {
    if let Some(id) = tokens.iter().position(|token| token.len() > LONGEST_PIECE) {
        return Err(format!(
            "token {id} has more than {LONGEST_PIECE} bytes, too many for a piece of words"
        ));
    }
    let mut budget = tokens
        .iter()
        .map(String::len)
        .sum::<usize>()
        .saturating_mul(MOST_MERGES);
    let ids: HashMap<&str, usize> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.as_str(), id))
        .collect();
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right)) {
                let Some(rest) = budget.checked_sub(token.len()) else {
                    return Err("the tokens can be put together in too many ways to be words".to_owned());
                };
                budget = rest;
                let lengths = (left.chars().count(), right.chars().count());
                merges.push((Reverse((rank(id), lengths)), (id, *left_id, *right_id), (left, right)));
            }
        }
    }
    merges.sort_unstable_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
    Ok(merges
        .into_iter()
        .map(|(_, _, (left, right))| (left.to_owned(), right.to_owned()))
        .collect())
}
