//! `posterior sft`.

use preference::sft::{Completions, SftConfig};
use serde::Serialize;

use super::training::RunArguments;
use super::tuning::{TuningArguments, Words, begin, settings, tune};
use crate::output::Context;

const EXAMPLES: &str = "\
Examples:
  Tune a model to prompts and completions, with low-rank adapters:
      posterior sft --model SmolLM2-135M-Instruct.Q4_1.gguf --data answers.jsonl --lora-rank 16 --out runs/answers
  Talk with the result:
      posterior chat --model runs/answers/model
  All weights, 16,384 tokens a step in parts of 4,096, evaluated and with the best checkpoint kept:
      posterior sft --model models/smollm2 --data chats.parquet --batch-tokens 16384 --micro-batch-tokens 4096 \\
          --held-out 200 --eval-every 50 --save-every 50 --best true --out runs/chats
  The same, stopped (Ctrl-C, a crash, a power cut) and continued where it was:
      posterior sft --resume --out runs/chats";

/// Tune a language model to examples (supervised fine-tuning).
///
/// The data are JSON Lines, JSON or Parquet with "prompt" and "completion" (text or messages), "messages", or
/// "text"; `posterior inspect DATA --model MODEL` shows which tokens are learned. Sequences are never padded, and never
/// see each other.
///
/// Every flag is also a key of the configuration file, under the same name; what is not given has a default. The complete
/// configuration is written to config.toml in the run's directory, beside metrics.jsonl, TensorBoard events, checkpoints
/// and, at the end, the model: a directory that transformers opens, or PEFT if it is an adapter.
#[derive(Debug, clap::Args, Serialize)]
#[command(after_help = EXAMPLES)]
#[serde(rename_all = "kebab-case")]
pub struct Arguments {
    #[command(flatten)]
    #[serde(skip)]
    run: RunArguments,

    /// What is learned: completion (and every answer of the assistant), last-answer, everything [default: completion].
    #[arg(long, value_name = "WHAT", help_heading = "Data")]
    train_on: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    tuning: TuningArguments,
}

const WORDS: Words = Words {
    command: "sft",
    method: "supervised fine-tuning",
    next: "posterior chat",
    may_change: &[],
    shown: &[],
};

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let config: SftConfig = settings(&arguments.run, arguments, &WORDS, context)?;
    let training = begin(Completions::new(config), context)?;
    tune(&arguments.run, training, &WORDS, |_, _| Ok(()), |_| Ok(()), context)
}
