//! `posterior demo`: the tour, on data that the program carries.

use std::path::PathBuf;
use std::time::Instant;

use ::train::trainer::Outcome;
use diffusion::config::TrainConfig;
use diffusion::picture::{Layout, grid, path as denoising_path};
use exact::audit::Start;
use exact::recipe::Noise;
use exact::sampler::Plan;
use exact::spectrum::Spectrum;
use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use serde::Serialize;

use super::audit::choice::Choice;
use super::audit::{Candidate, Comparison, draw_candidates};
use super::diffusion::sample::{Wish, draw, thinned};
use super::diffusion::train::execute;
use crate::output::Context;
use crate::plot::PictureFormat;

/// What the table compares. The first one is what the demo samples with.
const SAMPLERS: [&str; 7] = [
    "dpmpp-2m/karras:20",
    "ddim/trailing:20",
    "ddim/leading:20",
    "ancestral@small/trailing:20",
    "ancestral@large/trailing:20",
    "ancestral@small/trailing:1000",
    "mean-only/trailing:1000",
];

/// What the picture shows of them: few enough to tell apart.
const DRAWN: [usize; 4] = [0, 1, 4, 6];

/// The tour: handwritten digits emerge from noise, beside a table that says how wrong each sampler is.
///
/// Trains a small diffusion transformer on 1,797 handwritten digits that the program carries (UCI Optical Recognition
/// of Handwritten Digits, CC BY 4.0), draws new ones, and computes the exact error of several samplers on data with
/// these digits' variances. Takes about two minutes on two cores.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where the files go; must be new or empty.
    #[arg(long, value_name = "DIRECTORY", default_value = "demo")]
    out: PathBuf,
}

/// What the command reports.
#[derive(Serialize)]
struct Document {
    training_seconds: f64,
    sampling_seconds: f64,
    audit_seconds: f64,
    #[serde(flatten)]
    comparison: Comparison,
    files: Vec<PathBuf>,
}

/// The training run of the demo.
fn config(context: &Context) -> TrainConfig {
    TrainConfig {
        data: "digits".to_owned(),
        seed: context.seed.unwrap_or(0),
        hidden_size: Some(128),
        depth: Some(4),
        patch_size: Some(2),
        max_steps: Some(1200),
        warmup_steps: 50,
        learning_rate: 2e-3,
        ema_decay: 0.995,
        held_out: Some(180),
        log_every: 50,
        save_every: 0,
        ..TrainConfig::default()
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let out = &arguments.out;
    context.say("1. A denoiser learns 8 x 8 handwritten digits");
    let started = Instant::now();
    let (training, outcome) = execute(config(context), &out.join("run"), false, context)?;
    if outcome != Outcome::Finished {
        return Err(miette!(
            "interrupted; go on with: posterior diffusion train --resume --out {}",
            out.join("run").display()
        ));
    }
    let training_seconds = started.elapsed().as_secs_f64();
    let model = training.model();
    let spectrum = Spectrum::new(model.config.data.variances.clone()).into_diagnostic()?;
    let noise = model.noise().into_diagnostic()?;

    context.say("2. It draws new ones, six of each class in turn");
    let candidates = candidates(&noise, &spectrum)?;
    let plan = candidates
        .first()
        .map(|candidate| candidate.plan.clone())
        .ok_or_else(|| miette!("no sampler"))?;
    let started = Instant::now();
    let wish = Wish {
        seed: context.seed.unwrap_or(0),
        first: 0,
        classes: model.classes(&[], 0, 60).into_diagnostic()?,
        guidance: 1.0,
        batch_size: 60,
        keep_path: true,
    };
    let drawn = draw(&model, &plan, wish, context)?;
    let sampling_seconds = started.elapsed().as_secs_f64();
    let shape = model.config.shape;
    let (grid_file, path_file, plot_file) = (
        out.join("grid.png"),
        out.join("path.png"),
        out.join("std-against-level.png"),
    );
    let layout = Layout::square(shape, 60).with_columns(10);
    grid(&drawn.values, shape, &layout)
        .and_then(|grid| grid.write(&grid_file))
        .into_diagnostic()?;
    let ten = 10 * shape.values();
    let rows: Vec<Vec<f32>> = thinned(&drawn.states, 10)
        .into_iter()
        .map(|row| row[..ten].to_vec())
        .collect();
    denoising_path(&rows, shape, &layout)
        .and_then(|path| path.write(&path_file))
        .into_diagnostic()?;

    context.say("3. How wrong is each sampler, whatever the network? Exactly, on data of these digits' variances:");
    let started = Instant::now();
    let comparison = Comparison::new(&candidates, &spectrum, Start::Prior)?;
    let audit_seconds = started.elapsed().as_secs_f64();
    let shown: Vec<Candidate> = candidates
        .into_iter()
        .enumerate()
        .filter(|(i, _)| DRAWN.contains(i))
        .map(|(_, candidate)| candidate)
        .collect();
    draw_candidates(&plot_file, PictureFormat::Png, &shown, &spectrum, Start::Prior)?;

    let document = Document {
        training_seconds,
        sampling_seconds,
        audit_seconds,
        comparison,
        files: vec![grid_file, path_file, plot_file],
    };
    context.emit(&document, |document| {
        let files: Vec<String> = document
            .files
            .iter()
            .map(|file| format!("  {}", file.display()))
            .collect();
        format!(
            "{}\n\n{}\n\ntrained in {:.0} s, sampled in {:.1} s, audited {} samplers in {:.3} s; look at\n{}",
            document.comparison.text(),
            "W2 is the distance between the law of a sampler's output and the data's, with a perfect network: the \
             mean-only\nsampler collapses towards the mean, noise or DDIM's smaller step repairs it.",
            document.training_seconds,
            document.sampling_seconds,
            SAMPLERS.len(),
            document.audit_seconds,
            files.join("\n")
        )
    })
}

fn candidates(noise: &Noise, spectrum: &Spectrum) -> miette::Result<Vec<Candidate>> {
    SAMPLERS
        .iter()
        .map(|text| {
            let choice: Choice = text.parse().map_err(|error: String| miette!("{error}"))?;
            let plan: Plan = choice
                .recipe(spectrum)
                .plan(noise, spectrum)
                .into_diagnostic()
                .wrap_err(*text)?;
            Ok(Candidate::new(&choice, choice.spacing, plan, noise.process()))
        })
        .collect()
}
