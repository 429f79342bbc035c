//! `posterior dpo`.

use ::train::run::Run;
use miette::IntoDiagnostic as _;
use nn::hub::Environment;
use preference::dpo::{Dpo, DpoConfig, Preferences, prepare};
use serde::Serialize;

use super::training::{RunArguments, progress};
use super::tuning::{TuningArguments, Words, begin, open_reference, settings, tune};
use crate::output::Context;

const EXAMPLES: &str = "\
Examples:
  Tune a model to pairs of responses:
      posterior dpo --model SmolLM2-135M-Instruct.Q4_1.gguf --data prefs.jsonl --out runs/x
  where a line is {\"prompt\": \"2 + 2 =\", \"chosen\": \" 4\", \"rejected\": \" 5\"}, or a ranking of any number:
      {\"prompt\": \"2 + 2 =\", \"completions\": [{\"rank\": 1, \"completion\": \" 4\"}, {\"rank\": 2, \"completion\": \" 5\"},
       {\"rank\": 2, \"completion\": \" 3\"}]}; equal ranks are ties, pairs and rankings may be mixed.
  With low-rank adapters, held-out pairs and the best checkpoint:
      posterior dpo --model models/smollm2 --data prefs.jsonl --lora-rank 16 --beta 0.1 --held-out 100 --eval-every 25 \\
          --save-every 25 --best true --out runs/x
  Only the best response of each ranking, against all others:
      posterior dpo --model models/smollm2 --data rankings.jsonl --places 1 --out runs/best
  Go on after a stop:
      posterior dpo --resume --out runs/x";

/// Tune a language model to preferences (DPO; rankings by Plackett-Luce).
///
/// A response's score is beta times its log-probability under the model over that under the reference, which is what the
/// model was before: its log-probabilities are worked out once, before the first step, and kept in the run. Prompts go
/// through the network once for all their responses.
///
/// Every flag is also a key of the configuration file, under the same name. The complete configuration is written to
/// config.toml in the run's directory, beside metrics.jsonl, TensorBoard events, checkpoints and, at the end, the model.
#[derive(Debug, clap::Args, Serialize)]
#[command(after_help = EXAMPLES)]
#[serde(rename_all = "kebab-case")]
pub struct Arguments {
    #[command(flatten)]
    #[serde(skip)]
    run: RunArguments,

    /// How much a nat of difference from the reference counts; high keeps the model close to it [default: 0.1].
    #[arg(long, value_name = "X", help_heading = "Preferences")]
    beta: Option<f64>,
    /// The loss of a pair: sigmoid (Bradley-Terry), sigmoid-norm, robust, hinge, ipo, exo-pair, nca-pair, sppo-hard,
    /// apo-zero, apo-down, discopop [default: sigmoid]. Rankings of more have sigmoid's extension, Plackett-Luce.
    #[arg(long, value_name = "LOSS", help_heading = "Preferences")]
    loss: Option<String>,
    /// Share of pairs whose label is wrong, for sigmoid, robust and exo-pair [default: 0].
    #[arg(long, value_name = "SHARE", help_heading = "Preferences")]
    label_smoothing: Option<f64>,
    /// How many places of a ranking are learned, from the best on: 1 is the best against all others [default: all].
    #[arg(long, value_name = "N", help_heading = "Preferences")]
    places: Option<u64>,
    /// The model to stay close to [default: the weights that training starts from].
    #[arg(long, value_name = "MODEL", help_heading = "Preferences")]
    reference: Option<String>,
    /// Work the reference's log-probabilities out before the first step and keep them in the run; false keeps the
    /// reference in memory and works them out in each step [default: true].
    #[arg(long, value_name = "BOOL", help_heading = "Preferences")]
    precompute: Option<bool>,
    /// Let a prompt go through the network once for all its responses; false gives the same up to rounding, and takes
    /// longer [default: true].
    #[arg(long, value_name = "BOOL", help_heading = "Preferences")]
    share_prompts: Option<bool>,

    /// Held-out prompts that are answered at each evaluation, to estimate how far the model is from the reference
    /// [default: 16].
    #[arg(long, value_name = "N", help_heading = "Preferences")]
    kl_prompts: Option<u64>,
    /// Most tokens of such an answer [default: 64].
    #[arg(long, value_name = "N", help_heading = "Preferences")]
    kl_max_new_tokens: Option<u64>,

    #[command(flatten)]
    #[serde(flatten)]
    tuning: TuningArguments,
}

const WORDS: Words = Words {
    command: "dpo",
    method: "direct preference optimisation",
    next: "posterior chat",
    may_change: &["precompute", "share-prompts", "kl-prompts", "kl-max-new-tokens"],
    shown: &["rewards/accuracies", "rewards/margins", "kl"],
};

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let config: DpoConfig = settings(&arguments.run, arguments, &WORDS, context)?;
    let training = begin(Preferences::new(config, Environment::of_process()), context)?;
    let reference = open_reference(&training, training.config().reference.as_deref(), context)?;
    let prepare = |dpo: &mut Dpo, run: &Run| {
        let mut progress = progress(context).counting("reference example");
        let prepared = prepare(dpo, &reference, run.directory(), &mut progress).into_diagnostic()?;
        // Where it was another model, its memory is free again.
        drop(reference);
        if !dpo.config().precompute {
            return Ok(());
        }
        context.say(format_args!(
            "the reference's log-probabilities: {} examples worked out, {} found in the run",
            prepared.computed, prepared.reused
        ));
        Ok(())
    };
    tune(&arguments.run, training, &WORDS, prepare, |_| Ok(()), context)
}
