//! Tuning by a policy's own answers, through the real program: what must not change a result, what is learned, and what becomes
//! of rewards that do not come.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::training::{assert_same_bits, bytes, good, kill_until_done, metrics, strings};
use support::{message, model, run};

mod support;

const LORA: &[&str] = &["--lora-rank", "3"];

/// A directory with the tiny model, prompts and a lexicon.
struct Place {
    directory: tempfile::TempDir,
    model: PathBuf,
    prompts: PathBuf,
    lexicon: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let model = model(directory.path());
        let [prompts, lexicon] = ["prompts.jsonl", "lexicon.txt"].map(|name| directory.path().join(name));
        let mut rows = vec![
            json!({ "prompt": [{ "role": "user", "content": "hello" }] }),
            // What a pair has in common is its prompt.
            json!({ "prompt": "a dog", "chosen": " sat", "rejected": " ran then" }),
        ];
        let words = ["the", "cat", "dog", "tree", "mat", "ran", "slept"];
        rows.extend((0..14).map(|i| json!({ "prompt": format!("it {} {}", words[i % 7], words[i * 3 % 7]) })));
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        fs::write(&prompts, text).unwrap();
        fs::write(&lexicon, "slept\t2.5\ncat\t1.0\nran\t-2\ntree\t-1.5\n").unwrap();
        Self {
            directory,
            model,
            prompts,
            lexicon,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn arguments(&self, name: &str, more: &[&str]) -> Vec<String> {
        let out = self.path(name);
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let [model, prompts, lexicon, out] = [&self.model, &self.prompts, &self.lexicon, &out].map(|path| text(path));
        let mut all = vec!["-q", "ppo", "--out", &out];
        for (flag, value) in [
            ("--model", model.as_str()),
            ("--data", &prompts),
            ("--learning-rate", "0.003"),
            ("--log-every", "1"),
            ("--max-new-tokens", "6"),
            ("--batch-size", "4"),
            ("--samples", "3"),
        ] {
            if !more.contains(&flag) {
                all.extend([flag, value]);
            }
        }
        if !more.iter().any(|flag| flag.starts_with("--reward-")) {
            all.extend(["--reward-lexicon", &lexicon]);
        }
        all.extend(more);
        all.into_iter().map(str::to_owned).collect()
    }

    fn train(&self, name: &str, more: &[&str]) -> PathBuf {
        good(&self.arguments(name, more));
        self.path(name)
    }

    fn fails(&self, name: &str, more: &[&str]) -> String {
        let output = run(&strings(&self.arguments(name, more)));
        assert_eq!(output.status.code(), Some(1), "{more:?}");
        message(&output)
    }
}

fn number(line: &serde_json::Map<String, Value>, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line:?}"))
}

/// The mean of a metric over some steps.
fn mean(lines: &[serde_json::Map<String, Value>], key: &str) -> f64 {
    lines.iter().map(|line| number(line, key)).sum::<f64>() / lines.len() as f64
}

#[test]
fn rewards_rise_and_the_price_of_divergence_holds_them_back() {
    let place = Place::new();
    let settings = ["--max-steps", "60", "--batch-size", "8", "--samples", "4"];
    for advantage in ["gae", "leave-one-out", "group-relative"] {
        let train = |name: &str, price: &str| {
            let more = ["--advantage", advantage, "--kl-coefficient", price];
            let run = place.train(&format!("{advantage}-{name}"), &[&settings[..], &more].concat());
            metrics(&run)
        };
        let (free, dear) = (train("free", "0"), train("dear", "1"));
        let (first, last) = (&free[..5], &free[55..]);
        let rise = |lines: &[serde_json::Map<String, Value>]| {
            mean(&lines[55..], "objective/scores") - mean(&lines[..5], "objective/scores")
        };
        assert!(rise(&free) > 0.4, "{advantage}: {}", rise(&free));
        assert!(mean(last, "objective/kl") > 1.0 && mean(first, "objective/kl") < 1.0);
        assert!(
            mean(&dear[55..], "objective/kl") < 0.5 * mean(last, "objective/kl"),
            "{advantage}: {} against {}",
            mean(&dear[55..], "objective/kl"),
            mean(last, "objective/kl")
        );
        // Nothing has moved before the first update.
        assert!(number(&free[0], "objective/kl").abs() < 1e-5);
        assert!((number(&free[0], "val/ratio") - 1.0).abs() < 0.2);
        assert_eq!(free[0].contains_key("loss/value_avg"), advantage == "gae");
    }
    // The model that comes out is a language model like the one that went in.
    let names = |path: &Path| -> Vec<String> {
        let bytes = bytes(path.join("model.safetensors"));
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let mut names: Vec<String> = header.keys().filter(|name| *name != "__metadata__").cloned().collect();
        names.sort();
        names
    };
    let tuned = place.path("gae-free").join("model");
    assert_eq!(names(&tuned), names(&place.model));
    let kept = fs::read_to_string(place.path("gae-free").join("samples.jsonl")).unwrap();
    // Four answers to four prompts of steps 1, 11, .., 51.
    assert_eq!(kept.lines().count(), 6 * 16);
}

#[test]
fn the_price_is_steered_to_a_target() {
    let place = Place::new();
    let steer = [
        "--max-steps",
        "12",
        "--kl-target",
        "0.5",
        "--kl-horizon",
        "100",
        "--kl-coefficient",
        "0.1",
    ];
    let lines = metrics(&place.train("steered", &steer));
    let mut expected = 0.1;
    for line in &lines {
        assert!((number(line, "objective/kl_coef") - expected).abs() < 1e-9);
        let error = (number(line, "objective/kl") / 0.5 - 1.0).clamp(-0.2, 0.2);
        expected *= 1.0 + error * 12.0 / 100.0;
    }
    // A step's passes end early if the policy moves too far.
    let stop = ["--max-steps", "4", "--learning-rate", "0.03"];
    let whole = metrics(&place.train("whole", &stop));
    let stopped = metrics(&place.train("stopped", &[&stop[..], &["--stop-divergence", "1e-9"]].concat()));
    assert!(number(&stopped[3], "num_tokens") < number(&whole[3], "num_tokens"));
}

#[test]
fn threads_and_recomputation_do_not_change_a_bit() {
    let place = Place::new();
    for (name, more, weights) in [
        ("full", &[][..], "model/model.safetensors"),
        ("lora", LORA, "model/adapter_model.safetensors"),
    ] {
        let train = |kind: &str, others: &[&str]| {
            let steps = ["--max-steps", "4", "--minibatches", "2"];
            place.train(&format!("{name}-{kind}"), &[more, &steps, others].concat())
        };
        let one = train("one", &["--threads", "1"]);
        for other in [
            train("three", &["--threads", "3"]),
            train("recomputed", &["--recompute", "true"]),
            train("few", &["--rollout-batch", "2"]),
        ] {
            let optimizer = "checkpoints/step-4/optimizer.safetensors";
            assert_same_bits(&one, &other, &[weights, optimizer, "samples.jsonl"]);
        }
    }
}

#[test]
fn accumulation_changes_rounding_only() {
    let place = Place::new();
    let train = |name: &str, more: &[&str]| {
        let run = place.train(name, &[&["--max-steps", "3"], more].concat());
        metrics(&run)
    };
    let whole = train("whole", &[]);
    for other in [
        train("parts", &["--accumulate", "4"]),
        train("tokens", &["--micro-batch-tokens", "40"]),
    ] {
        for (one, other) in whole.iter().zip(&other) {
            for key in [
                "loss",
                "loss/value_avg",
                "grad_norm",
                "objective/kl",
                "policy/approxkl_avg",
            ] {
                let (a, b) = (number(one, key), number(other, key));
                assert!((a - b).abs() <= 1e-3 * b.abs().max(0.05), "{key}: {a} against {b}");
            }
        }
    }
}

#[test]
fn a_killed_run_resumes_to_the_same_bits() {
    let place = Place::new();
    for (name, more, weights) in [
        ("full", &[][..], "model/model.safetensors"),
        ("lora", LORA, "model/adapter_model.safetensors"),
    ] {
        let settings = [
            more,
            &[
                "--max-steps",
                "24",
                "--save-every",
                "3",
                "--show-every",
                "2",
                "--kl-target",
                "1",
            ],
            &["--held-out", "4", "--eval-every", "6"],
        ]
        .concat();
        let whole = place.train(&format!("{name}-whole"), &settings);
        let killed = place.path(&format!("{name}-killed"));
        let start = place.arguments(&format!("{name}-killed"), &settings);
        let resume = ["-q", "ppo", "--resume", "--out", killed.to_str().unwrap()].map(str::to_owned);
        let kills = kill_until_done(&killed, &start, &resume);
        assert!(kills > 2, "killed {kills} times only");
        let files = [weights, "checkpoints/step-24/optimizer.safetensors", "samples.jsonl"];
        assert_same_bits(&whole, &killed, &files);
        let lines = metrics(&whole);
        let evaluated = lines.iter().filter(|line| line.contains_key("eval_objective/scores"));
        assert_eq!(evaluated.count(), 4);
    }
}

/// Whatever judges, an answer has the same reward; a program that stops giving any stops the run, which goes on when it is
/// well again.
#[test]
fn programs_and_reward_models_judge() {
    let place = Place::new();
    let steps = ["--max-steps", "4", "--save-every", "1"];
    // The same reward as a program has it: all answers are worth as much as their prompts are long, that is nothing to learn.
    let trouble = place.path("trouble");
    let command = format!(
        "while read -r line; do [ -e {} ] && exit 3; echo ${{#line}}; done",
        trouble.display()
    );
    let program = place.train("program", &[&steps[..], &["--reward-program", &command]].concat());
    assert!(
        metrics(&program)
            .iter()
            .all(|line| number(line, "objective/scores") > 10.0)
    );
    let two = ["--max-steps", "2", "--save-every", "1", "--reward-program", &command];
    place.train("stopped", &two);
    fs::write(&trouble, "").unwrap();
    let resume = ["-q", "ppo", "--resume", "--max-steps", "4", "--out"];
    let stopped = place.path("stopped");
    let resume: Vec<&str> = resume.into_iter().chain([stopped.to_str().unwrap()]).collect();
    let output = run(&resume);
    let words = message(&output);
    assert!(!output.status.success() && words.contains("exit status: 3"), "{words}");
    fs::remove_file(&trouble).unwrap();
    assert!(run(&resume).status.success());
    let number_of = |run: &Path| metrics(run).len();
    assert_eq!(number_of(&stopped), number_of(&program));

    let pairs = place.path("pairs.jsonl");
    let rows: String = (0..8)
        .map(|i| {
            let chosen = [" slept", " slept on"][i % 2];
            let row = json!({ "prompt": "the cat", "chosen": chosen, "rejected": " ran" });
            format!("{row}\n")
        })
        .collect();
    fs::write(&pairs, rows).unwrap();
    let [reward, base, data] =
        [&place.path("reward"), &place.model, &pairs].map(|path| path.to_str().unwrap().to_owned());
    let arguments = [
        "-q",
        "reward",
        "--model",
        &base,
        "--data",
        &data,
        "--out",
        &reward,
        "--max-steps",
        "20",
    ];
    good(
        &[&arguments[..], &["--learning-rate", "0.003"]]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>(),
    );
    let judge = format!("{reward}/model");
    let judged = place.train(
        "judged",
        &[
            "--max-steps",
            "2",
            "--reward-model",
            &judge,
            "--missing-end-penalty",
            "0",
            "--show-every",
            "1",
        ],
    );
    // What posterior score says of the same answers.
    let kept = fs::read_to_string(judged.join("samples.jsonl")).unwrap();
    let sample = kept.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ended = sample
        .into_iter()
        .find(|sample| sample["token_ids"].as_array().unwrap().last() == Some(&json!(1)))
        .unwrap();
    let answer = place.path("answer.jsonl");
    let row = if ended["prompt"].is_string() {
        json!({ "prompt": ended["prompt"], "responses": [ended["response"]] })
    } else {
        let messages = [json!({ "role": "assistant", "content": ended["response"] })];
        json!({ "prompt": ended["prompt"]["messages"], "responses": [messages] })
    };
    fs::write(&answer, format!("{row}\n")).unwrap();
    let score = [
        "--format",
        "json",
        "score",
        "--model",
        &judge,
        "--data",
        answer.to_str().unwrap(),
    ]
    .map(str::to_owned);
    let scored: Value = serde_json::from_str(good(&score).trim()).unwrap();
    let (one, other) = (&scored["responses"][0]["reward"], &ended["score"]);
    assert!(
        (one.as_f64().unwrap() - other.as_f64().unwrap()).abs() < 1e-4,
        "{one} against {other}"
    );
}

#[test]
fn bad_input_is_told_what_to_do() {
    let place = Place::new();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let bad = place.path("bad.txt");
    fs::write(&bad, "good\t1\nbad minus two\n").unwrap();
    let (bad, own) = (text(&bad), text(&place.model));
    let texts = place.path("texts.jsonl");
    fs::write(&texts, "{\"text\": \"the cat\"}\n").unwrap();
    for (more, expected) in [
        (&["--reward-lexicon", &bad][..], "bad.txt: line 2"),
        (&["--reward-model", &own], "gives no rewards"),
        (
            &["--reward-program", "sleep 60", "--reward-timeout", "0.2"],
            "within 0.2 s",
        ),
        (&["--reward-program", "echo hello"], "no finite number"),
        (&["--reward-program", "echo nan; cat"], "no finite number"),
        (&["--data", &text(&texts)], "prompt"),
        (&["--max-length", "7"], "left out"),
        (&["--lora-rank", "2", "--lora-dropout", "0.1"], "lora-dropout"),
        (&["--temperature", "0"], "temperature"),
        (&["--advantage", "best"], "leave-one-out"),
        (
            &["--advantage", "leave-one-out", "--gae-lambda", "0.9"],
            "gae-lambda has no effect",
        ),
    ] {
        let words = place.fails("bad", &[more, &["--max-steps", "1"]].concat());
        assert!(words.contains(expected), "{more:?}: {words}");
        let _ = fs::remove_dir_all(place.path("bad"));
    }
    let neither = strings(&place.arguments("neither", &[]))
        .into_iter()
        .filter(|argument| *argument != "--reward-lexicon" && *argument != text(&place.lexicon))
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let words = message(&run(&strings(&neither)));
    assert!(words.contains("answers need a reward"), "{words}");
    // An update without numbers keeps what it saw.
    let words = place.fails(
        "broken",
        &["--max-steps", "20", "--learning-rate", "1e30", "--max-grad-norm", "0"],
    );
    assert!(words.contains("failed-step-") && words.contains("no number"), "{words}");
    let kept = fs::read_dir(place.path("broken")).unwrap();
    let name = |entry: fs::DirEntry| entry.file_name().to_str().unwrap().to_owned();
    let kept: Vec<String> = kept
        .map(|entry| name(entry.unwrap()))
        .filter(|name| name.starts_with("failed"))
        .collect();
    let saved: Value = serde_json::from_slice(&bytes(place.path("broken").join(&kept[0]))).unwrap();
    assert!(saved[0]["answers"][0]["advantages"].is_array());
}
