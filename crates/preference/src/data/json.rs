//! One JSON value, read strictly: an object that names a key twice is an error.
//!
//! `serde_json` reads such an object and keeps the last value, which would hide a data set made by joining texts.
//! Its limit on nesting (128 levels) holds here too, so no input can exhaust the stack.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Parses one JSON value.
///
/// # Errors
/// What is wrong and at which column, as a clause: `not valid JSON: expected value (column 7)`.
pub(super) fn parse(text: &[u8]) -> Result<Value, String> {
    match serde_json::from_slice::<Strict>(text) {
        Ok(value) => Ok(value.0),
        Err(error) => {
            let described = error.to_string();
            let reason = described
                .rfind(" at line ")
                .map_or(&described[..], |at| &described[..at]);
            Err(format!("not valid JSON: {reason} (column {})", error.column()))
        }
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = sequence.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} twice in one object")));
            }
            let Strict(value) = entries.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_given_twice_is_refused_at_any_depth() {
        let error = parse(br#"{"a":1,"b":[{"c":1,"c":1}]}"#).unwrap_err();
        assert!(error.contains("\"c\" twice"), "{error}");
        assert_eq!(parse(br#"{"a":1,"b":{"a":1}}"#).unwrap()["b"]["a"], 1);
    }

    #[test]
    fn errors_name_the_column_once() {
        let error = parse(br#"{"a": nan}"#).unwrap_err();
        assert_eq!(error, "not valid JSON: expected ident (column 8)");
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let deep = [vec![b'['; 1 << 20], vec![b']'; 1 << 20]].concat();
        let error = parse(&deep).unwrap_err();
        assert!(error.contains("recursion limit"), "{error}");
        let deep = "{\"a\":".repeat(1 << 16);
        assert!(parse(deep.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn what_serde_json_writes_is_read(keys in proptest::collection::btree_set("[a-c]{0,2}", 0..4), number: f64) {
            let object: Map<String, Value> = keys.into_iter().map(|key| (key, Value::from(number))).collect();
            let text = Value::Object(object.clone()).to_string();
            prop_assert_eq!(parse(text.as_bytes()).unwrap(), Value::Object(object));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(
            prop_oneof![Just(b'{'), Just(b'['), Just(b'"'), Just(b'}'), Just(b'\\'), Just(b':'), any::<u8>()], 0..60,
        )) {
            if let Ok(value) = parse(&bytes) {
                prop_assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), value);
            }
        }
    }
}
