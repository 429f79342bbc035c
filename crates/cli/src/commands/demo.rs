//! `posterior demo`: the tour, on data that the program carries.
//!
//! First diffusion, then preferences, then a page of both.

use std::path::PathBuf;
use std::time::Instant;

use ::train::trainer::Outcome;
use burn::tensor::{Device, Tensor};
use diffusion::config::TrainConfig;
use diffusion::picture::{Layout, grid, path as denoising_path};
use exact::audit::Start;
use exact::recipe::Noise;
use exact::sampler::Plan;
use exact::spectrum::Spectrum;
use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use preference::world::{Effort, Method};
use serde::Serialize;

use super::audit::choice::Choice;
use super::audit::{Candidate, Comparison, draw_candidates};
use super::diffusion::sample::{Wish, draw, thinned};
use super::diffusion::train::execute;
use super::frontier::{World, worlds};
use crate::output::Context;
use crate::page::Page;
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

/// The tour: digits emerge from noise, and a small model learns what is pleasant, both beside exact numbers.
///
/// Trains a small diffusion transformer on 1,797 handwritten digits that the program carries (UCI Optical Recognition
/// of Handwritten Digits, CC BY 4.0), draws new ones, and computes the exact error of several samplers on data with
/// these digits' variances. Then a small language model is tuned to a known reward by every method (DPO from pairs and
/// rankings, PPO, fine-tuning on the best), and each is measured against the most that can be earned at its distance from
/// the reference. Ends in report.html. Takes some four minutes on two cores.
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
    world_seconds: f64,
    world: World,
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

    context.say("4. A small language model learns what is pleasant to say, by every method");
    let started = Instant::now();
    let seed = context.seed.unwrap_or(0);
    let world = worlds(seed..seed + 1, Effort::default(), &Method::ALL, context)?;
    let document = Document {
        training_seconds,
        sampling_seconds,
        audit_seconds,
        comparison,
        world_seconds: started.elapsed().as_secs_f64(),
        world,
        files: vec![grid_file, path_file, plot_file, out.join("report.html")],
    };
    write_page(&document)?;
    context.emit(&document, |document| {
        let files: Vec<String> = document
            .files
            .iter()
            .map(|file| format!("  {}", file.display()))
            .collect();
        format!(
            "{}\n\n{}\n\n{}\n\ntrained in {:.0} s, sampled in {:.1} s, audited {} samplers in {:.3} s, all methods of the world \
             in {:.0} s; look at\n{}",
            document.comparison.text(),
            "W2 is the distance between the law of a sampler's output and the data's, with a perfect network: the \
             mean-only\nsampler collapses towards the mean, noise or DDIM's smaller step repairs it.",
            document.world.text(),
            document.training_seconds,
            document.sampling_seconds,
            SAMPLERS.len(),
            document.audit_seconds,
            document.world_seconds,
            files.join("\n")
        )
    })
}

/// The page: formulas, the numbers beside them, and pictures.
fn write_page(document: &Document) -> miette::Result<()> {
    let mut page = Page::new("posterior: the tour");
    page.paragraph(
        "Both halves draw from a posterior: reverse diffusion the less noisy state given the noisier one, the best \
         KL-regularised policy the reference reweighted by the reward. Where both are known exactly, what was learned or \
         sampled is measured against them.",
    );
    page.heading("Diffusion: digits out of noise");
    page.lines(
        "q(x_s | x_t, x_0) = N( (s/t)² x_t + (1 - (s/t)²) x_0,  s² (1 - (s/t)²) I )        sigma from t to s < t\n\
         the mean alone collapses towards the data's mean; its noise, or DDIM's smaller step, repairs it",
    );
    let [grid, path, plot, report] = &document.files[..] else {
        return Err(miette!("four files make the tour"));
    };
    page.png(grid, "Sixty digits that were drawn, six of each class in turn.")?;
    page.png(path, "Ten of them on their way from noise.")?;
    page.png(
        plot,
        "The standard deviation on the way, for a perfect network; dashed, what it should be.",
    )?;
    page.lines(&document.comparison.text());
    page.paragraph(&format!(
        "The network learned in {:.0} s, the digits were drawn in {:.1} s, and the table took {:.3} s: it is exact, as the law \
         of a sampler's output on Gaussian data is a recursion of variances.",
        document.training_seconds, document.sampling_seconds, document.audit_seconds
    ));
    page.heading("Preferences: the most that can be earned");
    page.lines(
        "maximise  E[r(x, y)] - beta KL(pi || pi_ref)          pi*(y|x) = pi_ref(y|x) exp(r(x, y) / beta) / Z(x)\n\
         DPO       h = beta ln(pi / pi_ref),  p(ranking) = Π_k exp(h_k) / Σ_{j≥k} exp(h_j)\n\
         PPO       max(-A ρ, -A clip(ρ, 1 ± 0.2)),  ρ = pi / pi_old,  reward less beta ln(pi / pi_ref) a token",
    );
    page.svg(
        &document.world.svg()?,
        "Every method on a small language whose remarks can all be listed. Nothing can be above the dashed line.",
    );
    let (heads, rows) = document.world.rows();
    page.table(&heads, &["method"], &rows);
    page.paragraph(&format!(
        "The world took {:.0} s: a reference, a reward model, and every policy of the table. \"gap\" is what the best policy \
         earns at the same KL, less what this one does.",
        document.world_seconds
    ));
    page.heading("What it would cost at full size");
    let rate = product_rate();
    let step = |tokens: f64, parameters: f64| 6.0 * tokens * parameters / rate;
    let rows = [
        (
            "SFT of 135 million parameters, 1,024 tokens a step",
            step(1024.0, 135e6),
        ),
        (
            "DPO of the same, 4 pairs with prompts of 192 tokens and responses of 48",
            step(1152.0, 135e6),
        ),
        (
            "PPO of the same, 16 answers of 64 tokens to 4 such prompts, 4 passes, without drawing them",
            step(4.0 * 1792.0, 135e6),
        ),
        ("DPO of 1.5 billion parameters, as above", step(1152.0, 1.5e9)),
    ];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|(what, seconds)| vec![(*what).to_owned(), format!("{seconds:.1}")])
        .collect();
    page.table(&["a step", "seconds"], &["a step"], &rows);
    page.paragraph(&format!(
        "Six operations for each parameter and token, at the {:.0} GFLOP/s that products of matrices reached on this machine \
         just now: a floor, of which the book's benchmarks say how near the program comes.",
        rate / 1e9
    ));
    page.write(report)
}

/// Operations a second of a product of matrices, the best of some.
fn product_rate() -> f64 {
    const SIZE: usize = 1024;
    let matrix = Tensor::<2>::ones([SIZE, SIZE], &Device::flex());
    let turn = |_| {
        let begun = Instant::now();
        // Read, so that it is done.
        let _ = matrix.clone().matmul(matrix.clone()).into_data();
        2.0 * (SIZE as f64).powi(3) / begun.elapsed().as_secs_f64()
    };
    (0..8).map(turn).fold(0.0, f64::max)
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
