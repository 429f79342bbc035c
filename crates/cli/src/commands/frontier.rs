//! `posterior frontier`: what policies earn, at what distance from their reference, and the most that can be.

mod runs;
mod world;

use std::path::{Path, PathBuf};

use ::train::files::write_atomic;
use miette::IntoDiagnostic as _;
use preference::world::{Effort, Method};
use serde::Serialize;

pub use self::world::{World, worlds};
use crate::output::Context;
use crate::plot::{PictureFormat, picture_path};

const EXAMPLES: &str = "\
Examples:
  Every method on the world that the program carries, exactly, over five seeds:
      posterior frontier --seeds 5 --plot frontier.png
  Whether rankings or their pairs bring DPO nearer to the best possible:
      posterior frontier --methods dpo-rankings,dpo-pairs --seeds 5
  What tuned models earn by a lexicon, and how far they are from the model that they were:
      posterior frontier runs/dpo runs/ppo --data prompts.jsonl --reward-lexicon vader_lexicon.txt --plot frontier.svg";

/// Expected reward against divergence from the reference, for every method or for given runs.
///
/// Without runs, on a small language that the program carries: all of some fifty thousand remarks are listed, so every
/// policy's reward and divergence and the most that can be earned at that divergence are exact. DPO from rankings and from
/// their pairs, PPO to a learned and to the true reward, fine-tuning on the best and best-of-N are trained there.
///
/// With runs, by answers to prompts, with standard errors.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Runs of dpo, ppo or sft.
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,

    /// Prompts for the runs' models.
    #[arg(long, value_name = "DATA", help_heading = "Of runs", requires = "runs")]
    data: Option<PathBuf>,
    /// A reward model that judges.
    #[arg(long, value_name = "MODEL", help_heading = "Of runs", requires = "runs")]
    reward_model: Option<String>,
    /// Instead, a file of words and their valences.
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Of runs",
        requires = "runs",
        conflicts_with = "reward_model"
    )]
    reward_lexicon: Option<PathBuf>,
    /// Instead, a command that reads a line of JSON and writes a number for each answer.
    #[arg(long, value_name = "COMMAND", help_heading = "Of runs", requires = "runs",
          conflicts_with_all = ["reward_model", "reward_lexicon"])]
    reward_program: Option<String>,
    /// Answers to each prompt.
    #[arg(long, value_name = "N", help_heading = "Of runs", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    samples: u16,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", help_heading = "Of runs", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    max_new_tokens: u16,
    /// What an answer loses that did not come to its end.
    #[arg(long, value_name = "X", help_heading = "Of runs", default_value_t = 0.0)]
    missing_end_penalty: f64,

    /// What is studied, as in dpo-rankings,best-of; the reward model is trained for ppo-learned alone.
    #[arg(long, value_name = "METHODS", help_heading = "Of the world", value_delimiter = ',', default_values_t = Method::ALL,
          conflicts_with = "runs")]
    methods: Vec<Method>,
    /// Worlds, each with a reference, labels and a reward model of its own.
    #[arg(long, value_name = "N", help_heading = "Of the world", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..),
          conflicts_with = "runs")]
    seeds: u16,
    /// Rankings of four remarks that a world has.
    #[arg(long, value_name = "N", help_heading = "Of the world", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..),
          conflicts_with = "runs")]
    labels: u32,
    /// Passes over them by the reward model and by DPO, 64 rankings or pairs a step.
    #[arg(long, value_name = "N", help_heading = "Of the world", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..),
          conflicts_with = "runs")]
    epochs: u32,
    /// Steps of PPO, of 192 remarks each.
    #[arg(long, value_name = "N", help_heading = "Of the world", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..),
          conflicts_with = "runs")]
    ppo_steps: u32,

    /// Draw rewards against divergence into a .png or .svg file.
    #[arg(long, value_name = "FILE", value_parser = picture_path)]
    plot: Option<(PathBuf, PictureFormat)>,
    /// Write the JSON answer into a file, too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Arguments {
    fn effort(&self) -> Effort {
        Effort {
            labels: self.labels as usize,
            epochs: u64::from(self.epochs),
            ppo_steps: u64::from(self.ppo_steps),
            ..Effort::default()
        }
    }

    /// What is studied, each once, in the order of [`Method::ALL`].
    fn methods(&self) -> Vec<Method> {
        let asked = |method: &Method| self.methods.contains(method);
        Method::ALL.into_iter().filter(asked).collect()
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    if arguments.runs.is_empty() {
        return world::run(arguments, context);
    }
    runs::run(arguments, context)
}

fn write(path: Option<&Path>, document: &impl Serialize) -> miette::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_vec_pretty(document).into_diagnostic()?;
    write_atomic(path, &text).into_diagnostic()
}
