//! The tokens with a meaning of their own: where a text begins and ends, what pads and what replaces the unknown.

use serde_json::{Map, Value as Json};
use tokenizers::AddedToken;

/// The names that transformers gives to special tokens, in its order.
pub(super) const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// A special token and how it is found in text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// The token's text.
    pub content: String,
    /// Whether it must stand alone, not inside a word.
    pub single_word: bool,
    /// Whether it takes white space before it along.
    pub lstrip: bool,
    /// Whether it takes white space after it along.
    pub rstrip: bool,
    /// Whether it is looked for in the normalised text.
    pub normalized: bool,
}

impl From<&str> for SpecialToken {
    fn from(content: &str) -> Self {
        Self {
            content: content.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
        }
    }
}

impl SpecialToken {
    /// From a text or an object with `content`; the error says what is wrong.
    pub(super) fn from_json(json: &Json) -> Result<Self, String> {
        match json {
            Json::String(content) => Ok(Self::from(content.as_str())),
            Json::Object(fields) => added_token(fields, true).map(|token| Self::from(&token)),
            _ => Err("is neither a text nor an object with `content`".to_owned()),
        }
    }

    pub(super) fn added(&self) -> AddedToken {
        AddedToken {
            content: self.content.clone(),
            single_word: self.single_word,
            lstrip: self.lstrip,
            rstrip: self.rstrip,
            normalized: self.normalized,
            special: true,
        }
    }
}

impl From<&AddedToken> for SpecialToken {
    fn from(token: &AddedToken) -> Self {
        Self {
            content: token.content.clone(),
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            normalized: token.normalized,
        }
    }
}

/// An added token from its JSON object. `special` is assumed where the object does not say.
pub(super) fn added_token(fields: &Map<String, Json>, special: bool) -> Result<AddedToken, String> {
    let Some(Json::String(content)) = fields.get("content") else {
        return Err("has no text `content`".to_owned());
    };
    let flag = |name: &str| match fields.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(format!("has a `{name}` that is neither true nor false")),
    };
    let special = flag("special")?.unwrap_or(special);
    Ok(AddedToken {
        content: content.clone(),
        single_word: flag("single_word")?.unwrap_or(false),
        lstrip: flag("lstrip")?.unwrap_or(false),
        rstrip: flag("rstrip")?.unwrap_or(false),
        normalized: flag("normalized")?.unwrap_or(!special),
        special,
    })
}

/// Which tokens are special.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Those with a role, by transformers' names (`bos_token`, `eos_token`, `pad_token`, `image_token`, ...): the
    /// variables that chat templates see.
    pub named: Vec<(String, SpecialToken)>,
    /// Others, without a role.
    pub extra: Vec<SpecialToken>,
}

impl SpecialTokens {
    /// The token of a name such as `eos_token`.
    pub fn get(&self, name: &str) -> Option<&SpecialToken> {
        self.named
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, token)| token)
    }

    /// Sets the token of a name, in place of an earlier one.
    pub fn set(&mut self, name: &str, token: SpecialToken) {
        match self.named.iter_mut().find(|(known, _)| known == name) {
            Some((_, earlier)) => *earlier = token,
            None => self.named.push((name.to_owned(), token)),
        }
    }

    /// Takes over what an object such as `tokenizer_config.json` says of special tokens.
    pub(super) fn merge(&mut self, fields: &Map<String, Json>) -> Result<(), String> {
        for (name, field) in fields {
            let standard = NAMES.contains(&name.as_str());
            if field.is_null() || !(standard || (name.ends_with("_token") && field.is_string())) {
                continue;
            }
            let token = SpecialToken::from_json(field).map_err(|problem| format!("`{name}` {problem}"))?;
            self.set(name, token);
        }
        let list = |name: &str| fields.get(name).filter(|field| !field.is_null());
        // The older name counts only where the newer one says nothing.
        let extra =
            list("extra_special_tokens").filter(|field| !matches!(field, Json::Array(items) if items.is_empty()));
        match extra.or_else(|| list("additional_special_tokens")) {
            None => {}
            Some(Json::Array(items)) => {
                for item in items {
                    let token = SpecialToken::from_json(item)
                        .map_err(|problem| format!("an entry of `extra_special_tokens` {problem}"))?;
                    if !self.extra.contains(&token) {
                        self.extra.push(token);
                    }
                }
            }
            Some(Json::Object(tokens)) => {
                for (name, token) in tokens {
                    let token = SpecialToken::from_json(token)
                        .map_err(|problem| format!("`{name}` in `extra_special_tokens` {problem}"))?;
                    self.set(name, token);
                }
            }
            Some(_) => return Err("`extra_special_tokens` is neither a list nor an object".to_owned()),
        }
        Ok(())
    }
}
