//! Text as data sets hold it: plain, or as messages of a conversation.
//!
//! Messages keep every key that they have (`tool_calls`, `name`, `reasoning_content`, ...), because chat templates read
//! them. A key whose value is `null` counts as absent: tables, which must give every message the same keys, write it
//! for "none". Only `content` stays `null` where a message has tool calls instead.

use serde::Serialize;
use serde_json::{Map, Value};

use super::json;
use super::{DataError, Place};

/// Text, plain or as messages; a prompt or a response of a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Text {
    /// Plain text, to be used as it is.
    Plain(String),
    /// Messages, to be written out by a chat template.
    Messages(Conversation),
}

/// Messages, and what their row tells the chat template besides. Only the conversation that a row begins with (its
/// `messages`, or its prompt) has tools and arguments; a response goes on in the same conversation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Conversation {
    /// The messages, at least one.
    pub messages: Vec<Message>,
    /// The tools that the model may call, as JSON Schema objects; empty if there are none. TRL's column `tools`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
    /// Further variables of the chat template, by name. TRL's column `chat_template_kwargs`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub template_arguments: Map<String, Value>,
}

/// One message: a JSON object with a `role` and a `content`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Message(Map<String, Value>);

impl Message {
    /// A message of plain text.
    #[must_use]
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let mut keys = Map::new();
        keys.insert("role".to_owned(), Value::String(role.into()));
        keys.insert("content".to_owned(), Value::String(content.into()));
        Self(keys)
    }

    /// Who speaks: `system`, `user`, `assistant`, `tool`, or whatever the chat template knows.
    #[must_use]
    pub fn role(&self) -> &str {
        self.0.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// What is said, the parts joined if there are several; empty if the message has only tool calls.
    #[must_use]
    pub fn content(&self) -> String {
        match self.0.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
            _ => String::new(),
        }
    }

    /// All keys, for the chat template.
    #[must_use]
    pub fn keys(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl Conversation {
    /// A conversation without tools.
    #[must_use]
    pub fn new(messages: Vec<Message>) -> Self {
        Self {
            messages,
            tools: Vec::new(),
            template_arguments: Map::new(),
        }
    }
}

impl Text {
    /// Its length in Unicode scalar values; of messages the sum over their contents.
    #[must_use]
    pub fn chars(&self) -> usize {
        match self {
            Self::Plain(text) => text.chars().count(),
            Self::Messages(conversation) => {
                let messages = conversation.messages.iter();
                messages.map(|message| message.content().chars().count()).sum()
            }
        }
    }

    /// Whether it is messages.
    #[must_use]
    pub fn is_messages(&self) -> bool {
        matches!(self, Self::Messages(_))
    }

    pub(super) fn form(&self) -> &'static str {
        match self {
            Self::Plain(_) => "text",
            Self::Messages(_) => "messages",
        }
    }
}

/// What a value is, in the words of messages to the user.
pub(super) fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Reads the text or the messages at `key`.
pub(super) fn text(place: &Place, key: &str, value: Value) -> Result<Text, DataError> {
    match value {
        Value::String(text) => Ok(Text::Plain(text)),
        Value::Array(values) => {
            messages(place, key, values).map(|messages| Text::Messages(Conversation::new(messages)))
        }
        other => {
            let problem = format!("{}, where text or a list of messages belongs", describe(&other));
            Err(place.key(key, problem, "fill it in, or remove the row"))
        }
    }
}

/// Reads the messages at `key`.
pub(super) fn messages(place: &Place, key: &str, values: Vec<Value>) -> Result<Vec<Message>, DataError> {
    if values.is_empty() {
        return Err(place.key(key, "an empty list of messages", "give at least one, or remove the row"));
    }
    values
        .into_iter()
        .enumerate()
        .map(|(at, value)| message(place, &format!("{key}[{at}]"), value))
        .collect()
}

fn message(place: &Place, key: &str, value: Value) -> Result<Message, DataError> {
    const FORM: &str = "a message is an object like {\"role\": \"user\", \"content\": \"...\"}";
    let Value::Object(mut keys) = value else {
        return Err(place.key(key, format!("{}, where a message belongs", describe(&value)), FORM));
    };
    // The names of the ShareGPT form, which TRL renames as well.
    for (theirs, ours) in [("from", "role"), ("value", "content")] {
        if !keys.contains_key(ours)
            && let Some(value) = keys.remove(theirs)
        {
            keys.insert(ours.to_owned(), value);
        }
    }
    keys.retain(|_, value| !value.is_null());
    match keys.get("role") {
        Some(Value::String(role)) if !role.is_empty() => {}
        Some(Value::String(_)) => return Err(place.key(format!("{key}.role"), "empty", "name who speaks")),
        Some(other) => {
            let problem = format!("{}, where text belongs", describe(other));
            return Err(place.key(format!("{key}.role"), problem, FORM));
        }
        None => return Err(place.key(format!("{key}.role"), "missing or null", FORM)),
    }
    let has_calls = matches!(keys.get("tool_calls"), Some(Value::Array(calls)) if !calls.is_empty());
    match keys.get("content") {
        Some(Value::String(_)) => {}
        Some(Value::Array(parts)) => check_parts(place, key, parts)?,
        Some(other) => {
            let problem = format!("{}, where text or a list of text parts belongs", describe(other));
            return Err(place.key(format!("{key}.content"), problem, FORM));
        }
        None if has_calls => {
            keys.insert("content".to_owned(), Value::Null);
        }
        None => {
            let remedy = "only a message with tool_calls may leave its content out; fill it in, or remove the row";
            return Err(place.key(format!("{key}.content"), "missing or null", remedy));
        }
    }
    Ok(Message(keys))
}

/// Content in parts: each of them text.
fn check_parts(place: &Place, key: &str, parts: &[Value]) -> Result<(), DataError> {
    for (at, part) in parts.iter().enumerate() {
        let key = format!("{key}.content[{at}]");
        let kind = part.get("type").and_then(Value::as_str);
        if kind.is_some_and(|kind| kind != "text") {
            let problem = format!("a part of type {:?}; only text is read here", kind.unwrap_or_default());
            return Err(place.key(
                key,
                problem,
                "remove the row; images, sound and video are not supported",
            ));
        }
        if kind.is_none() || !part.get("text").is_some_and(Value::is_string) {
            let remedy = "a part is an object like {\"type\": \"text\", \"text\": \"...\"}";
            return Err(place.key(key, "not a part of text", remedy));
        }
    }
    Ok(())
}

/// Takes what a row tells the chat template out of it, into the conversation that the row begins with.
pub(super) fn add_context(
    place: &Place,
    row: &mut Map<String, Value>,
    conversation: &mut Conversation,
) -> Result<(), DataError> {
    // Tables have one schema for all rows, so tools and arguments often come as JSON text.
    let mut take = |key: &str| match row.remove(key) {
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Value::Null),
        Some(Value::String(text)) => json::parse(text.as_bytes()).map_err(|problem| {
            place.key(
                key,
                format!("text that is {problem}"),
                "give a JSON value, or JSON text",
            )
        }),
        other => Ok(other.unwrap_or_default()),
    };
    conversation.tools = match take("tools")? {
        Value::Null => Vec::new(),
        Value::Array(tools) if tools.iter().all(Value::is_object) => tools,
        other => {
            let problem = format!("{}, where a list of objects belongs", describe(&other));
            return Err(place.key("tools", problem, "give each tool as a JSON Schema object"));
        }
    };
    conversation.template_arguments = match take("chat_template_kwargs")? {
        Value::Null => Map::new(),
        Value::Object(arguments) => arguments,
        other => {
            let problem = format!("{}, where an object belongs", describe(&other));
            return Err(place.key("chat_template_kwargs", problem, "give the template's arguments by name"));
        }
    };
    Ok(())
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
