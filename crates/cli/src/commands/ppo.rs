//! `posterior ppo`.

use std::time::Duration;

use ::train::run::Run;
use miette::{IntoDiagnostic as _, miette};
use nn::hub::Environment;
use preference::judge::{Judge, Lexicon, Program, RewardModel};
use preference::model::LanguageModel;
use preference::ppo::{Policy, Ppo, PpoConfig, prepare};
use serde::Serialize;

use super::language::with_watch;
use super::training::RunArguments;
use super::tuning::{TuningArguments, Words, begin, open_reference, settings, tune};
use crate::output::Context;

const EXAMPLES: &str = "\
Examples:
  Tune a model to what a reward model likes, its own answers to these prompts being judged:
      posterior ppo --model models/smollm2 --data prompts.jsonl --reward-model runs/reward/model --out runs/ppo
  where a line is {\"prompt\": \"2 + 2 =\"}, text or messages.
  To the valences of words, a line each, with a price of divergence that holds an answer to 6 nats:
      posterior ppo --model models/smollm2 --data prompts.jsonl --reward-lexicon vader_lexicon.txt --kl-target 6 \\
          --kl-coefficient 0.1 --out runs/kind
  To any program, which reads a line of JSON and writes a number for each answer:
      posterior ppo --model models/smollm2 --data prompts.jsonl --reward-program 'python3 judge.py' --lora-rank 16 \\
          --out runs/judged
  Answers compared with the others to the same prompt, without values:
      posterior ppo --model models/smollm2 --data prompts.jsonl --reward-model runs/reward/model \\
          --advantage leave-one-out --samples 8 --out runs/rloo
  Go on after a stop:
      posterior ppo --resume --out runs/ppo";

/// Tune a language model by its own answers and a reward (PPO; leave-one-out and group-relative advantages).
///
/// In each step the model answers some prompts, the answers are judged, and what earned more than expected is made likelier,
/// at a price for every nat of divergence from the reference, which is what the model was before. Answers to one prompt
/// share it in all passes.
///
/// Every flag is also a key of the configuration file, under the same name. The complete configuration is written to
/// config.toml in the run's directory, beside metrics.jsonl, some of the answers in samples.jsonl, TensorBoard events,
/// checkpoints and, at the end, the model.
#[derive(Debug, clap::Args, Serialize)]
#[command(after_help = EXAMPLES)]
#[serde(rename_all = "kebab-case")]
pub struct Arguments {
    #[command(flatten)]
    #[serde(skip)]
    run: RunArguments,

    /// A reward model, as posterior reward makes it.
    #[arg(long, value_name = "MODEL", help_heading = "Reward")]
    reward_model: Option<String>,
    /// Instead, a file with a word and its valence on each line, a tab between them; an answer's reward is the sum s of its
    /// words' valences as s / sqrt(s² + 15).
    #[arg(long, value_name = "FILE", help_heading = "Reward")]
    reward_lexicon: Option<String>,
    /// Instead, a command, started once by sh -c: for each answer it reads {"prompt": .., "response": ".."} on a line and
    /// writes a number on a line.
    #[arg(long, value_name = "COMMAND", help_heading = "Reward")]
    reward_program: Option<String>,
    /// Seconds that the command may take for an answer [default: 60].
    #[arg(long, value_name = "X", help_heading = "Reward")]
    reward_timeout: Option<f64>,
    /// What an answer loses that did not come to its end [default: 1].
    #[arg(long, value_name = "X", help_heading = "Reward")]
    missing_end_penalty: Option<f64>,

    /// Answers to each prompt [default: 4].
    #[arg(long, value_name = "N", help_heading = "Answers")]
    samples: Option<u64>,
    /// Most tokens of an answer [default: 64].
    #[arg(long, value_name = "N", help_heading = "Answers")]
    max_new_tokens: Option<u64>,
    /// Fewest tokens of an answer [default: 0].
    #[arg(long, value_name = "N", help_heading = "Answers")]
    min_new_tokens: Option<u64>,
    /// The temperature at which answers are drawn, and at which all log-probabilities are taken [default: 1].
    #[arg(long, value_name = "X", help_heading = "Answers")]
    temperature: Option<f64>,
    /// Answers that are drawn together [default: 32].
    #[arg(long, value_name = "N", help_heading = "Answers")]
    rollout_batch: Option<u64>,
    /// Steps between answers that are kept in samples.jsonl and shown; 0 for none [default: 10].
    #[arg(long, value_name = "N", help_heading = "Answers")]
    show_every: Option<u64>,
    /// Prompts of such a step whose answers are kept; some are shown [default: 4].
    #[arg(long, value_name = "N", help_heading = "Answers")]
    show_prompts: Option<u64>,

    /// The model to stay close to [default: the weights that training starts from].
    #[arg(long, value_name = "MODEL", help_heading = "Divergence")]
    reference: Option<String>,
    /// The price of a nat of divergence from it, in rewards [default: 0.05].
    #[arg(long, value_name = "X", help_heading = "Divergence")]
    kl_coefficient: Option<f64>,
    /// Steer the price so that an answer's divergence comes near X nats [default: the price is fixed].
    #[arg(long, value_name = "X", help_heading = "Divergence")]
    kl_target: Option<f64>,
    /// Answers over which the price follows [default: 10000].
    #[arg(long, value_name = "N", help_heading = "Divergence")]
    kl_horizon: Option<f64>,
    /// End a step's passes once the policy has moved X nats a token from the one that answered [default: never].
    #[arg(long, value_name = "X", help_heading = "Divergence")]
    stop_divergence: Option<f64>,

    /// What tells good decisions from bad ones: gae (generalised advantages over learned values), leave-one-out (RLOO),
    /// group-relative (GRPO) [default: gae].
    #[arg(long, value_name = "KIND", help_heading = "Updates")]
    advantage: Option<String>,
    /// How much a later reward counts [default: 1].
    #[arg(long, value_name = "X", help_heading = "Updates")]
    discount: Option<f64>,
    /// How far advantages look beyond the value, from 0 to 1 [default: 0.95].
    #[arg(long, value_name = "X", help_heading = "Updates")]
    gae_lambda: Option<f64>,
    /// Give rewards a variance of 1 [default: true with gae].
    #[arg(long, value_name = "BOOL", help_heading = "Updates")]
    whiten_rewards: Option<bool>,
    /// Give advantages a mean of 0 and a variance of 1 [default: true with gae, false otherwise].
    #[arg(long, value_name = "BOOL", help_heading = "Updates")]
    whiten_advantages: Option<bool>,
    /// Passes over the answers of a step [default: 4].
    #[arg(long, value_name = "N", help_heading = "Updates")]
    ppo_epochs: Option<u64>,
    /// Updates of each pass [default: 1].
    #[arg(long, value_name = "N", help_heading = "Updates")]
    minibatches: Option<u64>,
    /// How far a probability may move from the old one, as a share of it, and still gain [default: 0.2].
    #[arg(long, value_name = "X", help_heading = "Updates")]
    clip_range: Option<f64>,
    /// How far a value may move from the old one [default: 0.2].
    #[arg(long, value_name = "X", help_heading = "Updates")]
    value_clip_range: Option<f64>,
    /// What the value's loss counts [default: 0.1].
    #[arg(long, value_name = "X", help_heading = "Updates")]
    value_coefficient: Option<f64>,

    #[command(flatten)]
    #[serde(flatten)]
    tuning: TuningArguments,
}

const WORDS: Words = Words {
    command: "ppo",
    method: "proximal policy optimisation",
    next: "posterior chat",
    may_change: &["show-every", "show-prompts", "reward-timeout", "rollout-batch"],
    shown: &["objective/scores", "objective/kl", "policy/approxkl_avg"],
};

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let config: PpoConfig = settings(&arguments.run, arguments, &WORDS, context)?;
    let judge = open_judge(&config, context)?;
    let training = begin(Policy::new(config, judge), context)?;
    let reference = open_reference(&training, training.config().reference.as_deref(), context)?;
    let prepare = |ppo: &mut Ppo, run: &Run| {
        let done = run.checkpoints().latest().into_diagnostic()?;
        let done = done.map_or(0, |checkpoint| checkpoint.step());
        prepare(ppo, reference, run.directory(), done).into_diagnostic()
    };
    tune(&arguments.run, training, &WORDS, prepare, |_| Ok(()), context)
}

/// What judges, as the settings say; those name one thing.
pub fn open_judge(config: &PpoConfig, context: &Context) -> miette::Result<Judge> {
    if let Some(path) = &config.reward_lexicon {
        return Ok(Judge::Lexicon(Lexicon::open(path).into_diagnostic()?));
    }
    if let Some(command) = &config.reward_program {
        let timeout = Duration::from_secs_f64(config.reward_timeout);
        return Ok(Judge::Program(Program::new(command, timeout)));
    }
    let Some(name) = &config.reward_model else {
        return Err(miette!(
            "answers need a reward: give --reward-model, --reward-lexicon or --reward-program"
        ));
    };
    let model = with_watch(context, |watch| {
        LanguageModel::open(name, &Environment::of_process(), watch, &context.device)
    });
    let model = model.into_diagnostic()?;
    Ok(Judge::Model(Box::new(RewardModel::new(model).into_diagnostic()?)))
}
