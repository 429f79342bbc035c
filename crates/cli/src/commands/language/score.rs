//! `posterior score`.

use std::path::PathBuf;

use miette::{IntoDiagnostic as _, WrapErr as _};
use preference::data::{Kind, Rows, Text};
use preference::encode::RowEncoder;
use preference::score::{Score, scores};
use serde::Serialize;

use super::ModelArguments;
use crate::output::{Context, number};

const EXAMPLES: &str = "\
Examples:
  Log-probabilities of given responses, one JSON object a line:
      posterior score --model SmolLM2-135M-Instruct.Q4_1.gguf --data responses.jsonl --format json
  where a line is {\"prompt\": \"2 + 2 =\", \"responses\": [\" 4\", \" 5\"]}; pairs, rankings and messages are taken, too.";

/// Log-probabilities or rewards of given responses.
///
/// A language model gives log-probabilities, a reward model rewards. The log-probability of a response is the sum over its tokens, the end token included and the prompt excluded. A prompt
/// is read once for all its responses.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Prompts with responses: JSON Lines or Parquet.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
}

/// What is known of one prompt's responses.
#[derive(Serialize)]
struct Line {
    responses: Vec<Scored>,
}

/// One response.
#[derive(Serialize)]
struct Scored {
    log_prob: Option<f64>,
    tokens: usize,
    reward: Option<f64>,
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let rows = Rows::open(&arguments.data, Kind::Score).into_diagnostic()?;
    let model = arguments.model.open(context)?;
    let encoder = RowEncoder::new(&model.tokenizer).into_diagnostic()?;
    for row in rows {
        let (place, row) = row.into_diagnostic()?;
        let prompt = row.prompt().cloned().unwrap_or_else(|| Text::Plain(String::new()));
        let encoded = encoder
            .responses(&prompt, &row.responses())
            .into_diagnostic()
            .wrap_err_with(|| place.to_string())?;
        let found = scores(&model, &encoded)
            .into_diagnostic()
            .wrap_err_with(|| place.to_string())?;
        let scored = found
            .into_iter()
            .zip(&encoded.responses)
            .map(|(score, response)| Scored {
                log_prob: match score {
                    Score::LogProb(log_prob) => Some(log_prob),
                    Score::Reward(_) => None,
                },
                tokens: response.len(),
                reward: match score {
                    Score::LogProb(_) => None,
                    Score::Reward(reward) => Some(reward),
                },
            });
        let line = Line {
            responses: scored.collect(),
        };
        context.emit(&line, |line| {
            let one = |scored: &Scored| {
                let score = scored.log_prob.or(scored.reward).map_or(String::new(), number);
                format!("{score} ({} tokens)", scored.tokens)
            };
            line.responses.iter().map(one).collect::<Vec<_>>().join("  ")
        })?;
    }
    Ok(())
}
