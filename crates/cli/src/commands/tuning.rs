//! What `posterior sft`, `reward`, `dpo` and `ppo` share: arguments, the run, the model at the end.

use std::path::{Path, PathBuf};

use ::train::run::Run;
use ::train::trainer::{Best, Outcome, Settings};
use miette::IntoDiagnostic as _;
use nn::decoder::Decoder;
use nn::hub::Environment;
use nn::weights::SHARD_BYTES;
use preference::save::{Card, Saving};
use preference::tuning::config::{MAY_CHANGE, TrainerConfig};
use preference::tuning::{Objective, Tuner, reference};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::language::with_watch;
use super::training::{RunArguments, drive, open_run};
use super::usage_error;
use crate::output::Context;

/// The settings that all of them have.
#[derive(Debug, clap::Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TuningArguments {
    /// The model to tune: a directory in Hugging Face's format, a .gguf file, org/name, or the directory of an adapter to
    /// train on.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// The examples: a file or a folder.
    #[arg(long, value_name = "DATA", help_heading = "Data")]
    data: Option<String>,
    /// Examples to evaluate on.
    #[arg(long, value_name = "DATA", help_heading = "Data")]
    eval_data: Option<String>,
    /// Keep N examples out of training, to evaluate on.
    #[arg(long, value_name = "N", help_heading = "Data")]
    held_out: Option<u64>,
    /// Use the first N examples only.
    #[arg(long, value_name = "N", help_heading = "Data")]
    limit: Option<u64>,
    /// Most tokens of an example [default: 1024].
    #[arg(long, value_name = "N", help_heading = "Data")]
    max_length: Option<u64>,
    /// What becomes of longer ones: start (keep the start), start-and-end (with the end token), completion (cut the
    /// prompt instead), leave-out [default: start for sft, completion for reward and
    /// dpo, leave-out for ppo].
    #[arg(long, value_name = "HOW", help_heading = "Data")]
    truncation: Option<String>,
    /// Learn the white space that a chat template puts after an answer's end token, as TRL does [default: false].
    #[arg(long, value_name = "BOOL", help_heading = "Data")]
    keep_trailing_text: Option<bool>,
    /// Give each epoch an order of its own [default: true].
    #[arg(long, value_name = "BOOL", help_heading = "Data")]
    shuffle: Option<bool>,

    /// Rank of low-rank adapters; 0 trains all weights [default: 0].
    #[arg(long, value_name = "N", help_heading = "Adapters")]
    lora_rank: Option<u64>,
    /// Their change is scaled by X over the rank [default: twice the rank].
    #[arg(long, value_name = "X", help_heading = "Adapters")]
    lora_alpha: Option<f64>,
    /// Share of a layer's inputs that its adapter does not see [default: 0].
    #[arg(long, value_name = "SHARE", help_heading = "Adapters")]
    lora_dropout: Option<f64>,
    /// Scale by alpha over the root of the rank [default: false].
    #[arg(long, value_name = "BOOL", help_heading = "Adapters")]
    lora_rslora: Option<bool>,
    /// Layers that are adapted, as in q_proj,v_proj; all-linear for all of the blocks [default: all-linear].
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "Adapters")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lora_target_modules: Option<Vec<String>>,
    /// Layers that are trained whole beside the adapters, as in lm_head,embed_tokens.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "Adapters")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lora_modules_to_save: Option<Vec<String>>,

    /// Examples per optimiser step [default: 8].
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    batch_size: Option<u64>,
    /// Tokens per optimiser step, instead: as many examples as fit.
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    batch_tokens: Option<u64>,
    /// Parts in which a step goes through the network, to save memory [default: 1].
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    accumulate: Option<u64>,
    /// Tokens per part, instead.
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    micro_batch_tokens: Option<u64>,
    /// Passes over the data [default: 1].
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    epochs: Option<u64>,
    /// Optimiser steps, instead of --epochs.
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    max_steps: Option<u64>,
    /// Highest learning rate [default: 2e-5 for sft, 1e-5 for reward, 1e-6 for dpo, 3e-6 for ppo; ten
    /// times that for adapters].
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    learning_rate: Option<f64>,
    /// Steps over which the learning rate rises [default: 0].
    #[arg(long, value_name = "N", help_heading = "Optimiser")]
    warmup_steps: Option<u64>,
    /// How the learning rate falls: constant, linear or cosine [default: linear].
    #[arg(long, value_name = "KIND", help_heading = "Optimiser")]
    learning_rate_schedule: Option<String>,
    /// AdamW's weight decay, of matrices only [default: 0].
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    weight_decay: Option<f64>,
    /// AdamW's decay of the first moment [default: 0.9].
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    adam_beta1: Option<f64>,
    /// AdamW's decay of the second moment [default: 0.999].
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    adam_beta2: Option<f64>,
    /// AdamW's epsilon [default: 1e-8, 1e-5 for ppo].
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    adam_epsilon: Option<f64>,
    /// Longest gradient; 0 for no limit [default: 1].
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    max_grad_norm: Option<f64>,
    /// Work activations out again on the way back instead of keeping them: one forward pass more, much less memory
    /// [default: false].
    #[arg(long, value_name = "BOOL", help_heading = "Optimiser")]
    recompute: Option<bool>,

    /// Steps between lines of metrics [default: 10].
    #[arg(long, value_name = "N", help_heading = "Run")]
    log_every: Option<u64>,
    /// Steps between evaluations; 0 for none [default: 0].
    #[arg(long, value_name = "N", help_heading = "Run")]
    eval_every: Option<u64>,
    /// Steps between checkpoints; 0 for one at the end only [default: 500].
    #[arg(long, value_name = "N", help_heading = "Run")]
    save_every: Option<u64>,
    /// Newest checkpoints kept [default: 2].
    #[arg(long, value_name = "N", help_heading = "Run")]
    keep: Option<u64>,
    /// Keep the checkpoint with the lowest eval_loss, too, and make the model of it [default: false].
    #[arg(long, value_name = "BOOL", help_heading = "Run")]
    best: Option<bool>,
    /// The type of numbers of a model that was tuned whole, in its files: f32 or bf16 [default: f32].
    #[arg(long, value_name = "TYPE", help_heading = "Run")]
    save_dtype: Option<String>,
}

/// What a command says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// Its name.
    pub command: &'static str,
    /// How a model card says what was done.
    pub method: &'static str,
    /// What to do with the model.
    pub next: &'static str,
    /// Settings of its own that may change when a run is resumed.
    pub may_change: &'static [&'static str],
    /// Metrics that are shown as it goes, beside the loss.
    pub shown: &'static [&'static str],
}

/// What a command reports.
#[derive(Serialize)]
struct Document<'a> {
    run: &'a Path,
    model: Option<PathBuf>,
    steps: u64,
    finished: bool,
    best_step: Option<u64>,
    examples: usize,
    trained_parameters: usize,
}

/// The settings of files and flags, checked.
pub fn settings<C: TrainerConfig + Serialize + DeserializeOwned>(
    run: &RunArguments,
    flags: &impl Serialize,
    words: &Words,
    context: &Context,
) -> miette::Result<C> {
    let mut config: C = run.settings(flags)?;
    if let Some(seed) = context.seed {
        config.tuning_mut().seed = seed;
    }
    let tuning = config.tuning();
    for (flag, value) in [("--model", &tuning.model), ("--data", &tuning.data)] {
        if value.is_empty() {
            usage_error(
                words.command,
                format_args!("give {flag}, or a --config FILE that has it"),
            );
        }
    }
    config.check().into_diagnostic()?;
    Ok(config)
}

/// Opens model and data.
pub fn begin<O: Objective>(objective: O, context: &Context) -> miette::Result<Tuner<O>> {
    let environment = Environment::of_process();
    let begun = with_watch(context, |watch| {
        Tuner::new(objective, &environment, watch, &context.device)
    });
    begun.into_diagnostic()
}

/// Opens what the tuned model stays close to: the model of this name, or the weights that training starts from.
pub fn open_reference<O: Objective>(
    training: &Tuner<O>,
    name: Option<&str>,
    context: &Context,
) -> miette::Result<Decoder> {
    let environment = Environment::of_process();
    with_watch(context, |watch| reference(training, name, &environment, watch)).into_diagnostic()
}

/// Makes the run, prepares it, trains to the end, or until it is interrupted, completes the model and writes it.
pub fn tune<O: Objective<Config: Serialize>>(
    run: &RunArguments,
    mut training: Tuner<O>,
    words: &Words,
    prepare: impl FnOnce(&mut Tuner<O>, &Run) -> miette::Result<()>,
    complete: impl FnOnce(&mut Tuner<O>) -> miette::Result<()>,
    context: &Context,
) -> miette::Result<()> {
    let RunArguments { out, resume, .. } = run;
    let may_change = [MAY_CHANGE, words.may_change].concat();
    let run = open_run(out, *resume, training.config(), &may_change, context)?;
    for note in training.notes() {
        context.say(note);
    }
    let counts = training.examples().counts();
    let (trained, all) = training.parameters();
    context.say(format_args!(
        "{} examples of {} tokens, {} of them learned; {trained} of {all} parameters are trained; {} steps",
        training.examples().len(),
        counts.tokens,
        counts.learned_tokens,
        training.steps(),
    ));
    prepare(&mut training, &run)?;
    let config = training.config().tuning().clone();
    let settings = Settings {
        steps: training.steps(),
        log_every: config.log_every,
        evaluate_every: Some(config.eval_every).filter(|every| *every > 0),
        save_every: Some(config.save_every).filter(|every| *every > 0),
        keep: config.keep,
        best: config.best.then(|| Best {
            metric: O::BEST.0.to_owned(),
            better: O::BEST.1,
        }),
    };
    let mut shown = vec!["loss"];
    shown.extend(words.shown);
    if config.eval_every > 0 {
        shown.push(O::BEST.0);
    }
    let outcome = drive(&run, &settings, &mut training, &shown, context)?;
    let finished = outcome == Outcome::Finished;
    let best_step = if finished {
        finish(&run, &mut training, words, complete)?
    } else {
        None
    };
    let document = Document {
        run: out,
        model: finished.then(|| run.model_directory()),
        steps: match outcome {
            Outcome::Finished => training.steps(),
            Outcome::Interrupted(steps) => steps,
        },
        finished,
        best_step,
        examples: training.examples().len(),
        trained_parameters: trained,
    };
    context.emit(&document, |document| match &document.model {
        Some(model) => format!(
            "trained {} steps on {} examples; the model{} is in {}\nnext: {} --model {}",
            document.steps,
            document.examples,
            document
                .best_step
                .map_or(String::new(), |step| format!(" of step {step}, the best,")),
            model.display(),
            words.next,
            model.display()
        ),
        None => format!(
            "interrupted after {} steps; a checkpoint is saved\nnext: posterior {} --resume --out {}",
            document.steps,
            words.command,
            document.run.display()
        ),
    })
}

/// Writes the model, of the best checkpoint if that is wanted; gives the step it is of then.
fn finish<O: Objective>(
    run: &Run,
    training: &mut Tuner<O>,
    words: &Words,
    complete: impl FnOnce(&mut Tuner<O>) -> miette::Result<()>,
) -> miette::Result<Option<u64>> {
    let config = training.config().tuning().clone();
    let mut best_step = None;
    if config.best {
        let checkpoints = run.checkpoints();
        best_step = checkpoints.best(O::BEST.1).into_diagnostic()?;
        if let Some(step) = best_step {
            let checkpoint = checkpoints.open(step).into_diagnostic()?;
            training.load_weights(checkpoint.directory()).into_diagnostic()?;
        }
    }
    training.complete();
    complete(training)?;
    let mut tags = vec![words.command];
    if training.model().decoder.lora().is_some() {
        tags.push("lora");
    }
    let saving = Saving {
        precision: config.save_dtype.into(),
        shard_bytes: SHARD_BYTES,
        card: Card {
            tags: &tags,
            text: format!(
                "Tuned from {} to {} examples of {} by {}, {} steps.",
                training.model().base,
                training.examples().len(),
                config.data,
                words.method,
                best_step.unwrap_or(training.steps())
            ),
        },
    };
    training
        .model()
        .replace(&run.model_directory(), &saving)
        .into_diagnostic()?;
    Ok(best_step)
}
