use super::super::test_file::TestFile;
use super::super::{Array, Value};
use super::*;

fn types(types: &[i32]) -> Value {
    Value::Array(Array::I32(types.to_vec()))
}

/// Byte-level: a, b, ab, a control token and a user-defined one.
fn byte_level(pre: &str) -> TestFile {
    TestFile::of("llama")
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", pre)
        .strings("tokenizer.ggml.tokens", &["a", "b", "ab", "<|end|>", "<think>"])
        .with("tokenizer.ggml.token_type", types(&[1, 1, 1, 3, 4]))
        .strings("tokenizer.ggml.merges", &["a b"])
        .size("tokenizer.ggml.eos_token_id", 3)
}

fn parts(file: &TestFile) -> TokenizerParts {
    file.parse().unwrap().tokenizer().unwrap()
}

fn problem(file: &TestFile) -> String {
    file.parse().unwrap().tokenizer().unwrap_err().to_string()
}

#[test]
fn byte_level_vocabulary_and_merges_are_carried_over() {
    let parts = parts(&byte_level("smollm").text("tokenizer.chat_template", "{{ messages }}"));
    let model = &parts.tokenizer["model"];
    assert_eq!(
        model["vocab"],
        json!({ "a": 0, "b": 1, "ab": 2, "<|end|>": 3, "<think>": 4 })
    );
    assert_eq!(
        (&model["merges"], &model["type"]),
        (&json!([["a", "b"]]), &json!("BPE"))
    );
    let added = parts.tokenizer["added_tokens"].as_array().unwrap();
    let facts: Vec<_> = added
        .iter()
        .map(|token| (&token["id"], &token["content"], &token["special"]))
        .collect();
    let (yes, no) = (json!(true), json!(false));
    assert_eq!(
        facts,
        [
            (&json!(3), &json!("<|end|>"), &yes),
            (&json!(4), &json!("<think>"), &no)
        ]
    );
    assert_eq!((parts.eos_token.as_deref(), parts.bos_token), (Some("<|end|>"), None));
    assert_eq!(parts.chat_template.as_deref(), Some("{{ messages }}"));
    assert_eq!(
        (&parts.tokenizer["post_processor"], parts.warnings.len()),
        (&Json::Null, 0)
    );
}

#[test]
fn words_are_split_in_the_way_the_file_names() {
    let steps = |pre: &str| parts(&byte_level(pre)).tokenizer["pre_tokenizer"].clone();
    assert_eq!(steps("gpt-2")["use_regex"], json!(true));
    assert_eq!(
        steps("smollm")["pretokenizers"][0],
        json!({ "type": "Digits", "individual_digits": true })
    );
    for (pre, digits) in [("llama-bpe", r"\p{N}{1,3}|"), ("qwen2", r"\p{N}|")] {
        let steps = steps(pre);
        let pattern = steps["pretokenizers"][0]["pattern"]["Regex"].as_str().unwrap();
        assert!(pattern.contains(digits), "{pattern}");
        assert_eq!(steps["pretokenizers"][1]["use_regex"], json!(false));
    }
    let qwen2 = parts(&byte_level("qwen2"));
    assert_eq!(qwen2.tokenizer["normalizer"], json!({ "type": "NFC" }));
    let llama = parts(&byte_level("llama-bpe"));
    assert_eq!(llama.tokenizer["model"]["ignore_merges"], json!(true));
    // Llama 3 starts texts with the first token, which this file does not have.
    assert!(
        llama.warnings[0].contains("bos") && !llama.add_bos_token,
        "{:?}",
        llama.warnings
    );
}

#[test]
fn an_unknown_way_of_splitting_is_said_aloud() {
    let unknown = parts(&byte_level("of-tomorrow"));
    assert!(unknown.warnings[0].contains("of-tomorrow"), "{:?}", unknown.warnings);
    let default = parts(&byte_level("default"));
    assert_eq!((default.warnings.len(), &default.tokenizer), (0, &unknown.tokenizer));
    assert_eq!(
        default.tokenizer["pre_tokenizer"]["pretokenizers"]
            .as_array()
            .unwrap()
            .len(),
        5
    );
    let mut silent = byte_level("");
    silent.metadata.retain(|(key, _)| key != "tokenizer.ggml.pre");
    assert!(parts(&silent).warnings[0].contains("does not say"));
    silent.metadata[0].1 = Value::String("gpt2".to_owned());
    let gpt2 = parts(&silent);
    assert_eq!(
        (gpt2.warnings.len(), &gpt2.tokenizer["pre_tokenizer"]["type"]),
        (0, &json!("ByteLevel"))
    );
}

#[test]
fn turns_may_end_in_tokens_of_their_own() {
    assert_eq!(parts(&byte_level("smollm")).end_ids, Vec::<u32>::new());
    let file = byte_level("smollm").size("tokenizer.ggml.eot_token_id", 4);
    assert_eq!(parts(&file).end_ids, [4]);
    let error = problem(&byte_level("smollm").size("tokenizer.ggml.eom_token_id", 5));
    assert!(error.contains("eom_token_id") && error.contains("5 tokens"), "{error}");
}

#[test]
fn first_and_last_tokens_are_added_where_asked() {
    let file = byte_level("gpt-2")
        .size("tokenizer.ggml.bos_token_id", 4)
        .with("tokenizer.ggml.add_bos_token", Value::Bool(true))
        .with("tokenizer.ggml.add_eos_token", Value::Bool(true));
    let parts = parts(&file);
    assert!(parts.add_bos_token && parts.add_eos_token);
    let single = json!([
        { "SpecialToken": { "id": "<think>", "type_id": 0 } },
        { "Sequence": { "id": "A", "type_id": 0 } },
        { "SpecialToken": { "id": "<|end|>", "type_id": 0 } },
    ]);
    let processor = &parts.tokenizer["post_processor"];
    assert_eq!(
        (&processor["type"], &processor["single"]),
        (&json!("TemplateProcessing"), &single)
    );
    assert_eq!(processor["special_tokens"]["<|end|>"]["ids"], json!([3]));
    assert_eq!(processor["pair"].as_array().unwrap().len(), 6);
    // A token that has a role is special, whatever its type.
    assert_eq!(parts.tokenizer["added_tokens"][1]["special"], json!(true));
}

/// SentencePiece: bytes left out, four letters and three pieces of them, two of the same score.
fn sentencepiece(architecture: &str) -> TestFile {
    let scores = vec![0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -2.0, -1.0, -2.0];
    TestFile::of(architecture)
        .text("tokenizer.ggml.model", "llama")
        .strings(
            "tokenizer.ggml.tokens",
            &["<unk>", "<s>", "</s>", "a", "b", "c", "ab", "bc", "abc"],
        )
        .with("tokenizer.ggml.scores", Value::Array(Array::F32(scores)))
        .with("tokenizer.ggml.token_type", types(&[2, 3, 3, 1, 1, 1, 1, 1, 1]))
        .size("tokenizer.ggml.bos_token_id", 1)
        .size("tokenizer.ggml.eos_token_id", 2)
        .size("tokenizer.ggml.unknown_token_id", 0)
}

#[test]
fn merges_come_in_the_order_of_scores() {
    let parts = parts(&sentencepiece("llama"));
    // transformers 5.23.0:
    //     tokens = ["<unk>", "<s>", "</s>", "a", "b", "c", "ab", "bc", "abc"]
    //     scores = [0, 0, 0, -9, -9, -9, -2, -1, -2]
    //     generate_merges({t: i for i, t in enumerate(tokens)}, dict(zip(tokens, scores)))
    let model = &parts.tokenizer["model"];
    assert_eq!(
        model["merges"],
        json!([["b", "c"], ["ab", "c"], ["a", "bc"], ["a", "b"]])
    );
    assert_eq!(
        (&model["unk_token"], &model["byte_fallback"]),
        (&json!("<unk>"), &json!(true))
    );
    assert_eq!(parts.tokenizer["pre_tokenizer"]["prepend_scheme"], json!("first"));
    assert_eq!(parts.tokenizer["added_tokens"].as_array().unwrap().len(), 3);
    // Llama's texts start with <s> unless the file says otherwise.
    assert!(parts.add_bos_token && !parts.add_eos_token);
    let bare = sentencepiece("llama").with("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    let bare = bare.parse().unwrap().tokenizer().unwrap();
    assert_eq!(bare.tokenizer["pre_tokenizer"]["prepend_scheme"], json!("never"));
    assert_eq!(bare.tokenizer["decoder"]["decoders"].as_array().unwrap().len(), 3);
}

#[test]
fn gemma_merges_in_the_order_of_its_pieces() {
    let mut file = sentencepiece("gemma");
    let tokens = ["<unk>", "<s>", "</s>", "\u{2581}", "b", "c", "  ", "bc", "\n\n"]
        .map(str::to_owned)
        .to_vec();
    for (key, value) in &mut file.metadata {
        match key.as_str() {
            "tokenizer.ggml.tokens" => *value = Value::Array(Array::String(tokens.clone())),
            "tokenizer.ggml.token_type" => *value = types(&[2, 3, 3, 1, 1, 1, 4, 1, 4]),
            _ => (),
        }
    }
    let parts = parts(&file);
    let model = &parts.tokenizer["model"];
    assert_eq!(model["merges"], json!([["\u{2581}", "\u{2581}"], ["b", "c"]]));
    assert_eq!(model["vocab"]["\u{2581}\u{2581}"], json!(6));
    let added: Vec<_> = parts.tokenizer["added_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| &token["id"])
        .collect();
    assert_eq!(added, [&json!(0), &json!(1), &json!(2), &json!(8)]);
    assert_eq!(parts.tokenizer["normalizer"]["type"], json!("Replace"));
}

#[test]
fn vocabularies_that_contradict_themselves_are_refused() {
    let changed = |key: &str, value: Value| {
        let mut file = byte_level("gpt-2");
        file.metadata.retain(|(name, _)| name != key);
        file.with(key, value)
    };
    let strings = |words: &[&str]| Value::Array(Array::String(words.iter().map(|word| (*word).to_owned()).collect()));
    for (key, value, words) in [
        (
            "tokenizer.ggml.tokens",
            strings(&["a", "b", "ab", "a", "c"]),
            "tokens 0 and 3",
        ),
        ("tokenizer.ggml.merges", strings(&["a b", "b b"]), "\"bb\""),
        ("tokenizer.ggml.merges", strings(&["ab"]), "entry 0"),
        ("tokenizer.ggml.merges", types(&[1]), "list of strings"),
        ("tokenizer.ggml.token_type", types(&[1, 1]), "2 types for 5 tokens"),
        (
            "tokenizer.ggml.eos_token_id",
            Value::U32(5),
            "5 is not one of the 5 tokens",
        ),
        ("tokenizer.ggml.model", Value::String("bert".to_owned()), "\"bert\""),
        ("tokenizer.ggml.add_bos_token", Value::U8(1), "true or false"),
    ] {
        let problem = problem(&changed(key, value));
        assert!(problem.contains(words), "{problem}");
    }
    let long = "x".repeat(2000);
    let mut file = sentencepiece("llama");
    file.metadata
        .retain(|(key, _)| !key.ends_with("tokens") && !key.ends_with("scores") && !key.ends_with("type"));
    let file = file.strings("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", &long]);
    let scored = file
        .clone()
        .with("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; 4])));
    assert!(problem(&scored).contains("token 3"));
    let short = file.with("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; 3])));
    assert!(problem(&short).contains("3 scores for 4 tokens"));
}
