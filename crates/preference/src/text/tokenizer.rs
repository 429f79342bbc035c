//! Text to token ids and back, by the files of a model directory or by the parts of one.
//!
//! What counts is what transformers 5.23 does with the same files (`PreTrainedTokenizerBase._from_pretrained`,
//! `TokenizersBackend.__init__`): `tokenizer.json` is the tokenizer, truncation and padding in it are not applied,
//! tokens that only `tokenizer_config.json` names are added at the end, and `add_bos_token` and `add_eos_token` have no
//! effect, because the post-processor in `tokenizer.json` already says what is added.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Map, Value as Json, json};
use tokenizers::AddedToken;
use tokenizers::models::ModelWrapper;

use super::continuation;
use super::error::TextError;
use super::files::{self, Files};
use super::special::{self, SpecialTokens};
use super::stream::DecodeStream;
use super::template::ChatTemplate;
use crate::quiet;

/// The name of the template used where none is asked for.
const DEFAULT: &str = "default";
/// The name of the template used for conversations with tools, where there is one.
const TOOL_USE: &str = "tool_use";

/// What a tokenizer is made of where there is no model directory, as in a GGUF file.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The content of a `tokenizer.json`.
    pub tokenizer: Json,
    /// The special tokens.
    pub special: SpecialTokens,
    /// Tokens that end a text besides `eos_token`.
    pub end_ids: Vec<u32>,
    /// The chat template's text, if there is one.
    pub chat_template: Option<String>,
    /// Where the parts come from, for messages.
    pub origin: String,
}

/// A token that is something else in another tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Its id.
    pub id: u32,
    /// What it is.
    pub own: String,
    /// What it is there; absent where it is a token of another id.
    pub there: Option<String>,
}

/// A tokenizer, its special tokens and its chat templates.
#[derive(Debug)]
pub struct Tokenizer {
    pub(super) inner: tokenizers::Tokenizer,
    /// The tokenizer for text that goes on where other text ended; `None` inside if it is the same.
    pub(super) continuing: OnceLock<Option<Box<tokenizers::Tokenizer>>>,
    pub(super) origin: String,
    special: SpecialTokens,
    end_ids: BTreeSet<u32>,
    /// Text and origin by name.
    templates: BTreeMap<String, (String, String)>,
    /// Whether spaces before punctuation are taken out of decoded text.
    pub(super) cleans_up: bool,
    /// Whether characters outside the vocabulary are written byte by byte, as tokens like `<0xE2>`.
    pub(super) byte_fallback: bool,
    /// What encoding with special tokens puts before a text.
    prefix: Vec<u32>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Tokenizer {
    /// Reads the tokenizer of a model directory: `tokenizer.json`, and where there are, `tokenizer_config.json`,
    /// `special_tokens_map.json`, `chat_template.jinja`, `additional_chat_templates/`, and the end-of-text ids of
    /// `generation_config.json` or else `config.json`.
    ///
    /// # Errors
    /// [`TextError`] naming the file that is missing, unreadable, too large, malformed or at odds with another.
    pub fn from_directory(directory: &Path) -> Result<Self, TextError> {
        let files = Files::read(directory)?;
        let config = files.object(files::CONFIG)?.unwrap_or_default();
        let mut special = SpecialTokens::default();
        let merged = special.merge(&config);
        merged.map_err(|problem| files.malformed(files::CONFIG, problem, "correct the entry"))?;
        let declared =
            declared_tokens(&config).map_err(|problem| files.malformed(files::CONFIG, problem, "correct the entry"))?;
        // transformers reads the older file only where the newer entry is missing.
        if declared.is_none()
            && let Some(fields) = files.object(files::SPECIAL)?
        {
            let merged = special.merge(&fields);
            merged.map_err(|problem| files.malformed(files::SPECIAL, problem, "correct the entry"))?;
        }
        let templates = templates(&files, &config)?;
        let bytes = files.carried.get(files::TOKENIZER).map_or(&[][..], Vec::as_slice);
        let inner = parse(bytes, &files.origin(files::TOKENIZER))?;
        let mut tokenizer = Self::build(
            inner,
            special,
            declared.unwrap_or_default(),
            directory.display().to_string(),
            &config,
        )?;
        tokenizer.templates = templates;
        tokenizer.end_ids.extend(end_ids(&files, &tokenizer)?);
        tokenizer.files = files.carried;
        Ok(tokenizer)
    }

    /// Makes a tokenizer of its parts.
    ///
    /// # Errors
    /// [`TextError::Malformed`] naming the origin, if the parts are not a tokenizer or name ids that it lacks.
    pub fn from_parts(parts: Parts) -> Result<Self, TextError> {
        let bytes = serde_json::to_vec(&parts.tokenizer).map_err(|error| TextError::Malformed {
            origin: parts.origin.clone(),
            problem: error.to_string(),
            remedy: "give the content of a tokenizer.json".to_owned(),
        })?;
        let inner = parse(&bytes, &parts.origin)?;
        let mut config = Map::new();
        config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
        config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
        for (name, token) in &parts.special.named {
            config.insert(name.clone(), json!(token.content));
        }
        if !parts.special.extra.is_empty() {
            let extra: Vec<&str> = parts.special.extra.iter().map(|token| token.content.as_str()).collect();
            config.insert("extra_special_tokens".to_owned(), json!(extra));
        }
        let mut tokenizer = Self::build(inner, parts.special, Vec::new(), parts.origin, &config)?;
        for id in parts.end_ids {
            tokenizer.known_end(id).map_err(|problem| TextError::Malformed {
                origin: tokenizer.origin.clone(),
                problem,
                remedy: "correct the end-of-text ids".to_owned(),
            })?;
            tokenizer.end_ids.insert(id);
        }
        let config = serde_json::to_vec_pretty(&Json::Object(config)).unwrap_or_default();
        tokenizer.files.insert(files::TOKENIZER.to_owned(), bytes);
        tokenizer.files.insert(files::CONFIG.to_owned(), config);
        if let Some(template) = parts.chat_template {
            let origin = format!("the chat template of {}", tokenizer.origin);
            tokenizer
                .files
                .insert(files::TEMPLATE.to_owned(), template.clone().into_bytes());
            tokenizer.templates.insert(DEFAULT.to_owned(), (template, origin));
        }
        Ok(tokenizer)
    }

    fn build(
        mut inner: tokenizers::Tokenizer,
        special: SpecialTokens,
        declared: Vec<AddedToken>,
        origin: String,
        config: &Map<String, Json>,
    ) -> Result<Self, TextError> {
        let failed = |action: &'static str, problem: String| TextError::Tokenizer {
            origin: origin.clone(),
            action,
            problem,
        };
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| failed("be set up", error.to_string()))?;
        if config.get("split_special_tokens") == Some(&Json::Bool(true)) {
            inner.set_encode_special_tokens(true);
        }
        let mut added = missing_tokens(&inner, &special, declared);
        // One call for all: each call builds the search automaton anew.
        if !added.is_empty() {
            let named = |token: &AddedToken| special.named.iter().any(|(_, named)| named.content == token.content);
            for token in &mut added {
                token.special |= named(token);
            }
            inner
                .add_tokens(added)
                .map_err(|error| failed("take in the special tokens", error.to_string()))?;
        }
        let decoder = serde_json::to_value(inner.get_decoder()).unwrap_or_default();
        let is_bpe = matches!(inner.get_model(), ModelWrapper::BPE(_));
        let forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output";
        let says = |name: &str| config.get(name) == Some(&Json::Bool(true));
        let mut tokenizer = Self {
            continuing: OnceLock::new(),
            origin,
            end_ids: BTreeSet::new(),
            templates: BTreeMap::new(),
            cleans_up: says("clean_up_tokenization_spaces") && (!is_bpe || says(forced)),
            byte_fallback: continuation::mentions(&decoder, "ByteFallback"),
            prefix: Vec::new(),
            files: BTreeMap::new(),
            inner,
            special,
        };
        tokenizer.end_ids.extend(tokenizer.special_id("eos_token"));
        tokenizer.prefix = tokenizer.added_before()?;
        Ok(tokenizer)
    }

    /// What encoding with special tokens puts before a text, found on a short one.
    fn added_before(&self) -> Result<Vec<u32>, TextError> {
        let plain = self.encode("a", false)?;
        let mut with = self.encode("a", true)?;
        let at = with.windows(plain.len().max(1)).position(|window| window == plain);
        with.truncate(at.unwrap_or(0));
        Ok(with)
    }

    /// Turns text into ids, with the tokens that the tokenizer adds before and after a text, or without.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] if the text has parts that the vocabulary cannot express.
    pub fn encode(&self, text: &str, with_special: bool) -> Result<Vec<u32>, TextError> {
        let encoding = self.inner.encode_fast(text, with_special);
        Ok(encoding
            .map_err(|error| self.failed("encode", &*error))?
            .get_ids()
            .to_vec())
    }

    /// The ids of a text that is to be gone on from: with the tokens that are added before a text, without those added
    /// after it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = self.prefix.clone();
        ids.extend(self.encode(text, false)?);
        Ok(ids)
    }

    /// Turns ids into text, with special tokens written out or left out. Ids that stand for no token are left out.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] if the decoder fails.
    pub fn decode(&self, ids: &[u32], with_special: bool) -> Result<String, TextError> {
        let text = self.inner.decode(ids, !with_special);
        let text = text.map_err(|error| self.failed("decode", &*error))?;
        Ok(if self.cleans_up { clean_up(&text) } else { text })
    }

    /// A decoder that takes one id at a time.
    pub fn decode_stream(&self, with_special: bool) -> DecodeStream<'_> {
        DecodeStream::new(self, with_special)
    }

    /// The number of different tokens, added ones included: transformers' `len(tokenizer)`.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether each of the other's tokens has the same id here.
    #[must_use]
    pub fn has_tokens_of(&self, other: &Self) -> bool {
        let own = self.inner.get_vocab(true);
        let others = other.inner.get_vocab(true);
        others.iter().all(|(token, id)| own.get(token) == Some(id))
    }

    /// The tokens that are something else in another tokenizer, in the order of their ids. A token that only one of the
    /// two knows is none of them.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> Vec<Conflict> {
        let conflict = |(own, id): (String, u32)| {
            let there = other.token(id);
            let conflicts = match &there {
                Some(there) => *there != own,
                None => other.id(&own).is_some(),
            };
            conflicts.then_some(Conflict { id, own, there })
        };
        let mut conflicts: Vec<Conflict> = self.inner.get_vocab(true).into_iter().filter_map(conflict).collect();
        conflicts.sort_unstable_by_key(|conflict| conflict.id);
        conflicts
    }

    /// The largest id of any token. A model's embedding must have more rows than this.
    pub fn largest_id(&self) -> u32 {
        self.inner.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// The id of a token, given as it stands in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, as it stands in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a special token by its role, such as `bos_token`.
    pub fn special_id(&self, name: &str) -> Option<u32> {
        self.special.get(name).and_then(|token| self.id(&token.content))
    }

    /// The special tokens.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The ids that end a text: `eos_token`, and those of `generation_config.json` or else `config.json`.
    pub fn end_ids(&self) -> &BTreeSet<u32> {
        &self.end_ids
    }

    /// The token that is put at the end of a response: `eos_token`, or else the first of the end-of-text ids.
    ///
    /// # Errors
    /// [`TextError::NoEnd`] if there is none.
    pub fn end_id(&self) -> Result<u32, TextError> {
        let id = self.special_id("eos_token").or_else(|| self.end_ids.first().copied());
        id.ok_or_else(|| TextError::NoEnd {
            origin: self.origin.clone(),
        })
    }

    /// The special tokens as variables of a chat template: `bos_token` and so on.
    pub fn template_variables(&self) -> Vec<(&str, &str)> {
        let named = self.special.named.iter();
        named
            .map(|(name, token)| (name.as_str(), token.content.as_str()))
            .collect()
    }

    /// The names of the chat templates.
    pub fn template_names(&self) -> impl Iterator<Item = &str> {
        self.templates.keys().map(String::as_str)
    }

    /// Compiles a chat template: the one named, or else `tool_use` for conversations with tools where there is one, or
    /// else `default`.
    ///
    /// # Errors
    /// [`TextError::NoTemplate`] if there is none, [`TextError::Template`] if it is not valid.
    pub fn chat_template(&self, name: Option<&str>, with_tools: bool) -> Result<ChatTemplate, TextError> {
        let found = match name {
            Some(name) => self.templates.get(name),
            None if with_tools => self.templates.get(TOOL_USE).or_else(|| self.templates.get(DEFAULT)),
            None => self.templates.get(DEFAULT),
        };
        match found {
            Some((source, origin)) => ChatTemplate::new(source, origin.clone()),
            None => Err(TextError::NoTemplate {
                origin: self.origin.clone(),
                name: name.map(str::to_owned),
                remedy: if self.templates.is_empty() {
                    "use plain text (--raw), or put a chat_template.jinja into the model directory".to_owned()
                } else {
                    format!("choose one of {}", self.template_names().collect::<Vec<_>>().join(", "))
                },
            }),
        }
    }

    /// Writes the tokenizer's files into a directory, unchanged if they were read from one: `tokenizer.json`,
    /// `tokenizer_config.json`, the chat templates and the older files of special tokens.
    ///
    /// # Errors
    /// [`TextError::Unreadable`] naming the file that could not be written.
    pub fn write_to(&self, directory: &Path) -> Result<(), TextError> {
        files::write(directory, &self.files)
    }

    pub(super) fn failed(&self, action: &'static str, error: &dyn std::error::Error) -> TextError {
        TextError::Tokenizer {
            origin: self.origin.clone(),
            action,
            problem: error.to_string(),
        }
    }

    fn known_end(&self, id: u32) -> Result<(), String> {
        match self.inner.id_to_token(id) {
            Some(_) => Ok(()),
            None => Err(format!("the end-of-text id {id} is no token of the tokenizer")),
        }
    }
}

/// Parses a `tokenizer.json`. The library it is given to panics on some malformed files: that too becomes an error.
fn parse(bytes: &[u8], origin: &str) -> Result<tokenizers::Tokenizer, TextError> {
    let parsed = quiet::catch(|| tokenizers::Tokenizer::from_bytes(bytes));
    let problem = match parsed {
        Some(Ok(tokenizer)) => return Ok(tokenizer),
        Some(Err(error)) => error.to_string(),
        None => "its parts contradict each other".to_owned(),
    };
    Err(TextError::Malformed {
        origin: origin.to_owned(),
        problem: format!("not a tokenizer: {problem}"),
        remedy: "copy the file again from its model".to_owned(),
    })
}

/// The tokens that `tokenizer_config.json` lists by id, in the order of the ids; `None` if it has no list.
fn declared_tokens(config: &Map<String, Json>) -> Result<Option<Vec<AddedToken>>, String> {
    let Some(list) = config.get("added_tokens_decoder") else {
        return Ok(None);
    };
    let Json::Object(list) = list else {
        return Err("`added_tokens_decoder` is not an object".to_owned());
    };
    let mut tokens = BTreeMap::new();
    for (id, token) in list {
        let number: u32 = id
            .parse()
            .map_err(|_| format!("`added_tokens_decoder` has the key {id:?}, which is not an id"))?;
        let Json::Object(fields) = token else {
            return Err(format!("`added_tokens_decoder` {id} is not an object"));
        };
        let token =
            special::added_token(fields, false).map_err(|problem| format!("`added_tokens_decoder` {id} {problem}"))?;
        tokens.insert(number, token);
    }
    Ok(Some(tokens.into_values().collect()))
}

/// The tokens that are named but not in the tokenizer as they are named.
fn missing_tokens(
    tokenizer: &tokenizers::Tokenizer,
    special: &SpecialTokens,
    declared: Vec<AddedToken>,
) -> Vec<AddedToken> {
    let present = tokenizer.get_added_tokens_decoder();
    let same = |a: &AddedToken, b: &AddedToken| {
        (&a.content, a.single_word, a.lstrip, a.rstrip, a.normalized, a.special)
            == (&b.content, b.single_word, b.lstrip, b.rstrip, b.normalized, b.special)
    };
    let mut missing: Vec<AddedToken> = declared
        .into_iter()
        .filter(|token| !token.content.is_empty() && !present.values().any(|known| same(known, token)))
        .collect();
    let named = special.named.iter().map(|(_, token)| token);
    for token in named.chain(&special.extra) {
        let mut known = present.values().chain(&missing);
        if !token.content.is_empty() && !known.any(|known| known.content == token.content) {
            missing.push(token.added());
        }
    }
    missing
}

/// The chat templates: files if there are any, else those of `tokenizer_config.json`.
fn templates(files: &Files, config: &Map<String, Json>) -> Result<BTreeMap<String, (String, String)>, TextError> {
    let mut templates = BTreeMap::new();
    for name in files.carried.keys() {
        let template = match name.strip_prefix(files::TEMPLATES) {
            Some(rest) => rest.trim_start_matches('/').trim_end_matches(".jinja"),
            None if name == files::TEMPLATE => DEFAULT,
            None => continue,
        };
        if let Some(text) = files.text(name)? {
            templates.insert(template.to_owned(), (text, files.origin(name)));
        }
    }
    if !templates.is_empty() {
        return Ok(templates);
    }
    let malformed = || {
        files.malformed(
            files::CONFIG,
            "`chat_template` is neither a text nor a list of {\"name\": ..., \"template\": ...}",
            "correct it, or put the template into chat_template.jinja",
        )
    };
    let origin = |name: &str| format!("{} (chat template {name:?})", files.origin(files::CONFIG));
    match config.get("chat_template") {
        None | Some(Json::Null) => {}
        Some(Json::String(text)) => {
            templates.insert(DEFAULT.to_owned(), (text.clone(), origin(DEFAULT)));
        }
        Some(Json::Array(list)) => {
            for entry in list {
                let (Some(Json::String(name)), Some(Json::String(text))) = (entry.get("name"), entry.get("template"))
                else {
                    return Err(malformed());
                };
                templates.insert(name.clone(), (text.clone(), origin(name)));
            }
        }
        Some(_) => return Err(malformed()),
    }
    Ok(templates)
}

/// The end-of-text ids of the model: those for generation, or else its own.
fn end_ids(files: &Files, tokenizer: &Tokenizer) -> Result<Vec<u32>, TextError> {
    for name in [files::GENERATION, files::MODEL] {
        let Some(fields) = files.object(name)? else {
            continue;
        };
        let own = fields.get("eos_token_id").filter(|ids| !ids.is_null());
        let Some(ids) = own.or_else(|| {
            fields
                .get("text_config")?
                .get("eos_token_id")
                .filter(|ids| !ids.is_null())
        }) else {
            continue;
        };
        let list = match ids {
            Json::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut ids = Vec::with_capacity(list.len().min(64));
        for id in list {
            let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let number = number.ok_or_else(|| format!("`eos_token_id` holds {id}, which is not an id"));
            let known = number.and_then(|id| tokenizer.known_end(id).map(|()| id));
            ids.push(known.map_err(|problem| files.malformed(name, problem, "correct `eos_token_id`"))?);
        }
        return Ok(ids);
    }
    Ok(Vec::new())
}

/// Takes the spaces before punctuation out, as transformers' `clean_up_tokenization` does.
fn clean_up(text: &str) -> String {
    let pairs = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    pairs
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
