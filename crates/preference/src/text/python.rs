//! What chat templates take from Python: its values, string methods, tests and way of writing JSON.
//!
//! The template engine is minijinja, whose own Python compatibility covers most of it. Here stand the rest and the few
//! places where it differs from jinja2 3.1 as transformers 5.23 sets it up.

use std::fmt::Write;

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use serde_json::Value as Json;

/// The deepest nesting that is written as JSON; Python gives up at about a thousand.
const DEEPEST: usize = 200;

/// JSON as a template's value: objects keep the order of their keys.
pub(super) fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (_, Some(number)) => Value::from(number),
            _ => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(value).collect(),
        Json::Object(map) => Value::from_pairs(map.iter().map(|(key, item)| (key.as_str(), value(item)))),
    }
}

/// Makes an environment speak Python: methods, tests, filters and how values are written out.
pub(super) fn configure(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|output, _, value| {
        let written = match float(value) {
            Some(number) => output.write_str(&float_text(number)),
            None => write!(output, "{value}"),
        };
        written.map_err(Error::from)
    });
    environment.add_filter("string", |value: &Value| match float(value) {
        Some(number) => Value::from(float_text(number)),
        None if value.kind() == ValueKind::String => value.clone(),
        None => Value::from(value.to_string()),
    });
    environment.add_filter("tojson", to_json);
    environment.add_filter("trim", |text: &Value, characters: Option<String>| {
        let text = text.to_string();
        Value::from(strip(&text, characters.as_deref(), true, true))
    });
    // jinja2's `sequence` is whatever has a length and is subscripted, its `iterable` whatever can be walked through.
    environment.add_test("sequence", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Bytes
        )
    });
    environment.add_test("iterable", |value: &Value| {
        !value.is_none() && (value.kind() == ValueKind::String || value.try_iter().is_ok())
    });
}

/// The white space that Python's `str.strip` and `str.split` know: Unicode's, and four control characters.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

fn strip<'a>(text: &'a str, characters: Option<&str>, left: bool, right: bool) -> &'a str {
    let stripped = |character: char| match characters {
        Some(characters) => characters.contains(character),
        None => is_space(character),
    };
    let text = if left { text.trim_start_matches(stripped) } else { text };
    if right { text.trim_end_matches(stripped) } else { text }
}

/// Methods of values, called where minijinja itself has none of the name.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        match name {
            "strip" | "lstrip" | "rstrip" => {
                let (characters,): (Option<&str>,) = from_args(args)?;
                return Ok(Value::from(strip(text, characters, name != "rstrip", name != "lstrip")));
            }
            "split" | "rsplit" => return split(text, name == "rsplit", args),
            "partition" | "rpartition" => {
                let (separator,): (&str,) = from_args(args)?;
                let parts = if name == "partition" {
                    text.split_once(separator).unwrap_or((text, ""))
                } else {
                    text.rsplit_once(separator).unwrap_or(("", text))
                };
                let middle = if text.contains(separator) { separator } else { "" };
                return Ok(Value::from(Tuple::from([
                    Value::from(parts.0),
                    Value::from(middle),
                    Value::from(parts.1),
                ])));
            }
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)));
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)));
            }
            "casefold" => return Ok(Value::from(text.to_lowercase())),
            "title" => return Ok(Value::from(title(text))),
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// Python's `str.split` and `str.rsplit`.
fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, limit, options): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        Some(separator) => Some(separator),
        None => options.get("sep")?,
    };
    let limit = match limit {
        Some(limit) => Some(limit),
        None => options.get("maxsplit")?,
    };
    options.assert_all_used()?;
    let limit = usize::try_from(limit.unwrap_or(-1)).unwrap_or(usize::MAX);
    let separator = separator.filter(|separator| !separator.is_none());
    let Some(separator) = separator else {
        return Ok(split_at_spaces(text, limit, from_right)
            .into_iter()
            .map(Value::from)
            .collect());
    };
    let separator = separator
        .as_str()
        .filter(|separator| !separator.is_empty())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidOperation,
                "split needs a separator that is a text, not empty",
            )
        })?;
    let pieces = limit.saturating_add(1);
    let mut parts: Vec<&str> = if from_right {
        text.rsplitn(pieces, separator).collect()
    } else {
        text.splitn(pieces, separator).collect()
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

fn split_at_spaces(text: &str, limit: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = strip(text, None, !from_right, from_right);
    while !rest.is_empty() {
        if parts.len() == limit {
            // Python strips the side that was split from, and leaves the other as it is.
            parts.push(rest);
            break;
        }
        let cut = if from_right {
            rest.char_indices().rev().find(|(_, character)| is_space(*character))
        } else {
            rest.char_indices().find(|(_, character)| is_space(*character))
        };
        let Some((at, space)) = cut else {
            parts.push(rest);
            break;
        };
        let (before, after) = (&rest[..at], &rest[at + space.len_utf8()..]);
        let (part, remaining) = if from_right { (after, before) } else { (before, after) };
        parts.push(part);
        rest = strip(remaining, None, !from_right, from_right);
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// Python's `str.title`: a letter is capital if no letter precedes it.
fn title(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut inside = false;
    for character in text.chars() {
        if inside {
            result.extend(character.to_lowercase());
        } else {
            result.extend(character.to_uppercase());
        }
        inside = character.is_alphabetic();
    }
    result
}

fn float(value: &Value) -> Option<f64> {
    (value.kind() == ValueKind::Number && !value.is_integer())
        .then(|| f64::try_from(value.clone()).ok())
        .flatten()
}

/// Python's `repr` of a float: the shortest digits that read back, in exponent form from 1e16 and below 1e-4.
fn float_text(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = number.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

/// How JSON is laid out: Python's `json.dumps` arguments.
struct Layout {
    ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// transformers' `tojson`: `json.dumps` with `ensure_ascii` false by default and no HTML escapes.
fn to_json(value: &Value, positional: Rest<Value>, options: Kwargs) -> Result<Value, Error> {
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(match positional.get(at) {
            Some(value) => Some(value.clone()),
            None => options.get::<Option<Value>>(name)?,
        }
        .filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let ascii = argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = argument(1, "indent")?
        .map(|value| match value.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => i64::try_from(value.clone()).map(|spaces| " ".repeat(spaces.clamp(0, 64) as usize)),
        })
        .transpose()?;
    let separators = argument(2, "separators")?
        .map(|value| {
            let texts: Vec<String> = value.try_iter()?.map(|item| item.to_string()).collect();
            <[String; 2]>::try_from(texts)
                .map_err(|_| Error::new(ErrorKind::InvalidOperation, "separators must be two texts"))
        })
        .transpose()?;
    let sort_keys = argument(3, "sort_keys")?.is_some_and(|value| value.is_true());
    options.assert_all_used()?;
    let [item_separator, key_separator] =
        separators.unwrap_or_else(|| [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()]);
    let layout = Layout {
        ascii,
        indent,
        item_separator,
        key_separator,
        sort_keys,
    };
    let mut text = String::new();
    layout.write(value, 0, &mut text)?;
    Ok(Value::from(text))
}

impl Layout {
    fn write(&self, value: &Value, depth: usize, text: &mut String) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(Error::new(ErrorKind::BadSerialization, "nested too deeply for tojson"));
        }
        match value.kind() {
            ValueKind::None => text.push_str("null"),
            ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => match float(value) {
                Some(number) => text.push_str(&json_float(number)),
                None => text.push_str(&value.to_string()),
            },
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), text),
            ValueKind::Seq => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.container(('[', ']'), depth, text, items, |layout, item, text| {
                    layout.write(&item, depth + 1, text)
                })?;
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    pairs.push((key_text(&key)?, item));
                }
                if self.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.container(('{', '}'), depth, text, pairs, |layout, (key, item), text| {
                    layout.string(&key, text);
                    text.push_str(&layout.key_separator);
                    layout.write(&item, depth + 1, text)
                })?;
            }
            kind => {
                let problem = format!("a value of type {kind} cannot be written as JSON; is the variable defined?");
                return Err(Error::new(ErrorKind::BadSerialization, problem));
            }
        }
        Ok(())
    }

    fn container<T>(
        &self,
        (open, close): (char, char),
        depth: usize,
        text: &mut String,
        items: Vec<T>,
        mut write: impl FnMut(&Self, T, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        text.push(open);
        let empty = items.is_empty();
        for (at, item) in items.into_iter().enumerate() {
            if at > 0 {
                text.push_str(&self.item_separator);
            }
            self.line(depth + 1, text);
            write(self, item, text)?;
        }
        if !empty {
            self.line(depth, text);
        }
        text.push(close);
        Ok(())
    }

    fn line(&self, depth: usize, text: &mut String) {
        if let Some(indent) = &self.indent {
            text.push('\n');
            for _ in 0..depth {
                text.push_str(indent);
            }
        }
    }

    fn string(&self, string: &str, text: &mut String) {
        text.push('"');
        for character in string.chars() {
            match character {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{8}' => text.push_str("\\b"),
                '\u{c}' => text.push_str("\\f"),
                _ if character < ' ' || (self.ascii && !(' '..='~').contains(&character)) => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        // Writing to a string does not fail.
                        let _ = write!(text, "\\u{unit:04x}");
                    }
                }
                _ => text.push(character),
            }
        }
        text.push('"');
    }
}

fn json_float(number: f64) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        float_text(number)
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => Ok(float(key).map_or_else(|| key.to_string(), json_float)),
        kind => {
            let problem = format!("a key of type {kind} cannot be written as JSON");
            Err(Error::new(ErrorKind::BadSerialization, problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn evaluate(expression: &str) -> String {
        let mut environment = Environment::new();
        configure(&mut environment);
        let context = Value::from_pairs([
            (
                "data",
                value(&json!({"z": 1, "a": [1.5, 1e22, 1e-7, true, null, "é\n<&'\u{1}"], "n": {}, "e": []})),
            ),
            ("text", Value::from(" \u{1f}a b  c\u{a0}\n")),
        ]);
        environment
            .render_str(&format!("{{{{ {expression} }}}}"), context)
            .unwrap()
    }

    // Expected texts: Python 3.11 with jinja2 3.1.6 and transformers 5.23's `tojson`, or the expression in Python.
    #[test]
    fn json_is_written_as_python_writes_it() {
        assert_eq!(
            evaluate("data | tojson"),
            r#"{"z": 1, "a": [1.5, 1e+22, 1e-07, true, null, "é\n<&'\u0001"], "n": {}, "e": []}"#
        );
        assert_eq!(
            evaluate("data | tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=true)"),
            r#"{"a":[1.5,1e+22,1e-07,true,null,"\u00e9\n<&'\u0001"],"e":[],"n":{},"z":1}"#
        );
        assert_eq!(
            evaluate("[1, {'b': []}] | tojson(indent=2)"),
            "[\n  1,\n  {\n    \"b\": []\n  }\n]"
        );
        assert_eq!(evaluate("{'b': 1, 'a': 2} | tojson"), r#"{"b": 1, "a": 2}"#);
        assert_eq!(evaluate("'😀' | tojson(true)"), r#""\ud83d\ude00""#);
    }

    #[test]
    fn text_methods_are_pythons() {
        for (expression, expected) in [
            ("text.strip()", "a b  c"),
            ("text.lstrip() | length", "8"),
            ("text | trim", "a b  c"),
            ("text.split()", "['a', 'b', 'c']"),
            ("text.split(none, 1) | tojson", "[\"a\", \"b  c\u{a0}\\n\"]"),
            ("'a,b,c'.rsplit(',', 1)", "['a,b', 'c']"),
            ("'a,b,c'.split(',', 1)", "['a', 'b,c']"),
            ("'a,b,c'.split(',')[-1]", "c"),
            ("'a=b=c'.partition('=')", "('a', '=', 'b=c')"),
            ("'abc'.partition('=')", "('abc', '', '')"),
            ("'abc'.rpartition('=')", "('', '', 'abc')"),
            ("'xxabcxx'.strip('x')", "abc"),
            ("'prefix-a'.removeprefix('prefix-')", "a"),
            ("\"they're bill's\".title()", "They'Re Bill'S"),
            ("1.0", "1.0"),
            ("1e16", "1e+16"),
            ("[true, none]", "[True, None]"),
            ("'ab' * 3", "ababab"),
            ("'ab' is sequence", "True"),
            ("{} is sequence", "True"),
            ("3 is sequence", "False"),
            ("'ab' is iterable", "True"),
            ("missing is iterable", "True"),
            ("3 is iterable", "False"),
            ("none is iterable", "False"),
            ("1e-7 | string", "1e-07"),
            ("data.a[-1:][0] is string", "True"),
            ("data.items() | list | length", "4"),
        ] {
            assert_eq!(evaluate(expression), expected, "{expression}");
        }
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        let mut environment = Environment::new();
        configure(&mut environment);
        assert!(environment.render_str("{{ missing | tojson }}", ()).is_err());
        assert!(environment.render_str("{{ 1 | tojson(colour=1) }}", ()).is_err());
    }
}
