//! Chat templates: messages in, text out, as jinja2 renders them for transformers 5.23.
//!
//! Block tags take their line's white space and line break with them (`trim_blocks`, `lstrip_blocks`), a single line
//! break at the template's end is dropped, loops may `break` and `continue`, undefined variables are written as
//! nothing, and `{% generation %}` blocks mark what the assistant wrote. Sources: `_cached_compile_jinja_template` and
//! `render_jinja_template` in transformers/utils/chat_template_utils.py.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use serde_json::{Map, Value as Json};

use super::clock::Moment;
use super::error::TextError;
use super::python;

/// The filter that stands for a `{% generation %}` block, and the variable that says whether to mark its text.
const GENERATION: &str = "posterior_generation_block";
const MARKING: &str = "posterior_mark_generation";

/// What surrounds a generation block's text while blocks are being found: characters that Unicode keeps for use inside
/// programs and that are in no text.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// Steps that a template may take before it is stopped: more than any real conversation needs, and a bound on a
/// template that loops for ever.
const FUEL: u64 = 100_000_000;

/// Fields under which a message's reasoning is found, the first being the one that templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// What a template is given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conversation<'a> {
    /// The messages, each an object with `role` and mostly `content`, in the order of the conversation.
    pub messages: &'a [Json],
    /// JSON schemas of the tools that the model may call; `None` where there are none.
    pub tools: Option<&'a [Json]>,
    /// Documents to answer from.
    pub documents: Option<&'a [Json]>,
    /// Whether the text ends in what introduces the assistant's answer.
    pub add_generation_prompt: bool,
    /// Further variables, such as `enable_thinking`; they take precedence over the special tokens.
    pub variables: Option<&'a Map<String, Json>>,
}

impl<'a> Conversation<'a> {
    /// Messages without tools, documents or variables, not ending in an invitation to answer.
    pub fn new(messages: &'a [Json]) -> Self {
        Self {
            messages,
            ..Self::default()
        }
    }
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// The bytes of the text that came from `{% generation %}` blocks, in order.
    pub generated: Vec<Range<usize>>,
}

/// A compiled chat template.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    source: Arc<str>,
    origin: Arc<str>,
    has_generation_blocks: bool,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ChatTemplate")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles a template. `origin` says in errors where it comes from; templates that ask for the date get today's.
    ///
    /// # Errors
    /// [`TextError::Template`] with the line of what is not valid.
    pub fn new(source: &str, origin: impl Into<String>) -> Result<Self, TextError> {
        Self::with_clock(source, origin, Moment::now)
    }

    /// The same, with the clock that the template's `strftime_now` reads.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn with_clock(
        source: &str,
        origin: impl Into<String>,
        clock: impl Fn() -> Moment + Send + Sync + 'static,
    ) -> Result<Self, TextError> {
        let origin: Arc<str> = origin.into().into();
        let (translated, has_generation_blocks) = translate(source);
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| problem(&origin, &error))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        python::configure(&mut environment);
        environment.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message.to_string()))
        });
        environment.add_function("strftime_now", move |format: &str| clock().format(format));
        environment.add_filter(GENERATION, generation);
        environment
            .add_template_owned("chat", translated)
            .map_err(|error| problem(&origin, &error))?;
        Ok(Self {
            environment: Arc::new(environment),
            source: source.into(),
            origin,
            has_generation_blocks,
        })
    }

    /// The template's text as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where the template comes from.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether the template marks what the assistant wrote with `{% generation %}`.
    pub fn has_generation_blocks(&self) -> bool {
        self.has_generation_blocks
    }

    /// Renders a conversation. `special_tokens` are variables such as `bos_token`.
    ///
    /// As transformers does, fields of messages that are null are left out, and reasoning given as `thinking` or
    /// `reasoning` is passed under the name that templates read.
    ///
    /// # Errors
    /// [`TextError::Messages`] if there are none or one is not an object; [`TextError::Template`] with the line where
    /// the template raised an error or failed.
    pub fn render(&self, conversation: &Conversation, special_tokens: &[(&str, &str)]) -> Result<String, TextError> {
        self.run(conversation, special_tokens, false)
    }

    /// Renders a conversation and finds what its `{% generation %}` blocks wrote.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; also if the template works on the blocks' text in a way that hides where it went.
    pub fn render_with_spans(
        &self,
        conversation: &Conversation,
        special_tokens: &[(&str, &str)],
    ) -> Result<Rendered, TextError> {
        let text = self.run(conversation, special_tokens, false)?;
        if !self.has_generation_blocks {
            return Ok(Rendered {
                text,
                generated: Vec::new(),
            });
        }
        let marked = self.run(conversation, special_tokens, true)?;
        let rendered = unmark(&marked).filter(|rendered| rendered.text == text);
        rendered.ok_or_else(|| TextError::Template {
            origin: self.origin.to_string(),
            line: None,
            problem:
                "what the generation blocks wrote cannot be found in the text: the template changes it afterwards, \
                      or a message holds the characters U+FDD0 or U+FDD1; take the blocks out of the template, or the \
                      characters out of the messages"
                    .to_owned(),
        })
    }

    fn run(
        &self,
        conversation: &Conversation,
        special_tokens: &[(&str, &str)],
        marking: bool,
    ) -> Result<String, TextError> {
        if conversation.messages.is_empty() {
            return Err(TextError::Messages {
                problem: "there are none".to_owned(),
                remedy: "give at least one".to_owned(),
            });
        }
        let messages = conversation.messages.iter().enumerate().map(message);
        let messages: Vec<Value> = messages.collect::<Result<_, _>>()?;
        let list = |items: Option<&[Json]>| -> Value {
            items.map_or(Value::from(()), |items| items.iter().map(python::value).collect())
        };
        // Pairs of the same name: the last one stands.
        let mut variables: Vec<(String, Value)> = special_tokens
            .iter()
            .map(|(name, token)| ((*name).to_owned(), Value::from(*token)))
            .collect();
        variables.extend(
            conversation
                .variables
                .into_iter()
                .flatten()
                .map(|(name, variable)| (name.clone(), python::value(variable))),
        );
        variables.extend([
            ("messages".to_owned(), Value::from(messages)),
            ("tools".to_owned(), list(conversation.tools)),
            ("documents".to_owned(), list(conversation.documents)),
            (
                "add_generation_prompt".to_owned(),
                Value::from(conversation.add_generation_prompt),
            ),
            (MARKING.to_owned(), Value::from(marking)),
        ]);
        let template = self
            .environment
            .get_template("chat")
            .map_err(|error| problem(&self.origin, &error))?;
        template
            .render(Value::from_pairs(variables))
            .map_err(|error| problem(&self.origin, &error))
    }
}

/// A message as templates see it.
fn message((at, message): (usize, &Json)) -> Result<Value, TextError> {
    let Json::Object(fields) = message else {
        return Err(TextError::Messages {
            problem: format!("message {} is not an object", at + 1),
            remedy: "write each as {\"role\": ..., \"content\": ...}".to_owned(),
        });
    };
    let reasoning = REASONING
        .iter()
        .find_map(|name| fields.get(*name).filter(|reasoning| !reasoning.is_null()));
    let mut pairs: Vec<(&str, Value)> = Vec::with_capacity(fields.len() + 2);
    if let Some(reasoning) = reasoning
        && fields.get("thinking").is_none_or(Json::is_null)
    {
        pairs.push(("thinking", python::value(reasoning)));
    }
    for (name, field) in fields {
        if !field.is_null() {
            let chosen = if name == "reasoning_content" {
                reasoning.unwrap_or(field)
            } else {
                field
            };
            pairs.push((name, python::value(chosen)));
        }
    }
    if let Some(reasoning) = reasoning
        && fields.get("reasoning_content").is_none_or(Json::is_null)
    {
        pairs.push(("reasoning_content", python::value(reasoning)));
    }
    Ok(Value::from_pairs(pairs))
}

/// The text of a generation block: what its body wrote, between marks if they were asked for.
fn generation(state: &State, text: &Value) -> Value {
    let marking = state.lookup(MARKING).is_some_and(|value| value.is_true());
    if marking {
        Value::from(format!("{OPEN}{text}{CLOSE}"))
    } else {
        text.clone()
    }
}

/// Writes `{% generation %}` blocks as filtered blocks with variables of their own, which is what jinja2's extension
/// amounts to; lines stay where they are. (A `call` block, which it really is, could not set a namespace's fields here.)
fn translate(source: &str) -> (String, bool) {
    let mut translated = String::with_capacity(source.len() + 64);
    let mut found = false;
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        translated.push_str(before);
        let inner = &tag[2..];
        let sign = inner.len() - inner.trim_start_matches(['-', '+']).len();
        let body = &inner[sign.min(1)..];
        let name = body.trim_start();
        let replacement = ["generation", "endgeneration"].iter().find_map(|word| {
            let after = name.strip_prefix(word)?.trim_start();
            let close = after.trim_start_matches(['-', '+']);
            (close.starts_with("%}") && after.len() - close.len() <= 1).then_some((*word, &name[word.len()..]))
        });
        translated.push_str(&tag[..2 + sign.min(1)]);
        rest = body;
        if let Some((word, after)) = replacement {
            found = true;
            translated.push_str(&body[..body.len() - name.len()]);
            if word == "generation" {
                translated.push_str("with %}{% filter ");
                translated.push_str(GENERATION);
            } else {
                translated.push_str("endfilter %}{% endwith");
            }
            rest = after;
        }
    }
    translated.push_str(rest);
    (translated, found)
}

/// The text without marks, and where they were; `None` if they do not pair up.
fn unmark(marked: &str) -> Option<Rendered> {
    let mut text = String::with_capacity(marked.len());
    let mut generated = Vec::new();
    let mut open = Vec::new();
    for character in marked.chars() {
        match character {
            OPEN => open.push(text.len()),
            CLOSE => {
                let start = open.pop()?;
                // A block inside another is part of the outer one.
                if open.is_empty() && start < text.len() {
                    generated.push(start..text.len());
                }
            }
            _ => text.push(character),
        }
    }
    open.is_empty().then_some(Rendered { text, generated })
}

/// An error of the template engine, with its line and the whole chain of its causes.
fn problem(origin: &str, error: &Error) -> TextError {
    let words = |error: &Error| match error.detail() {
        Some(detail) if error.kind() == ErrorKind::InvalidOperation => detail.to_owned(),
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    let mut line = error.line();
    let mut text = words(error);
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        match cause.downcast_ref::<Error>() {
            Some(cause) => {
                line = cause.line().or(line);
                text = format!("{text}: {}", words(cause));
            }
            None => text = format!("{text}: {cause}"),
        }
        source = cause.source();
    }
    TextError::Template {
        origin: origin.to_owned(),
        line,
        problem: text,
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
