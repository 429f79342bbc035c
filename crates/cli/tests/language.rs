//! Language models through the real program: what must not change a text, and what bad input is told.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{message, model, run};

mod support;

/// Runs with JSON out and expects success; a document a line.
fn lines(arguments: &[&str]) -> Vec<Value> {
    let output = run(&[&["--format", "json", "-q"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", message(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn texts_depend_on_the_seed_and_on_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let model = model(directory.path());
    let prompts = directory.path().join("prompts.jsonl");
    fs::write(
        &prompts,
        "{\"prompt\": \"the cat\"}\n{\"prompt\": \"a dog sat on the\"}\n{\"prompt\": \"then\"}\n",
    )
    .unwrap();
    let draw = |more: &[&str]| {
        let fixed = ["--samples", "3", "--max-new-tokens", "12", "--raw"];
        let start = [
            "generate",
            "--model",
            model.to_str().unwrap(),
            "--prompts",
            prompts.to_str().unwrap(),
        ];
        lines(&[&start[..], &fixed, more].concat())
    };
    let texts = draw(&[]);
    assert_eq!(texts.len(), 9);
    assert_eq!(texts[0]["prompt"], "the cat");
    assert_eq!(draw(&["--batch-size", "1"]), texts);
    assert_eq!(draw(&["--batch-size", "4", "--threads", "3"]), texts);
    assert_ne!(draw(&["--seed", "1"]), texts);
    let greedy = draw(&["--temperature", "0"]);
    assert_eq!(greedy[0]["token_ids"], greedy[1]["token_ids"]);
    assert_eq!(draw(&["--top-k", "1"])[0]["token_ids"], greedy[0]["token_ids"]);
    // A stop string ends a text and is cut off; what was drawn stays listed.
    let words: Vec<&str> = greedy[0]["text"].as_str().unwrap().split(' ').collect();
    let stopped = draw(&["--temperature", "0", "--stop", words[2]]);
    let text = stopped[0]["text"].as_str().unwrap();
    assert!(
        !text.contains(words[2]) && text.trim_end() == words[..2].join(" "),
        "{text:?} of {words:?}"
    );
    let listed = stopped[0]["token_ids"].as_array().unwrap();
    // A word is known to be whole when the next one begins.
    assert!(listed.len() <= 4, "{listed:?}");
}

#[test]
fn scores_are_the_probabilities_that_texts_were_drawn_with() {
    let directory = tempfile::tempdir().unwrap();
    let model = model(directory.path());
    let model = model.to_str().unwrap();
    let prompt = "the cat sat";
    let drawn = lines(&[
        "generate",
        "--model",
        model,
        "--raw",
        "--prompt",
        prompt,
        "--samples",
        "20",
        "--max-new-tokens",
        "40",
    ]);
    let ended: Vec<&Value> = drawn
        .iter()
        .filter(|line| line["token_ids"].as_array().unwrap().last() == Some(&json!(1)))
        // The unknown word has no spelling to go back to.
        .filter(|line| !line["token_ids"].as_array().unwrap().contains(&json!(0)))
        .collect();
    assert!(ended.len() > 2, "only {} texts ended", ended.len());
    let responses: Vec<&Value> = ended.iter().map(|line| &line["text"]).collect();
    let data = directory.path().join("responses.jsonl");
    fs::write(
        &data,
        format!("{}\n", json!({ "prompt": prompt, "responses": responses })),
    )
    .unwrap();
    let scored = lines(&["score", "--model", model, "--data", data.to_str().unwrap()]);
    for (scored, drawn) in scored[0]["responses"].as_array().unwrap().iter().zip(&ended) {
        let (a, b) = (
            scored["log_prob"].as_f64().unwrap(),
            drawn["log_prob"].as_f64().unwrap(),
        );
        assert!((a - b).abs() < 1e-4, "{scored} {drawn}");
        assert_eq!(
            scored["tokens"].as_u64().unwrap() as usize,
            drawn["token_ids"].as_array().unwrap().len()
        );
        assert_eq!(scored["reward"], Value::Null);
    }
    // A pair is scored like two responses.
    let pair = json!({ "prompt": prompt, "chosen": responses[0], "rejected": responses[1] });
    fs::write(&data, format!("{pair}\n")).unwrap();
    let again = lines(&["score", "--model", model, "--data", data.to_str().unwrap()]);
    let close = |i: usize| {
        let value = |lines: &[Value]| lines[0]["responses"][i]["log_prob"].as_f64().unwrap();
        (value(&again) - value(&scored)).abs() < 1e-5
    };
    assert!(close(0) && close(1));
}

#[test]
fn chat_goes_through_the_template_and_remembers() {
    let directory = tempfile::tempdir().unwrap();
    let model = model(directory.path());
    let chat = |input: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posterior"));
        command
            .args(["-q", "chat", "--temperature", "0", "--max-new-tokens", "6", "--model"])
            .arg(&model);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", message(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let answer = chat("hello\n");
    let asked = [
        "generate",
        "--model",
        model.to_str().unwrap(),
        "--prompt",
        "hello",
        "--temperature",
        "0",
    ];
    let generated = lines(&[&asked[..], &["--max-new-tokens", "6"]].concat());
    assert_eq!(answer.trim_end(), generated[0]["text"].as_str().unwrap().trim_end());
    let twice = chat("hello\nthe cat\n");
    assert!(twice.starts_with(&answer), "{twice:?} after {answer:?}");
    // After a reset the first answer comes again.
    assert_eq!(
        chat("the dog\n/reset\nhello\n/exit\nhello\n").lines().nth(1),
        answer.lines().next()
    );
}

#[test]
fn inspect_shows_what_a_model_would_see() {
    let directory = tempfile::tempdir().unwrap();
    let model = model(directory.path());
    let model = model.to_str().unwrap();
    let described = &lines(&["inspect", model])[0];
    assert_eq!(
        (described["family"].as_str(), described["layers"].as_u64()),
        (Some("llama"), Some(2))
    );
    assert_eq!(described["end_tokens"], json!(["<end>"]));
    let data = directory.path().join("data.jsonl");
    let row = json!({ "prompt": [{ "role": "user", "content": "hello" }],
                      "completion": [{ "role": "assistant", "content": "the cat" }], "source": "me" });
    fs::write(&data, format!("{row}\n{row}\n")).unwrap();
    let document = &lines(&["inspect", data.to_str().unwrap(), "--model", model])[0];
    assert_eq!(
        (document["rows"].as_u64(), &document["other_columns"]),
        (Some(2), &json!(["source"]))
    );
    let first = &document["first_row_tokens"][0];
    assert_eq!(
        first["tokens"],
        json!(["user", ":", "hello", "<end>", "assistant", ":", "the", "cat", "<end>"])
    );
    assert_eq!(
        first["learned"],
        json!([false, false, false, false, false, false, true, true, true])
    );
}

#[test]
fn bad_input_is_told_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let model = model(directory.path());
    let model = model.to_str().unwrap().to_owned();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let bad = write("bad.jsonl", "{\"prompt\": \"the cat\"}\n{\"prompt\": 3}\n");
    let talk = write(
        "talk.jsonl",
        "{\"prompt\": [{\"role\": \"user\", \"content\": \"hello\"}]}\n",
    );
    let odd = write("odd.jsonl", "{\"text\": \"the cat\"}\n");
    let cases: &[(&[&str], i32, &[&str])] = &[
        (
            &["generate", "--model", "nowhere/at/all/x", "--prompt", "a"],
            1,
            &["nowhere"],
        ),
        (
            &["generate", "--model", "org/unknown-model", "--prompt", "a"],
            1,
            &["org/unknown-model"],
        ),
        (&["generate", "--model", &model], 2, &["--prompt"]),
        (
            &["generate", "--model", &model, "--prompt", "a", "--temperature", "-1"],
            1,
            &["temperature", "at least 0"],
        ),
        (
            &["generate", "--model", &model, "--prompt", "a", "--top-p", "1.5"],
            1,
            &["top-p"],
        ),
        (
            &["generate", "--model", &model, "--raw", "--prompts", &talk],
            1,
            &["--raw", "messages"],
        ),
        (
            &["generate", "--model", &model, "--raw", "--prompt", ""],
            1,
            &["no tokens"],
        ),
        (
            &["generate", "--model", &model, "--prompts", &bad],
            1,
            &["bad.jsonl, line 2", "prompt"],
        ),
        (
            &["score", "--model", &model, "--data", &odd],
            1,
            &["odd.jsonl, line 1", "text"],
        ),
        (
            &["score", "--model", &model, "--data", "missing.jsonl"],
            1,
            &["missing.jsonl"],
        ),
        (
            &["inspect", &model, "--model", &model],
            2,
            &["--model has an effect with data only"],
        ),
    ];
    for (arguments, status, words) in cases {
        let output = run(&[&["-q"], *arguments].concat());
        let message = message(&output);
        assert_eq!(output.status.code(), Some(*status), "{arguments:?}: {message}");
        for word in *words {
            assert!(message.contains(word), "{arguments:?}: no {word:?} in {message}");
        }
        assert!(
            !message.contains("panicked") && output.stdout.is_empty(),
            "{arguments:?}: {message}"
        );
    }
    // Files that lie.
    let weights = Path::new(&model).join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    for damaged in [&whole[..whole.len() / 2], &whole[..5], &[0xff; 64][..]] {
        fs::write(&weights, damaged).unwrap();
        let output = run(&["-q", "generate", "--model", &model, "--prompt", "the cat"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(message(&output).contains("model.safetensors"), "{}", message(&output));
    }
    fs::write(&weights, &whole).unwrap();
    for (file, text) in [
        ("config.json", "{\"model_type\": \"llama\"}"),
        ("tokenizer.json", "{\"model\": 3}"),
    ] {
        let path = Path::new(&model).join(file);
        let before = fs::read(&path).unwrap();
        fs::write(&path, text).unwrap();
        let output = run(&["-q", "generate", "--model", &model, "--prompt", "the cat"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(message(&output).contains(file), "{}", message(&output));
        fs::write(&path, before).unwrap();
    }
}
