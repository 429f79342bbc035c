//! `posterior convert`.

use std::path::{Path, PathBuf};

use miette::IntoDiagnostic as _;
use nn::weights::{Precision, SHARD_BYTES};
use preference::save::{Card, Saving};
use serde::Serialize;

use super::language::ModelArguments;
use crate::output::Context;

const EXAMPLES: &str = "\
Examples:
  A GGUF file as a directory that transformers opens:
      posterior convert --model SmolLM2-135M-Instruct.Q4_1.gguf --out models/smollm2
  An adapter merged into its model, in half the bytes:
      posterior convert --model runs/lora/model --dtype bf16 --out models/tuned";

/// Write a model as a directory in Hugging Face's format, with its adapter merged into the weights.
///
/// Quantised weights are unpacked. The directory has the weights (safetensors, in shards above --shard-size), the
/// configuration, the tokenizer with its chat template, and a model card.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The directory to write; new or empty.
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
    /// The type of the numbers.
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// Most bytes of a file of weights.
    #[arg(long, value_name = "BYTES", default_value_t = SHARD_BYTES, value_parser = clap::value_parser!(u64).range(1..))]
    shard_size: u64,
}

/// Types of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits, rounded to the nearest.
    Bf16,
}

/// What was written.
#[derive(Serialize)]
struct Document<'a> {
    model: &'a Path,
    parameters: u64,
    merged_adapter: bool,
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let mut model = arguments.model.open(context)?;
    let merged_adapter = model.decoder.lora().is_some();
    if merged_adapter {
        model.decoder = model.decoder.merged();
    }
    let saving = Saving {
        precision: match arguments.dtype {
            Dtype::F32 => Precision::F32,
            Dtype::Bf16 => Precision::Bf16,
        },
        shard_bytes: arguments.shard_size,
        card: Card {
            tags: &[],
            text: format!(
                "{} in Hugging Face's format{}.",
                model.base,
                if merged_adapter {
                    ", with its adapter merged"
                } else {
                    ""
                }
            ),
        },
    };
    model.save(&arguments.out, &saving).into_diagnostic()?;
    let document = Document {
        model: &arguments.out,
        parameters: model.decoder.config().parameters(),
        merged_adapter,
    };
    context.emit(&document, |document| {
        format!(
            "{} parameters{} are in {}",
            document.parameters,
            if document.merged_adapter {
                ", the adapter among them,"
            } else {
                ""
            },
            document.model.display()
        )
    })
}
