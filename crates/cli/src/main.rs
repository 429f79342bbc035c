//! The program `posterior`: arguments in, the library crates called, words and files out.

mod commands;
mod output;

use clap::{Parser, Subcommand};

use output::{Context, Format};

/// Train, sample and align generative models, and know exactly how wrong the sampler is.
#[derive(Debug, Parser)]
#[command(name = "posterior", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options every command takes.
#[derive(Debug, clap::Args)]
struct Global {
    /// What standard output carries: text for people, or one JSON document and nothing else.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Print less: errors only (progress goes too).
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let context = Context::new(cli.global.format, cli.global.quiet, cli.global.verbose);
    let result: miette::Result<()> = match cli.command {};
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(report) => {
            eprintln!("{report:?}");
            std::process::ExitCode::FAILURE
        }
    }
}
