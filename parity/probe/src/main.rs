//! The parity suite's view into the library: one JSON request a line on standard input, one JSON answer a line on
//! standard output.
//!
//! A request names its kind under `"request"`; the answer is `{"ok": ...}` or `{"error": "..."}`. The Python side
//! computes the same numbers with a peer's code. Nothing here computes anything itself: every number comes from the
//! function that the program calls.

mod decoder;
mod network;
mod optimizer;
mod plan;
mod schedule;
mod text;
mod training;

use std::error::Error;
use std::io::{self, BufRead as _, Write as _};

use serde::Deserialize;
use serde_json::{Value, json};

/// Everything that can be asked.
#[derive(Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
#[expect(clippy::large_enum_variant, reason = "one request a process")]
enum Request {
    Levels(schedule::Levels),
    Forward(schedule::Forward),
    Convert(schedule::Convert),
    LearningRate(schedule::LearningRate),
    Plan(plan::RunPlan),
    Start(plan::Start),
    Optimize(optimizer::Optimize),
    Network(network::Evaluate),
    Train(training::Train),
    Logits(decoder::Logits),
    Greedy(decoder::Greedy),
    Rewrite(decoder::Rewrite),
    Tokenize(text::Tokenize),
    Render(text::Render),
    Rows(text::Rows),
    GgufConfig(text::GgufConfig),
    GgufTensor(text::GgufTensor),
}

/// What a request is answered with.
type Answer = Result<Value, Box<dyn Error>>;

fn answer(line: &str) -> Answer {
    match serde_json::from_str(line)? {
        Request::Levels(request) => request.answer(),
        Request::Forward(request) => request.answer(),
        Request::Convert(request) => request.answer(),
        Request::LearningRate(request) => request.answer(),
        Request::Plan(request) => request.answer(),
        Request::Start(request) => request.answer(),
        Request::Optimize(request) => request.answer(),
        Request::Network(request) => request.answer(),
        Request::Train(request) => request.answer(),
        Request::Logits(request) => request.answer(),
        Request::Greedy(request) => request.answer(),
        Request::Rewrite(request) => request.answer(),
        Request::Tokenize(request) => request.answer(),
        Request::Render(request) => request.answer(),
        Request::Rows(request) => request.answer(),
        Request::GgufConfig(request) => request.answer(),
        Request::GgufTensor(request) => request.answer(),
    }
}

fn main() -> io::Result<()> {
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let answer = match answer(&line?) {
            Ok(value) => json!({ "ok": value }),
            Err(error) => json!({ "error": chain(error.as_ref()) }),
        };
        serde_json::to_writer(&mut output, &answer)?;
        writeln!(output)?;
        output.flush()?;
    }
    Ok(())
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
