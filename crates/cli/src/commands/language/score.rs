//! `posterior score`.

use std::path::PathBuf;

use miette::{IntoDiagnostic as _, WrapErr as _};
use preference::data::{Kind, Rows, Text};
use preference::score::log_probs;
use preference::text::Ranked;
use serde::Serialize;
use serde_json::Value;

use super::{encoder, messages, open, template_input};
use crate::output::{Context, number};

const EXAMPLES: &str = "\
Examples:
  Log-probabilities of given responses, one JSON object a line:
      posterior score --model SmolLM2-135M-Instruct.Q4_1.gguf --data responses.jsonl --format json
  where a line is {\"prompt\": \"2 + 2 =\", \"responses\": [\" 4\", \" 5\"]}; pairs and rankings are taken, too.";

/// Log-probabilities of given responses.
///
/// The log-probability of a response is the sum over its tokens, the end token included and the prompt excluded. A prompt
/// is read once for all its responses.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A directory in Hugging Face's format, a .gguf file, or org/name.
    #[arg(long, value_name = "MODEL")]
    model: String,
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
    log_prob: f64,
    tokens: usize,
    reward: Option<f64>,
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let rows = Rows::open(&arguments.data, Kind::Score).into_diagnostic()?;
    let model = open(&arguments.model, context)?;
    let encoder = encoder(&model.tokenizer)?;
    for row in rows {
        let (place, row) = row.into_diagnostic()?;
        let prompt = row.prompt().cloned().unwrap_or_else(|| Text::Plain(String::new()));
        let encoded = encode(&encoder, &prompt, &row.responses()).wrap_err_with(|| place.to_string())?;
        let sums = log_probs(&model.decoder, &encoded.prompt, &encoded.responses)
            .into_diagnostic()
            .wrap_err_with(|| place.to_string())?;
        let scored = sums.iter().zip(&encoded.responses).map(|(log_probs, response)| Scored {
            log_prob: log_probs.iter().sum(),
            tokens: response.len(),
            reward: None,
        });
        let line = Line {
            responses: scored.collect(),
        };
        context.emit(&line, |line| {
            let one = |scored: &Scored| format!("{} ({} tokens)", number(scored.log_prob), scored.tokens);
            line.responses.iter().map(one).collect::<Vec<_>>().join("  ")
        })?;
    }
    Ok(())
}

/// A prompt and its responses in tokens, each response with its end token.
pub fn encode(encoder: &preference::text::Encoder<'_>, prompt: &Text, responses: &[&Text]) -> miette::Result<Ranked> {
    match prompt {
        Text::Plain(prompt) => {
            let texts = responses.iter().map(|response| match response {
                Text::Plain(text) => text.clone(),
                Text::Messages(conversation) => conversation.messages.iter().map(|message| message.content()).collect(),
            });
            let texts: Vec<String> = texts.collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            encoder.completions(prompt, &texts).into_diagnostic()
        }
        Text::Messages(conversation) => {
            let prompt_messages = messages(conversation);
            let answers = responses.iter().map(|response| match response {
                Text::Plain(text) => vec![serde_json::json!({ "role": "assistant", "content": text })],
                Text::Messages(answer) => messages(answer),
            });
            let answers: Vec<Vec<Value>> = answers.collect();
            let answers: Vec<&[Value]> = answers.iter().map(Vec::as_slice).collect();
            encoder
                .chats(&template_input(conversation, &prompt_messages), &answers)
                .into_diagnostic()
        }
    }
}
