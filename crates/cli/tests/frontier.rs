//! What policies earn, through the real program.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::training::good;
use support::{message, model, run};

mod support;

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

#[test]
fn methods_are_measured_against_the_most_that_can_be_earned() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (plot, out) = (path("frontier.svg"), path("frontier.json"));
    let small = ["-q", "--format", "json", "frontier", "--labels", "60", "--epochs", "2"];
    let methods = ["--methods", "dpo-pairs,ppo-learned,best-of", "--ppo-steps", "3"];
    let files = ["--plot", &plot, "--out", &out];
    let document: Value = serde_json::from_str(&good(&strings(&[&small[..], &methods, &files].concat()))).unwrap();
    assert_eq!(document["responses"], 54_241);
    assert_eq!(document["effort"]["epochs"], 2);
    let points = document["points"].as_array().unwrap();
    assert_eq!(points.len(), 4 + 4 + 4);
    for point in points {
        let number = |key: &str| point[key].as_f64().unwrap();
        assert!(number("kl") >= 0.0 && number("gap") > -1e-6, "{point}");
        assert!((number("best_reward") - number("expected_reward") - number("gap")).abs() < 1e-9);
        // Only what has a price has a best policy to aim at.
        assert_eq!(point["from_optimum"].is_number(), point["method"] != "best-of");
    }
    // The curve rises, and its points are the best at their distance.
    let curve = document["frontier"].as_array().unwrap();
    let heights: Vec<f64> = curve
        .iter()
        .map(|point| point["expected_reward"].as_f64().unwrap())
        .collect();
    assert!(heights.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12));
    // Every method has a row of gaps; the best of 64 is beyond them all.
    let gaps = document["gaps"].as_array().unwrap();
    assert_eq!(gaps.len(), 3 * 3);
    for gap in &gaps[6..] {
        assert!(
            gap["method"] == "best-of" && gap["seeds"] == 1 && gap["deviation"].is_null(),
            "{gap}"
        );
        assert!(gap["mean"].as_f64().unwrap() > 0.0, "{gap}");
    }
    assert!(fs::read_to_string(&plot).unwrap().contains("best of N"));
    let kept: Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(kept["points"].as_array().unwrap().len(), points.len());
}

#[test]
fn a_method_reaches_the_same_bits_whatever_else_is_studied() {
    let study = |methods: &str, seeds: &str| -> Value {
        let arguments = [
            "-q",
            "--format",
            "json",
            "frontier",
            "--methods",
            methods,
            "--seeds",
            seeds,
        ];
        let small = ["--labels", "30", "--epochs", "2"];
        serde_json::from_str(&good(&strings(&[&arguments[..], &small].concat()))).unwrap()
    };
    let points = |document: &Value| document["points"].as_array().unwrap().clone();
    let earned = |document: &Value, seed: u64| -> Vec<Value> {
        let own = points(document).into_iter();
        own.filter(|point| point["method"] == "dpo-rankings" && point["seed"] == seed)
            .map(|point| json!([point["setting"], point["expected_reward"], point["from_optimum"]]))
            .collect()
    };
    let two = study("dpo-rankings", "2");
    let one = study("best-of,dpo-rankings,best-of", "1");
    assert_eq!((points(&two).len(), points(&one).len()), (2 * 4, 4 + 4));
    assert_eq!(earned(&two, 0), earned(&one, 0));
    assert_ne!(earned(&two, 0), earned(&two, 1));
    assert_eq!(two["references"].as_array().unwrap().len(), 2);

    for (arguments, expected) in [
        (
            &["frontier", "--methods", "dpo"][..],
            "there are dpo-rankings, dpo-pairs",
        ),
        (&["frontier", "a-run", "--methods", "best-of"], "cannot be used with"),
        (&["frontier", "a-run", "--epochs", "2"], "cannot be used with"),
        (&["frontier", "--epochs", "0"], "--epochs"),
    ] {
        let words = message(&run(arguments));
        assert!(words.contains(expected), "{words}");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_study_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_posterior"))
        .args(["frontier", "--methods", "best-of,dpo-pairs"])
        .env("TMPDIR", directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Somewhere in training, after its reference.
    let world = || {
        fs::read_dir(directory.path())
            .unwrap()
            .next()
            .map(|entry| entry.unwrap().path())
    };
    while !world().is_some_and(|world| world.join("prompts.jsonl").exists()) {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the study ended before it could be stopped"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let words = message(&output);
    assert!(!output.status.success() && words.contains("interrupted"), "{words}");
    assert!(words.contains("world of seed 0"), "{words}");
    assert!(words.contains("of 8 points"), "{words}");
    assert!(world().is_none());
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
    assert_eq!(judged.as_array().unwrap().len(), 2);
    let number = |at: usize, key: &str| judged[at][key]["mean"].as_f64().unwrap();
    // The reference is no distance from itself, and the tuned model earns more.
    assert!(number(0, "kl").abs() < 1e-4 && number(1, "kl") > 0.3, "{judged}");
    assert!(number(1, "reward") > number(0, "reward") + 0.2, "{judged}");

    // The same run twice has one reference; who watches reads how many answers are judged, of three models.
    let twice = [&["frontier", &out, &out][..], &measure[5..], &more].concat();
    let output = run(&twice);
    let words = message(&output);
    assert!(output.status.success() && words.contains("answer 288/288"), "{words}");

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
