//! `posterior rank` from outside: what it prints, and how it fails.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

fn posterior(arguments: &[&str], input: &str) -> std::process::Output {
    Command::cargo_bin("posterior")
        .unwrap()
        .args(arguments)
        .write_stdin(input)
        .output()
        .unwrap()
}

fn json(layout: &str, input: &str) -> Value {
    let output = posterior(&["rank", "-", "--layout", layout, "--format", "json"], input);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.stderr.is_empty());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Standard error in one line: reports are wrapped to the terminal's width.
fn words(output: &std::process::Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).replace('│', " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn two_items_have_a_closed_form() {
    let found = json("csv", "winner,loser,count\na,b,30\nb,a,12\n");
    let item = |index: usize, key: &str| found["items"][index][key].as_f64().unwrap();
    assert_eq!(found["items"][0]["item"], "a");
    assert!((item(0, "log_strength") - 0.5 * 2.5f64.ln()).abs() < 1e-12);
    assert!((item(1, "log_strength") + 0.5 * 2.5f64.ln()).abs() < 1e-12);
    assert!((item(0, "std_error") - 0.5 * (1.0 / 30.0 + 1.0 / 12.0f64).sqrt()).abs() < 1e-12);
    assert!((item(0, "probability") - 30.0 / 42.0).abs() < 1e-12);
    assert_eq!((item(0, "rank"), item(1, "rank")), (1.0, 2.0));
    let log_likelihood = 30.0 * (30.0 / 42.0f64).ln() + 12.0 * (12.0 / 42.0f64).ln();
    assert!((found["log_likelihood"].as_f64().unwrap() - log_likelihood).abs() < 1e-12);
    assert_eq!(found["observations"], 42.0);
    assert_eq!(found["tie_parameters"].as_array().unwrap().len(), 0);
    assert_eq!(found["prior"], 0.0);
}

#[test]
fn the_help_examples_are_understood() {
    let help = String::from_utf8(posterior(&["rank", "--help"], "").stdout).unwrap();
    let block = |first: &str, rows: usize| -> String {
        let lines = help.lines().map(str::trim).skip_while(|line| *line != first).take(rows);
        lines.map(|line| format!("{line}\n")).collect()
    };
    for (layout, text) in [
        ("csv", block("winner,loser,count,tie", 3)),
        ("csv", block("1,2,3,others,count", 3)),
        ("csv", block("ranking,item,rank", 3)),
        (
            "jsonl",
            help.lines()
                .filter(|line| line.trim().starts_with("{\"winner\"") || line.trim().starts_with("{\"ranking\""))
                .collect::<Vec<_>>()
                .join("\n"),
        ),
    ] {
        assert!(text.lines().count() >= 2, "no example of {layout} in\n{help}");
        let output = posterior(&["rank", "-", "--layout", layout, "--prior", "1"], &text);
        assert_eq!(output.status.code(), Some(0), "{text}{}", words(&output));
    }
}

#[test]
fn people_get_a_table_with_the_strongest_first() {
    let input = "1,2,count\nweak,strong,1\nstrong,weak,3\nweak=strong,,2\n";
    let output = posterior(&["rank", "-", "--layout", "csv"], input);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.find("strong").unwrap() < text.find("weak").unwrap());
    for words in [
        "log-strength",
        "0.5493",
        "ties of 2: log-prevalence",
        "6 observations",
        "sum to 0",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
}

#[test]
fn one_sided_data_name_the_items_and_the_remedy() {
    let input = "winner,loser\na,b\nb,a\na,c\nc,d\nd,e\ne,c\n";
    let output = posterior(&["rank", "-", "--layout", "csv", "--format", "json"], input);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = words(&output);
    assert!(
        said.contains("the items {\"a\", \"b\"} never lost to any other item"),
        "{said}"
    );
    assert!(said.contains("--prior 0.5"), "{said}");
    let output = posterior(&["rank", "-", "--layout", "csv", "--prior", "0.5"], input);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn errors_name_file_and_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("games.csv");
    std::fs::write(&file, "winner,loser,count\na,b,1\nb,a,many\n").unwrap();
    let output = posterior(&["rank", file.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(1));
    let said = words(&output);
    assert!(
        said.contains("games.csv, line 3: `many` under `count` is not a number"),
        "{said}"
    );
    let output = posterior(&["rank", "nowhere.csv"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output).contains("nowhere.csv cannot be read"));
}

#[test]
fn wrong_usage_is_status_2() {
    for arguments in [
        &["rank"][..],
        &["rank", "-"],
        &["rank", "games.txt"],
        &["rank", "a.csv", "--prior", "-1"],
        &["rank", "a.csv", "--prior", "nan"],
        &["rank", "a.csv", "--plot", "a.pdf"],
        &["rank", "a.csv", "--plot", "a.svg", "--no-std-errors"],
    ] {
        assert_eq!(posterior(arguments, "").status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_plot_is_whole_or_absent() {
    let directory = tempfile::tempdir().unwrap();
    let plot = |name: &str, input: &str| {
        let path = directory.path().join(name);
        let arguments = ["rank", "-", "--layout", "csv", "--plot", path.to_str().unwrap()];
        (posterior(&arguments, input).status.code(), path)
    };
    let (code, svg) = plot("a.svg", "winner,loser\na,b\nb,a\n");
    assert_eq!(code, Some(0));
    assert!(std::fs::read_to_string(svg).unwrap().ends_with("</svg>\n"));
    let (code, png) = plot("a.png", "winner,loser\na,b\nb,a\n");
    assert_eq!(code, Some(0));
    assert!(std::fs::read(png).unwrap().starts_with(b"\x89PNG"));
    let (code, none) = plot("b.png", "winner,loser\na,b\n");
    assert_eq!((code, none.exists()), (Some(1), false));
    let (code, none) = plot("no/such/directory/a.png", "winner,loser\na,b\nb,a\n");
    assert_eq!((code, Path::new(&none).exists()), (Some(1), false));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn no_std_errors_leaves_them_out() {
    let input = "winner,loser\na,b\nb,a\n";
    let output = posterior(
        &["rank", "-", "--layout", "csv", "--format", "json", "--no-std-errors"],
        input,
    );
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["items"][0]["std_error"], Value::Null);
}
