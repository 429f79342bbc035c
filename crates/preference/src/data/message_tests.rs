use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::super::Position;
use super::*;

fn place() -> Place {
    Place {
        path: Arc::from(Path::new("some.jsonl")),
        position: Position::Line(7),
    }
}

fn read(value: Value) -> Result<Text, DataError> {
    text(&place(), "chosen", value)
}

#[test]
fn messages_keep_their_keys_but_not_nulls() {
    let Text::Messages(conversation) = read(json!([
        {"role": "user", "content": "Weather?", "name": "Ann", "tool_calls": null},
        {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": null}}}]},
        {"role": "tool", "content": [{"type": "text", "text": "wa"}, {"type": "text", "text": "rm"}]},
    ]))
    .unwrap() else {
        panic!("messages")
    };
    let [user, assistant, tool] = &conversation.messages[..] else {
        panic!("three messages")
    };
    assert_eq!(
        Value::Object(user.keys().clone()),
        json!({"role": "user", "content": "Weather?", "name": "Ann"})
    );
    assert_eq!(assistant.keys()["content"], Value::Null);
    assert_eq!(
        assistant.keys()["tool_calls"][0]["function"]["arguments"],
        json!({"x": null})
    );
    assert_eq!((assistant.content(), assistant.role()), (String::new(), "assistant"));
    assert_eq!(tool.content(), "warm");
    assert_eq!(Text::Messages(conversation).chars(), 12);
}

#[test]
fn the_sharegpt_names_are_renamed() {
    let Text::Messages(conversation) = read(json!([{"from": "human", "value": "Hi"}])).unwrap() else {
        panic!("messages")
    };
    assert_eq!(conversation.messages, [Message::new("human", "Hi")]);
}

#[test]
fn faults_are_named_with_the_way_to_them() {
    for (value, expected) in [
        (json!(null), "\"chosen\": null, where text or a list"),
        (json!(7), "\"chosen\": a number, where text"),
        (json!([]), "\"chosen\": an empty list of messages"),
        (json!(["Hi"]), "\"chosen[0]\": text, where a message belongs"),
        (
            json!([{"role": "user", "content": "x"}, {"content": "Hi"}]),
            "\"chosen[1].role\": missing or null",
        ),
        (json!([{"role": "", "content": "Hi"}]), "\"chosen[0].role\": empty"),
        (json!([{"role": 3, "content": "Hi"}]), "\"chosen[0].role\": a number"),
        (
            json!([{"role": "user", "content": null}]),
            "\"chosen[0].content\": missing or null",
        ),
        (
            json!([{"role": "user", "tool_calls": []}]),
            "\"chosen[0].content\": missing or null",
        ),
        (
            json!([{"role": "user", "content": 4}]),
            "\"chosen[0].content\": a number",
        ),
        (
            json!([{"role": "user", "content": [{"type": "image"}]}]),
            "\"chosen[0].content[0]\": a part of type \"image\"",
        ),
        (
            json!([{"role": "user", "content": [{"type": "text"}]}]),
            "\"chosen[0].content[0]\": not a part of text",
        ),
        (
            json!([{"role": "user", "content": ["x"]}]),
            "\"chosen[0].content[0]\": not a part of text",
        ),
    ] {
        let error = read(value.clone()).unwrap_err().to_string();
        assert!(
            error.starts_with("some.jsonl, line 7, ") && error.contains(expected),
            "{value}: {error}"
        );
        assert!(error.contains("; "), "no remedy: {error}");
    }
}

fn with_context(row: Value) -> Result<Conversation, DataError> {
    let Value::Object(mut row) = row else {
        panic!("an object")
    };
    let mut conversation = Conversation::new(vec![Message::new("user", "Hi")]);
    add_context(&place(), &mut row, &mut conversation)?;
    assert!(row.is_empty(), "taken out");
    Ok(conversation)
}

#[test]
fn tools_are_json_or_json_text() {
    let tools = json!([{"type": "function", "function": {"name": "zeta", "a": 1}}]);
    for given in [tools.clone(), json!(tools.to_string())] {
        let conversation =
            with_context(json!({"tools": given, "chat_template_kwargs": {"enable_thinking": false}})).unwrap();
        assert_eq!(Value::Array(conversation.tools), tools);
        assert_eq!(conversation.template_arguments["enable_thinking"], false);
    }
    for none in [
        json!({}),
        json!({"tools": null}),
        json!({"tools": ""}),
        json!({"tools": "[]"}),
        json!({"tools": "null"}),
    ] {
        assert!(with_context(none).unwrap().tools.is_empty());
    }
    for (bad, expected) in [
        (json!({"tools": "[{"}), "\"tools\": text that is not valid JSON"),
        (json!({"tools": ["f"]}), "\"tools\": a list, where"),
        (json!({"tools": {"a": 1}}), "\"tools\": an object, where"),
        (json!({"chat_template_kwargs": [1]}), "\"chat_template_kwargs\": a list"),
    ] {
        let error = with_context(bad).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// The order of keys within a tool reaches the model through the template's `tojson`, so it must survive.
#[test]
fn the_order_of_keys_is_kept() {
    let text = r#"[{"type":"function","function":{"name":"zeta","description":"d","a":1}}]"#;
    let conversation = with_context(json!({ "tools": text })).unwrap();
    assert_eq!(serde_json::to_string(&conversation.tools).unwrap(), text);
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z]{0,3}".prop_map(Value::from),
        Just(json!("text")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let keys = prop_oneof![
            Just("role"),
            Just("content"),
            Just("type"),
            Just("text"),
            Just("from"),
            Just("tool_calls")
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::vec((keys.prop_map(str::to_owned), inner), 0..5)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_accepted_has_roles_and_content(value in any_value()) {
        if let Ok(Text::Messages(conversation)) = read(value) {
            prop_assert!(!conversation.messages.is_empty());
            for message in &conversation.messages {
                prop_assert!(!message.role().is_empty());
                prop_assert!(message.keys().contains_key("content"));
            }
        }
    }
}
