//! Fine-tuning through the real program: what must not change a result, what comes out, and what bad input is told.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::training::{assert_same_bits, bytes, good, kill_until_done, metrics, said, strings};
use support::{message, model, run};

mod support;

const LORA: &[&str] = &["--lora-rank", "3", "--lora-dropout", "0.2"];

/// A directory with the tiny model and a file of examples of several shapes and lengths.
struct Place {
    directory: tempfile::TempDir,
    model: PathBuf,
    data: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let model = model(directory.path());
        let data = directory.path().join("data.jsonl");
        let mut rows = vec![
            json!({ "prompt": "the cat", "completion": " sat on the mat" }),
            json!({ "prompt": "the dog", "completion": " ran under a tree and then it slept" }),
            json!({ "text": "a cat and a dog sat under the tree" }),
            json!({ "messages": [{ "role": "user", "content": "hello" }, { "role": "assistant", "content": "the cat slept" },
                                 { "role": "user", "content": "then" }, { "role": "assistant", "content": "it ran" }] }),
            json!({ "prompt": [{ "role": "user", "content": "the mat" }],
                    "completion": [{ "role": "assistant", "content": "it sat on a mat" }] }),
        ];
        rows.extend((0..20).map(|i| {
            let words = ["the", "cat", "dog", "tree", "mat", "ran", "slept"];
            let said: Vec<&str> = (0..2 + i % 5).map(|j| words[(i * 3 + j * 5) % 7]).collect();
            json!({ "prompt": format!("{} then", said.join(" ")), "completion": format!(" it {}", words[i % 7]) })
        }));
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        fs::write(&data, text).unwrap();
        Self { directory, model, data }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The command's arguments for a run of this name.
    fn arguments(&self, name: &str, more: &[&str]) -> Vec<String> {
        let out = self.path(name);
        let paths = [&self.model, &self.data, &out].map(|path| path.to_str().unwrap().to_owned());
        let [model, data, out] = paths;
        let fixed = ["-q", "sft", "--model", &model, "--data", &data, "--out", &out];
        let settings = ["--learning-rate", "0.01", "--log-every", "1"];
        let mut all: Vec<&str> = [&fixed[..], more].concat();
        for (flag, value) in settings.chunks(2).map(|pair| (pair[0], pair[1])) {
            if !more.contains(&flag) {
                all.extend([flag, value]);
            }
        }
        all.into_iter().map(str::to_owned).collect()
    }

    /// Trains and expects success; the run's directory.
    fn train(&self, name: &str, more: &[&str]) -> PathBuf {
        good(&self.arguments(name, more));
        self.path(name)
    }
}

/// The log-probabilities that a model gives the tiny data's answers.
fn scores(model: &Path, more: &[&str]) -> Vec<f64> {
    let data = model.parent().unwrap().join("responses.jsonl");
    fs::write(
        &data,
        "{\"prompt\": \"the cat\", \"responses\": [\" sat on the mat\", \" ran\"]}\n",
    )
    .unwrap();
    let (model, data) = (model.to_str().unwrap(), data.to_str().unwrap());
    let fixed = ["-q", "--format", "json", "score", "--model", model, "--data", data];
    let output = run(&[&fixed[..], more].concat());
    assert!(output.status.success(), "{}", message(&output));
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    let responses = line["responses"].as_array().unwrap();
    responses
        .iter()
        .map(|response| response["log_prob"].as_f64().unwrap())
        .collect()
}

fn assert_close(ours: &[f64], theirs: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), theirs.len());
    for (a, b) in ours.iter().zip(theirs) {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{a} against {b}");
    }
}

#[test]
fn threads_and_recomputation_do_not_change_a_bit() {
    let place = Place::new();
    for (name, lora, weights) in [
        ("full", &[][..], "model/model.safetensors"),
        ("lora", LORA, "model/adapter_model.safetensors"),
    ] {
        let train = |kind: &str, more: &[&str]| {
            let steps = ["--max-steps", "6", "--batch-size", "5"];
            place.train(&format!("{name}-{kind}"), &[lora, &steps, more].concat())
        };
        let one = train("one", &["--threads", "1"]);
        for other in [
            train("three", &["--threads", "3"]),
            train("recomputed", &["--recompute", "true"]),
        ] {
            assert_same_bits(&one, &other, &[weights, "checkpoints/step-6/optimizer.safetensors"]);
        }
    }
}

/// Eight examples side by side in one forest, or one after another each alone, or cut by tokens.
#[test]
fn packing_and_accumulation_change_rounding_only() {
    let place = Place::new();
    for (name, lora) in [("full", &[][..]), ("lora", LORA)] {
        let train = |kind: &str, more: &[&str]| {
            let steps = ["--max-steps", "6", "--batch-size", "8", "--learning-rate", "0.001"];
            metrics(&place.train(&format!("{name}-{kind}"), &[lora, &steps, more].concat()))
        };
        let whole = train("whole", &[]);
        assert_eq!(whole.len(), 6);
        for other in [
            train("single", &["--accumulate", "8"]),
            train("parts", &["--accumulate", "3"]),
            train("tokens", &["--micro-batch-tokens", "20"]),
        ] {
            for (whole, other) in whole.iter().zip(&other) {
                assert_eq!(whole["num_tokens"], other["num_tokens"]);
                for key in ["loss", "grad_norm", "entropy"] {
                    let (a, b) = (whole[key].as_f64().unwrap(), other[key].as_f64().unwrap());
                    assert!((a / b - 1.0).abs() < 1e-4, "{key}: {a} against {b}");
                }
            }
        }
    }
}

#[test]
fn a_killed_run_resumes_to_the_same_bits() {
    let place = Place::new();
    for (name, lora, weights) in [
        ("full", &[][..], "model/model.safetensors"),
        ("lora", LORA, "model/adapter_model.safetensors"),
    ] {
        let settings = [
            "--max-steps",
            "60",
            "--batch-tokens",
            "60",
            "--accumulate",
            "2",
            "--save-every",
            "4",
            "--held-out",
            "5",
            "--eval-every",
            "8",
            "--log-every",
            "3",
        ];
        let settings = [lora, &settings].concat();
        let whole = place.train(&format!("{name}-whole"), &settings);
        let killed = place.path(&format!("{name}-killed"));
        let start = place.arguments(&format!("{name}-killed"), &settings);
        let resume: Vec<String> = ["-q", "sft", "--resume", "--out", killed.to_str().unwrap()]
            .map(str::to_owned)
            .to_vec();
        let kills = kill_until_done(&killed, &start, &resume);
        assert!(kills > 2, "killed {kills} times only");
        let files = [
            weights,
            "checkpoints/step-60/weights.safetensors",
            "checkpoints/step-60/optimizer.safetensors",
            "checkpoints/step-60/state.json",
        ];
        assert_same_bits(&whole, &killed, &files);
        // A finished run can be asked for more.
        good(&[&resume[..], &["--max-steps".to_owned(), "61".to_owned()]].concat());
        assert!(killed.join("checkpoints/step-61").exists());
        assert!(bytes(whole.join(weights)) != bytes(killed.join(weights)));
    }
}

/// The resident memory of a process in kB.
#[cfg(target_os = "linux")]
fn resident(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_over_a_thousand_steps() {
    let place = Place::new();
    for (name, more) in [("full", &["--recompute", "true"][..]), ("lora", LORA)] {
        let steps = [
            "--max-steps",
            "1300",
            "--batch-size",
            "4",
            "--save-every",
            "0",
            "--held-out",
            "5",
            "--eval-every",
            "100",
        ];
        let arguments = place.arguments(name, &[more, &steps].concat());
        let mut child = Command::new(env!("CARGO_BIN_EXE_posterior"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let log = place.path(name).join("metrics.jsonl");
        // Resident memory by the step that was reported last.
        let mut seen: Vec<(u64, u64)> = Vec::new();
        while child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(10));
            let text = fs::read_to_string(&log).unwrap_or_default();
            let step = text
                .lines()
                .rev()
                .find_map(|line| serde_json::from_str::<Value>(line).ok()?["step"].as_u64());
            if let (Some(step), Some(size)) = (step, resident(child.id())) {
                seen.push((step, size));
            }
        }
        assert!(child.wait().unwrap().success());
        let most = |range: std::ops::Range<u64>| {
            let sizes = seen
                .iter()
                .filter(|(step, _)| range.contains(step))
                .map(|(_, size)| *size);
            sizes.max().unwrap_or_else(|| panic!("no step of {range:?} was seen"))
        };
        let (early, late) = (most(150..350), most(1100..1300));
        // A tensor of 16 kB left behind by each step would be 16 MB.
        assert!(late < early + 4096, "{name}: {early} kB at first, {late} kB at the end");
    }
}

#[test]
fn adapters_serve_as_models_and_merge_into_theirs() {
    let place = Place::new();
    let base = place.model.clone();
    let run = place.train(
        "lora",
        &[LORA, &["--max-steps", "8", "--lora-modules-to-save", "lm_head"]].concat(),
    );
    let adapter = run.join("model");
    let with = scores(&adapter, &[]);
    assert!((with[0] - scores(&base, &[])[0]).abs() > 0.1);
    // The same, named separately.
    assert_eq!(with, scores(&base, &["--adapter", adapter.to_str().unwrap()]));
    let convert = |from: &Path, name: &str, more: &[&str]| {
        let out = place.path(name);
        let fixed = [
            "-q",
            "convert",
            "--model",
            from.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ];
        let arguments: Vec<String> = [&fixed[..], more].concat().into_iter().map(str::to_owned).collect();
        good(&arguments);
        out
    };
    let merged = convert(&adapter, "merged", &[]);
    assert!(!merged.join("adapter_config.json").exists());
    assert_close(&scores(&merged, &[]), &with, 1e-5);
    let halved = convert(&adapter, "halved", &["--dtype", "bf16", "--shard-size", "3000"]);
    assert!(halved.join("model.safetensors.index.json").exists());
    assert!(
        fs::read_to_string(halved.join("config.json"))
            .unwrap()
            .contains("bfloat16")
    );
    assert_close(&scores(&halved, &[]), &with, 0.05);
    // An adapter is trained on as an adapter, and takes no second one.
    let (adapter, onward) = (adapter.to_str().unwrap(), place.path("onward"));
    let more = |extra: &[&str]| {
        let data = place.data.to_str().unwrap();
        let fixed = ["-q", "sft", "--model", adapter, "--data", data, "--max-steps", "2"];
        let out = ["--out", onward.to_str().unwrap()];
        support::run(&[&fixed[..], &out, extra].concat())
    };
    let refused = more(&["--lora-rank", "2"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(message(&refused).contains("is an adapter"), "{}", message(&refused));
    assert!(!onward.exists());
    assert!(more(&[]).status.success());
    assert!(onward.join("model/adapter_model.safetensors").exists());
    assert_ne!(scores(&onward.join("model"), &[]), with);
    // Without its base it says what it needs.
    fs::rename(&base, place.path("moved")).unwrap();
    let output = support::run(&["-q", "generate", "--model", adapter, "--prompt", "the cat"]);
    let words = message(&output);
    assert!(words.contains("belongs to") && words.contains("--adapter"), "{words}");
}

#[test]
fn the_best_checkpoint_makes_the_model() {
    let place = Place::new();
    // A rate at which the loss on what is held out soon rises.
    let settings = [
        "--max-steps",
        "40",
        "--learning-rate",
        "0.05",
        "--held-out",
        "8",
        "--eval-every",
        "2",
        "--save-every",
        "2",
        "--best",
        "true",
        "--keep",
        "1",
    ];
    let run = place.train("best", &settings);
    let evaluations: Vec<(u64, f64)> = metrics(&run)
        .iter()
        .filter_map(|line| Some((line["step"].as_u64()?, line.get("eval_loss")?.as_f64()?)))
        .collect();
    assert_eq!(evaluations.len(), 20);
    let best = evaluations.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
    assert!(best < 40, "the last step is the best, so there is nothing to see");
    let checkpoints: Vec<String> = fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(checkpoints.contains(&format!("step-{best}")), "{checkpoints:?}");
    assert_eq!(checkpoints.len(), 2, "{checkpoints:?}");
    let stopped = place.train(
        "stopped",
        &[
            &settings[2..10],
            &["--max-steps", &best.to_string(), "--learning-rate-schedule", "constant"],
        ]
        .concat(),
    );
    // Not the same model: its rate falls over fewer steps. But of the same checkpoint the same bits.
    assert!(stopped.join("model").exists());
    let last = place.train("last", &settings[..10]);
    assert!(bytes(run.join("model/model.safetensors")) != bytes(last.join("model/model.safetensors")));
}

#[test]
fn what_does_not_fit_is_counted_and_said() {
    let place = Place::new();
    let arguments = place.arguments("short", &["--max-steps", "1", "--max-length", "8"]);
    let words = said(&arguments);
    assert!(words.contains("were longer than 8 tokens and lost"), "{words}");
    let arguments = place.arguments(
        "left",
        &["--max-steps", "1", "--max-length", "8", "--truncation", "leave-out"],
    );
    let words = said(&arguments);
    assert!(words.contains("examples were left out"), "{words}");
}

#[test]
fn bad_input_is_told_what_to_do() {
    let place = Place::new();
    let file = |name: &str, text: &str| {
        fs::write(place.path(name), text).unwrap();
        place.path(name).to_str().unwrap().to_owned()
    };
    let pairs = file(
        "pairs.jsonl",
        "{\"prompt\": \"a\", \"chosen\": \" cat\", \"rejected\": \" dog\"}\n",
    );
    let cut = file(
        "cut.jsonl",
        "{\"prompt\": \"a\", \"completion\": \" cat\"}\n{\"prompt\": \"a\", \"compl",
    );
    let empty = file("empty.jsonl", "");
    let questions = file(
        "questions.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]}\n",
    );
    let config = file("bad.toml", "lora-ranc = 3\n");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--data", &pairs], &["pairs.jsonl", "line 1"]),
        (&["--data", &cut], &["cut.jsonl", "line 2"]),
        (&["--data", &empty], &["empty.jsonl"]),
        (&["--data", "missing.jsonl"], &["missing.jsonl"]),
        (&["--data", &questions], &["questions.jsonl", "example 1", "assistant"]),
        (&["--config", &config], &["bad.toml", "lora-ranc"]),
        (&["--model", "nowhere/at-all"], &["nowhere/at-all"]),
        (
            &["--lora-rank", "2", "--lora-target-modules", "c_attn"],
            &["c_attn", "q_proj"],
        ),
        (&["--lora-alpha", "2"], &["lora-alpha has no effect"]),
        (&["--eval-every", "3"], &["nothing to evaluate on"]),
        (&["--held-out", "25", "--eval-every", "3"], &["25"]),
        (&["--batch-size", "4", "--accumulate", "5"], &["accumulated in 5 parts"]),
        (&["--warmup-steps", "9999"], &["warm-up"]),
        (
            &["--max-length", "2", "--truncation", "leave-out"],
            &["all 25 examples were left out"],
        ),
        (&["--learning-rate", "inf"], &["learning-rate is inf"]),
        (&["--train-on", "nothing"], &["nothing"]),
    ];
    for (number, (more, words)) in cases.iter().enumerate() {
        let name = format!("bad-{number}");
        let mut arguments = place.arguments(&name, &[]);
        for pair in more.chunks(2) {
            // The last of two flags of one name would be refused: it takes the other's place.
            match arguments.iter().position(|argument| argument == pair[0]) {
                Some(at) => arguments[at + 1] = pair[1].to_owned(),
                None => arguments.extend(pair.iter().map(|part| (*part).to_owned())),
            }
        }
        let output = run(&strings(&arguments));
        let text = message(&output);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{more:?}: {text}");
        for word in *words {
            assert!(text.contains(word), "{more:?}: no {word:?} in {text}");
        }
        assert!(
            !text.contains("panicked") && output.stdout.is_empty(),
            "{more:?}: {text}"
        );
        assert!(!place.path(&name).exists(), "{more:?} left something behind");
    }
    // A run that is there already, and data that changed under it.
    let out = place.train("run", &["--max-steps", "1"]);
    let again = run(&strings(&place.arguments("run", &["--max-steps", "1"])));
    assert!(message(&again).contains("holds a run already"), "{}", message(&again));
    let resume = |more: &[&str]| {
        let fixed = ["-q", "sft", "--resume", "--out", out.to_str().unwrap()];
        message(&run(&[&fixed[..], more].concat()))
    };
    assert!(resume(&["--batch-size", "3"]).contains("batch-size"));
    fs::write(&place.data, "{\"text\": \"the cat sat\"}\n").unwrap();
    let words = resume(&["--max-steps", "2"]);
    assert!(words.contains("data.jsonl changed since"), "{words}");
}
