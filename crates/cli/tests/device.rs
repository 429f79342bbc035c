//! `--device` through the real program. What needs a card is ignored by default.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;

use serde_json::{Value, json};
use support::{message, run};

mod support;

/// Runs a command that would compute, and expects these words and no panic.
fn fails(device: &str, status: i32, words: &[&str]) {
    let output = run(&[
        "--device",
        device,
        "diffusion",
        "sample",
        "--run",
        "none",
        "--out",
        "none",
    ]);
    let message = message(&output);
    assert_eq!(output.status.code(), Some(status), "{device}: {message}");
    for word in words {
        assert!(message.contains(word), "{device}: no {word:?} in {message}");
    }
    assert!(
        !message.contains("panicked") && output.stdout.is_empty(),
        "{device}: {message}"
    );
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    for name in ["gpu", "cuda:", "cuda:first"] {
        fails(name, 2, &["--device", "cpu, cuda and cuda:N"]);
    }
    if cfg!(feature = "cuda") {
        fails("cuda:65535", 1, &["CUDA finds"]);
    } else {
        for name in ["cuda", "cuda:1"] {
            fails(name, 1, &["without CUDA", "--features cuda", "--device cpu"]);
        }
    }
    // The default, by its name: the run is what is missing.
    fails("cpu", 1, &["none"]);
}

/// Products of a card may be rounded to TF32.
#[test]
#[ignore = "needs the feature `cuda` and an NVIDIA card"]
fn a_card_finds_what_the_processor_finds() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let model = support::model(directory.path());
    let model = model.to_str().unwrap();
    let succeeds = |line: String| {
        let output = run(&line.split(' ').collect::<Vec<_>>());
        assert!(output.status.success(), "{line}: {}", message(&output));
        String::from_utf8(output.stdout).unwrap()
    };

    let row = json!({ "prompt": "the cat", "responses": ["sat on the mat and slept", "ran under a tree"] });
    let data = path("data.jsonl");
    fs::write(&data, format!("{row}\n")).unwrap();
    let scores = |device: &str| -> Vec<f64> {
        let text = succeeds(format!(
            "-q --format json --device {device} score --model {model} --data {data}"
        ));
        let row: Value = serde_json::from_str(&text).unwrap();
        let responses = row["responses"].as_array().unwrap().iter();
        responses
            .map(|response| response["log_prob"].as_f64().unwrap())
            .collect()
    };
    for (card, processor) in scores("cuda").iter().zip(scores("cpu")) {
        assert!(
            (card - processor).abs() < 0.05 * processor.abs(),
            "{card} for {processor}"
        );
    }

    // That these run is all there is to see.
    succeeds(format!(
        "-q --device cuda generate --model {model} --prompt the --max-new-tokens 4"
    ));
    let run = path("run");
    succeeds(format!(
        "-q --device cuda diffusion train --data digits --out {run} --hidden-size 16 --depth 1 --batch-size 8 \
         --warmup-steps 1 --max-steps 2"
    ));
    // A run is the same on every device.
    for device in ["cuda", "cpu"] {
        let out = path(device);
        succeeds(format!(
            "-q --device {device} diffusion sample --run {run} --count 2 --out {out}"
        ));
    }
}
