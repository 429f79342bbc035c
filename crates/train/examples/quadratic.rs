//! A run from end to end, small enough to read at one sitting: points in the plane are drawn towards their mean by
//! noisy momentum descent. Kill it whenever you like and start it again; the result has the same bits.
//!
//! ```text
//! cargo run --release -p posterior-train --example quadratic -- RUN STEPS [PAUSE_MILLISECONDS]
//! ```
//!
//! The best possible mean loss is half the data's variance per coordinate; the program states how close it came and
//! fails if that is not within 5 %.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use posterior_train::batches::Batches;
use posterior_train::checkpoint::Better;
use posterior_train::files::FileError;
use posterior_train::interrupt::Interrupt;
use posterior_train::metrics::{Metrics, Window};
use posterior_train::progress::Progress;
use posterior_train::random::{EpochOrder, Purpose, fill_normal_f64, stream};
use posterior_train::run::Run;
use posterior_train::schedule::{Decay, Schedule};
use posterior_train::tensors::{HostTensor, Scalar, TensorError, TensorReader, write_tensors};
use posterior_train::trainer::{Best, Evaluation, Outcome, Settings, Task, train};
use serde::{Deserialize, Serialize};

const SEED: u64 = 7;
const EXAMPLES: usize = 100;
const DIMENSIONS: usize = 4_096;
/// A picture for TensorBoard: a PNG of 2 x 1 pixels, black and white.
const PICTURE: &[u8] = include_bytes!("two-pixels.png");

#[derive(Serialize, Deserialize)]
struct Config {
    seed: u64,
    training: Settings,
}

struct Quadratic {
    data: Vec<Vec<f64>>,
    order: EpochOrder,
    batches: Batches,
    schedule: Schedule,
    pause: Duration,
    position: Vec<f64>,
    velocity: Vec<f64>,
    examples_seen: u64,
}

#[derive(Debug, thiserror::Error)]
enum QuadraticError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("position has {0} bytes, but {expected} are needed", expected = DIMENSIONS * 8)]
    Position(usize),
}

impl Task for Quadratic {
    type Error = QuadraticError;

    fn step(&mut self, step: u64) -> Result<Metrics, QuadraticError> {
        std::thread::sleep(self.pause);
        let mut gradient = vec![0.0; DIMENSIONS];
        let mut window = Window::default();
        for part in self.batches.parts(step) {
            let share = (part.end - part.start) as f64 / self.batches.batch() as f64;
            let mut loss = 0.0;
            for example in self.order.indices(part.start, (part.end - part.start) as usize) {
                let mut noise = vec![0.0; DIMENSIONS];
                fill_normal_f64(
                    &mut stream(SEED, Purpose::TRAINING_NOISE, example as u64, step),
                    &mut noise,
                );
                let weight = 1.0 / self.batches.batch() as f64;
                for (at, slope) in gradient.iter_mut().enumerate() {
                    let distance = self.position[at] - self.data[example][at];
                    loss += distance * distance / (2 * DIMENSIONS) as f64 / (part.end - part.start) as f64;
                    *slope += weight * (distance + 0.1 * noise[at]);
                }
            }
            window.add(&Metrics::new().mean("loss", loss), share);
            self.examples_seen += part.end - part.start;
        }
        let rate = self.schedule.rate(step);
        for ((position, velocity), slope) in self.position.iter_mut().zip(&mut self.velocity).zip(&gradient) {
            // The velocity is kept in single precision, as its checkpoint is.
            *velocity = f64::from((0.9 * *velocity + slope) as f32);
            *position -= rate * *velocity;
        }
        let norm = gradient.iter().map(|slope| slope * slope).sum::<f64>().sqrt();
        let metrics = window.take().mean("grad_norm", norm).last("learning_rate", rate);
        Ok(metrics.last("epoch", self.examples_seen as f64 / EXAMPLES as f64))
    }

    fn evaluate(&mut self, _step: u64) -> Result<Evaluation, QuadraticError> {
        let metrics = Metrics::new().last("eval_loss", self.loss());
        Ok(Evaluation {
            metrics,
            images: vec![("picture".into(), PICTURE.to_vec())],
        })
    }

    fn save(&self, directory: &Path) -> Result<(), QuadraticError> {
        let path = directory.join("position");
        let bytes: Vec<u8> = self.position.iter().flat_map(|value| value.to_le_bytes()).collect();
        fs::write(&path, bytes).map_err(FileError::because("write", &path))?;
        let data = self.velocity.iter().map(|value| *value as f32).collect();
        let velocity = BTreeMap::from([(
            "velocity".to_owned(),
            HostTensor {
                shape: vec![DIMENSIONS],
                data,
            },
        )]);
        let seen = BTreeMap::from([("examples_seen".to_owned(), Scalar::U64(self.examples_seen))]);
        Ok(write_tensors(
            &directory.join("optimizer.safetensors"),
            &velocity,
            &seen,
        )?)
    }

    fn load(&mut self, directory: &Path) -> Result<(), QuadraticError> {
        let path = directory.join("position");
        let bytes = fs::read(&path).map_err(FileError::because("read", &path))?;
        let (values, rest) = bytes.as_chunks::<8>();
        if values.len() != DIMENSIONS || !rest.is_empty() {
            return Err(QuadraticError::Position(bytes.len()));
        }
        self.position = values.iter().map(|value| f64::from_le_bytes(*value)).collect();
        let mut reader = TensorReader::open(&directory.join("optimizer.safetensors"))?;
        self.velocity = reader
            .take("velocity", &[DIMENSIONS])?
            .into_iter()
            .map(f64::from)
            .collect();
        self.examples_seen = reader.take_u64("examples_seen")?;
        Ok(reader.finish()?)
    }
}

impl Quadratic {
    fn new(steps: u64, pause: Duration) -> Result<Self, Box<dyn Error>> {
        let example = |sample: u64| {
            let mut values = vec![0.0; DIMENSIONS];
            fill_normal_f64(
                &mut stream(SEED, Purpose::named("quadratic data"), sample, 0),
                &mut values,
            );
            values.iter().map(|value| 3.0 + value).collect()
        };
        Ok(Self {
            data: (0..EXAMPLES as u64).map(example).collect(),
            order: EpochOrder::new(SEED, EXAMPLES)?,
            batches: Batches::new(8, 3)?,
            schedule: Schedule::new(0.02, 5.min(steps), steps, Decay::Constant)?,
            pause,
            position: vec![0.0; DIMENSIONS],
            velocity: vec![0.0; DIMENSIONS],
            examples_seen: 0,
        })
    }

    /// The mean over the data of half the squared distance, per coordinate.
    fn loss(&self) -> f64 {
        let distances = self.data.iter().flat_map(|example| example.iter().zip(&self.position));
        distances
            .map(|(value, position)| (value - position).powi(2))
            .sum::<f64>()
            / (2 * EXAMPLES * DIMENSIONS) as f64
    }

    /// The least possible [`loss`](Self::loss).
    fn least_loss(&self) -> f64 {
        let mean = |at: usize| self.data.iter().map(|example| example[at]).sum::<f64>() / EXAMPLES as f64;
        let means: Vec<f64> = (0..DIMENSIONS).map(mean).collect();
        let distances = self.data.iter().flat_map(|example| example.iter().zip(&means));
        distances.map(|(value, mean)| (value - mean).powi(2)).sum::<f64>() / (2 * EXAMPLES * DIMENSIONS) as f64
    }
}

fn run(directory: &Path, steps: u64, pause: Duration) -> Result<(), Box<dyn Error>> {
    let interrupt = Interrupt::on_signals()?;
    let best = Some(Best {
        metric: "eval_loss".to_owned(),
        better: Better::Lower,
    });
    let training = Settings {
        steps,
        log_every: 5,
        evaluate_every: Some(7),
        save_every: Some(7),
        keep: 2,
        best,
    };
    let config = Config { seed: SEED, training };
    let run = match Run::exists(directory) {
        true => Run::resume(directory, &config, &["training.steps"])?.0,
        false => Run::create(directory, &config)?,
    };
    let mut task = Quadratic::new(steps, pause)?;
    let mut progress = Progress::on_standard_error().showing(&["loss", "grad_norm"]);
    let outcome = train(&run, &config.training, &mut task, &mut progress, &interrupt)?;
    if let Outcome::Interrupted(step) = outcome {
        eprintln!("interrupted after step {step}; start again to continue");
        return Ok(());
    }
    let (loss, least) = (task.loss(), task.least_loss());
    eprintln!("loss {loss:.4}, the least possible is {least:.4}");
    if steps >= 140 && loss > 1.05 * least {
        return Err("the loss is more than 5 % above the least possible".into());
    }
    Ok(())
}

/// Runs with these command-line arguments and gives the exit status.
pub(crate) fn start(arguments: &[String]) -> u8 {
    let numbers: Option<Vec<u64>> = arguments.iter().skip(1).map(|number| number.parse().ok()).collect();
    let (Some(directory), Some([steps, pause @ ..])) = (arguments.first(), numbers.as_deref()) else {
        eprintln!("usage: quadratic RUN STEPS [PAUSE_MILLISECONDS]");
        return 2;
    };
    let pause = Duration::from_millis(pause.first().copied().unwrap_or(0));
    match run(Path::new(directory), *steps, pause) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("error: {error}");
            1
        }
    }
}

fn main() -> ExitCode {
    ExitCode::from(start(&std::env::args().skip(1).collect::<Vec<_>>()))
}
