use super::super::{Kind, Rows};
use super::*;

fn summary(text: &str) -> Summary {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data.jsonl");
    std::fs::write(&path, text).unwrap();
    Summary::of(&mut Rows::open(&path, Kind::Any).unwrap()).unwrap()
}

#[test]
fn rows_are_counted_and_measured() {
    let found = summary(
        r#"{"prompt": "pp", "chosen": "éé", "rejected": "éé", "margin": 1, "source": "x"}
{"prompt": "p", "chosen": "a", "rejected": "bcd"}
{"prompt": "ppp", "completions": [{"rank": 1, "completion": ""}, {"rank": 2, "completion": "x"}, {"rank": 2, "completion": "y"}, {"rank": 2, "completion": "zzzzz"}]}
{"text": "four"}
{"messages": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}], "tools": "[{\"type\": \"function\"}]"}
"#,
    );
    assert_eq!(found.rows, 5);
    let shapes: Vec<_> = found.shapes.into_iter().collect();
    assert_eq!(shapes, [("messages", 1), ("pair", 2), ("ranking", 1), ("text", 1)]);
    assert_eq!(found.responses.into_iter().collect::<Vec<_>>(), [(2, 2), (4, 1)]);
    let lengths = |min, median, max, count| {
        Some(Lengths {
            min,
            median,
            max,
            count,
        })
    };
    assert_eq!(found.prompt_length, lengths(1, 2, 3, 3));
    // 0 1 1 1 2 2 3 5
    assert_eq!(found.response_length, lengths(0, 1, 5, 8));
    assert_eq!(found.text_length, lengths(3, 3, 4, 2));
    assert_eq!((found.ties, found.same, found.margins), (3, 1, 1));
    assert_eq!((found.conversational, found.with_tools), (1, 1));
    assert_eq!(found.other_columns, ["source"]);
    assert!(matches!(found.first, Some(Row::Pair { margin: Some(1.0), .. })));
    assert_eq!(summary(""), Summary::default());
}

#[test]
fn it_is_one_json_document() {
    let found = summary("{\"prompt\": \"p\"}\n");
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["shapes"]["prompt"], 1);
    assert_eq!(json["first"], serde_json::json!({"shape": "prompt", "prompt": "p"}));
    assert_eq!(json["prompt_length"]["median"], 1);
}
