//! What the models of runs earn, by their answers.

use std::path::{Path, PathBuf};

use ::train::metrics::Metrics;
use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use nn::hub::Environment;
use preference::data::{Dataset, Kind as DataKind, MEMORY};
use preference::model::LanguageModel;
use preference::ppo::{Measured, PpoConfig, measure};
use serde::Serialize;

use super::{Arguments, write};
use crate::commands::language::with_watch;
use crate::commands::ppo::open_judge;
use crate::commands::training::progress;
use crate::output::{Context, table};
use crate::plot::{self, FrontierKind};

/// A run's model.
#[derive(Debug, Serialize)]
struct Judged {
    run: PathBuf,
    reference: String,
    #[serde(flatten)]
    measured: Measured,
}

/// Lets the models of the runs, and their references, answer, and says what they earn.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let Some(data) = &arguments.data else {
        return Err(miette!(
            "there is nothing for the models to answer; give --data with prompts"
        ));
    };
    let config = PpoConfig {
        reward_model: arguments.reward_model.clone(),
        reward_lexicon: arguments.reward_lexicon.clone(),
        reward_program: arguments.reward_program.clone(),
        samples: usize::from(arguments.samples),
        max_new_tokens: usize::from(arguments.max_new_tokens),
        missing_end_penalty: arguments.missing_end_penalty,
        ..PpoConfig::default()
    };
    let names = arguments.runs.iter().map(|run| reference_of(run));
    let names: Vec<String> = names.collect::<miette::Result<_>>()?;
    let data = Dataset::open(std::slice::from_ref(data), DataKind::Prompts, MEMORY).into_diagnostic()?;
    let rows = (0..data.len()).map(|number| data.get(number).map(|row| row.into_owned()));
    let rows: Vec<_> = rows.collect::<Result<_, _>>().into_diagnostic()?;
    let mut judge = open_judge(&config, context)?;

    // Each reference is measured once, where it comes first.
    let is_first = |at: usize| !names[..at].contains(&names[at]);
    let models = names.len() + (0..names.len()).filter(|&at| is_first(at)).count();
    let answers = rows.len() * config.samples;
    let mut progress = progress(context).showing(&[]).counting("answer");
    progress.start(0, (models * answers) as u64);
    let mut judged: Vec<Judged> = Vec::new();
    for (at, (run, name)) in arguments.runs.iter().zip(&names).enumerate() {
        let reference = open(name, context)?;
        let model = open_model_of(run, context)?;
        let own = is_first(at).then(|| (PathBuf::from(name), &reference));
        for (run, model) in own.into_iter().chain([(run.clone(), &model)]) {
            progress.note(&run.display().to_string());
            // Prompts that leave no room are not answered; the count then jumps where the next model begins.
            let before = judged.len() * answers;
            let mut step = |done: usize| progress.step((before + done) as u64, &Metrics::new());
            let measured = measure(model, &reference.decoder, &rows, &mut judge, &config, &mut step);
            judged.push(Judged {
                run,
                reference: name.clone(),
                measured: measured.into_diagnostic()?,
            });
        }
    }
    progress.finish();
    if let Some((path, format)) = &arguments.plot {
        plot::frontier(
            path,
            *format,
            "what models earn, with standard errors",
            &[],
            &kinds(&judged),
        )?;
    }
    write(arguments.out.as_deref(), &judged)?;
    context.emit(&judged, |judged| text(judged, config.samples))
}

fn open(name: &str, context: &Context) -> miette::Result<LanguageModel> {
    let environment = Environment::of_process();
    with_watch(context, |watch| {
        LanguageModel::open(name, &environment, watch, &context.device)
    })
    .into_diagnostic()
}

fn open_model_of(run: &Path, context: &Context) -> miette::Result<LanguageModel> {
    let model = open(&run.join("model").display().to_string(), context)
        .wrap_err_with(|| format!("{} has no model; has the run come to its end?", run.display()))?;
    if model.decoder.config().scores {
        return Err(miette!(
            "{} is a reward model's run, which answers nothing",
            run.display()
        ));
    }
    Ok(model)
}

/// The model that a run's own is compared with, as its settings name it.
fn reference_of(run: &Path) -> miette::Result<String> {
    let path = run.join("config.toml");
    let text = std::fs::read_to_string(&path)
        .into_diagnostic()
        .wrap_err_with(|| format!("{} is no run: its config.toml cannot be read", run.display()))?;
    let config: toml::Table = text
        .parse()
        .into_diagnostic()
        .wrap_err_with(|| path.display().to_string())?;
    let named = |key: &str| config.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    named("reference")
        .or_else(|| named("model"))
        .ok_or_else(|| miette!("{} names no model; give the run of sft, dpo or ppo", path.display()))
}

fn kinds(judged: &[Judged]) -> Vec<FrontierKind> {
    let kind = |Judged { run, measured, .. }: &Judged| FrontierKind {
        label: run.display().to_string(),
        points: vec![(
            [measured.kl.mean, measured.reward.mean],
            [measured.kl.error, measured.reward.error],
        )],
    };
    judged.iter().map(kind).collect()
}

fn text(judged: &[Judged], samples: usize) -> String {
    let mut rows = table(["run", "KL", "reward", "ended"]);
    for Judged { run, measured, .. } in judged {
        rows.add_row([
            run.display().to_string(),
            format!("{:.2} ± {:.2}", measured.kl.mean, measured.kl.error),
            format!("{:.3} ± {:.3}", measured.reward.mean, measured.reward.error),
            format!("{:.0} %", 100.0 * measured.ended),
        ]);
    }
    let prompts = judged.first().map_or(0, |judged| judged.measured.prompts);
    format!("{rows}\n\nAnswers to {prompts} prompts, {samples} each; ± is a standard error.")
}
