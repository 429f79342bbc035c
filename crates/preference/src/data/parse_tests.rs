use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::super::{Message, Position};
use super::*;

fn read(kind: Kind, value: Value) -> Result<(Row, Vec<String>), String> {
    let place = Place {
        path: Arc::from(Path::new("some.jsonl")),
        position: Position::Line(3),
    };
    let Value::Object(keys) = value else {
        panic!("an object")
    };
    let (row, aside) = parse(kind, &place, keys, &[]).map_err(|error| error.to_string())?;
    let mut aside: Vec<String> = aside.into_iter().map(|(key, _)| key).collect();
    aside.sort();
    Ok((row, aside))
}

fn row(kind: Kind, value: Value) -> Row {
    read(kind, value).unwrap().0
}

fn plain(text: &str) -> Text {
    Text::Plain(text.to_owned())
}

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

fn assistant(text: &str) -> Value {
    json!([{"role": "assistant", "content": text}])
}

fn conversation(role: &str, text: &str) -> Conversation {
    Conversation::new(vec![Message::new(role, text)])
}

#[test]
fn language_modelling_has_three_shapes() {
    let kind = Kind::LanguageModelling;
    assert_eq!(
        row(kind, json!({"text": "The sky"})),
        Row::Text {
            text: "The sky".to_owned()
        }
    );
    assert_eq!(
        row(kind, json!({"messages": user("Hi")})),
        Row::Conversation(conversation("user", "Hi"))
    );
    let sharegpt = json!({"conversations": [{"from": "user", "value": "Hi"}]});
    assert_eq!(row(kind, sharegpt), Row::Conversation(conversation("user", "Hi")));
    assert_eq!(
        row(kind, json!({"prompt": "The sky", "completion": " is blue"})),
        Row::Completion {
            prompt: plain("The sky"),
            completion: plain(" is blue")
        }
    );
    assert_eq!(
        row(kind, json!({"prompt": user("Sky?"), "completion": assistant("Blue")})),
        Row::Completion {
            prompt: Text::Messages(conversation("user", "Sky?")),
            completion: Text::Messages(conversation("assistant", "Blue")),
        }
    );
}

#[test]
fn tools_and_arguments_belong_to_the_first_messages() {
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    for (kind, keys) in [
        (Kind::LanguageModelling, json!({"messages": user("Hi")})),
        (
            Kind::LanguageModelling,
            json!({"prompt": user("Hi"), "completion": assistant("a")}),
        ),
        (
            Kind::Preference,
            json!({"prompt": user("Hi"), "chosen": assistant("a"), "rejected": assistant("b")}),
        ),
        (Kind::Prompts, json!({"prompt": user("Hi")})),
    ] {
        let mut keys = keys;
        keys["tools"] = json!(tools.to_string());
        keys["chat_template_kwargs"] = json!({"enable_thinking": true});
        let (row, aside) = read(kind, keys).unwrap();
        let first = match &row {
            Row::Conversation(conversation) => conversation,
            row => match row.prompt() {
                Some(Text::Messages(conversation)) => conversation,
                _ => panic!("messages"),
            },
        };
        assert_eq!(Value::Array(first.tools.clone()), tools);
        assert_eq!(first.template_arguments["enable_thinking"], true);
        assert!(aside.is_empty());
        for response in row.responses() {
            assert!(matches!(response, Text::Messages(conversation) if conversation.tools.is_empty()));
        }
    }
}

#[test]
fn pairs_have_an_explicit_or_an_implicit_prompt() {
    let pair = |prompt: Text, chosen: Text, rejected: Text, margin| Row::Pair {
        prompt,
        chosen,
        rejected,
        margin,
    };
    let expected = pair(plain("The sky is"), plain(" blue."), plain(" green."), None);
    let explicit = json!({"prompt": "The sky is", "chosen": " blue.", "rejected": " green.", "margin": null});
    assert_eq!(row(Kind::Preference, explicit), expected);
    let implicit = json!({"chosen": "The sky is blue.", "rejected": "The sky is green."});
    assert_eq!(row(Kind::Preference, implicit), expected);
    let messages = |role: &str, text: &str| Text::Messages(conversation(role, text));
    let expected = pair(
        messages("user", "Sky?"),
        messages("assistant", "Blue"),
        messages("assistant", "Green"),
        Some(0.5),
    );
    let explicit =
        json!({"prompt": user("Sky?"), "chosen": assistant("Blue"), "rejected": assistant("Green"), "margin": 0.5});
    assert_eq!(row(Kind::Preference, explicit), expected);
    let whole = |answer: &str| json!([user("Sky?")[0], assistant(answer)[0]]);
    let mut implicit = json!({"chosen": whole("Blue"), "rejected": whole("Green"), "margin": 0.5});
    assert_eq!(row(Kind::Preference, implicit.clone()), expected);
    // As HuggingFaceH4/ultrafeedback_binarized has it: the question once more as text, the chosen side as messages.
    implicit["prompt"] = json!("Sky?");
    implicit["messages"] = whole("Blue");
    let (found, aside) = read(Kind::Preference, implicit).unwrap();
    assert_eq!(
        (found, aside),
        (expected, vec!["messages".to_owned(), "prompt".to_owned()])
    );
}

#[test]
fn rankings_keep_their_ties() {
    let completions = json!([{"rank": 2, "completion": "b"}, {"rank": 1, "completion": "a"}, {"rank": 2.0, "completion": "", "by": "me"}]);
    let Row::Ranking { prompt, responses } = row(Kind::Preference, json!({"prompt": "p", "completions": completions}))
    else {
        panic!("a ranking")
    };
    assert_eq!(prompt, plain("p"));
    let found: Vec<_> = responses
        .iter()
        .map(|response| (response.rank, &response.completion))
        .collect();
    assert_eq!(found, [(2.0, &plain("b")), (1.0, &plain("a")), (2.0, &plain(""))]);
}

#[test]
fn prompts_come_alone_or_from_pairs() {
    for (value, expected) in [
        (json!({"prompt": "p", "answer": 42}), "p"),
        (json!({"prompt": "p", "chosen": "a", "rejected": "b"}), "p"),
        (json!({"chosen": "p a", "rejected": "p b"}), "p"),
    ] {
        assert_eq!(
            row(Kind::Prompts, value),
            Row::Prompt {
                prompt: plain(expected)
            }
        );
    }
    let whole = |answer: &str| json!([user("p")[0], assistant(answer)[0]]);
    let value = json!({"prompt": "p", "chosen": whole("a"), "rejected": whole("b")});
    let prompt = Text::Messages(conversation("user", "p"));
    assert_eq!(row(Kind::Prompts, value), Row::Prompt { prompt });
}

#[test]
fn responses_to_be_scored_come_in_five_forms() {
    let expected = Row::Responses {
        prompt: plain("p"),
        responses: vec![plain("a"), plain("b")],
    };
    for value in [
        json!({"prompt": "p", "responses": ["a", "b"]}),
        json!({"prompt": "p", "chosen": "a", "rejected": "b"}),
        json!({"prompt": "p", "completions": [{"rank": 1, "completion": "a"}, {"rank": 1, "completion": "b"}]}),
    ] {
        assert_eq!(row(Kind::Score, value), expected);
    }
    let one = row(Kind::Score, json!({"prompt": "p", "completion": "a"}));
    assert_eq!(
        one,
        Row::Responses {
            prompt: plain("p"),
            responses: vec![plain("a")]
        }
    );
    let whole = json!([user("p")[0], assistant("a")[0]]);
    for value in [json!({"messages": whole}), json!({"conversations": whole})] {
        assert_eq!(
            row(Kind::Score, value),
            Row::Responses {
                prompt: Text::Messages(conversation("user", "p")),
                responses: vec![Text::Messages(conversation("assistant", "a"))]
            }
        );
    }
    // Published preference data often have the chosen conversation once more as `messages`.
    let value = json!({"prompt": "p", "chosen": "a", "rejected": "b", "messages": whole});
    assert_eq!(row(Kind::Score, value), expected);
}

#[test]
fn keys_of_another_kind_are_kept_aside() {
    for (kind, value, aside) in [
        (
            Kind::LanguageModelling,
            json!({"messages": user("x"), "prompt": "x", "prompt_id": "7"}),
            &["prompt", "prompt_id"][..],
        ),
        (
            Kind::LanguageModelling,
            json!({"text": "x", "messages": null, "meta": {}}),
            &["messages", "meta"],
        ),
        (
            Kind::LanguageModelling,
            json!({"prompt": "x", "completion": "y", "label": true}),
            &["label"],
        ),
        (
            Kind::Preference,
            json!({"prompt": "x", "chosen": "y", "rejected": "z", "completions": null, "score_chosen": 1}),
            &["completions", "score_chosen"],
        ),
        (
            Kind::Any,
            json!({"chosen": "xy", "rejected": "xz", "messages": user("x")}),
            &["messages"],
        ),
    ] {
        assert_eq!(read(kind, value).unwrap().1, aside);
    }
}

#[test]
fn any_kind_finds_the_shape() {
    for (value, shape) in [
        (json!({"text": "x"}), "text"),
        (json!({"messages": user("x")}), "messages"),
        (json!({"prompt": "x"}), "prompt"),
        (json!({"prompt": "x", "completion": "y"}), "prompt and completion"),
        (json!({"chosen": "xy", "rejected": "xz"}), "pair"),
        (
            json!({"prompt": "x", "completions": [{"rank": 1, "completion": "a"}, {"rank": 2, "completion": "b"}]}),
            "ranking",
        ),
        (json!({"prompt": "x", "responses": ["a"]}), "prompt and responses"),
    ] {
        assert_eq!(row(Kind::Any, value).shape(), shape);
    }
}

#[test]
fn faults_name_the_key_and_the_remedy() {
    use Kind::{Any, LanguageModelling, Preference, Prompts, Score};
    let ranked = |ranks: &[Value]| {
        let completions: Vec<_> = ranks
            .iter()
            .map(|rank| json!({"rank": rank, "completion": "x"}))
            .collect();
        json!({"prompt": "p", "completions": completions})
    };
    for (kind, value, expected) in [
        (LanguageModelling, json!({"text": ""}), "\"text\": empty"),
        (
            LanguageModelling,
            json!({"text": user("x")}),
            "\"text\": a list, where text belongs; give text; a list",
        ),
        (
            LanguageModelling,
            json!({"messages": "x"}),
            "\"messages\": text, where a list of messages",
        ),
        (
            LanguageModelling,
            json!({"text": "x", "messages": user("x")}),
            "one shape, not \"text\" and \"messages\" at once",
        ),
        (LanguageModelling, json!({"completion": "x"}), "\"prompt\": missing"),
        (
            LanguageModelling,
            json!({"prompt": null, "completion": "x"}),
            "\"prompt\": null",
        ),
        (
            LanguageModelling,
            json!({"prompt": "x"}),
            "needs \"text\", \"messages\", or \"prompt\" with \"completion\"; this row has \"prompt\"",
        ),
        (
            LanguageModelling,
            json!({"chosen": "x", "rejected": "y"}),
            "looks like data for dpo",
        ),
        (
            LanguageModelling,
            json!({"prompt": user("x"), "completion": "y"}),
            "\"completion\": text, but the prompt is messages",
        ),
        (Preference, json!({}), "this row has no keys"),
        (
            Preference,
            json!({"prompt": "x", "completion": "y", "label": true}),
            "join a good and a bad one",
        ),
        (Preference, json!({"messages": user("x")}), "looks like data for sft"),
        (
            Preference,
            json!({"prompt": "x", "chosen": "y"}),
            "\"rejected\": missing",
        ),
        (
            Preference,
            json!({"prompt": "x", "chosen": "y", "rejected": null}),
            "\"rejected\": null",
        ),
        (
            Preference,
            json!({"prompt": "x", "chosen": 1, "rejected": "z"}),
            "\"chosen\": a number",
        ),
        (
            Preference,
            json!({"prompt": "x", "chosen": "y", "rejected": user("z")}),
            "\"rejected\": messages, but \"chosen\" is text",
        ),
        (
            Preference,
            json!({"prompt": user("x"), "chosen": "y", "rejected": "z"}),
            "\"chosen\": text, but the prompt is messages",
        ),
        (
            Preference,
            json!({"prompt": "x", "chosen": assistant("y"), "rejected": assistant("z")}),
            "give \"prompt\" as a list of messages",
        ),
        (
            Preference,
            json!({"prompt": "x", "chosen": "y", "rejected": "z", "margin": "much"}),
            "\"margin\": text, where a number",
        ),
        (
            Preference,
            json!({"chosen": "y", "rejected": "z", "completions": []}),
            "not \"chosen\"/\"rejected\" and \"completions\"",
        ),
        (
            Preference,
            json!({"prompt": "p", "completions": []}),
            "\"completions\": an empty list",
        ),
        (
            Preference,
            json!({"prompt": "p", "completions": ["a", "b"]}),
            "\"completions[0]\": text, where an object",
        ),
        (
            Preference,
            json!({"completions": [{"rank": 1, "completion": "x"}]}),
            "\"prompt\": missing",
        ),
        (Preference, ranked(&[json!(1)]), "\"completions\": one response"),
        (Preference, ranked(&[json!(1), json!(1.0)]), "all of the same rank"),
        (
            Preference,
            ranked(&[json!(1), json!(null)]),
            "\"completions[1].rank\": missing or null",
        ),
        (
            Preference,
            ranked(&[json!("1"), json!("2")]),
            "\"completions[0].rank\": text, where a number",
        ),
        (Prompts, json!({"prompt": ""}), "\"prompt\": empty"),
        (Prompts, json!({"prompt": []}), "\"prompt\": an empty list"),
        (
            Prompts,
            json!({"messages": user("x")}),
            "rename \"messages\" to \"prompt\"",
        ),
        (Score, json!({"prompt": "x"}), "scoring needs"),
        (
            Score,
            json!({"prompt": "x", "text": "y"}),
            "rename \"text\" to \"completion\"",
        ),
        (
            Score,
            json!({"messages": user("x")}),
            "\"messages\": no answer of the assistant at the end",
        ),
        (
            Score,
            json!({"messages": assistant("x")}),
            "\"messages\": no answer of the assistant at the end",
        ),
        (
            Score,
            json!({"prompt": "x", "responses": []}),
            "\"responses\": an empty list",
        ),
        (
            Score,
            json!({"prompt": "x", "responses": "y"}),
            "\"responses\": text, where a list",
        ),
        (
            Score,
            json!({"prompt": "x", "responses": ["y", null]}),
            "\"responses[1]\": null",
        ),
        (
            Any,
            json!({"id": 1, "url": null}),
            "this row has \"id\", \"url\" (null)",
        ),
    ] {
        let error = read(kind, value.clone()).unwrap_err();
        assert!(
            error.starts_with("some.jsonl, line 3") && error.contains(expected),
            "{value}\n{error}"
        );
        assert!(error.contains("; "), "no remedy: {error}");
    }
    let many: Map<String, Value> = (0..40).map(|at| (format!("{at:0>100}"), json!(1))).collect();
    let error = read(Any, Value::Object(many)).unwrap_err();
    assert!(error.contains("and 28 more") && error.len() < 1000, "{error}");
}

#[test]
fn every_key_that_a_kind_uses_is_read_from_tables() {
    for kind in [
        Kind::LanguageModelling,
        Kind::Preference,
        Kind::Prompts,
        Kind::Score,
        Kind::Any,
    ] {
        for shape in kind.shapes() {
            let keys: &[&str] = match shape {
                Shape::Pair => &["prompt", "chosen", "rejected", "tools", "chat_template_kwargs"],
                Shape::Text => &["text"],
                Shape::Messages => &["messages"],
                Shape::Conversations => &["conversations"],
                Shape::Completion => &["prompt", "completion"],
                Shape::Ranking => &["prompt", "completions"],
                Shape::Responses => &["prompt", "responses"],
                Shape::Prompt => &["prompt"],
            };
            assert!(keys.iter().all(|key| reads(kind, key)), "{kind:?}");
        }
    }
    assert!(!reads(Kind::LanguageModelling, "chosen") && !reads(Kind::Preference, "messages"));
}

fn any_row() -> impl Strategy<Value = Value> {
    let key = proptest::sample::select(vec![
        "text",
        "messages",
        "prompt",
        "completion",
        "chosen",
        "rejected",
        "margin",
        "completions",
        "responses",
        "tools",
        "x",
    ]);
    let value = prop_oneof![
        Just(Value::Null),
        Just(json!(1.5)),
        "[ab ]{0,3}".prop_map(Value::from),
        "[ab]{0,2}".prop_map(|text| user(&text)),
        Just(json!([])),
        Just(json!(["a", "b"])),
        Just(json!([{"rank": 1, "completion": "a"}, {"rank": 2, "completion": "b"}])),
        Just(json!([user("q")[0], assistant("a")[0]])),
    ];
    proptest::collection::btree_map(key.prop_map(str::to_owned), value, 0..6)
        .prop_map(|keys| Value::Object(keys.into_iter().collect()))
}

proptest! {
    #[test]
    fn what_is_accepted_is_sound(value in any_row(), at in 0usize..5) {
        let kind = [Kind::LanguageModelling, Kind::Preference, Kind::Prompts, Kind::Score, Kind::Any][at];
        if let Ok((row, _)) = read(kind, value) {
            if let Some(prompt) = row.prompt() {
                for response in row.responses() {
                    prop_assert_eq!(response.is_messages(), prompt.is_messages());
                }
            }
            match (kind, &row) {
                (Kind::LanguageModelling, Row::Text { .. } | Row::Conversation(_) | Row::Completion { .. })
                | (Kind::Preference, Row::Pair { .. } | Row::Ranking { .. })
                | (Kind::Prompts, Row::Prompt { .. })
                | (Kind::Score, Row::Responses { .. })
                | (Kind::Any, _) => {}
                _ => prop_assert!(false, "{kind:?} gave {row:?}"),
            }
        }
    }
}
