//! `posterior generate`.

use std::collections::HashMap;
use std::path::PathBuf;

use ::train::metrics::Metrics;
use ::train::progress::Progress;
use miette::{IntoDiagnostic as _, miette};
use preference::data::{Conversation, Kind, Message, Row, Rows, Text};
use preference::encode::RowEncoder;
use preference::generate::{Ending, Request, Verdict, generate};
use preference::text::DecodeStream;
use serde::Serialize;

use super::{ChoiceArguments, ModelArguments, WeightsArgument};
use crate::output::{Context, Format};

const EXAMPLES: &str = "\
Examples:
  An answer of an instruct model:
      posterior generate --model SmolLM2-135M-Instruct.Q4_1.gguf --prompt \"What is the capital of France?\"
  Four texts that go on from plain text, the likeliest hundred tokens only:
      posterior generate --model runs/story/model --raw --prompt \"Once upon a time\" --samples 4 --top-k 100
  Answers to many prompts, one JSON object a line:
      posterior generate --model runs/sft/model --prompts prompts.jsonl --format json --batch-size 32 > answers.jsonl";

/// Generate texts.
///
/// A text depends on the seed, its prompt's number and its own; not on the batch size, nor on what else is generated.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The prompt: what the user says, for models with a chat template; plain text otherwise.
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "prompts",
        conflicts_with = "prompts"
    )]
    prompt: Option<String>,
    /// Prompts in a file: JSON Lines or Parquet with the key "prompt" (text or messages), or plain lines in a .txt.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Take prompts as they are, without a chat template.
    #[arg(long)]
    raw: bool,
    /// Texts per prompt.
    #[arg(long, value_name = "K", default_value_t = 1)]
    samples: usize,
    /// Most tokens of a text.
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_new_tokens: usize,
    /// Fewest tokens before a text may end.
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_new_tokens: usize,
    /// Most texts that go through the network at once.
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch_size: usize,
    #[command(flatten)]
    weights: WeightsArgument,
    #[command(flatten)]
    choice: ChoiceArguments,
}

/// One text, as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    prompt: &'a Text,
    text: &'a str,
    token_ids: &'a [u32],
    log_prob: f64,
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let choice = arguments.choice.choice()?;
    let prompts = prompts(arguments)?;
    let precision = arguments.weights.precision(context)?;
    let model = arguments.model.open(context)?;
    let tokenizer = &model.tokenizer;
    let encoder = RowEncoder::new(tokenizer).into_diagnostic()?;
    let talks = !arguments.raw && tokenizer.template_names().next().is_some();
    if arguments.raw && prompts.iter().any(Text::is_messages) {
        return Err(miette!(
            "--raw takes prompts as they are, but some are messages, which only a chat template can write out; give text, or \
             leave --raw out"
        ));
    }
    let as_chat = |prompt: &Text| match prompt {
        Text::Plain(text) if talks => Text::Messages(Conversation::new(vec![Message::new("user", text.as_str())])),
        other => other.clone(),
    };
    let tokens = prompts.iter().map(|prompt| encoder.prompt(&as_chat(prompt)));
    let tokens = tokens.collect::<Result<Vec<_>, _>>().into_diagnostic()?;
    let request = Request {
        choice,
        samples: arguments.samples,
        max_new_tokens: arguments.max_new_tokens,
        min_new_tokens: arguments.min_new_tokens,
        end: tokenizer.end_ids().iter().copied().collect(),
        batch_size: arguments.batch_size,
        seed: context.seed.unwrap_or(0),
        first: 0,
    };

    let mut written: HashMap<(usize, usize), (DecodeStream<'_>, String)> = HashMap::new();
    let mut failure = None;
    let total = (prompts.len() * arguments.samples * arguments.max_new_tokens) as u64;
    let mut progress = if context.quiet {
        Progress::silent()
    } else {
        Progress::on_standard_error()
    }
    .showing(&[])
    .counting("token");
    progress.start(0, total);
    let mut done = 0;
    let decoder = model.decoder.packed(precision);
    let texts = generate(&decoder, &tokens, &request, &mut |text, token| {
        done += 1;
        progress.step(done, &Metrics::new());
        let stream = || (tokenizer.decode_stream(false), String::new());
        let (stream, so_far) = written.entry((text.prompt, text.sample)).or_insert_with(stream);
        match stream.push(token) {
            Ok(more) => so_far.push_str(&more),
            Err(error) => {
                failure = Some(error);
                return Verdict::EndAll;
            }
        }
        match arguments.choice.stops_at(so_far) {
            Some(_) => Verdict::End,
            None => Verdict::Continue,
        }
    })
    .into_diagnostic()?;
    progress.finish();
    if let Some(error) = failure {
        return Err(error).into_diagnostic();
    }
    for text in &texts {
        let mut decoded = String::new();
        if let Some((stream, so_far)) = written.remove(&(text.prompt, text.sample)) {
            decoded = so_far + &stream.finish().into_diagnostic()?;
        }
        let end = match text.ending {
            Ending::Stopped => arguments.choice.stops_at(&decoded),
            Ending::EndToken | Ending::Length => None,
        };
        decoded.truncate(end.unwrap_or(decoded.len()));
        let line = Line {
            prompt: &prompts[text.prompt],
            text: &decoded,
            token_ids: &text.tokens,
            log_prob: text.log_probs.iter().sum(),
        };
        let several = texts.len() > 1;
        context.emit(&line, |line| match (several, context.format) {
            (true, Format::Text) => format!(
                "--- prompt {}, text {}\n{}",
                text.prompt + 1,
                text.sample + 1,
                line.text
            ),
            _ => line.text.to_owned(),
        })?;
    }
    Ok(())
}

fn prompts(arguments: &Arguments) -> miette::Result<Vec<Text>> {
    let mut prompts = Vec::new();
    if let Some(prompt) = &arguments.prompt {
        prompts.push(Text::Plain(prompt.clone()));
    }
    if let Some(path) = &arguments.prompts {
        for row in Rows::open(path, Kind::Prompts).into_diagnostic()? {
            let (place, row) = row.into_diagnostic()?;
            let Row::Prompt { prompt } = row else {
                return Err(miette!("{place}: a prompt is wanted"));
            };
            prompts.push(prompt);
        }
    }
    Ok(prompts)
}
