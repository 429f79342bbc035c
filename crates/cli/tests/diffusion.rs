//! Training and sampling through the real program: what must not change a result, and what bad input is told.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const TINY: &[&str] = &[
    "--data",
    "digits",
    "--patch-size",
    "2",
    "--hidden-size",
    "32",
    "--depth",
    "2",
    "--batch-size",
    "16",
    "--warmup-steps",
    "2",
    "--log-every",
    "1",
    "--limit",
    "400",
];

fn posterior() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posterior"));
    command.stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    posterior().args(arguments).output().unwrap()
}

/// Runs and expects success.
fn good(arguments: &[&str]) -> String {
    let output = run(arguments);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {words}");
    String::from_utf8(output.stdout).unwrap()
}

/// Trains a tiny model with some more arguments and returns the run's directory.
fn train(directory: &Path, name: &str, more: &[&str]) -> PathBuf {
    let out = directory.join(name);
    let place = out.to_str().unwrap();
    good(&[&["-q", "diffusion", "train", "--out", place], TINY, more].concat());
    out
}

fn bytes(path: impl AsRef<Path>) -> Vec<u8> {
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// Lines of metrics without their times.
fn metrics(run: &Path) -> Vec<serde_json::Map<String, serde_json::Value>> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut object: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
        object.remove("step_seconds");
        object
    };
    text.lines().map(line).collect()
}

#[test]
fn threads_do_not_change_a_bit() {
    let directory = tempfile::tempdir().unwrap();
    let one = train(directory.path(), "one", &["--max-steps", "6", "--threads", "1"]);
    let three = train(directory.path(), "three", &["--max-steps", "6", "--threads", "3"]);
    for file in ["model/model.safetensors", "checkpoints/step-6/optimizer.safetensors"] {
        assert!(bytes(one.join(file)) == bytes(three.join(file)), "{file}");
    }
    assert_eq!(metrics(&one), metrics(&three));
}

#[test]
fn accumulation_changes_rounding_only() {
    let directory = tempfile::tempdir().unwrap();
    let whole = metrics(&train(directory.path(), "whole", &["--max-steps", "6"]));
    let parts = metrics(&train(
        directory.path(),
        "parts",
        &["--max-steps", "6", "--accumulate", "8"],
    ));
    assert_eq!(whole.len(), 6);
    for (whole, parts) in whole.iter().zip(&parts) {
        for key in ["loss", "grad_norm"] {
            let (a, b) = (whole[key].as_f64().unwrap(), parts[key].as_f64().unwrap());
            assert!((a / b - 1.0).abs() < 1e-4, "{key}: {a} against {b}");
        }
    }
}

#[test]
fn a_killed_run_resumes_to_the_same_bits() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [
        "--max-steps",
        "80",
        "--save-every",
        "5",
        "--eval-every",
        "10",
        "--held-out",
        "40",
    ];
    let whole = train(directory.path(), "whole", &settings);
    let killed = directory.path().join("killed");
    let place = killed.to_str().unwrap();
    let start = [&["-q", "diffusion", "train", "--out", place], TINY, &settings].concat();
    let mut child = posterior().args(&start).stdout(Stdio::null()).spawn().unwrap();
    // Killed somewhere after its second checkpoint, wherever that happens to be.
    while !killed.join("checkpoints/step-10").exists() {
        std::thread::sleep(Duration::from_millis(2));
        assert!(
            child.try_wait().unwrap().is_none(),
            "the run ended before it could be killed"
        );
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        !killed.join("model").exists(),
        "the run was killed too late to show anything"
    );
    good(&["-q", "diffusion", "train", "--resume", "--out", place]);
    for file in ["weights", "average", "optimizer"] {
        let file = format!("checkpoints/step-80/{file}.safetensors");
        assert!(bytes(whole.join(&file)) == bytes(killed.join(&file)), "{file}");
    }
    assert!(bytes(whole.join("model/model.safetensors")) == bytes(killed.join("model/model.safetensors")));
    assert_eq!(metrics(&whole), metrics(&killed));
    // A finished run can be asked for more.
    good(&[
        "-q",
        "diffusion",
        "train",
        "--resume",
        "--out",
        place,
        "--max-steps",
        "81",
    ]);
    assert!(killed.join("checkpoints/step-81").exists());
}

#[test]
fn a_sample_does_not_depend_on_its_company() {
    let directory = tempfile::tempdir().unwrap();
    let run = train(directory.path(), "run", &["--max-steps", "2"]);
    let draw = |name: &str, more: &[&str]| {
        let out = directory.path().join(name);
        let (run, out) = (run.to_str().unwrap(), out.to_str().unwrap());
        let sampler = ["--sampler", "ancestral", "--spacing", "trailing", "--steps", "4"];
        let start = ["-q", "diffusion", "sample", "--run", run, "--out", out];
        good(&[&start[..], &sampler, more].concat());
        bytes(Path::new(out).join("samples.npy"))
    };
    let all = draw("all", &["--count", "20"]);
    assert!(all == draw("sevens", &["--count", "20", "--batch-size", "7"]));
    assert!(all == draw("threads", &["--count", "20", "--threads", "3"]));
    assert!(all != draw("seed", &["--count", "20", "--seed", "1"]));
    // Its class goes with its number, too.
    let one = draw("one", &["--count", "1", "--first", "17"]);
    let sample = 4 * 64;
    assert!(one[one.len() - sample..] == all[all.len() - 3 * sample..all.len() - 2 * sample]);
}

#[test]
fn sampling_writes_what_it_says() {
    let directory = tempfile::tempdir().unwrap();
    let run = train(directory.path(), "run", &["--max-steps", "2"]);
    let out = directory.path().join("samples");
    let document = good(&[
        "--format",
        "json",
        "-q",
        "diffusion",
        "sample",
        "--run",
        run.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
        "--count",
        "4",
        "--steps",
        "5",
        "--guidance",
        "2",
        "--path",
        "--animation",
    ]);
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    // Guidance asks twice.
    assert_eq!(
        (document["samples"].as_u64(), document["network_evaluations"].as_u64()),
        (Some(4), Some(10))
    );
    let names = [
        "samples.npy",
        "labels.npy",
        "grid.png",
        "path.png",
        "estimates.png",
        "denoising.png",
    ];
    let listed: Vec<&str> = document["files"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|file| file.as_str())
        .collect();
    assert_eq!(listed.len(), names.len());
    for name in names {
        assert!(listed.iter().any(|file| file.ends_with(name)), "{name}");
        assert!(fs::metadata(out.join(name)).unwrap().len() > 0, "{name}");
    }
}

#[test]
fn bad_input_is_told_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("run");
    let out = out.to_str().unwrap();
    let train = |more: &[&str]| run(&[&["-q", "diffusion", "train", "--out", out], more].concat());
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&[], 2, &["--data"]),
        (&["--data", "nowhere"], 1, &["nowhere"]),
        (&["--data", "digits", "--patch-size", "3"], 1, &["patch_size", "3", "8"]),
        (&["--data", "digits", "--learning-rate", "-1"], 2, &[]),
        (
            &[
                "--data",
                "digits",
                "--prediction",
                "epsilon",
                "--zero-terminal-snr",
                "true",
            ],
            1,
            &["velocity"],
        ),
        (&["--data", "digits", "--prediction", "noise"], 1, &["noise", "epsilon"]),
        (
            &["--data", "digits", "--process", "ve", "--schedule", "cosine"],
            1,
            &["schedule", "no effect"],
        ),
        (
            &["--data", "digits", "--accumulate", "200", "--batch-size", "10"],
            1,
            &["200", "10"],
        ),
        (&["--data", "digits", "--held-out", "1797"], 1, &["1798", "1797"]),
        (&["--data", "points:moons", "--network", "dit"], 1, &["mlp"]),
        (&["--resume"], 1, &["no run to resume"]),
    ];
    for (arguments, status, words) in cases {
        let output = train(arguments);
        // The report breaks lines; compare without.
        let message = String::from_utf8_lossy(&output.stderr).replace(['\n', '│'], " ");
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(output.status.code(), Some(*status), "{arguments:?}: {message}");
        for word in *words {
            assert!(message.contains(word), "{arguments:?}: no {word:?} in {message}");
        }
        assert!(!message.contains("panicked"), "{arguments:?}: {message}");
        assert!(!Path::new(out).exists(), "{arguments:?} left {out} behind");
    }
}

#[test]
fn damaged_models_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let run_directory = train(directory.path(), "run", &["--max-steps", "2"]);
    let out = directory.path().join("samples");
    let weights = run_directory.join("model/model.safetensors");
    let whole = bytes(&weights);
    let mut lying = whole.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    for damaged in [&whole[..whole.len() / 2], &whole[..4], &lying] {
        fs::write(&weights, damaged).unwrap();
        let arguments = [
            "-q",
            "diffusion",
            "sample",
            "--run",
            run_directory.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ];
        let output = run(&arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("model.safetensors"), "{message}");
        assert!(!out.exists());
    }
    fs::write(run_directory.join("model/config.json"), "{").unwrap();
    let output = run(&[
        "diffusion",
        "sample",
        "--run",
        run_directory.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("config.json"));
}
