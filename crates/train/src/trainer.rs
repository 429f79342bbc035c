//! The training loop that every trainer shares.
//!
//! A [`Task`] knows how to do one optimiser step, evaluate, save and load; [`train`] decides when, keeps the run's files
//! and stops when asked. Because all randomness is [addressed by step](crate::random), a task's state is its weights,
//! its optimiser and nothing else, and a run that was killed at any moment and resumed has the same bits as one that
//! never was.
//!
//! The order of things within a step is what makes that true: the step, its metrics, the evaluation's, then (metrics
//! brought to the disk first) the checkpoint. What a killed process wrote after its last checkpoint is cut off on resume.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::checkpoint::{Better, CheckpointError, Retention, SaveError};
use crate::files::FileError;
use crate::interrupt::Interrupt;
use crate::metrics::{Metrics, Name, Window};
use crate::metrics_log::{MetricsError, MetricsLog};
use crate::progress::{Progress, Short};
use crate::run::Run;
use crate::tensorboard::{EventWriter, TensorBoardError};

/// The loop's own part of a checkpoint.
const STATE: &str = "loop.json";

/// What is trained.
pub trait Task {
    /// Why a step, an evaluation, saving or loading can fail.
    type Error: Error + Send + Sync + 'static;

    /// Does the optimiser step with this number, from 0, with all its micro-batches, and reports on it.
    ///
    /// What it does may depend only on the task's saved state and `step`.
    ///
    /// # Errors
    /// The loop stops with the error and saves nothing.
    fn step(&mut self, step: u64) -> Result<Metrics, Self::Error>;

    /// Measures the state after `step` steps and leaves it unchanged. Metrics are named in full (`eval_loss`).
    ///
    /// # Errors
    /// The loop stops with the error.
    fn evaluate(&mut self, step: u64) -> Result<Evaluation, Self::Error>;

    /// Writes the state as files into an empty directory.
    ///
    /// # Errors
    /// The loop stops with the error; earlier checkpoints stay as they are.
    fn save(&self, directory: &Path) -> Result<(), Self::Error>;

    /// Reads back what [`save`](Self::save) wrote; the checkpoint's sizes and checksums are verified before.
    ///
    /// # Errors
    /// The loop does not start.
    fn load(&mut self, directory: &Path) -> Result<(), Self::Error>;

    /// The metric that counts what a step works through, as `tokens`: it is written as a rate, `tokens_per_second`, in
    /// place of itself.
    fn throughput(&self) -> Option<&str> {
        None
    }

    /// What whoever watches should read of the steps since the last time.
    fn take_notes(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// The metrics of a step that stop the run when they are NaN or infinite.
    fn must_be_finite(&self) -> &[&str] {
        &["loss", "grad_norm"]
    }
}

/// What an evaluation found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evaluation {
    /// Its numbers.
    pub metrics: Metrics,
    /// Pictures for TensorBoard: names, and the bytes of PNG files.
    pub images: Vec<(Name, Vec<u8>)>,
}

/// When the loop does what. Checked by [`train`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Optimiser steps in all.
    pub steps: u64,
    /// Steps between two lines of metrics, each the summary of those steps.
    pub log_every: u64,
    /// Steps between evaluations; the last step is evaluated, too. `None`: never.
    pub evaluate_every: Option<u64>,
    /// Steps between checkpoints; one is written at the end and on interruption, too. `None`: only then.
    pub save_every: Option<u64>,
    /// How many of the newest checkpoints are kept, at least 1.
    pub keep: usize,
    /// In addition, the checkpoint that is best by an evaluation's metric is kept.
    pub best: Option<Best>,
}

/// By which metric a checkpoint is best.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Best {
    /// The name of a metric of the evaluation.
    pub metric: String,
    /// Which way it is better.
    pub better: Better,
}

/// How the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// Somebody asked to stop; a checkpoint was saved after this many steps.
    Interrupted(u64),
}

/// The loop could not start or stopped early.
#[derive(Debug, thiserror::Error)]
pub enum TrainError<E: Error + 'static> {
    /// The task failed.
    #[error(transparent)]
    Task(E),
    /// A setting makes no sense.
    #[error("{setting} is {value}; {remedy}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        remedy: &'static str,
    },
    /// The run is further than it should go.
    #[error("the run has done {done} steps already, but only {steps} are asked for; ask for more steps")]
    Beyond {
        /// Steps done.
        done: u64,
        /// Steps asked for.
        steps: u64,
    },
    /// The training diverged.
    #[error(
        "{metric} is {value} at step {step}, so training stopped; {}. Repeating the run with the same settings ends the \
         same way: lower the learning rate, lengthen the warm-up, clip gradients more tightly, or look for bad values in \
         the data", match saved { Some(saved) => format!("the checkpoint of step {saved} is whole"),
                                   None => "there is no checkpoint yet".to_owned() }
    )]
    NotFinite {
        /// The metric.
        metric: String,
        /// NaN or an infinity.
        value: f64,
        /// The step, counted from 1 as in `metrics.jsonl`.
        step: u64,
        /// The newest checkpoint.
        saved: Option<u64>,
    },
    /// The metric that decides which checkpoint is best is not among the evaluation's.
    #[error("the evaluation has no metric \"{metric}\" to tell the best checkpoint by; it has: {}", available.join(", "))]
    NoSuchMetric {
        /// The metric asked for.
        metric: String,
        /// The evaluation's metrics.
        available: Vec<String>,
    },
    /// The loop's part of a checkpoint cannot be read.
    #[error("{} cannot be read: {reason}; it was written by another program version", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// TensorBoard events.
    #[error(transparent)]
    TensorBoard(#[from] TensorBoardError),
}

/// What the loop itself carries over a kill.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    window: Window,
}

impl State {
    fn write(&self, directory: &Path) -> Result<(), FileError> {
        let path = directory.join(STATE);
        let text = serde_json::to_vec(self).map_err(|error| FileError::because("write", &path)(error.into()))?;
        fs::write(&path, text).map_err(FileError::because("write", path))
    }
}

/// Why the content of a checkpoint could not be written.
#[derive(Debug, thiserror::Error)]
enum ContentError<E: Error + 'static> {
    #[error(transparent)]
    Task(E),
    #[error(transparent)]
    State(FileError),
}

/// Trains `task` into `run`: from its newest checkpoint if it has one, from the beginning otherwise, to the end or
/// until `interrupt` is requested.
///
/// # Errors
/// [`TrainError`]; the run can be resumed from its newest checkpoint after any of them.
pub fn train<T: Task>(
    run: &Run,
    settings: &Settings,
    task: &mut T,
    progress: &mut Progress,
    interrupt: &Interrupt,
) -> Result<Outcome, TrainError<T::Error>> {
    check(settings)?;
    let mut training = Loop::start(run, settings, task)?;
    progress.start(training.step, settings.steps);
    let outcome = loop {
        if training.step == settings.steps {
            training.save(task, None, progress)?;
            break Outcome::Finished;
        }
        if interrupt.is_requested() {
            training.save(task, None, progress)?;
            break Outcome::Interrupted(training.step);
        }
        training.advance(task, progress)?;
    };
    progress.finish();
    Ok(outcome)
}

struct Loop<'a> {
    run: &'a Run,
    settings: &'a Settings,
    log: MetricsLog,
    events: EventWriter,
    /// Steps done.
    step: u64,
    /// The newest checkpoint.
    saved: Option<u64>,
    state: State,
    /// Seconds and number of the steps since the last line that this process did. Times are not part of a checkpoint.
    timed: (f64, u64),
}

impl<'a> Loop<'a> {
    fn start<T: Task>(run: &'a Run, settings: &'a Settings, task: &mut T) -> Result<Self, TrainError<T::Error>> {
        let (mut step, mut saved, mut state) = (0, None, State::default());
        if let Some(checkpoint) = run.checkpoints().latest()? {
            step = checkpoint.step();
            saved = Some(step);
            if step > settings.steps {
                return Err(TrainError::Beyond {
                    done: step,
                    steps: settings.steps,
                });
            }
            let bytes = checkpoint.read(STATE)?;
            state = serde_json::from_slice(&bytes).map_err(|error| TrainError::State {
                path: checkpoint.directory().join(STATE),
                reason: error.to_string(),
            })?;
            task.load(checkpoint.directory()).map_err(TrainError::Task)?;
            // A process that was killed between saving and removing left more than it should.
            run.checkpoints().prune(retention(settings))?;
        }
        let log = MetricsLog::open(&run.metrics_path(), step)?;
        let events = EventWriter::create(&run.tensorboard_directory(), step + 1)?;
        Ok(Self {
            run,
            settings,
            log,
            events,
            step,
            saved,
            state,
            timed: (0.0, 0),
        })
    }

    /// One step and everything that is due after it.
    fn advance<T: Task>(&mut self, task: &mut T, progress: &mut Progress) -> Result<(), TrainError<T::Error>> {
        let begun = Instant::now();
        let metrics = task.step(self.step).map_err(TrainError::Task)?;
        self.timed.0 += begun.elapsed().as_secs_f64();
        self.timed.1 += 1;
        self.step += 1;
        for name in task.must_be_finite() {
            if let Some(value) = metrics.get(name).filter(|value| !value.is_finite()) {
                let (metric, step, saved) = ((*name).to_owned(), self.step, self.saved);
                return Err(TrainError::NotFinite {
                    metric,
                    value,
                    step,
                    saved,
                });
            }
        }
        self.state.window.add(&metrics, 1.0);
        progress.step(self.step, &metrics);
        for note in task.take_notes() {
            progress.note(&format!("step {}: {note}", self.step));
        }

        let is_last = self.step == self.settings.steps;
        let due = |every: u64| self.step.is_multiple_of(every);
        let (evaluates, saves) = (
            self.settings.evaluate_every.is_some_and(|every| due(every) || is_last),
            self.settings.save_every.is_some_and(due) || is_last,
        );
        if due(self.settings.log_every) || is_last {
            let (seconds, steps) = std::mem::take(&mut self.timed);
            let seconds = seconds / steps as f64;
            let mut summary = self.state.window.take();
            if let Some((name, count)) = task
                .throughput()
                .and_then(|name| Some((name.to_owned(), summary.remove(name)?)))
            {
                summary = summary.last(format!("{name}_per_second"), count / seconds);
            }
            self.write(&summary.last("step_seconds", seconds))?;
        }
        let score = if evaluates {
            self.evaluate(task, progress)?
        } else {
            None
        };
        if saves {
            self.save(task, score, progress)?;
        }
        Ok(())
    }

    /// Evaluates and gives the metric that tells the best checkpoint.
    fn evaluate<T: Task>(
        &mut self,
        task: &mut T,
        progress: &mut Progress,
    ) -> Result<Option<f64>, TrainError<T::Error>> {
        let evaluation = task.evaluate(self.step).map_err(TrainError::Task)?;
        let score = match &self.settings.best {
            None => None,
            Some(best) => Some(
                evaluation
                    .metrics
                    .get(&best.metric)
                    .ok_or_else(|| TrainError::NoSuchMetric {
                        metric: best.metric.clone(),
                        available: evaluation.metrics.iter().map(|(name, _)| name.to_owned()).collect(),
                    })?,
            ),
        };
        self.write(&evaluation.metrics)?;
        for (name, png) in &evaluation.images {
            self.events.image(self.step, name, png)?;
        }
        let numbers: Vec<String> = evaluation
            .metrics
            .iter()
            .map(|(name, value)| format!("{name} {}", Short(value)))
            .collect();
        progress.note(&format!("step {}: {}", self.step, numbers.join(", ")));
        Ok(score)
    }

    fn write<E: Error>(&mut self, metrics: &Metrics) -> Result<(), TrainError<E>> {
        self.log.append(self.step, metrics)?;
        Ok(self.events.scalars(self.step, metrics)?)
    }

    /// Saves a checkpoint unless there is one of this step.
    fn save<T: Task>(
        &mut self,
        task: &T,
        score: Option<f64>,
        progress: &mut Progress,
    ) -> Result<(), TrainError<T::Error>> {
        if self.saved == Some(self.step) {
            return Ok(());
        }
        self.log.sync()?;
        let checkpoints = self.run.checkpoints();
        let state = &self.state;
        let written = checkpoints.save(self.step, score, |directory| {
            task.save(directory).map_err(ContentError::Task)?;
            state.write(directory).map_err(ContentError::State)
        });
        written.map_err(|error| match error {
            SaveError::Content(ContentError::Task(error)) => TrainError::Task(error),
            SaveError::Content(ContentError::State(error)) => CheckpointError::from(error).into(),
            SaveError::Checkpoint(error) => error.into(),
        })?;
        self.saved = Some(self.step);
        checkpoints.prune(retention(self.settings))?;
        progress.note(&format!(
            "step {}: saved {}",
            self.step,
            checkpoints.path(self.step).display()
        ));
        Ok(())
    }
}

fn retention(settings: &Settings) -> Retention {
    Retention {
        last: settings.keep,
        best: settings.best.as_ref().map(|best| best.better),
    }
}

fn check<E: Error>(settings: &Settings) -> Result<(), TrainError<E>> {
    let wrong = |setting, value: String, remedy| Err(TrainError::Setting { setting, value, remedy });
    for (setting, value) in [
        ("log_every", Some(settings.log_every)),
        ("evaluate_every", settings.evaluate_every),
        ("save_every", settings.save_every),
        ("keep", Some(settings.keep as u64)),
    ] {
        if value == Some(0) {
            return wrong(setting, "0".to_owned(), "it must be at least 1");
        }
    }
    let Some(best) = &settings.best else { return Ok(()) };
    let Some(evaluate_every) = settings.evaluate_every else {
        return wrong(
            "best",
            best.metric.clone(),
            "it needs evaluations to compare: set evaluate_every, too",
        );
    };
    match settings.save_every {
        None => wrong(
            "best",
            best.metric.clone(),
            "it needs checkpoints to choose from: set save_every, too",
        ),
        Some(save_every) if !save_every.is_multiple_of(evaluate_every) => wrong(
            "save_every",
            save_every.to_string(),
            "to keep the best checkpoint it must be a multiple of evaluate_every, so that each checkpoint is evaluated",
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "trainer_tests.rs"]
mod tests;
