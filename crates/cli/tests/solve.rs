//! `posterior solve` from outside: what it prints, and how it fails.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use assert_cmd::Command;
use serde_json::Value;

fn solve(input: &str, arguments: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = Command::cargo_bin("posterior").unwrap();
    command.args(["solve", "-"]).args(arguments).write_stdin(input).assert()
}

fn json(input: &str) -> Value {
    let output = solve(input, &["--format", "json"]).success().get_output().clone();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn stderr(input: &str) -> String {
    let output = solve(input, &[]).code(1).get_output().clone();
    assert!(output.stdout.is_empty());
    // The report is wrapped to the terminal's width.
    String::from_utf8(output.stderr)
        .unwrap()
        .replace('│', " ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn the_document_has_the_promised_keys_and_values() {
    // pi_ref = (1/4, 3/4), r = (ln 3, 0), beta = 1: weights 3/4 and 3/4, so Z = 3/2 and the policy is even.
    let found = json(r#"{"reference":[0.25,0.75,0],"reward":[1.0986122886681098,0,5],"beta":1}"#);
    let close = |key: &str, expected: f64| assert!((found[key].as_f64().unwrap() - expected).abs() < 1e-15, "{key}");
    close("log_partition", 1.5f64.ln());
    close("objective", 1.5f64.ln());
    close("expected_reward", 3f64.ln() / 2.0);
    close("kl", 0.5 * 2f64.ln() + 0.5 * (2.0 / 3.0f64).ln());
    assert!((found["policy"][0].as_f64().unwrap() - 0.5).abs() < 1e-15);
    assert_eq!(found["policy"][2], 0.0);
    assert!((found["recovered_reward"][0].as_f64().unwrap() - 3f64.ln()).abs() < 1e-15);
    assert_eq!(found["recovered_reward"][2], Value::Null);
    assert_eq!(found.as_object().unwrap().len(), 6);
}

#[test]
fn a_list_is_answered_by_a_list() {
    let one = r#"{"reference":[0.5,0.5],"reward":[0,1],"beta":1}"#;
    let found = json(&format!("[{one},{one}]"));
    assert_eq!(found.as_array().unwrap().len(), 2);
    assert_eq!(found[0], json(one));
}

#[test]
fn people_get_a_table() {
    let output = solve(r#"[{"reference":[0.5,0.5,0],"reward":[0,1,2],"beta":1}]"#, &[])
        .success()
        .get_output()
        .clone();
    let text = String::from_utf8(output.stdout).unwrap();
    for words in [
        "prompt 1 of 1",
        "recovered reward",
        "log Z",
        "0.6201",
        "expected reward",
        "0.7311",
        "KL (nats)",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    assert!(output.stderr.is_empty());
}

#[test]
fn rounding_in_the_reference_is_said() {
    let output = solve(
        r#"{"reference":[0.5,0.500000476837158203125],"reward":[0,1],"beta":1}"#,
        &["--format", "json"],
    )
    .success();
    let said = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(
        said.contains("`reference` sums to 1.0000004768371582; it was divided by that"),
        "{said}"
    );
}

#[test]
fn errors_name_the_place() {
    for (input, words) in [
        (
            r#"{"reference":[0.5,0.4],"reward":[0,1],"beta":1}"#,
            "`reference` sums to 0.9",
        ),
        (
            r#"{"reference":[1],"reward":[0,1],"beta":1}"#,
            "`reward` has 2 entries and `reference` has 1",
        ),
        (
            r#"{"reference":[1.5,-0.5],"reward":[0,1],"beta":1}"#,
            "`reference[0]` is 1.5",
        ),
        (r#"{"reference":[1],"reward":[0],"beta":0}"#, "`beta` is 0"),
        (
            r#"{"reference":[0.5,0.5],"reward":[0,1e300],"beta":1e-300}"#,
            "exceed the largest double",
        ),
        (
            r#"{"reference":[1],"reward":["x"],"beta":1}"#,
            "at `reward[0]`: invalid type: string \"x\", expected f64",
        ),
        (
            r#"[{"reference":[1],"reward":[0],"beta":1},{"reference":[1],"reward":[0]}]"#,
            "missing field `beta`",
        ),
        (
            r#"[{"reference":[1],"reward":[0],"beta":1},{"reference":[],"reward":[],"beta":1}]"#,
            "prompt 2 cannot be solved",
        ),
        (
            r#"{"reference":[1],"reward":[0],"beta":1,"gamma":1}"#,
            "unknown field `gamma`",
        ),
        (r#"{"reference":[1],"reward":[1e999],"beta":1}"#, "number out of range"),
        (r#"{"reference":[1],"reward":[0],"beta":1} {}"#, "trailing characters"),
        ("[]", "the list is empty"),
        ("", "EOF while parsing"),
    ] {
        let said = stderr(input);
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
}

#[test]
fn a_missing_file_and_wrong_usage() {
    let missing = Command::cargo_bin("posterior")
        .unwrap()
        .args(["solve", "nowhere.json"])
        .assert()
        .code(1);
    let said = String::from_utf8(missing.get_output().stderr.clone()).unwrap();
    assert!(said.contains("nowhere.json cannot be read"), "{said}");
    Command::cargo_bin("posterior").unwrap().arg("solve").assert().code(2);
}
