//! `posterior diffusion`: train, sample, eval.

mod eval;
mod plan;
pub mod sample;
pub mod train;
pub mod trained;

use clap::Subcommand;

use crate::output::Context;

/// Denoisers for images and points.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(Box<train::Arguments>),
    Sample(Box<sample::Arguments>),
    Eval(Box<eval::Arguments>),
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    match &arguments.command {
        Command::Train(arguments) => train::run(arguments, context),
        Command::Sample(arguments) => sample::run(arguments, context),
        Command::Eval(arguments) => eval::run(arguments, context),
    }
}
