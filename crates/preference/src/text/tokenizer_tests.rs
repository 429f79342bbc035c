use std::fs;

use proptest::prelude::*;

use super::super::testing::{CHATML, byte_level, chatml, llama, special};
use super::super::{Conversation, TextError};
use super::*;

/// A model directory with the byte-level tokenizer and these further files.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("tokenizer.json"), byte_level().to_string()).unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

fn open(files: &[(&str, &str)]) -> Result<Tokenizer, TextError> {
    Tokenizer::from_directory(directory(files).path())
}

// The ids follow from the vocabularies in `testing.rs`: bytes are themselves, merges come after them.
#[test]
fn text_becomes_ids_and_back() {
    let tokenizer = chatml();
    assert_eq!(tokenizer.encode("ab ab\n", true).unwrap(), [256, 259, 10]);
    assert_eq!(
        tokenizer.encode("<|im_start|>é<|end|>", false).unwrap(),
        [261, 0xc3, 0xa9, 260]
    );
    assert_eq!(
        tokenizer.decode(&[261, 0xc3, 0xa9, 260], true).unwrap(),
        "<|im_start|>é<|end|>"
    );
    assert_eq!(tokenizer.decode(&[261, 0xc3, 0xa9, 260, 9_999], false).unwrap(), "é");
    assert_eq!((tokenizer.vocabulary_size(), tokenizer.largest_id()), (263, 262));
    assert_eq!(
        (tokenizer.id("Ġab"), tokenizer.token(259).as_deref()),
        (Some(259), Some("Ġab"))
    );
    assert_eq!(tokenizer.end_ids().iter().copied().collect::<Vec<_>>(), [260, 262]);
    assert_eq!(
        (tokenizer.end_id().unwrap(), tokenizer.special_id("pad_token")),
        (262, Some(260))
    );

    let llama = llama();
    assert_eq!(llama.encode("a", true).unwrap(), [1, 263, 2]);
    assert_eq!(llama.encode_prompt("a").unwrap(), [1, 263]);
    assert_eq!(llama.encode("ü", false).unwrap(), [259, 3 + 0xc3, 3 + 0xbc]);
    assert_eq!(llama.decode(&[1, 263, 259, 262, 2], false).unwrap(), "a ab");
    assert_eq!(llama.encode_continuation("ab a").unwrap(), [262, 263]);
}

#[test]
fn a_directory_says_what_is_special_and_what_ends_a_text() {
    let config = r#"{"bos_token": null, "eos_token": {"__type": "AddedToken", "content": "<|im_end|>", "lstrip": false},
        "pad_token": "<|end|>", "image_token": "<image>", "add_bos_token": true, "extra_special_tokens": ["<x>", "<y>"],
        "chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]}"#;
    let tokenizer = open(&[
        ("tokenizer_config.json", config),
        ("config.json", r#"{"eos_token_id": 3}"#),
        ("generation_config.json", r#"{"eos_token_id": [262, 260]}"#),
    ])
    .unwrap();
    assert_eq!(tokenizer.end_ids().iter().copied().collect::<Vec<_>>(), [260, 262]);
    // Tokens that only the configuration names come after all others, in its order of names; no text is begun.
    assert_eq!(tokenizer.encode("<x>a<image><y>", true).unwrap(), [264, 97, 263, 265]);
    assert_eq!(tokenizer.decode(&[264, 97], false).unwrap(), "a");
    assert_eq!(
        tokenizer.template_variables(),
        [
            ("eos_token", "<|im_end|>"),
            ("pad_token", "<|end|>"),
            ("image_token", "<image>")
        ]
    );
    assert_eq!(tokenizer.chat_template(None, true).unwrap().source(), "T");
    assert_eq!(tokenizer.chat_template(None, false).unwrap().source(), "D");
    let error = tokenizer.chat_template(Some("rag"), false).unwrap_err().to_string();
    assert!(
        error.contains("named \"rag\"; choose one of default, tool_use"),
        "{error}"
    );

    let own = open(&[("config.json", r#"{"text_config": {"eos_token_id": 262}}"#)]).unwrap();
    assert_eq!(own.end_ids().iter().copied().collect::<Vec<_>>(), [262]);
    let older = open(&[
        ("tokenizer_config.json", r#"{"eos_token": "<|end|>"}"#),
        ("special_tokens_map.json", r#"{"eos_token": {"content": "<|im_end|>"}}"#),
    ]);
    assert_eq!(older.unwrap().end_id().unwrap(), 262);
    let newer = open(&[
        (
            "tokenizer_config.json",
            r#"{"eos_token": "<|end|>", "added_tokens_decoder": {"300": {"content": "<z>"}}}"#,
        ),
        ("special_tokens_map.json", r#"{"eos_token": {"content": "<|im_end|>"}}"#),
    ]);
    let newer = newer.unwrap();
    assert_eq!((newer.end_id().unwrap(), newer.id("<z>")), (260, Some(263)));
    assert!(matches!(open(&[]).unwrap().end_id(), Err(TextError::NoEnd { .. })));
}

#[test]
fn template_files_take_precedence_and_everything_is_carried_along() {
    let files = [
        (
            "tokenizer_config.json",
            r#"{ "eos_token":"<|im_end|>",  "chat_template": "old" }"#,
        ),
        ("chat_template.jinja", CHATML),
        ("additional_chat_templates/rag.jinja", "R\n"),
    ];
    let source = directory(&files);
    let tokenizer = Tokenizer::from_directory(source.path()).unwrap();
    assert_eq!(tokenizer.template_names().collect::<Vec<_>>(), ["default", "rag"]);
    let target = tempfile::tempdir().unwrap();
    let below = target.path().join("model");
    tokenizer.write_to(&below).unwrap();
    for (name, text) in files {
        assert_eq!(fs::read_to_string(below.join(name)).unwrap(), text);
    }
    assert_eq!(
        fs::read(below.join("tokenizer.json")).unwrap(),
        fs::read(source.path().join("tokenizer.json")).unwrap()
    );

    let parts = chatml();
    parts.write_to(&below.join("parts")).unwrap();
    let again = Tokenizer::from_directory(&below.join("parts")).unwrap();
    let messages = [json!({"role": "user", "content": "ab"})];
    let render = |tokenizer: &Tokenizer| {
        let template = tokenizer.chat_template(None, false).unwrap();
        let text = template
            .render(&Conversation::new(&messages), &tokenizer.template_variables())
            .unwrap();
        tokenizer.encode(&text, false).unwrap()
    };
    assert_eq!(render(&again), render(&parts));
    assert_eq!(again.special(), parts.special());
}

#[test]
fn each_fault_names_the_file() {
    let empty = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_directory(empty.path()).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.json: no such file; give a model directory"),
        "{error}"
    );
    for (name, text, expected) in [
        ("tokenizer.json", "{}", "not a tokenizer"),
        ("tokenizer.json", "{\"version\":", "not a tokenizer"),
        ("tokenizer_config.json", "[]", "not a JSON object"),
        ("tokenizer_config.json", "{\"a\": ", "EOF"),
        ("tokenizer_config.json", r#"{"eos_token": 3}"#, "`eos_token` is neither"),
        (
            "tokenizer_config.json",
            r#"{"eos_token": {"lstrip": true}}"#,
            "has no text `content`",
        ),
        (
            "tokenizer_config.json",
            r#"{"added_tokens_decoder": {"x": {}}}"#,
            "which is not an id",
        ),
        (
            "tokenizer_config.json",
            r#"{"added_tokens_decoder": {"1": {"content": "a", "lstrip": 1}}}"#,
            "`lstrip`",
        ),
        (
            "tokenizer_config.json",
            r#"{"extra_special_tokens": 4}"#,
            "neither a list nor an object",
        ),
        (
            "tokenizer_config.json",
            r#"{"chat_template": [{"name": "a"}]}"#,
            "`chat_template`",
        ),
        ("special_tokens_map.json", r#"{"eos_token": []}"#, "`eos_token`"),
        (
            "generation_config.json",
            r#"{"eos_token_id": [1, -4]}"#,
            "which is not an id",
        ),
        ("config.json", r#"{"eos_token_id": 70000}"#, "no token of the tokenizer"),
        ("additional_chat_templates/x.jinja", "\u{0}\u{1}", ""),
    ] {
        let result = open(&[(name, text)]);
        if expected.is_empty() {
            assert!(result.is_ok());
            continue;
        }
        let error = result.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(expected), "{name}: {error}");
    }
    let broken = directory(&[]);
    fs::write(broken.path().join("chat_template.jinja"), [0xff, 0xfe]).unwrap();
    let error = Tokenizer::from_directory(broken.path()).unwrap_err().to_string();
    assert!(error.contains("chat_template.jinja: not UTF-8"), "{error}");
    let large = fs::File::create(broken.path().join("tokenizer_config.json")).unwrap();
    large.set_len(17 << 20).unwrap();
    assert!(matches!(
        Tokenizer::from_directory(broken.path()),
        Err(TextError::TooLarge { .. })
    ));
    let template = open(&[("chat_template.jinja", "a\n{% if %}")]).unwrap();
    let error = template.chat_template(None, false).unwrap_err().to_string();
    assert!(error.contains("chat_template.jinja, line 2: "), "{error}");
    let parts = Parts {
        tokenizer: byte_level(),
        special: special(&[]),
        end_ids: vec![4_000],
        chat_template: None,
        origin: "model.gguf".to_owned(),
    };
    assert!(
        Tokenizer::from_parts(parts)
            .unwrap_err()
            .to_string()
            .starts_with("model.gguf: the end-of-text id 4000")
    );
}

#[test]
fn tokens_that_are_something_else_elsewhere_are_found() {
    let with = |change: &dyn Fn(&mut Json)| {
        let mut json = byte_level();
        change(&mut json);
        let directory = directory(&[]);
        fs::write(directory.path().join("tokenizer.json"), json.to_string()).unwrap();
        Tokenizer::from_directory(directory.path()).unwrap()
    };
    let own = with(&|_| {});
    assert_eq!(own.conflicts(&own), []);
    let conflict = |id, own: &str, there: Option<&str>| Conflict {
        id,
        own: own.to_owned(),
        there: there.map(str::to_owned),
    };
    let swapped = with(&|json| {
        json["model"]["vocab"]["A"] = json!(66);
        json["model"]["vocab"]["B"] = json!(65);
    });
    let expected = [conflict(65, "A", Some("B")), conflict(66, "B", Some("A"))];
    assert_eq!(own.conflicts(&swapped), expected);
    // A token more is none, a token elsewhere is one.
    let more = with(&|json| {
        let mut added = json["added_tokens"][0].clone();
        added["id"] = json!(263);
        added["content"] = json!("<|more|>");
        json["added_tokens"].as_array_mut().unwrap().push(added);
    });
    assert_eq!((own.conflicts(&more), more.conflicts(&own)), (vec![], vec![]));
    let elsewhere = with(&|json| {
        json["added_tokens"][2]["content"] = json!("<|more|>");
        let mut added = json["added_tokens"][0].clone();
        added["id"] = json!(263);
        added["content"] = json!("<|im_end|>");
        json["added_tokens"].as_array_mut().unwrap().push(added);
    });
    assert_eq!(
        own.conflicts(&elsewhere),
        [conflict(262, "<|im_end|>", Some("<|more|>"))]
    );
    assert_eq!(more.conflicts(&elsewhere).len(), 2);
}

#[test]
fn truncation_and_padding_of_the_file_do_not_apply() {
    let mut json = byte_level();
    json["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                             "pad_type_id": 0, "pad_token": "x"});
    let directory = directory(&[]);
    fs::write(directory.path().join("tokenizer.json"), json.to_string()).unwrap();
    let tokenizer = Tokenizer::from_directory(directory.path()).unwrap();
    assert_eq!(tokenizer.encode("xyz", true).unwrap(), [120, 121, 122]);
}

#[test]
fn spaces_are_cleaned_up_as_transformers_does() {
    assert_eq!(clean_up("a . b , I 'm do n't ' x"), "a. b, I'm don't'x");
    // Not for BPE, whatever the configuration says.
    let tokenizer = open(&[("tokenizer_config.json", r#"{"clean_up_tokenization_spaces": true}"#)]).unwrap();
    assert_eq!(
        tokenizer
            .decode(&tokenizer.encode("a .", false).unwrap(), true)
            .unwrap(),
        "a ."
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_files_never_panic(
        at in 0.0f64..1.0, to in proptest::collection::vec(any::<u8>(), 0..4), file in 0usize..3, length in 0usize..9,
    ) {
        let files = [
            ("tokenizer.json", byte_level().to_string()),
            ("tokenizer_config.json", r#"{"eos_token": {"content": "<|end|>"}, "added_tokens_decoder": {"9": {"content": "q"}}}"#.to_owned()),
            ("generation_config.json", r#"{"eos_token_id": [1, 2]}"#.to_owned()),
        ];
        let directory = directory(&[]);
        let (name, text) = &files[file];
        let mut bytes = text.clone().into_bytes();
        let from = (at * bytes.len() as f64) as usize;
        let end = (from + length).min(bytes.len());
        bytes.splice(from..end, to);
        fs::write(directory.path().join(name), bytes).unwrap();
        if let Ok(tokenizer) = Tokenizer::from_directory(directory.path()) {
            let ids = tokenizer.encode("ab é<|end|>", true).unwrap_or_default();
            let _ = tokenizer.decode(&ids, true);
        }
    }

    #[test]
    fn any_text_comes_back(text in "\\PC{0,40}|[ab \n<|end>]{0,20}") {
        for tokenizer in [chatml(), llama()] {
            let ids = tokenizer.encode(&text, false).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, true).unwrap(), text.clone());
        }
    }
}
