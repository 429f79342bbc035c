//! `posterior audit` as people and programs call it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

fn audit() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posterior"));
    command.arg("audit");
    command
}

fn json(flags: &[&str]) -> Value {
    let output = audit().args(["--format", "json"]).args(flags).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Exit status and standard error of a call that fails.
fn failure(flags: &[&str]) -> (i32, String) {
    let output = audit().args(flags).output().unwrap();
    assert!(!output.status.success(), "{flags:?} succeeded");
    assert!(output.stdout.is_empty(), "{flags:?} wrote to standard output");
    // Lines are wrapped and decorated for people: compare words.
    let words = String::from_utf8(output.stderr).unwrap();
    let words: Vec<&str> = words
        .split_whitespace()
        .filter(|word| !"│×╰─▶├".contains(*word))
        .collect();
    (output.status.code().unwrap(), words.join(" "))
}

fn std_of(flags: &[&str]) -> f64 {
    json(flags)["output_std"][0].as_f64().unwrap()
}

#[track_caller]
fn assert_close(actual: f64, expected: f64) {
    assert!(
        (actual - expected).abs() <= 1e-12 * expected.abs(),
        "{actual} is not {expected}"
    );
}

#[test]
fn the_mean_alone_collapses() {
    // s² / (s² + 1), whatever the number of steps.
    for steps in ["1", "10", "1000"] {
        let flags = [
            "--process",
            "ve",
            "--sampler",
            "mean-only",
            "--data-std",
            "0.5",
            "--steps",
            steps,
        ];
        assert_close(std_of(&flags), 0.2);
    }
}

#[test]
fn the_increment_gives_the_finite_sum() {
    let flags = [
        "--process",
        "ve",
        "--sampler",
        "ancestral",
        "--variance",
        "increment",
        "--spacing",
        "uniform",
        "--data-std",
        "0.5",
        "--steps",
        "10",
    ];
    // (s² / (s² + 1))² + d Σ_{k<10} (s² / (s² + k d))², with s² = 0.25 and d = 0.1.
    let sum: f64 = (0..10).map(|k| (0.25 / (0.25 + 0.1 * f64::from(k))).powi(2)).sum();
    assert_close(std_of(&flags).powi(2), 0.04 + 0.1 * sum);
}

#[test]
fn ten_steps_of_the_usual_samplers() {
    for (flags, expected) in [
        (vec!["--sampler", "ddim"], 0.3741),
        (vec!["--sampler", "euler"], 0.3741),
        (vec!["--sampler", "ddim", "--spacing", "tangent"], 0.4420),
        (vec!["--sampler", "ancestral"], 0.333),
        (vec!["--sampler", "ddim", "--eta", "1"], 0.333),
        (vec!["--sampler", "ancestral", "--variance", "large"], 0.589),
        (vec!["--sampler", "ancestral", "--variance", "optimal"], 0.500),
    ] {
        let std = std_of(&[&flags[..], &["--process", "vp", "--data-std", "0.5", "--steps", "10"]].concat());
        assert!((std - expected).abs() < 6e-4, "{flags:?}: {std}");
    }
}

#[test]
fn the_document_has_the_promised_keys() {
    let document = json(&[
        "--sampler",
        "heun",
        "--spacing",
        "karras",
        "--data-std",
        "0.5",
        "--steps",
        "5",
    ]);
    assert_eq!(document["target_std"][0], 0.5);
    assert_eq!(document["network_evaluations"], 9);
    let steps = document["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 9);
    assert_eq!(steps[8]["to"], 0.0);
    assert_eq!(steps[1]["from"], steps[0]["to"]);
    for key in ["initialization", "truncation", "discretization"] {
        assert!(document["error"][key].as_f64().unwrap() >= 0.0, "{key}");
    }
    for key in ["w2", "kl", "prior_std", "output_scale"] {
        assert!(document[key].is_number(), "{key}");
    }
    // From the exact start nothing is lost at the start.
    let exact = json(&["--start", "exact", "--data-std", "0.5", "--steps", "5"]);
    assert_eq!(exact["error"]["initialization"], 0.0);
}

#[test]
fn text_is_for_people() {
    let output = audit()
        .args(["--data-std", "0.5", "--steps", "10", "-v"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "ddim/leading",
        "10 network evaluations",
        "2-Wasserstein",
        "0.3741",
        "previous",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn a_comparison_is_sorted() {
    let flags = [
        "--data-std",
        "0.5",
        "--compare",
        "ddim:10,50",
        "dpmpp-2m/karras:10",
        "ancestral@optimal:10",
    ];
    let document = json(&flags);
    let entries = document["compare"].as_array().unwrap();
    assert_eq!(entries.len(), 4);
    let distances: Vec<f64> = entries.iter().map(|entry| entry["w2"].as_f64().unwrap()).collect();
    assert!(distances.is_sorted(), "{distances:?}");
    let output = audit().args(flags).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 5);
}

#[test]
fn optimised_levels_are_better_and_say_how_low_they_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spectrum.txt");
    let variances: Vec<String> = (1..200)
        .map(|axis| format!("{}", 50.0 * f64::from(axis).powf(-2.2)))
        .collect();
    std::fs::write(&path, variances.join("\n")).unwrap();
    let common = [
        "--spectrum",
        path.to_str().unwrap(),
        "--sampler",
        "dpmpp-2m",
        "--steps",
        "10",
        "--spacing",
    ];
    let w2 = |spacing| json(&[&common[..], &[spacing]].concat())["w2"].as_f64().unwrap();
    assert!(w2("optimized") < 0.5 * w2("karras"));
    // Within the trained range nothing has to be said.
    let output = audit()
        .args(common)
        .args(["optimized", "--sigma-min", "0.01"])
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("warning"));
}

#[test]
fn spectra_come_from_text_and_numpy() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("spectrum.csv");
    std::fs::write(&text, "4, 0.25\n1e-2\n").unwrap();
    let numpy = directory.path().join("spectrum.npy");
    std::fs::write(
        &numpy,
        npy("'<f4'", "(3,)", &[4.0_f32, 0.25, 1e-2].map(f32::to_le_bytes).concat()),
    )
    .unwrap();
    let std = |path: &Path| json(&["--spectrum", path.to_str().unwrap(), "--steps", "10"])["target_std"].clone();
    assert_eq!(std(&text)[0], 2.0);
    assert_eq!(std(&numpy)[1], 0.5);
}

fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut content = b"\x93NUMPY\x01\x00".to_vec();
    content.extend((header.len() as u16).to_le_bytes());
    content.extend(header.as_bytes());
    content.extend(data);
    content
}

#[test]
fn bad_spectra_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let check = |name: &str, content: &[u8], parts: &[&str]| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        let (code, message) = failure(&["--spectrum", path.to_str().unwrap(), "--steps", "5"]);
        assert_eq!(code, 1, "{message}");
        // Long paths are broken over lines: only the file's name is sure to stay whole.
        for part in parts {
            assert!(message.contains(part), "{part:?} is missing in {message}");
        }
    };
    check("a.csv", b"1\n2\nx\n", &[":3:", "\"x\" is not a number"]);
    check("b.txt", b"1 -2", &[":1:", "-2 is not a variance"]);
    check("c.txt", b"1\nnan", &[":2:", "NaN is not a variance"]);
    check("d.txt", b"# nothing\n", &["at least one variance"]);
    check("e.txt", b"0 0", &["every variance is 0"]);
    check("f.txt", b"\xff\xfe", &["cannot read"]);
    let one = 1.0_f32.to_le_bytes();
    check(
        "g.npy",
        &npy("'<f4'", "(1000000000,)", &one),
        &["announces", "1000000000"],
    );
    check("h.npy", &npy("'<f4'", "(1, 1)", &one), &["[1, 1]"]);
    check(
        "i.npy",
        &npy("'<f4'", "(1,)", &f32::NAN.to_le_bytes()),
        &["axis 0", "NaN"],
    );
    check(
        "j.npy",
        &npy("'<f4'", "(1,)", &(-1.0_f32).to_le_bytes()),
        &["axis 0", "-1"],
    );
    check("k.npy", b"1\n2\n", &["not a .npy file"]);
    let (code, message) = failure(&["--spectrum", "no/such/file.npy", "--steps", "5"]);
    assert!(code == 1 && message.contains("no/such/file.npy"), "{message}");
}

#[test]
fn options_without_effect_are_wrong_usage() {
    for (flags, part) in [
        (
            &["--sampler", "heun", "--eta", "0.5"][..],
            "--eta has an effect with --sampler ddim only",
        ),
        (
            &["--variance", "large"],
            "--variance has an effect with --sampler ancestral only",
        ),
        (
            &["--process", "ve", "--schedule", "cosine"],
            "--schedule has an effect with --process vp only",
        ),
        (
            &["--process", "ve", "--spacing", "leading"],
            "leading spacing picks training timesteps",
        ),
        (&["--spacing", "uniform"], "uniform spacing is in continuous time"),
        (&["--sampler", "time-heun"], "vp-sde"),
        (
            &["--end-time", "0.1"],
            "an end time has an effect with uniform spacing only",
        ),
        (
            &["--sigma-min", "0.1"],
            "a lowest level has an effect with karras and optimized spacing only",
        ),
        (&["--eta", "1.5"], "eta is 1.5"),
        (
            &["--steps", "1001"],
            "1001 steps do not fit into 1000 training timesteps",
        ),
        (&["--steps", "0"], "whole number from 1"),
        (&["--data-std", "-1"], "not negative"),
        (&["--plot", "a.pdf"], ".png or .svg"),
        (&["--compare", "ddmi:10"], "no sampler"),
        (
            &["--scheduler-config", "x.json", "--sampler", "ddim"],
            "cannot be used with",
        ),
        (
            &["--process", "vp-sde", "--sampler", "time-ddpm", "--steps", "5"],
            "take more steps",
        ),
    ] {
        let mut all = flags.to_vec();
        if !flags.contains(&"--steps") && !flags.contains(&"--compare") {
            all.extend(["--steps", "10"]);
        }
        if !flags.contains(&"--data-std") {
            all.extend(["--data-std", "0.5"]);
        }
        let (code, message) = failure(&all);
        assert_eq!(code, 2, "{flags:?}: {message}");
        assert!(message.contains(part), "{flags:?}: {part:?} is missing in {message}");
    }
    assert_eq!(failure(&["--steps", "10"]).0, 2);
    assert_eq!(failure(&["--data-std", "1"]).0, 2);
}

#[test]
fn a_diffusers_configuration_is_run_right_and_warned_about() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("scheduler_config.json");
    std::fs::write(
        &path,
        r#"{"_class_name": "DDIMScheduler", "clip_sample": false, "timestep_spacing": "linspace"}"#,
    )
    .unwrap();
    let flags = [
        "--scheduler-config",
        path.to_str().unwrap(),
        "--data-std",
        "0.5",
        "--steps",
        "10",
    ];
    let document = json(&flags);
    assert!(
        document["warnings"][0].as_str().unwrap().contains("t - 100"),
        "{}",
        document["warnings"]
    );
    let linspace = json(&["--spacing", "linspace", "--data-std", "0.5", "--steps", "10"]);
    assert_eq!(document["steps"], linspace["steps"]);
    let output = audit().args(flags).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("warning: diffusers steps to timestep t - 100"));
    std::fs::write(
        &path,
        r#"{"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": true}"#,
    )
    .unwrap();
    let (code, message) = failure(&flags);
    assert_eq!(code, 1);
    assert!(message.contains("infinite noise"), "{message}");
    std::fs::write(&path, r#"{"_class_name": "DDPMScheduler", "clip_sample": false}"#).unwrap();
    assert_eq!(failure(&[&flags[..], &["--eta", "0.5"]].concat()).0, 2);
}

#[test]
fn infinity_is_a_word() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("scheduler_config.json");
    std::fs::write(
        &path,
        r#"{"_class_name": "DDIMScheduler", "clip_sample": false, "rescale_betas_zero_snr": true,
            "prediction_type": "v_prediction", "timestep_spacing": "trailing"}"#,
    )
    .unwrap();
    let spectrum = directory.path().join("spectrum.txt");
    std::fs::write(&spectrum, "0 1").unwrap();
    let document = json(&[
        "--scheduler-config",
        path.to_str().unwrap(),
        "--spectrum",
        spectrum.to_str().unwrap(),
        "--steps",
        "5",
    ]);
    assert_eq!(document["steps"][0]["from"], "inf");
    assert_eq!(document["prior_std"], 1.0);
}

#[test]
fn plots_are_whole_files_or_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let common = ["--data-std", "0.5", "--steps", "10", "--plot"];
    audit().args(common).arg(path("a.svg")).assert().success();
    let text = std::fs::read_to_string(path("a.svg")).unwrap();
    assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
    audit().args(common).arg(path("a.png")).assert().success();
    assert!(std::fs::read(path("a.png")).unwrap().starts_with(b"\x89PNG"));
    audit()
        .args(["--data-std", "0.5", "--compare", "ddim:5", "heun/karras:5", "--plot"])
        .arg(path("b.png"))
        .assert()
        .success();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3);
    let (code, message) = failure(&[&common[..], &[&path("no/such/directory/a.png")]].concat());
    assert_eq!(code, 1);
    assert!(message.contains("check the path"), "{message}");
}
