//! What policies earn, through the real program.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;

use serde_json::{Value, json};
use support::training::good;
use support::{message, model, run};

mod support;

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

#[test]
fn every_method_is_measured_against_the_most_that_can_be_earned() {
    let directory = tempfile::tempdir().unwrap();
    let plot = directory.path().join("frontier.svg");
    let small = ["--labels", "60", "--ppo-steps", "3", "--plot", plot.to_str().unwrap()];
    let arguments = strings(&[&["-q", "--format", "json", "frontier"][..], &small].concat());
    let document: Value = serde_json::from_str(&good(&arguments)).unwrap();
    assert_eq!(document["responses"], 54_241);
    let points = document["points"].as_array().unwrap();
    assert_eq!(points.len(), 4 * 4 + 3 + 4);
    for point in points {
        let number = |key: &str| point[key].as_f64().unwrap();
        assert!(number("kl") >= 0.0 && number("gap") > -1e-6, "{point}");
        assert!((number("best_reward") - number("expected_reward") - number("gap")).abs() < 1e-9);
    }
    // The curve rises, and its points are the best at their distance.
    let curve = document["frontier"].as_array().unwrap();
    let heights: Vec<f64> = curve
        .iter()
        .map(|point| point["expected_reward"].as_f64().unwrap())
        .collect();
    assert!(heights.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12));
    assert!(fs::read_to_string(&plot).unwrap().contains("best of N"));
    // The same seed, the same bits.
    let again: Value = serde_json::from_str(&good(&arguments)).unwrap();
    for (one, other) in points.iter().zip(again["points"].as_array().unwrap()) {
        assert_eq!(one["expected_reward"], other["expected_reward"]);
    }
}

#[test]
fn runs_are_measured_by_their_answers() {
    let directory = tempfile::tempdir().unwrap();
    let base = model(directory.path());
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let prompts = ["the cat", "a dog", "it ran"];
    let rows: String = (0..12)
        .map(|i| format!("{}\n", json!({ "prompt": prompts[i % 3] })))
        .collect();
    fs::write(path("prompts.jsonl"), rows).unwrap();
    fs::write(path("lexicon.txt"), "slept\t2.5\nran\t-2\n").unwrap();
    let base = base.to_str().unwrap();
    let (prompts, lexicon, out) = (path("prompts.jsonl"), path("lexicon.txt"), path("run"));
    let ppo = [
        "-q",
        "ppo",
        "--model",
        base,
        "--data",
        &prompts,
        "--reward-lexicon",
        &lexicon,
        "--out",
        &out,
    ];
    let more = [
        "--learning-rate",
        "0.003",
        "--max-steps",
        "40",
        "--max-new-tokens",
        "6",
        "--kl-coefficient",
        "0",
    ];
    good(&strings(&[&ppo[..], &more].concat()));
    let measure = [
        "-q",
        "--format",
        "json",
        "frontier",
        &out,
        "--data",
        &prompts,
        "--reward-lexicon",
        &lexicon,
    ];
    let more = ["--max-new-tokens", "6", "--samples", "8"];
    let judged: Value = serde_json::from_str(&good(&strings(&[&measure[..], &more].concat()))).unwrap();
    let number = |at: usize, key: &str| judged[at][key]["mean"].as_f64().unwrap();
    // The reference is no distance from itself, and the tuned model earns more.
    assert!(number(0, "kl").abs() < 1e-4 && number(1, "kl") > 0.3, "{judged}");
    assert!(number(1, "reward") > number(0, "reward") + 0.2, "{judged}");

    for (arguments, expected) in [
        (&["frontier", &out][..], "give --data"),
        (&["frontier", &out, "--data", &prompts], "answers need a reward"),
        (
            &["frontier", base, "--data", &prompts, "--reward-lexicon", &lexicon],
            "is no run",
        ),
    ] {
        let words = message(&run(arguments));
        assert!(words.contains(expected), "{words}");
    }
}
