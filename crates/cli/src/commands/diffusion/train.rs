//! `posterior diffusion train`.

use std::path::{Path, PathBuf};

use ::train::trainer::{Outcome, Settings};
use diffusion::config::{MAY_CHANGE, TrainConfig};
use diffusion::data::{Shape, ValueRange};
use diffusion::training::Training;
use miette::IntoDiagnostic as _;
use serde::Serialize;

use crate::commands::training::{RunArguments, drive, open_run};
use crate::commands::usage_error;
use crate::output::Context;

const EXAMPLES: &str = "\
Examples:
  Points on two half moons, a minute:
      posterior diffusion train --data points:moons --out runs/moons
  Fashion-MNIST from its gzipped IDX files, with classes:
      posterior diffusion train --data /usr/share/datasets/fashion-mnist --epochs 5 --out runs/fashion
  The same, stopped (Ctrl-C, a crash, a power cut) and continued where it was:
      posterior diffusion train --resume --out runs/fashion
  All settings in a file, one of them overridden:
      posterior diffusion train --config fashion.toml --learning-rate 5e-4 --out runs/fashion-2";

/// Train a denoiser on images or points.
///
/// Every flag is also a key of the configuration file, under the same name; what is not given has a default. The
/// complete configuration is written to config.toml in the run's directory, beside metrics.jsonl, TensorBoard
/// events, checkpoints and, at the end, the model.
#[derive(Debug, clap::Args, Serialize)]
#[command(after_help = EXAMPLES)]
#[serde(rename_all = "kebab-case")]
pub struct Arguments {
    #[command(flatten)]
    #[serde(skip)]
    run: RunArguments,

    /// The data: a folder of images (classes by sub-folder), IDX files or their folder, a .csv or .npy file, `digits`,
    /// or points:NAME (gaussian, mixture, moons, checkerboard, swiss-roll; options as in points:gaussian?std=0.5).
    #[arg(long, value_name = "DATA", help_heading = "Data")]
    data: Option<String>,
    /// Resize and centre-crop the images of a folder to N x N pixels.
    #[arg(long, value_name = "N", help_heading = "Data")]
    image_size: Option<u32>,
    /// Shape of images that stand in rows, as in 1x8x8.
    #[arg(long, value_name = "CxHxW", help_heading = "Data")]
    image_shape: Option<Shape>,
    /// Declared range of the values, as in 0,16.
    #[arg(long, value_name = "LOW,HIGH", help_heading = "Data", allow_hyphen_values = true)]
    range: Option<ValueRange>,
    /// Label column of a CSV file: its name, or `last`.
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    label_column: Option<String>,
    /// How points are scaled: standardize or raw.
    #[arg(long, value_name = "HOW", help_heading = "Data")]
    scaling: Option<String>,
    /// Use N samples only, spread evenly over the data.
    #[arg(long, value_name = "N", help_heading = "Data")]
    limit: Option<u64>,
    /// Keep N samples out of training, to measure it with [default: a tenth, at most 1000].
    #[arg(long, value_name = "N", help_heading = "Data")]
    held_out: Option<u64>,

    /// The network: dit (images) or mlp [default: by the data].
    #[arg(long, value_name = "KIND", help_heading = "Network")]
    network: Option<String>,
    /// Width of the network [default: 192 for dit, 128 for mlp].
    #[arg(long, value_name = "N", help_heading = "Network")]
    hidden_size: Option<u64>,
    /// Blocks or layers [default: 6 for dit, 3 for mlp].
    #[arg(long, value_name = "N", help_heading = "Network")]
    depth: Option<u64>,
    /// Attention heads of dit [default: 4].
    #[arg(long, value_name = "N", help_heading = "Network")]
    heads: Option<u64>,
    /// Side of dit's patches in pixels [default: the smallest that leaves at most 64].
    #[arg(long, value_name = "N", help_heading = "Network")]
    patch_size: Option<u64>,
    /// Inner width of dit's blocks, in widths of the network [default: 4].
    #[arg(long, value_name = "N", help_heading = "Network")]
    mlp_ratio: Option<u64>,
    /// Tell the network the class [default: if the data have labels].
    #[arg(long, value_name = "BOOL", help_heading = "Network")]
    class_conditional: Option<bool>,
    /// Share of examples whose class is hidden, for guidance [default: 0.1].
    #[arg(long, value_name = "SHARE", help_heading = "Network")]
    class_dropout: Option<f64>,

    /// The noise process: ve (t in [0, 1]) or vp (1000 timesteps) [default: vp].
    #[arg(long, value_name = "KIND", help_heading = "Objective")]
    process: Option<String>,
    /// The betas of vp: linear, scaled-linear or cosine [default: linear].
    #[arg(long, value_name = "KIND", help_heading = "Objective")]
    schedule: Option<String>,
    /// Rescale the betas so that the last timestep is pure noise [default: false].
    #[arg(long, value_name = "BOOL", help_heading = "Objective")]
    zero_terminal_snr: Option<bool>,
    /// What the network puts out: x0, epsilon, v or edm [default: edm].
    #[arg(long, value_name = "KIND", help_heading = "Objective")]
    prediction: Option<String>,
    /// Levels trained on: uniform (in the process's time), log-normal or cosine [default: log-normal].
    #[arg(long, value_name = "KIND", help_heading = "Objective")]
    levels: Option<String>,
    /// Mean of ln(sigma) under log-normal levels [default: -0.8].
    #[arg(long, value_name = "X", help_heading = "Objective", allow_negative_numbers = true)]
    log_normal_mean: Option<f64>,
    /// Standard deviation of ln(sigma) under log-normal levels [default: 1.4].
    #[arg(long, value_name = "X", help_heading = "Objective")]
    log_normal_std: Option<f64>,
    /// Weights of errors: plain, min-snr or edm [default: plain].
    #[arg(long, value_name = "KIND", help_heading = "Objective")]
    weighting: Option<String>,
    /// Cap of min-snr weights [default: 5].
    #[arg(long, value_name = "X", help_heading = "Objective")]
    min_snr_gamma: Option<f64>,

    /// Examples per optimiser step [default: 128].
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    batch_size: Option<u64>,
    /// Parts in which a batch goes through the network, to save memory [default: 1].
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    accumulate: Option<u64>,
    /// Passes over the data [default: 10].
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    epochs: Option<u64>,
    /// Optimiser steps, instead of --epochs.
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    max_steps: Option<u64>,
    /// Highest learning rate [default: 1e-3].
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    learning_rate: Option<f64>,
    /// Steps over which the learning rate rises [default: 100].
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    warmup_steps: Option<u64>,
    /// How the learning rate falls: constant, linear or cosine [default: cosine].
    #[arg(long, value_name = "KIND", help_heading = "Optimiser")]
    learning_rate_schedule: Option<String>,
    /// AdamW's weight decay [default: 0.01].
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    weight_decay: Option<f64>,
    /// AdamW's decay of the first moment [default: 0.9].
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    adam_beta1: Option<f64>,
    /// AdamW's decay of the second moment [default: 0.999].
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    adam_beta2: Option<f64>,
    /// AdamW's epsilon [default: 1e-8].
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    adam_epsilon: Option<f64>,
    /// Longest gradient; 0 for no limit [default: 1].
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    max_grad_norm: Option<f64>,
    /// Decay of the averaged weights that are sampled from [default: 0.999].
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    ema_decay: Option<f64>,

    /// Steps between lines of metrics [default: 20].
    #[arg(long, value_name = "N", help_heading = "Run")]
    log_every: Option<u64>,
    /// Steps between evaluations on held-out samples; 0 for none [default: 0].
    #[arg(long, value_name = "N", help_heading = "Run")]
    eval_every: Option<u64>,
    /// Steps between checkpoints; 0 for one at the end only [default: 500].
    #[arg(long, value_name = "N", help_heading = "Run")]
    save_every: Option<u64>,
    /// Newest checkpoints kept [default: 2].
    #[arg(long, value_name = "N", help_heading = "Run")]
    keep: Option<u64>,
}

/// What the command reports.
#[derive(Serialize)]
struct Document<'a> {
    run: &'a Path,
    model: Option<PathBuf>,
    steps: u64,
    finished: bool,
    parameters: usize,
    examples: usize,
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let RunArguments { out, resume, .. } = &arguments.run;
    let mut config: TrainConfig = arguments.run.settings(arguments)?;
    if let Some(seed) = context.seed {
        config.seed = seed;
    }
    if config.data.is_empty() {
        usage_error(
            "diffusion",
            "give the data to train on with --data, or a --config FILE that names them",
        );
    }
    config.check().into_diagnostic()?;
    let (training, outcome) = execute(config, out, *resume, context)?;
    let finished = outcome == Outcome::Finished;
    let document = Document {
        run: out,
        model: finished.then(|| out.join("model")),
        steps: match outcome {
            Outcome::Finished => training.steps(),
            Outcome::Interrupted(steps) => steps,
        },
        finished,
        parameters: training.parameters(),
        examples: training.data().len(),
    };
    context.emit(&document, |document| match &document.model {
        Some(model) => format!(
            "trained {} steps on {} examples; the model is in {}\nnext: posterior diffusion sample --run {} --out samples",
            document.steps,
            document.examples,
            model.display(),
            document.run.display()
        ),
        None => format!(
            "interrupted after {} steps; a checkpoint is saved\nnext: posterior diffusion train --resume --out {}",
            document.steps,
            document.run.display()
        ),
    })
}

/// Trains as `config` says into `out`, with progress; a run that finishes has a model.
pub fn execute(
    config: TrainConfig,
    out: &Path,
    resume: bool,
    context: &Context,
) -> miette::Result<(Training, Outcome)> {
    let settings = Settings {
        steps: 0,
        log_every: config.log_every,
        evaluate_every: Some(config.eval_every).filter(|every| *every > 0),
        save_every: Some(config.save_every).filter(|every| *every > 0),
        keep: config.keep,
        best: None,
    };
    let mut training = Training::new(config.clone(), &context.device).into_diagnostic()?;
    let settings = Settings {
        steps: training.steps(),
        ..settings
    };
    let run = open_run(out, resume, &config, MAY_CHANGE, context)?;
    for note in training.data().notes() {
        context.say(format_args!("{}: {note}", training.data().origin()));
    }
    context.say(format_args!(
        "{} examples of {}, {} held out; {} parameters; {} steps of {}",
        training.data().len(),
        training.data().shape(),
        training.held_out().len(),
        training.parameters(),
        training.steps(),
        config.batch_size,
    ));
    let shown: &[&str] = if config.eval_every > 0 {
        &["loss", "eval_loss"]
    } else {
        &["loss"]
    };
    let outcome = drive(&run, &settings, &mut training, shown, context)?;
    if outcome == Outcome::Finished {
        training.model().save(&run.model_directory()).into_diagnostic()?;
    }
    Ok((training, outcome))
}
