//! One file a command: its arguments, and what it calls.

pub mod audit;
pub mod convert;
pub mod demo;
pub mod diffusion;
pub mod dpo;
pub mod frontier;
pub mod language;
pub mod ppo;
pub mod rank;
pub mod report;
pub mod reward;
pub mod sft;
pub mod solve;
pub mod training;
pub mod tuning;

use clap::CommandFactory as _;

/// Ends the program as clap does when flags are wrong: the message, the command's usage, exit status 2.
pub fn usage_error(command: &str, message: impl std::fmt::Display) -> ! {
    let mut program = crate::Cli::command();
    // Building names the sub-commands in full, for the usage line.
    program.build();
    let kind = clap::error::ErrorKind::ArgumentConflict;
    match program.find_subcommand_mut(command) {
        Some(command) => command.error(kind, message).exit(),
        None => program.error(kind, message).exit(),
    }
}
