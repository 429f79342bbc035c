//! What the tests of trainers share.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Map, Value};

use super::{message, run};

pub fn strings(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Runs and expects success; what was written to standard output.
pub fn good(arguments: &[String]) -> String {
    let output = run(&strings(arguments));
    assert!(output.status.success(), "{arguments:?}: {}", message(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs without `-q` and expects success; what was said on standard error, in one line.
pub fn said(arguments: &[String]) -> String {
    let mut loud = strings(arguments);
    loud.retain(|argument| *argument != "-q");
    let output = run(&loud);
    let words = message(&output);
    assert!(output.status.success(), "{words}");
    words
}

pub fn bytes(path: impl AsRef<Path>) -> Vec<u8> {
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// Lines of metrics without their times.
pub fn metrics(run: &Path) -> Vec<Map<String, Value>> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut object: Map<_, _> = serde_json::from_str(line).unwrap();
        object.remove("step_seconds");
        object.remove("tokens_per_second");
        object
    };
    text.lines().map(line).collect()
}

pub fn assert_same_bits(one: &Path, other: &Path, files: &[&str]) {
    for file in files {
        assert!(bytes(one.join(file)) == bytes(other.join(file)), "{file}");
    }
    assert_eq!(metrics(one), metrics(other));
}

/// Starts a run, kills it after times that have nothing to do with its steps, resumes it and kills it again, until it gets to
/// its end; how many times it was killed.
pub fn kill_until_done(run: &Path, start: &[String], resume: &[String]) -> usize {
    let (mut kills, mut wait) = (0, 11);
    loop {
        let arguments = if run.join("config.toml").exists() {
            resume
        } else {
            start
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_posterior"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // More and more time, so that the run gets to its end.
        wait = wait * 5 / 4 + 7;
        std::thread::sleep(Duration::from_millis(wait));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return kills;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
}
