//! The tokenizer as Hugging Face's `tokenizer.json`, and the chat template.

use serde_json::{Value as Json, json};

use super::{Gguf, GgufError, byte_level, sentencepiece};

/// What a model directory has in `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerParts {
    /// The content of `tokenizer.json`, as the library `tokenizers` reads it.
    pub tokenizer: Json,
    /// The Jinja source of the chat template.
    pub chat_template: Option<String>,
    /// The token that starts a text.
    pub bos_token: Option<String>,
    /// The token that ends a text or a turn.
    pub eos_token: Option<String>,
    /// Tokens that end a turn or a message besides `eos_token`.
    pub end_ids: Vec<u32>,
    /// The token for padding.
    pub pad_token: Option<String>,
    /// The token for what the vocabulary cannot spell.
    pub unk_token: Option<String>,
    /// Whether encoding with special tokens starts with `bos_token`; `tokenizer` does so already.
    pub add_bos_token: bool,
    /// Whether encoding with special tokens ends with `eos_token`; `tokenizer` does so already.
    pub add_eos_token: bool,
    /// Sentences for the user about what had to be guessed.
    pub warnings: Vec<String>,
}

/// What a token is for (`tokenizer.ggml.token_type`; llama.cpp's `llama_token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenType {
    /// Type 1, and all that is not listed here.
    Normal,
    /// Type 2.
    Unknown,
    /// Type 3: never text.
    Control,
    /// Type 4: text that is always one token.
    UserDefined,
}

/// The vocabulary of a file.
pub(super) struct Vocabulary<'a> {
    /// The spelling of each token.
    pub(super) tokens: &'a [String],
    /// The type of each token.
    pub(super) types: Vec<TokenType>,
}

/// What one of the two kinds of tokenizer adds to the document.
pub(super) struct Parts {
    pub(super) normalizer: Json,
    pub(super) pre_tokenizer: Json,
    pub(super) decoder: Json,
    pub(super) model: Json,
    /// Tokens that are matched in the text before anything else: id, spelling, whether special.
    pub(super) added: Vec<(usize, String, bool)>,
    /// Whether texts start with the first token where the file does not say.
    pub(super) add_bos: bool,
}

impl Gguf {
    /// The tokenizer and the chat template.
    ///
    /// # Errors
    /// [`GgufError::Unsupported`] for tokenizers other than byte-level BPE ("gpt2") and SentencePiece BPE ("llama");
    /// [`GgufError::MissingKey`] and [`GgufError::Key`] for metadata that make no vocabulary.
    pub fn tokenizer(&self) -> Result<TokenizerParts, GgufError> {
        let vocabulary = self.vocabulary()?;
        let special = |name: &str| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match self.size(&key)? {
                None => Ok(None),
                Some(id) if id < vocabulary.tokens.len() => Ok(Some(id)),
                Some(id) => Err(self.key_error(
                    &key,
                    format!("{id} is not one of the {} tokens", vocabulary.tokens.len()),
                )),
            }
        };
        let (bos, eos) = (special("bos")?, special("eos")?);
        let (pad, unknown) = (special("padding")?, special("unknown")?);
        let turn_ends = [special("eot")?, special("eom")?];

        let mut warnings = Vec::new();
        let key = "tokenizer.ggml.model";
        let parts = match self.text(key)?.ok_or_else(|| self.missing(key))? {
            "gpt2" => byte_level::parts(self, &vocabulary, &mut warnings)?,
            "llama" => sentencepiece::parts(self, &vocabulary, unknown)?,
            other => {
                return Err(self.unsupported(
                    format!("a tokenizer of the kind \"{other}\""),
                    "give the original model's tokenizer.json; the kinds read here are \"gpt2\" and \"llama\"",
                ));
            }
        };
        let add_bos = self.truth("tokenizer.ggml.add_bos_token")?.unwrap_or(parts.add_bos);
        let add_eos = self.truth("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let mut ends = |wanted: bool, id: Option<usize>, name: &str| {
            if wanted && id.is_none() {
                warnings.push(format!(
                    "texts should get a {name} token, but the file names none: none is added"
                ));
            }
            id.filter(|_| wanted)
        };
        let (first, last) = (ends(add_bos, bos, "first (bos)"), ends(add_eos, eos, "last (eos)"));

        // The named tokens are special whatever their type, as transformers has it.
        let mut added = parts.added;
        for id in [bos, eos, pad, unknown].into_iter().flatten() {
            match added.iter_mut().find(|(added, ..)| *added == id) {
                Some((_, _, special)) => *special = true,
                None => added.push((id, vocabulary.tokens[id].clone(), true)),
            }
        }
        added.retain(|(_, content, _)| !content.is_empty());
        added.sort();
        let added: Vec<Json> = added
            .iter()
            .map(|(id, content, special)| {
                json!({
                    "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                })
            })
            .collect();
        let spelling = |id: Option<usize>| id.map(|id| vocabulary.tokens[id].clone());
        Ok(TokenizerParts {
            tokenizer: json!({
                "version": "1.0",
                "truncation": null,
                "padding": null,
                "added_tokens": added,
                "normalizer": parts.normalizer,
                "pre_tokenizer": parts.pre_tokenizer,
                "post_processor": template(&vocabulary, first, last),
                "decoder": parts.decoder,
                "model": parts.model,
            }),
            chat_template: self.text("tokenizer.chat_template")?.map(str::to_owned),
            bos_token: spelling(bos),
            eos_token: spelling(eos),
            end_ids: turn_ends
                .into_iter()
                .flatten()
                .filter_map(|id| u32::try_from(id).ok())
                .collect(),
            pad_token: spelling(pad),
            unk_token: spelling(unknown),
            add_bos_token: first.is_some(),
            add_eos_token: last.is_some(),
            warnings,
        })
    }

    fn vocabulary(&self) -> Result<Vocabulary<'_>, GgufError> {
        let key = "tokenizer.ggml.tokens";
        let tokens = self.strings(key)?.ok_or_else(|| self.missing(key))?;
        let key = "tokenizer.ggml.token_type";
        let types = match self.list(key)? {
            None => vec![TokenType::Normal; tokens.len()],
            Some(list) if list.len() != tokens.len() => {
                let problem = format!("it has {} types for {} tokens", list.len(), tokens.len());
                return Err(self.key_error(key, problem));
            }
            Some(list) => (0..list.len())
                .map(|i| match list.get(i).and_then(|value| value.as_u64()) {
                    Some(2) => Ok(TokenType::Unknown),
                    Some(3) => Ok(TokenType::Control),
                    Some(4) => Ok(TokenType::UserDefined),
                    Some(_) => Ok(TokenType::Normal),
                    None => Err(self.key_error(key, "its values are not whole numbers")),
                })
                .collect::<Result<_, _>>()?,
        };
        Ok(Vocabulary { tokens, types })
    }

    /// The merges that the file lists, each as its two parts; every part and result must be a token.
    pub(super) fn merges(&self) -> Result<Option<Vec<(&str, &str)>>, GgufError> {
        let key = "tokenizer.ggml.merges";
        let Some(merges) = self.strings(key)? else {
            return Ok(None);
        };
        let split = |(number, merge): (usize, &'_ String)| match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() => Ok(()),
            _ => Err(self.key_error(
                key,
                format!("entry {number} ({merge:?}) is not two tokens with a space between"),
            )),
        };
        merges.iter().enumerate().try_for_each(split)?;
        Ok(Some(merges.iter().filter_map(|merge| merge.split_once(' ')).collect()))
    }

    /// The map from tokens to ids; a spelling that two tokens share is an error.
    pub(super) fn token_ids(&self, tokens: &[String]) -> Result<serde_json::Map<String, Json>, GgufError> {
        let mut ids = serde_json::Map::new();
        for (id, token) in tokens.iter().enumerate() {
            if let Some(other) = ids.insert(token.clone(), json!(id)) {
                let problem = format!("tokens {other} and {id} are both {token:?}");
                return Err(self.key_error("tokenizer.ggml.tokens", problem));
            }
        }
        Ok(ids)
    }
}

/// The post-processor that puts the first and the last token around a text; null where there are none.
fn template(vocabulary: &Vocabulary<'_>, first: Option<usize>, last: Option<usize>) -> Json {
    if first.is_none() && last.is_none() {
        return Json::Null;
    }
    let mut special_tokens = serde_json::Map::new();
    let mut sequence = |name: &str, kind: usize| {
        let mut pieces = Vec::new();
        let mut put = |id: Option<usize>| {
            if let Some(id) = id {
                let token = &vocabulary.tokens[id];
                special_tokens.insert(token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] }));
                Some(json!({ "SpecialToken": { "id": token, "type_id": kind } }))
            } else {
                None
            }
        };
        pieces.extend(put(first));
        pieces.push(json!({ "Sequence": { "id": name, "type_id": kind } }));
        pieces.extend(put(last));
        pieces
    };
    let single = sequence("A", 0);
    let mut pair = single.clone();
    pair.extend(sequence("B", 1));
    json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special_tokens })
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
