//! `posterior report`: a page of what runs did.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::output::{Context, number};
use crate::page::Page;
use crate::plot::{Line, lines_svg};

const EXAMPLES: &str = "\
Examples:
  A page of one run, in its directory:
      posterior report runs/dpo
  Several runs, their curves on one page:
      posterior report runs/dpo runs/ppo --out comparison.html";

/// Write a web page of runs: settings, curves of every metric, samples.
///
/// The page is one file that needs nothing else. Several runs share their curves.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The directories of runs.
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The page [default: report.html in the first run's directory].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What the command reports.
#[derive(Serialize)]
struct Document {
    page: PathBuf,
}

/// Metrics that say where a run is, rather than how it does.
const PLACES: [&str; 4] = ["step", "epoch", "num_tokens", "step_seconds"];
/// Samples of a run that are shown, the newest.
const SAMPLES: usize = 12;
/// Pictures of a run that are shown, the newest.
const PICTURES: usize = 4;

/// Points by name.
type Curves = BTreeMap<String, Vec<(f64, f64)>>;

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let first = arguments.runs.first().ok_or_else(|| miette!("give a run"))?;
    let out = arguments.out.clone().unwrap_or_else(|| first.join("report.html"));
    let names: Vec<String> = arguments.runs.iter().map(|run| run.display().to_string()).collect();
    let mut page = Page::new(&names.join(", "));
    add_runs(&mut page, &arguments.runs)?;
    page.write(&out)?;
    context.emit(&Document { page: out }, |document| {
        format!("the page is {}", document.page.display())
    })
}

/// Adds curves, settings and samples of runs.
pub fn add_runs(page: &mut Page, runs: &[PathBuf]) -> miette::Result<()> {
    let mut curves = Vec::new();
    for run in runs {
        curves.push((run.display().to_string(), curves_of(run)?));
    }
    page.heading("Curves");
    page.row_of_svgs(&drawn(&curves)?);
    for (run, (name, curves)) in runs.iter().zip(&curves) {
        page.heading(name);
        let last = |(name, points): (&String, &Vec<(f64, f64)>)| {
            let (step, value) = points.last().copied()?;
            Some(vec![name.clone(), number(value), format!("{step}")])
        };
        let rows: Vec<Vec<String>> = curves.iter().filter_map(last).collect();
        page.table(&["metric", "last", "step"], &["metric"], &rows);
        let config = run.join("config.toml");
        let text = std::fs::read_to_string(&config)
            .into_diagnostic()
            .wrap_err_with(|| format!("{} is no run: {} cannot be read", name, config.display()))?;
        page.folded("Settings", &text);
        add_samples(page, run)?;
    }
    Ok(())
}

/// Every metric's points by step; unfinished lines of a run that goes on are left out.
fn curves_of(run: &Path) -> miette::Result<Curves> {
    let path = run.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path)
        .into_diagnostic()
        .wrap_err_with(|| format!("{} is no run: {} cannot be read", run.display(), path.display()))?;
    let mut curves = Curves::new();
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Map<String, Value>>(line) else {
            continue;
        };
        let Some(step) = line.get("step").and_then(Value::as_f64) else {
            continue;
        };
        for (name, value) in &line {
            if let Some(value) = value.as_f64().filter(|_| !PLACES.contains(&name.as_str())) {
                curves.entry(name.clone()).or_default().push((step, value));
            }
        }
    }
    if curves.is_empty() {
        return Err(miette!("{} has no metrics yet", path.display()));
    }
    Ok(curves)
}

/// A picture for each metric: all runs' curves, with what evaluations found of the same name.
fn drawn(runs: &[(String, Curves)]) -> miette::Result<Vec<String>> {
    let base = |name: &str| name.strip_prefix("eval_").unwrap_or(name).to_owned();
    let mut pictures: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    for (run, curves) in runs {
        for (name, points) in curves {
            let label = if runs.len() > 1 {
                format!("{run}: {name}")
            } else {
                name.clone()
            };
            pictures.entry(base(name)).or_default().push((label, points.clone()));
        }
    }
    pictures.iter().map(|(name, lines)| lines_svg(name, lines)).collect()
}

/// The newest answers and pictures that a run kept.
fn add_samples(page: &mut Page, run: &Path) -> miette::Result<()> {
    if let Ok(text) = std::fs::read_to_string(run.join("samples.jsonl")) {
        let samples: Vec<Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let newest = samples.iter().rev().take(SAMPLES).rev();
        let cell = |sample: &Value, key: &str| match &sample[key] {
            Value::String(text) => text.clone(),
            Value::Number(value) => value.as_f64().map(number).unwrap_or_default(),
            other => said(other),
        };
        let rows: Vec<Vec<String>> = newest
            .map(|sample| {
                ["step", "score", "kl", "prompt", "response"]
                    .map(|key| cell(sample, key))
                    .to_vec()
            })
            .collect();
        page.subheading("Answers");
        page.table(
            &["step", "score", "kl", "prompt", "response"],
            &["prompt", "response"],
            &rows,
        );
    }
    if let Ok(entries) = std::fs::read_dir(run.join("samples")) {
        let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
        let mut pictures: Vec<PathBuf> = paths
            .filter(|path| path.extension().is_some_and(|extension| extension == "png"))
            .collect();
        pictures.sort();
        if !pictures.is_empty() {
            page.subheading("Samples");
        }
        for picture in pictures.iter().rev().take(PICTURES).rev() {
            let name = picture.file_name().unwrap_or_default().to_string_lossy();
            page.png(picture, &name)?;
        }
    }
    Ok(())
}

/// What the messages of a prompt say.
fn said(prompt: &Value) -> String {
    let messages = prompt["messages"].as_array();
    let contents = messages
        .into_iter()
        .flatten()
        .filter_map(|message| message["content"].as_str());
    contents.collect::<Vec<_>>().join(" / ")
}
