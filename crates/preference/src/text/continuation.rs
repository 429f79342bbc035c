//! Text that goes on where other text ended.
//!
//! Some tokenizers put a space before every text they are given (SentencePiece's `▁`). A response encoded by itself
//! would then begin with a space that is not there. For such text there is a second tokenizer without that habit.

use serde_json::{Value as Json, json};

use super::error::TextError;
use super::tokenizer::Tokenizer;

impl Tokenizer {
    /// The ids of a text that goes on where another ended: none are added, and no space is put before it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<u32>, TextError> {
        match self
            .continuing
            .get_or_init(|| without_leading_space(&self.inner).map(Box::new))
        {
            None => self.encode(text, false),
            Some(tokenizer) => {
                let encoding = tokenizer.encode_fast(text, false);
                Ok(encoding
                    .map_err(|error| self.failed("encode", &*error))?
                    .get_ids()
                    .to_vec())
            }
        }
    }

    /// The ids of `response` after a prompt whose text is `prompt` and whose ids end in `prompt_ids`, those of the text
    /// encoded by itself.
    ///
    /// Where encoding both as one text leaves the prompt's ids as they are, what follows them; otherwise (a token would
    /// reach across the boundary) the response encoded by itself.
    pub(super) fn follow(&self, prompt: &str, prompt_ids: &[u32], response: &str) -> Result<Vec<u32>, TextError> {
        let joint = self.encode(&[prompt, response].concat(), false)?;
        match joint.strip_prefix(prompt_ids) {
            Some(rest) => Ok(rest.to_vec()),
            None => self.encode_continuation(response),
        }
    }

    /// The ids of a text in which no token reaches across any of the `cuts` (bytes of the text, ascending), and the
    /// bytes that each token covers.
    ///
    /// The text is encoded as a whole; where a token reaches across a cut, or a gap of white space that some tokenizers
    /// leave out of a token's extent lies before it, the text is cut there and its parts are encoded by themselves.
    pub(super) fn encode_at_cuts(&self, text: &str, cuts: &[usize]) -> Result<Vec<(u32, usize, usize)>, TextError> {
        let spans = self.spans(text, 0, false)?;
        let mut at = 0;
        let mut needed = Vec::new();
        for &cut in cuts {
            while spans.get(at).is_some_and(|(_, _, end)| *end < cut) {
                at += 1;
            }
            let reached = spans.get(at).is_some_and(|(_, _, end)| *end == cut);
            let none_across = spans[at.min(spans.len())..].iter().find(|(_, _, end)| *end > cut);
            let across = none_across.is_some_and(|(_, start, _)| *start < cut);
            if cut > 0 && cut < text.len() && (across || !reached) {
                needed.push(cut);
            }
        }
        if needed.is_empty() {
            return Ok(spans);
        }
        let mut pieces = Vec::with_capacity(spans.len());
        let mut start = 0;
        for cut in needed.into_iter().chain([text.len()]) {
            let piece = text.get(start..cut).unwrap_or_default();
            pieces.extend(self.spans(piece, start, start > 0)?);
            start = cut;
        }
        Ok(pieces)
    }

    fn spans(&self, text: &str, from: usize, continues: bool) -> Result<Vec<(u32, usize, usize)>, TextError> {
        let own = self
            .continuing
            .get_or_init(|| without_leading_space(&self.inner).map(Box::new));
        let tokenizer = match own {
            Some(tokenizer) if continues => tokenizer,
            _ => &self.inner,
        };
        let encoding = tokenizer
            .encode(text, false)
            .map_err(|error| self.failed("encode", &*error))?;
        let offsets = encoding.get_offsets().iter();
        let ids = encoding.get_ids().iter();
        Ok(ids
            .zip(offsets)
            .map(|(id, (start, end))| (*id, from + start, from + end))
            .collect())
    }
}

/// The tokenizer without what puts a space before a text; `None` if it puts none.
fn without_leading_space(tokenizer: &tokenizers::Tokenizer) -> Option<tokenizers::Tokenizer> {
    let before = [
        serde_json::to_value(tokenizer.get_normalizer()).ok()?,
        serde_json::to_value(tokenizer.get_pre_tokenizer()).ok()?,
    ];
    let [normalizer, pre_tokenizer] = before.clone().map(strip);
    if [&normalizer, &pre_tokenizer] == [&before[0], &before[1]] {
        return None;
    }
    let mut changed = tokenizer.clone();
    let normalizer: Option<tokenizers::NormalizerWrapper> = serde_json::from_value(normalizer).ok()?;
    let pre_tokenizer: Option<tokenizers::PreTokenizerWrapper> = serde_json::from_value(pre_tokenizer).ok()?;
    changed.with_normalizer(normalizer).ok()?;
    changed.with_pre_tokenizer(pre_tokenizer);
    Some(changed)
}

/// A normaliser or pre-tokenizer without what puts something before a text.
fn strip(part: Json) -> Json {
    match part {
        Json::Object(mut fields) => {
            match fields.get("type").and_then(Json::as_str) {
                Some("Prepend") => return Json::Null,
                Some("Metaspace") => {
                    fields.insert("prepend_scheme".to_owned(), json!("never"));
                    fields.remove("add_prefix_space");
                }
                Some("ByteLevel") => {
                    fields.insert("add_prefix_space".to_owned(), json!(false));
                }
                _ => {}
            }
            Json::Object(fields.into_iter().map(|(name, field)| (name, strip(field))).collect())
        }
        Json::Array(items) => Json::Array(items.into_iter().map(strip).filter(|item| !item.is_null()).collect()),
        other => other,
    }
}

/// Whether a component of this type is somewhere in the JSON of a tokenizer's part.
pub(super) fn mentions(part: &Json, kind: &str) -> bool {
    match part {
        Json::Object(fields) => {
            fields.get("type").and_then(Json::as_str) == Some(kind)
                || fields.values().any(|field| mentions(field, kind))
        }
        Json::Array(items) => items.iter().any(|item| mentions(item, kind)),
        _ => false,
    }
}
