//! From the keys of a record to a row: which shape it has, and its parts checked.

use serde_json::{Map, Value};

use super::message::{self, Conversation, Text, describe};
use super::prompt;
use super::row::{Kind, Ranked, Row};
use super::{DataError, Place};

/// Reads a row. Also gives the keys that were left aside. `unread` are keys that the row has but that were not read at
/// all.
pub(super) fn parse(
    kind: Kind,
    place: &Place,
    keys: Map<String, Value>,
    unread: &[String],
) -> Result<(Row, Map<String, Value>), DataError> {
    let mut parts = Parts {
        kind,
        place,
        keys,
        unread,
    };
    let row = parts.row()?;
    Ok((row, parts.keys))
}

/// Whether a key belongs to a shape of this kind; the columns of a table that do not are not even read.
pub(super) fn reads(kind: Kind, key: &str) -> bool {
    let modelling = ["text", "messages", "conversations", "prompt", "completion"].contains(&key);
    let preference = ["prompt", "chosen", "rejected", "margin", "completions"].contains(&key);
    let context = ["tools", "chat_template_kwargs"].contains(&key);
    context
        || match kind {
            Kind::LanguageModelling => modelling,
            Kind::Preference => preference,
            Kind::Prompts => ["prompt", "chosen", "rejected"].contains(&key),
            Kind::Score => preference || ["responses", "completion", "messages", "conversations"].contains(&key),
            Kind::Any => modelling || preference || key == "responses",
        }
}

/// The shapes as they are found in keys.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Text,
    Messages,
    Conversations,
    Completion,
    Pair,
    Ranking,
    Responses,
    Prompt,
}

impl Shape {
    fn described(self) -> &'static str {
        match self {
            Self::Text => "\"text\"",
            Self::Messages => "\"messages\"",
            Self::Conversations => "\"conversations\"",
            Self::Completion => "\"completion\"",
            Self::Pair => "\"chosen\"/\"rejected\"",
            Self::Ranking => "\"completions\"",
            Self::Responses => "\"responses\"",
            Self::Prompt => "\"prompt\"",
        }
    }
}

impl Kind {
    /// The shapes of this kind. Without any of them, a prompt alone may do.
    fn shapes(self) -> &'static [Shape] {
        use Shape::{Completion, Conversations, Messages, Pair, Ranking, Responses, Text};
        match self {
            Self::LanguageModelling => &[Text, Messages, Conversations, Completion],
            Self::Preference => &[Pair, Ranking],
            Self::Prompts => &[],
            Self::Score => &[Responses, Pair, Ranking, Completion, Messages, Conversations],
            Self::Any => &[Text, Messages, Conversations, Completion, Pair, Ranking, Responses],
        }
    }

    /// What it needs, as a clause.
    fn wanted(self) -> &'static str {
        match self {
            Self::LanguageModelling => {
                "training on text (sft) needs \"text\", \"messages\", or \"prompt\" with \"completion\""
            }
            Self::Preference => {
                "preferences (dpo, reward) need \"chosen\" and \"rejected\", or \"prompt\" with \"completions\", a list \
                 of {\"rank\": 1, \"completion\": ...}"
            }
            Self::Prompts => "prompts (ppo, generate) need \"prompt\"",
            Self::Score => "scoring needs \"prompt\" with \"responses\", a pair, a ranking, or \"messages\"",
            Self::Any => "a row needs \"text\", \"messages\", \"prompt\", or \"chosen\" and \"rejected\"",
        }
    }
}

struct Parts<'a> {
    kind: Kind,
    place: &'a Place,
    keys: Map<String, Value>,
    unread: &'a [String],
}

impl Parts<'_> {
    fn row(&mut self) -> Result<Row, DataError> {
        match self.shape()? {
            Shape::Text => self.text(),
            Shape::Messages => self.conversation("messages"),
            Shape::Conversations => self.conversation("conversations"),
            Shape::Completion => {
                let prompt = self.prompt()?;
                let completion = self.take("completion")?;
                let completion = self.response(&prompt, "completion", completion)?;
                Ok(if self.kind == Kind::Score {
                    let responses = vec![completion];
                    Row::Responses { prompt, responses }
                } else {
                    Row::Completion { prompt, completion }
                })
            }
            Shape::Pair => self.pair(),
            Shape::Ranking => self.ranking(),
            Shape::Responses => {
                let prompt = self.prompt()?;
                let values = self.list("responses")?;
                let responses = values.into_iter().enumerate();
                let responses = responses
                    .map(|(at, value)| self.response(&prompt, &format!("responses[{at}]"), value))
                    .collect::<Result<_, _>>()?;
                Ok(Row::Responses { prompt, responses })
            }
            Shape::Prompt => self.prompt_alone(),
        }
    }

    /// Whether a key is there and not null: tables with rows of several shapes fill the keys of the others with null.
    fn has(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|value| !value.is_null())
    }

    fn holds(&self, shape: Shape) -> bool {
        match shape {
            Shape::Text => self.has("text"),
            Shape::Messages => self.has("messages"),
            Shape::Conversations => self.has("conversations"),
            Shape::Completion => self.has("completion"),
            Shape::Pair => self.has("chosen") || self.has("rejected"),
            Shape::Ranking => self.has("completions"),
            Shape::Responses => self.has("responses"),
            Shape::Prompt => self.has("prompt"),
        }
    }

    fn shape(&self) -> Result<Shape, DataError> {
        let shapes = self.kind.shapes().iter().copied();
        let mut found: Vec<Shape> = shapes.filter(|shape| self.holds(*shape)).collect();
        if self.kind == Kind::Any && found.len() > 1 {
            // Published preference data often have the chosen conversation once more as `messages`.
            found.retain(|shape| !matches!(shape, Shape::Messages | Shape::Text | Shape::Completion));
        }
        if self.kind == Kind::Score && found.len() > 1 {
            found.retain(|shape| !matches!(shape, Shape::Messages | Shape::Conversations));
        }
        match found[..] {
            [shape] => Ok(shape),
            [] => {
                let alone = match self.kind {
                    Kind::Prompts => self.has("prompt") || self.has("chosen") && self.has("rejected"),
                    Kind::Any => self.has("prompt"),
                    _ => false,
                };
                if alone {
                    return Ok(Shape::Prompt);
                }
                Err(self.fault(self.kind.wanted().to_owned(), self.remedy()))
            }
            _ => {
                let names: Vec<_> = found.iter().map(|shape| shape.described()).collect();
                let wanted = format!("a row has one shape, not {} at once", names.join(" and "));
                Err(self.fault(wanted, "remove the keys that are not meant"))
            }
        }
    }

    fn remedy(&self) -> &'static str {
        let named = |key: &str| self.has(key) || self.unread.iter().any(|unread| unread == key);
        match self.kind {
            Kind::Preference if named("label") => {
                "single responses with a label are not supported; join a good and a bad one to a pair"
            }
            Kind::Preference if named("messages") || named("text") || named("completion") => {
                "this looks like data for sft"
            }
            Kind::LanguageModelling if named("chosen") => {
                "this looks like data for dpo or reward; for sft rename \"chosen\" to \"completion\" (with a prompt) or \
                 \"messages\""
            }
            Kind::Score if named("text") && named("prompt") => {
                "rename \"text\" to \"completion\" if it is the response"
            }
            Kind::Prompts if named("messages") => "rename \"messages\" to \"prompt\" if they end before the answer",
            _ => "rename the keys, or remove the row",
        }
    }

    fn fault(&self, wanted: String, remedy: &str) -> DataError {
        let keys = self.keys.iter().map(|(key, value)| (key, value.is_null()));
        let keys = keys.chain(self.unread.iter().map(|key| (key, false)));
        let names: Vec<String> = keys
            .map(|(key, null)| format!("{:?}{}", shortened(key), if null { " (null)" } else { "" }))
            .collect();
        let found = match names.len() {
            0 => "no keys".to_owned(),
            1..=12 => names.join(", "),
            more => format!("{} and {} more", names[..12].join(", "), more - 12),
        };
        DataError::Shape {
            place: self.place.clone(),
            wanted,
            found,
            remedy: remedy.to_owned(),
        }
    }

    /// Takes a key that must be there.
    fn take(&mut self, key: &str) -> Result<Value, DataError> {
        let problem = match self.keys.remove(key) {
            Some(Value::Null) => "null",
            Some(value) => return Ok(value),
            None => "missing",
        };
        Err(self.place.key(key, problem, "fill it in, or remove the row"))
    }

    fn list(&mut self, key: &str) -> Result<Vec<Value>, DataError> {
        match self.take(key)? {
            Value::Array(values) if values.is_empty() => {
                Err(self
                    .place
                    .key(key, "an empty list", "give at least one response, or remove the row"))
            }
            Value::Array(values) => Ok(values),
            other => {
                let problem = format!("{}, where a list belongs", describe(&other));
                Err(self.place.key(key, problem, "give a list of responses"))
            }
        }
    }

    /// The explicit prompt, with what the row tells the chat template.
    fn prompt(&mut self) -> Result<Text, DataError> {
        let value = self.take("prompt")?;
        let prompt = message::text(self.place, "prompt", value)?;
        self.with_context(prompt)
    }

    fn with_context(&mut self, mut prompt: Text) -> Result<Text, DataError> {
        if let Text::Messages(conversation) = &mut prompt {
            message::add_context(self.place, &mut self.keys, conversation)?;
        }
        Ok(prompt)
    }

    /// A response, which must have the form of its prompt.
    fn response(&self, prompt: &Text, key: &str, value: Value) -> Result<Text, DataError> {
        let response = message::text(self.place, key, value)?;
        if response.is_messages() != prompt.is_messages() {
            let problem = format!("{}, but the prompt is {}", response.form(), prompt.form());
            return Err(self
                .place
                .key(key, problem, "give both as text, or both as lists of messages"));
        }
        Ok(response)
    }

    fn text(&mut self) -> Result<Row, DataError> {
        match self.take("text")? {
            Value::String(text) if text.is_empty() => {
                Err(self.place.key("text", "empty", "fill it in, or remove the row"))
            }
            Value::String(text) => Ok(Row::Text { text }),
            other => {
                let problem = format!("{}, where text belongs", describe(&other));
                Err(self.place.key(
                    "text",
                    problem,
                    "give text; a list of messages belongs under \"messages\"",
                ))
            }
        }
    }

    fn conversation(&mut self, key: &str) -> Result<Row, DataError> {
        let value = self.take(key)?;
        let Value::Array(values) = value else {
            let problem = format!("{}, where a list of messages belongs", describe(&value));
            return Err(self
                .place
                .key(key, problem, "give messages; plain text belongs under \"text\""));
        };
        let mut conversation = Conversation::new(message::messages(self.place, key, values)?);
        message::add_context(self.place, &mut self.keys, &mut conversation)?;
        if self.kind != Kind::Score {
            return Ok(Row::Conversation(conversation));
        }
        match conversation.messages.pop() {
            Some(answer) if answer.role() == "assistant" && !conversation.messages.is_empty() => Ok(Row::Responses {
                prompt: Text::Messages(conversation),
                responses: vec![Text::Messages(Conversation::new(vec![answer]))],
            }),
            _ => Err(self.place.key(
                key,
                "no answer of the assistant at the end, after other messages",
                "complete the conversation, or remove the row",
            )),
        }
    }

    /// A pair's three texts, the prompt explicit or implicit.
    fn pair_texts(&mut self) -> Result<prompt::Split, DataError> {
        let chosen = self.take("chosen")?;
        let chosen = message::text(self.place, "chosen", chosen)?;
        let rejected = self.take("rejected")?;
        let rejected = message::text(self.place, "rejected", rejected)?;
        if chosen.is_messages() != rejected.is_messages() {
            let problem = format!("{}, but \"chosen\" is {}", rejected.form(), chosen.form());
            return Err(self
                .place
                .key("rejected", problem, "give both as text, or both as lists of messages"));
        }
        // Data sets with the whole conversation on either side often have the question once more as text.
        let prompt_is_extra = chosen.is_messages() && matches!(self.keys.get("prompt"), Some(Value::String(_)));
        if self.has("prompt") && !prompt_is_extra {
            let prompt = self.prompt()?;
            if prompt.is_messages() != chosen.is_messages() {
                let problem = format!("{}, but the prompt is {}", chosen.form(), prompt.form());
                return Err(self
                    .place
                    .key("chosen", problem, "give all as text, or all as lists of messages"));
            }
            return Ok(prompt::Split {
                prompt,
                chosen,
                rejected,
            });
        }
        let Some(mut split) = prompt::implicit(chosen, rejected) else {
            let problem = "no messages in common with \"rejected\" that could be the prompt";
            let remedy = "give \"prompt\" as a list of messages";
            return Err(self.place.key("chosen", problem, remedy));
        };
        split.prompt = self.with_context(split.prompt)?;
        Ok(split)
    }

    fn pair(&mut self) -> Result<Row, DataError> {
        let split = self.pair_texts()?;
        if self.kind == Kind::Score {
            return Ok(Row::Responses {
                prompt: split.prompt,
                responses: vec![split.chosen, split.rejected],
            });
        }
        let margin = match self.keys.remove("margin") {
            None | Some(Value::Null) => None,
            Some(value) => Some(self.number("margin", &value)?),
        };
        Ok(Row::Pair {
            prompt: split.prompt,
            chosen: split.chosen,
            rejected: split.rejected,
            margin,
        })
    }

    fn ranking(&mut self) -> Result<Row, DataError> {
        const FORM: &str = "each is an object like {\"rank\": 1, \"completion\": ...}, the lowest rank the best";
        let prompt = self.prompt()?;
        let mut responses = Vec::new();
        for (at, value) in self.list("completions")?.into_iter().enumerate() {
            let key = format!("completions[{at}]");
            let Value::Object(mut keys) = value else {
                let problem = format!("{}, where an object belongs", describe(&value));
                return Err(self.place.key(key, problem, FORM));
            };
            let mut take = |name: &str| {
                let value = keys.remove(name).filter(|value| !value.is_null());
                value.ok_or_else(|| self.place.key(format!("{key}.{name}"), "missing or null", FORM))
            };
            let (rank, completion) = (take("rank")?, take("completion")?);
            responses.push(Ranked {
                rank: self.number(&format!("{key}.rank"), &rank)?,
                completion: self.response(&prompt, &format!("{key}.completion"), completion)?,
            });
        }
        if self.kind == Kind::Score {
            let responses = responses.into_iter().map(|response| response.completion).collect();
            return Ok(Row::Responses { prompt, responses });
        }
        if responses.len() < 2 {
            let remedy = "give at least two, or remove the row";
            return Err(self
                .place
                .key("completions", "one response, which ranks before none", remedy));
        }
        if responses.iter().all(|response| response.rank == responses[0].rank) {
            let remedy = "give at least one of them another rank, or remove the row";
            return Err(self
                .place
                .key("completions", "all of the same rank, so nothing is preferred", remedy));
        }
        Ok(Row::Ranking { prompt, responses })
    }

    fn prompt_alone(&mut self) -> Result<Row, DataError> {
        let pair = self.has("chosen") && self.has("rejected");
        let prompt_is_extra = matches!(self.keys.get("prompt"), Some(Value::String(_)))
            && matches!(self.keys.get("chosen"), Some(Value::Array(_)));
        let prompt = if pair && (prompt_is_extra || !self.has("prompt")) {
            self.pair_texts()?.prompt
        } else {
            self.prompt()?
        };
        if matches!(&prompt, Text::Plain(text) if text.is_empty()) {
            return Err(self.place.key("prompt", "empty", "fill it in, or remove the row"));
        }
        Ok(Row::Prompt { prompt })
    }

    fn number(&self, key: &str, value: &Value) -> Result<f64, DataError> {
        value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| {
            let problem = format!("{}, where a number belongs", describe(value));
            self.place
                .key(key, problem, "give an integer or a finite decimal number")
        })
    }
}

/// A key, cut to a length that fits in a message.
pub(super) fn shortened(key: &str) -> String {
    let mut short: String = key.chars().take(40).collect();
    if short.len() < key.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
