//! Text as it is generated: one id at a time, never half a character, and in sum exactly the text of all the ids.
//!
//! A token's text depends on its neighbours: a space that falls away at the start, a character that several tokens
//! share. So the last tokens are decoded again with each new one, and what has become certain is given out. The window
//! is short, so that a long text takes time in proportion to its length.

use super::error::TextError;
use super::tokenizer::Tokenizer;

/// Tokens kept as context: more than the bytes of a character, so that no character begins before them and ends after.
const CONTEXT: usize = 8;
/// Tokens in the window before it is cut back to the context.
const WINDOW: usize = 32;

/// What a decoder writes for bytes that are no character, or not yet.
const REPLACEMENT: char = '\u{fffd}';

/// An incremental decoder; made by [`Tokenizer::decode_stream`].
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    with_special: bool,
    window: Vec<u32>,
    /// Bytes of the window's text that were given out.
    given: usize,
    /// Whether the last token is a byte of a run whose text is not known before the run ends.
    in_bytes: bool,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, with_special: bool) -> Self {
        Self {
            tokenizer,
            with_special,
            window: Vec::new(),
            given: 0,
            in_bytes: false,
        }
    }

    /// Takes the next id; gives the text that has become certain, which may be empty.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] if the decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        let Some(token) = self.tokenizer.token(id) else {
            return Ok(String::new());
        };
        let added = self.tokenizer.inner.get_added_vocabulary();
        if !self.with_special && added.is_special_token(&token) {
            return Ok(String::new());
        }
        self.window.push(id);
        // Taking spaces out looks ahead without limit: all is given at the end.
        if self.tokenizer.cleans_up {
            return Ok(String::new());
        }
        // A run of byte tokens is text only if the whole run is valid.
        self.in_bytes = self.tokenizer.byte_fallback && is_byte(&token);
        if self.in_bytes {
            return Ok(String::new());
        }
        let text = self.decode(&self.window)?;
        // A character whose bytes have not all come is written as one replacement character.
        let certain = match text.strip_suffix(REPLACEMENT) {
            Some(before) if !self.tokenizer.byte_fallback => before.len(),
            _ => text.len(),
        };
        let piece = text.get(self.given..certain).unwrap_or_default().to_owned();
        self.given = self.given.max(certain);
        if self.window.len() >= WINDOW {
            self.shorten(&text)?;
        }
        Ok(piece)
    }

    /// Ends the text: gives what was held back.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] if the decoder fails.
    pub fn finish(self) -> Result<String, TextError> {
        let text = if self.tokenizer.cleans_up {
            self.tokenizer.decode(&self.window, true)?
        } else {
            self.decode(&self.window)?
        };
        Ok(text.get(self.given..).unwrap_or_default().to_owned())
    }

    fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        // Special tokens that are left out never come into the window.
        let text = self.tokenizer.inner.decode(ids, false);
        text.map_err(|error| self.tokenizer.failed("decode", &*error))
    }

    /// Cuts the window back to its last tokens, if their text still shows what has not been given out.
    fn shorten(&mut self, text: &str) -> Result<(), TextError> {
        let held = text.get(self.given..).unwrap_or_default();
        let tail = self.window.split_off(self.window.len().saturating_sub(CONTEXT));
        let shorter = self.decode(&tail)?;
        match shorter.strip_suffix(held) {
            Some(before) if !before.is_empty() => {
                self.given = before.len();
                self.window = tail;
            }
            _ => self.window.extend(tail),
        }
        Ok(())
    }
}

/// Whether a token stands for one byte, as in `<0x0A>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
