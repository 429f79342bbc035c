use std::fmt;

use super::*;
use crate::metrics_log::read_metrics;
use crate::random::{Purpose, fill_normal_f64, stream};

/// Minimises x² / 2 by noisy gradient steps.
#[derive(Debug, Clone, PartialEq)]
struct Toy {
    x: f64,
    interrupt_at: Option<(u64, Interrupt)>,
    nan_at: Option<u64>,
    fail_to_save: bool,
}

impl PartialEq for Interrupt {
    fn eq(&self, other: &Self) -> bool {
        self.is_requested() == other.is_requested()
    }
}

#[derive(Debug)]
struct ToyError(String);

impl fmt::Display for ToyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for ToyError {}

impl Task for Toy {
    type Error = ToyError;

    fn step(&mut self, step: u64) -> Result<Metrics, ToyError> {
        if let Some((at, interrupt)) = &self.interrupt_at
            && *at == step
        {
            interrupt.request();
        }
        let mut noise = [0.0];
        fill_normal_f64(&mut stream(1, Purpose::TRAINING_NOISE, 0, step), &mut noise);
        self.x -= 0.1 * (self.x + noise[0]);
        let loss = if self.nan_at == Some(step) {
            f64::NAN
        } else {
            self.x * self.x / 2.0
        };
        Ok(Metrics::new().mean("loss", loss).last("x", self.x))
    }

    fn evaluate(&mut self, _step: u64) -> Result<Evaluation, ToyError> {
        Ok(Evaluation {
            metrics: Metrics::new().last("eval_loss", self.x * self.x),
            images: Vec::new(),
        })
    }

    fn save(&self, directory: &Path) -> Result<(), ToyError> {
        if self.fail_to_save {
            return Err(ToyError("the device is lost".to_owned()));
        }
        fs::write(directory.join("x"), self.x.to_le_bytes()).map_err(|error| ToyError(error.to_string()))
    }

    fn load(&mut self, directory: &Path) -> Result<(), ToyError> {
        let bytes = fs::read(directory.join("x")).map_err(|error| ToyError(error.to_string()))?;
        self.x = f64::from_le_bytes(bytes.try_into().map_err(|_| ToyError("x has not 8 bytes".to_owned()))?);
        Ok(())
    }
}

fn toy() -> Toy {
    Toy {
        x: 3.0,
        interrupt_at: None,
        nan_at: None,
        fail_to_save: false,
    }
}

fn settings() -> Settings {
    Settings {
        steps: 23,
        log_every: 5,
        evaluate_every: Some(4),
        save_every: Some(8),
        keep: 2,
        best: None,
    }
}

fn new_run() -> (tempfile::TempDir, Run) {
    let directory = tempfile::tempdir().unwrap();
    let run = Run::create(&directory.path().join("run"), &settings()).unwrap();
    (directory, run)
}

fn go(run: &Run, settings: &Settings, task: &mut Toy) -> Result<Outcome, TrainError<ToyError>> {
    let interrupt = task
        .interrupt_at
        .as_ref()
        .map_or_else(Interrupt::new, |(_, interrupt)| interrupt.clone());
    train(run, settings, task, &mut Progress::silent(), &interrupt)
}

/// A line of `metrics.jsonl`: its step, and names with the bits of their values.
type Untimed = (u64, Vec<(String, Option<u64>)>);

/// The lines of `metrics.jsonl` without times.
fn lines(run: &Run) -> Vec<Untimed> {
    let lines = read_metrics(&run.metrics_path()).unwrap();
    let bits = |value: Option<f64>| value.map(f64::to_bits);
    let untimed = |(name, value)| (name != "step_seconds").then(|| (name, bits(value)));
    lines
        .into_iter()
        .map(|line| (line.step, line.values.into_iter().filter_map(untimed).collect()))
        .collect()
}

#[test]
fn everything_happens_when_it_is_due() {
    let (_directory, run) = new_run();
    let mut task = toy();
    assert_eq!(go(&run, &settings(), &mut task).unwrap(), Outcome::Finished);
    let steps: Vec<u64> = lines(&run).iter().map(|line| line.0).collect();
    // Lines of steps at 5, 10, 15, 20 and the end, of evaluations at 4, 8, 12, 16, 20 and the end.
    assert_eq!(steps, [4, 5, 8, 10, 12, 15, 16, 20, 20, 23, 23]);
    assert_eq!(run.checkpoints().steps().unwrap(), [16, 23]);
    // The line of step 5 holds the mean of its five steps.
    let (mut again, mut sum) = (toy(), 0.0);
    for step in 0..5 {
        sum += again.step(step).unwrap().get("loss").unwrap();
    }
    let written = read_metrics(&run.metrics_path()).unwrap();
    assert_eq!(written[1].values["loss"], Some(sum / 5.0));
    assert_eq!(written[1].values["x"], Some(again.x));
    assert!(written[1].values["step_seconds"].unwrap() >= 0.0);
    // A finished run has nothing left to do.
    assert_eq!(go(&run, &settings(), &mut toy()).unwrap(), Outcome::Finished);
    assert_eq!(lines(&run).len(), 11);
}

#[test]
fn interrupted_anywhere_and_resumed_is_uninterrupted() {
    let (_directory, whole) = new_run();
    let mut straight = toy();
    go(&whole, &settings(), &mut straight).unwrap();
    for at in 0..22 {
        let (_directory, run) = new_run();
        let mut task = Toy {
            interrupt_at: Some((at, Interrupt::new())),
            ..toy()
        };
        assert_eq!(go(&run, &settings(), &mut task).unwrap(), Outcome::Interrupted(at + 1));
        let mut resumed = toy();
        assert_eq!(go(&run, &settings(), &mut resumed).unwrap(), Outcome::Finished);
        assert_eq!(resumed.x.to_bits(), straight.x.to_bits());
        assert_eq!(lines(&run), lines(&whole), "interrupted in step {at}");
    }
}

#[test]
fn a_nan_stops_the_run_and_spoils_nothing() {
    let (_directory, run) = new_run();
    let mut task = Toy {
        nan_at: Some(11),
        ..toy()
    };
    let message = go(&run, &settings(), &mut task).unwrap_err().to_string();
    assert!(
        message.contains("loss is NaN at step 12") && message.contains("checkpoint of step 8 is whole"),
        "{message}"
    );
    assert_eq!(run.checkpoints().steps().unwrap(), [8]);
    assert_eq!(lines(&run).last().unwrap().0, 10);
    let (_directory, whole) = new_run();
    let mut straight = toy();
    go(&whole, &settings(), &mut straight).unwrap();
    // The cause removed, the run goes on from its checkpoint as if nothing had happened.
    let mut resumed = toy();
    go(&run, &settings(), &mut resumed).unwrap();
    assert_eq!((resumed, lines(&run)), (straight, lines(&whole)));
}

#[test]
fn a_failed_save_is_reported_and_leaves_the_earlier_checkpoint() {
    let (_directory, run) = new_run();
    go(&run, &Settings { steps: 8, ..settings() }, &mut toy()).unwrap();
    let mut task = Toy {
        fail_to_save: true,
        ..toy()
    };
    let error = go(&run, &settings(), &mut task).unwrap_err();
    assert_eq!(error.to_string(), "the device is lost");
    assert_eq!(run.checkpoints().steps().unwrap(), [8]);
    assert_eq!(run.checkpoints().latest().unwrap().unwrap().step(), 8);
}

#[test]
fn a_damaged_checkpoint_stops_the_resume_before_anything_changes() {
    let (_directory, run) = new_run();
    go(
        &run,
        &Settings {
            steps: 16,
            ..settings()
        },
        &mut toy(),
    )
    .unwrap();
    let before = fs::read(run.metrics_path()).unwrap();
    fs::write(run.checkpoints().path(16).join("x"), [0u8; 8]).unwrap();
    let message = go(&run, &settings(), &mut toy()).unwrap_err().to_string();
    assert!(
        message.contains("step-16 is damaged: the content of x changed"),
        "{message}"
    );
    assert!(message.contains("to continue from step 8 instead"), "{message}");
    assert_eq!(fs::read(run.metrics_path()).unwrap(), before);
    fs::remove_dir_all(run.checkpoints().path(16)).unwrap();
    let mut resumed = toy();
    go(&run, &settings(), &mut resumed).unwrap();
    let (_directory, whole) = new_run();
    go(&whole, &settings(), &mut toy()).unwrap();
    assert_eq!(lines(&run), lines(&whole));
}

#[test]
fn the_best_checkpoint_is_kept() {
    let best = Best {
        metric: "eval_loss".to_owned(),
        better: Better::Lower,
    };
    let settings = Settings {
        steps: 60,
        evaluate_every: Some(2),
        save_every: Some(2),
        keep: 1,
        best: Some(best),
        ..settings()
    };
    let (_directory, run) = new_run();
    go(&run, &settings, &mut toy()).unwrap();
    let lines = read_metrics(&run.metrics_path()).unwrap();
    let evaluations = lines
        .iter()
        .filter_map(|line| Some((line.values.get("eval_loss").copied()??, line.step)));
    let (_, best) = evaluations.min_by(|one, other| one.0.total_cmp(&other.0)).unwrap();
    assert!(best < 60);
    assert_eq!(run.checkpoints().steps().unwrap(), [best, 60]);
    let unknown = Best {
        metric: "eval_accuracy".to_owned(),
        better: Better::Higher,
    };
    let (_directory, run) = new_run();
    let message = go(
        &run,
        &Settings {
            best: Some(unknown),
            ..settings
        },
        &mut toy(),
    )
    .unwrap_err()
    .to_string();
    assert!(
        message.contains("no metric \"eval_accuracy\"") && message.contains("it has: eval_loss"),
        "{message}"
    );
}

#[test]
fn a_kill_between_saving_and_removing_is_made_up_for() {
    let (_directory, run) = new_run();
    go(&run, &settings(), &mut toy()).unwrap();
    assert_eq!(run.checkpoints().steps().unwrap(), [16, 23]);
    run.checkpoints()
        .save(8, None, |directory| toy().save(directory))
        .unwrap();
    go(&run, &settings(), &mut toy()).unwrap();
    assert_eq!(run.checkpoints().steps().unwrap(), [16, 23]);
}

#[test]
fn settings_without_sense_are_refused() {
    let best = Some(Best {
        metric: "eval_loss".to_owned(),
        better: Better::Lower,
    });
    for (settings, words) in [
        (
            Settings {
                log_every: 0,
                ..settings()
            },
            "log_every is 0; it must be at least 1",
        ),
        (
            Settings {
                evaluate_every: Some(0),
                ..settings()
            },
            "evaluate_every is 0",
        ),
        (
            Settings {
                save_every: Some(0),
                ..settings()
            },
            "save_every is 0",
        ),
        (Settings { keep: 0, ..settings() }, "keep is 0"),
        (
            Settings {
                best: best.clone(),
                evaluate_every: None,
                ..settings()
            },
            "set evaluate_every, too",
        ),
        (
            Settings {
                best: best.clone(),
                save_every: None,
                ..settings()
            },
            "set save_every, too",
        ),
        (
            Settings {
                best,
                save_every: Some(6),
                ..settings()
            },
            "save_every is 6; to keep the best",
        ),
    ] {
        let (_directory, run) = new_run();
        let message = go(&run, &settings, &mut toy()).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
        assert!(!run.metrics_path().exists());
    }
    let (_directory, run) = new_run();
    go(&run, &settings(), &mut toy()).unwrap();
    let message = go(
        &run,
        &Settings {
            steps: 22,
            ..settings()
        },
        &mut toy(),
    )
    .unwrap_err()
    .to_string();
    assert!(message.contains("has done 23 steps already, but only 22"), "{message}");
}
