//! What the training commands share: a run's arguments, its directory, the loop with progress and Ctrl-C.

use std::path::{Path, PathBuf};

use ::train::interrupt::Interrupt;
use ::train::progress::Progress;
use ::train::run::Run;
use ::train::trainer::{Outcome, Settings, Task, train};
use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::output::Context;
use crate::settings;

/// Where a run is and what it starts from.
#[derive(Debug, clap::Args)]
pub struct RunArguments {
    /// The run's directory.
    #[arg(long, value_name = "RUN")]
    pub out: PathBuf,
    /// A TOML file of settings; flags override it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Continue the run in --out from its newest checkpoint.
    #[arg(long)]
    pub resume: bool,
}

impl RunArguments {
    /// The settings of files and flags; on resume the run's own stand in the place of the defaults.
    pub fn settings<T: Serialize + DeserializeOwned>(&self, flags: &impl Serialize) -> miette::Result<T> {
        if self.resume && !Run::exists(&self.out) {
            return Err(miette!(
                "there is no run to resume in {}; leave --resume out to start one there",
                self.out.display()
            ));
        }
        let own = self.resume.then(|| self.out.join("config.toml"));
        settings::resolve([own.as_deref(), self.config.as_deref()], flags)
    }
}

/// Creates the run's directory, or opens it to go on; settings outside `may_change` must be the run's own then.
pub fn open_run(
    out: &Path,
    resume: bool,
    config: &impl Serialize,
    may_change: &[&str],
    context: &Context,
) -> miette::Result<Run> {
    if !resume {
        return Run::create(out, config).into_diagnostic();
    }
    let (run, changed) = Run::resume(out, config, may_change).into_diagnostic()?;
    for change in changed {
        context.say(format_args!("{} changed since the run was started", change.key));
    }
    Ok(run)
}

/// Trains to the end, or until Ctrl-C, showing these metrics.
pub fn drive<T: Task>(
    run: &Run,
    settings: &Settings,
    task: &mut T,
    shown: &[&str],
    context: &Context,
) -> miette::Result<Outcome> {
    let interrupt = Interrupt::on_signals().into_diagnostic()?;
    let mut progress = progress(context).showing(shown);
    train(run, settings, task, &mut progress, &interrupt)
        .into_diagnostic()
        .wrap_err_with(|| format!("training {} stopped", run.directory().display()))
}

/// What shows how far something is.
pub fn progress(context: &Context) -> Progress {
    if context.quiet {
        Progress::silent()
    } else {
        Progress::on_standard_error()
    }
}
