//! `posterior diffusion sample`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use ::train::metrics::Metrics;
use ::train::progress::Progress;
use diffusion::data::{Shape, npy};
use diffusion::model::Model;
use diffusion::picture::{Layer, Layout, Raster, Timing, grid, path as denoising_path, scatter, write_animation};
use diffusion::sample::{Denoise as _, Request, run as run_plan};
use miette::IntoDiagnostic as _;
use serde::Serialize;

use super::plan::PlanArguments;
use crate::output::{Context, number, prepare};

const EXAMPLES: &str = "\
Examples:
  64 samples of all classes in turn, with a grid:
      posterior diffusion sample --run runs/fashion --out samples
  Sneakers and bags only, guided, in 50 ancestral steps:
      posterior diffusion sample --run runs/fashion --class Sneaker --class Bag --guidance 2 \\
          --sampler ancestral --spacing trailing --steps 50 --out samples
  How eight of them emerge from noise, and what the network believed on the way:
      posterior diffusion sample --run runs/fashion --count 8 --path --animation --out samples";

/// Draw samples from a trained denoiser.
///
/// Sampling runs the very table of steps that `audit` analyses. Sample 17 of a seed is the same alone or among a
/// thousand, whatever the batch size and number of threads.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The run, or the directory of its model.
    #[arg(long, value_name = "RUN")]
    run: PathBuf,
    /// Where the files go; made if it is not there.
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
    /// How many samples.
    #[arg(long, value_name = "N", default_value_t = 64)]
    count: usize,
    /// Number of the first sample of the seed.
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u64,
    /// A class to draw, by name or number; may be given several times [default: all in turn].
    #[arg(long = "class", value_name = "CLASS")]
    classes: Vec<String>,
    /// Classifier-free guidance: 1 is the plain conditional model, more pushes towards the class.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    guidance: f64,
    /// Most samples that go through the network at once.
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch_size: usize,
    /// Also draw the denoising path: a row per sample, from noise to image, with the network's estimates below.
    #[arg(long)]
    path: bool,
    /// Also write an animated PNG of the denoising.
    #[arg(long)]
    animation: bool,
    #[command(flatten)]
    plan: PlanArguments,
}

/// What the command reports.
#[derive(Serialize)]
struct Document<'a> {
    samples: usize,
    plan: &'a str,
    network_evaluations: usize,
    seconds: f64,
    files: Vec<PathBuf>,
}

/// Samples with their classes, in the units of the data.
pub struct Drawn {
    /// [count, size], in the network's units.
    pub values: Vec<f32>,
    /// The class of each.
    pub classes: Vec<Option<u32>>,
    /// States after each row, [rows][count, size], where asked for.
    pub states: Vec<Vec<f32>>,
    /// Estimates in each row, likewise.
    estimates: Vec<Vec<f32>>,
}

/// Which samples to draw, and what to remember of their way.
pub struct Wish {
    /// Seed of all randomness.
    pub seed: u64,
    /// Number of the first sample.
    pub first: u64,
    /// The class of each sample.
    pub classes: Vec<Option<u32>>,
    /// Guidance.
    pub guidance: f64,
    /// Most samples at once.
    pub batch_size: usize,
    /// Keep states and estimates of all rows.
    pub keep_path: bool,
}

/// Draws samples, with progress.
pub fn draw(model: &Model, plan: &exact::sampler::Plan, wish: Wish, context: &Context) -> miette::Result<Drawn> {
    let denoiser = model.denoiser().guided(wish.guidance);
    let rows = plan.steps.len();
    let (count, size) = (wish.classes.len(), model.config.shape.values());
    let remembered = if wish.keep_path { rows } else { 0 };
    let (mut states, mut estimates) = (vec![Vec::new(); remembered], vec![Vec::new(); remembered]);
    let request = Request {
        seed: wish.seed,
        first: wish.first,
        classes: wish.classes,
        batch_size: wish.batch_size,
    };
    let mut progress = if context.quiet {
        Progress::silent()
    } else {
        Progress::on_standard_error()
    }
    .showing(&[]);
    let batches = count.div_ceil(wish.batch_size.max(1));
    progress.start(0, (rows * batches) as u64);
    let mut done = 0;
    let values = run_plan(plan, &denoiser, &request, |moment| {
        if let (Some(states), Some(estimates)) = (states.get_mut(moment.row), estimates.get_mut(moment.row)) {
            // A state is shown at unit scale, so that noise does not saturate the picture.
            let scale = 1.0 / moment.step.to.hypot(1.0);
            states.extend(moment.states.iter().map(|value| (value * scale) as f32));
            estimates.extend(moment.estimates.iter().map(|value| *value as f32));
        }
        done += 1;
        progress.step(done, &Metrics::new());
    })
    .into_diagnostic()?;
    progress.finish();
    debug_assert_eq!(values.len(), count * size);
    Ok(Drawn {
        values: values.into_iter().map(|value| value as f32).collect(),
        classes: request.classes,
        states,
        estimates,
    })
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let model = Model::open(&arguments.run, &context.device).into_diagnostic()?;
    let (name, plan) = arguments.plan.plan(&model, context)?;
    let classes = model
        .classes(&arguments.classes, arguments.first, arguments.count)
        .into_diagnostic()?;
    let started = Instant::now();
    let wish = Wish {
        seed: context.seed.unwrap_or(0),
        first: arguments.first,
        classes,
        guidance: arguments.guidance,
        batch_size: arguments.batch_size,
        keep_path: arguments.path || arguments.animation,
    };
    prepare(&arguments.out)?;
    let made = draw(&model, &plan, wish, context).and_then(|drawn| {
        let seconds = started.elapsed().as_secs_f64();
        Ok((seconds, write(&model, &drawn, arguments, context)?))
    });
    if made.is_err() {
        // Goes away only if it is empty; the error is what there is to say.
        let _ = std::fs::remove_dir(&arguments.out);
    }
    let (seconds, files) = made?;
    let document = Document {
        samples: arguments.count,
        plan: &name,
        network_evaluations: plan.network_evaluations() * model.denoiser().guided(arguments.guidance).evaluations(),
        seconds,
        files,
    };
    context.emit(&document, |document| {
        let files: Vec<String> = document
            .files
            .iter()
            .map(|file| format!("  {}", file.display()))
            .collect();
        format!(
            "{} samples by {}, {} network evaluations each, in {} s\n{}",
            document.samples,
            document.plan,
            document.network_evaluations,
            number(document.seconds),
            files.join("\n")
        )
    })
}

fn write(model: &Model, drawn: &Drawn, arguments: &Arguments, context: &Context) -> miette::Result<Vec<PathBuf>> {
    let (out, shape) = (&arguments.out, model.config.shape);
    let mut files = Vec::new();
    let size = shape.values();
    let mut raw = drawn.values.clone();
    raw.chunks_exact_mut(size)
        .for_each(|sample| model.config.scaling.restore(sample));
    let mut dimensions = vec![drawn.values.len() / size];
    match shape {
        Shape::Points { dimensions: axes } => dimensions.push(axes),
        Shape::Image {
            channels,
            height,
            width,
        } => dimensions.extend([channels, height, width]),
    }
    let path = out.join("samples.npy");
    npy::write_f32(&path, &dimensions, &raw).into_diagnostic()?;
    files.push(path);
    if drawn.classes.iter().all(Option::is_some) && !drawn.classes.is_empty() {
        let path = out.join("labels.npy");
        let labels: Vec<f32> = drawn
            .classes
            .iter()
            .map(|class| class.map_or(0.0, |class| class as f32))
            .collect();
        npy::write_f32(&path, &[labels.len()], &labels).into_diagnostic()?;
        files.push(path);
    }
    let mut picture = |name: &str, raster: &Raster| -> miette::Result<()> {
        let path = out.join(name);
        raster.write(&path).into_diagnostic()?;
        files.push(path);
        Ok(())
    };
    match shape {
        Shape::Image { .. } => {
            picture(
                "grid.png",
                &grid(&drawn.values, shape, &Layout::square(shape, dimensions[0])).into_diagnostic()?,
            )?;
        }
        Shape::Points { dimensions: 2 } => {
            picture(
                "scatter.png",
                &scatter(
                    &[Layer {
                        points: &raw,
                        color: Layer::SAMPLES,
                    }],
                    640,
                )
                .into_diagnostic()?,
            )?;
        }
        Shape::Points { .. } => {
            context.say("no picture: only images and points in the plane are drawn");
        }
    }
    if arguments.path && shape.is_image() {
        let layout = Layout::square(shape, 1);
        picture(
            "path.png",
            &denoising_path(&thinned(&drawn.states, 12), shape, &layout).into_diagnostic()?,
        )?;
        picture(
            "estimates.png",
            &denoising_path(&thinned(&drawn.estimates, 12), shape, &layout).into_diagnostic()?,
        )?;
    }
    if arguments.animation {
        let path = out.join("denoising.png");
        animate(&path, drawn, shape)?;
        files.push(path);
    }
    Ok(files)
}

/// Frames of all samples at each row.
fn animate(path: &Path, drawn: &Drawn, shape: Shape) -> miette::Result<()> {
    let frames: Vec<Raster> = thinned(&drawn.states, 60)
        .iter()
        .map(|states| match shape {
            Shape::Image { .. } => grid(states, shape, &Layout::square(shape, states.len() / shape.values())),
            Shape::Points { .. } => scatter(
                &[Layer {
                    points: states,
                    color: Layer::SAMPLES,
                }],
                480,
            ),
        })
        .collect::<Result<_, _>>()
        .into_diagnostic()?;
    write_animation(path, &frames, Timing::default()).into_diagnostic()
}

/// At most `most` of the rows, evenly spread, the last among them.
pub fn thinned(rows: &[Vec<f32>], most: usize) -> Vec<Vec<f32>> {
    let count = rows.len().min(most);
    (1..=count)
        .map(|i| rows[(i * rows.len()).div_ceil(count) - 1].clone())
        .collect()
}
