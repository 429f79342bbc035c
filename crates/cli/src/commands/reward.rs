//! `posterior reward`.

use ::train::run::Run;
use miette::IntoDiagnostic as _;
use preference::reward::{Responses, RewardConfig, RewardTraining, Rewards, normalize, normalize_over};
use serde::Serialize;

use super::training::RunArguments;
use super::tuning::{TuningArguments, Words, begin, settings, tune};
use crate::output::Context;

const EXAMPLES: &str = "\
Examples:
  A reward model from pairs, evaluated on some of them:
      posterior reward --model models/smollm2 --data prefs.jsonl --held-out 100 --eval-every 25 --out runs/reward
  The rewards of given responses:
      posterior score --model runs/reward/model --data responses.jsonl
  From rankings, with low-rank adapters, and rewards of variance 1:
      posterior reward --model models/smollm2 --data rankings.jsonl --lora-rank 16 --normalize variance --out runs/ranks
  Rewards of mean 0 over what a policy answers:
      posterior reward --model models/smollm2 --data prefs.jsonl --normalize-data answers.jsonl --out runs/reward";

/// Train a reward model from preferences.
///
/// The model's head gives way to one number, read at the last token of a response, its end token. Pairs have the
/// likelihood of Bradley and Terry, rankings that of Plackett and Luce. After training the rewards are shifted to mean 0
/// over the responses of the data, or of --normalize-data; the shift is in reward.json beside the weights, which
/// transformers opens as a model for sequence classification.
#[derive(Debug, clap::Args, Serialize)]
#[command(after_help = EXAMPLES)]
#[serde(rename_all = "kebab-case")]
pub struct Arguments {
    #[command(flatten)]
    #[serde(skip)]
    run: RunArguments,

    /// Share of pairs whose label is wrong [default: 0].
    #[arg(long, value_name = "SHARE", help_heading = "Preferences")]
    label_smoothing: Option<f64>,
    /// How many places of a ranking are learned, from the best on: 1 is the best against all others [default: all].
    #[arg(long, value_name = "N", help_heading = "Preferences")]
    places: Option<u64>,
    /// How much the square of twice a prompt's mean score counts in the loss, which keeps scores around 0 [default: 0].
    #[arg(long, value_name = "X", help_heading = "Preferences")]
    center: Option<f64>,
    /// What becomes of the scores after training: mean (0 over the responses of the data), variance (1, too), nothing
    /// [default: mean].
    #[arg(long, value_name = "HOW", help_heading = "Preferences")]
    normalize: Option<String>,
    /// Responses over which that is, in place of those of the data: the answers of the policy that the rewards are for. Rows
    /// have prompt with completion or responses, or messages; pairs and rankings are taken, too.
    #[arg(long, value_name = "FILE", help_heading = "Preferences")]
    normalize_data: Option<String>,

    #[command(flatten)]
    #[serde(flatten)]
    tuning: TuningArguments,
}

const WORDS: Words = Words {
    command: "reward",
    method: "the likelihood of comparisons",
    next: "posterior score --data FILE",
    may_change: &["normalize", "normalize-data"],
    shown: &["accuracy", "margin"],
};

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let config: RewardConfig = settings(&arguments.run, arguments, &WORDS, context)?;
    let training = begin(Rewards::new(config), context)?;
    // Read before training, so that what is wrong with them is known now.
    let path = training.config().normalize_data.as_deref();
    let responses = path.map(|path| Responses::open(&training, path)).transpose();
    let responses = responses.into_diagnostic()?;
    let prepare = |_: &mut RewardTraining, _: &Run| {
        for note in responses.iter().flat_map(Responses::notes) {
            context.say(note);
        }
        Ok(())
    };
    let complete = |training: &mut RewardTraining| match &responses {
        Some(responses) => {
            normalize_over(training, responses);
            Ok(())
        }
        None => normalize(training).into_diagnostic(),
    };
    tune(&arguments.run, training, &WORDS, prepare, complete, context)
}
