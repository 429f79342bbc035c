//! `posterior diffusion eval`.

use std::path::PathBuf;

use diffusion::data::{DataError, Options, Part, open};
use diffusion::evaluate::{Images, Judgement, LevelError, gaussian_distance, judge};
use diffusion::sample::Denoise as _;
use exact::audit::{Start, audit};
use miette::IntoDiagnostic as _;
use serde::Serialize;

use super::plan::PlanArguments;
use super::sample::{Wish, draw};
use super::trained::Trained;
use crate::commands::audit::level_table;
use crate::output::{Context, number, table};

const EXAMPLES: &str = "\
Examples:
  The network's error at each noise level, and how far 1,000 samples are from the data:
      posterior diffusion eval --run runs/moons --count 1000
  Frechet distance, and a classifier trained on 10,000 samples alone, tested on real images:
      posterior diffusion eval --run runs/fashion --count 10000 --classifier";

/// Measure a trained denoiser: its error at each noise level, and the distance between its samples and the data.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The run.
    #[arg(long, value_name = "RUN")]
    run: PathBuf,
    /// How many samples are drawn.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    count: usize,
    /// Classifier-free guidance.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    guidance: f64,
    /// Most samples that go through the network at once.
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch_size: usize,
    /// Also judge the samples by classifiers trained here: Frechet distance in features, and the accuracy on real
    /// test images of a classifier that saw only samples.
    #[arg(long)]
    classifier: bool,
    /// Passes over its data of each classifier.
    #[arg(long, value_name = "N", default_value_t = 10, requires = "classifier")]
    classifier_epochs: u64,
    #[command(flatten)]
    plan: PlanArguments,
}

/// What the command reports.
#[derive(Serialize)]
struct Document {
    plan: String,
    network_evaluations: usize,
    samples: usize,
    levels: Vec<LevelError>,
    /// The sampler's own error on Gaussian data of the run's spectrum: with a perfect network.
    audit_w2: f64,
    /// Between the Gaussian fits of samples and training data.
    gaussian_w2: f64,
    /// The same between held-out and training data.
    gaussian_w2_of_held_out: Option<f64>,
    judgement: Option<Judgement>,
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let trained = Trained::open(&arguments.run, context)?;
    let Trained {
        model,
        config,
        training,
        held_out,
    } = &trained;
    let spectrum = trained.spectrum()?;
    let (name, plan) = arguments.plan.plan(model, context)?;
    let sigmas: Vec<f64> = {
        let noise = trained.noise()?;
        let (low, high) = (noise.sigma_min(), noise.sigma_max().min(100.0));
        (0..10).map(|i| low * (high / low).powf(f64::from(i) / 9.0)).collect()
    };
    let levels = trained.level_errors(&sigmas)?;

    let wish = Wish {
        seed: context.seed.unwrap_or(config.seed),
        first: 0,
        classes: model.classes(&[], 0, arguments.count).into_diagnostic()?,
        guidance: arguments.guidance,
        batch_size: arguments.batch_size,
        keep_path: false,
    };
    let drawn = draw(model, &plan, wish, context)?;
    let all = |data: &diffusion::data::Dataset| data.batch(&(0..data.len()).collect::<Vec<_>>());
    let (size, real) = (model.config.shape.values(), all(training));
    let gaussian_w2 = gaussian_distance(&drawn.values, &real, size).into_diagnostic()?;
    let gaussian_w2_of_held_out = (held_out.len() > 1)
        .then(|| gaussian_distance(&all(held_out), &real, size))
        .transpose()
        .into_diagnostic()?;

    let judgement = if arguments.classifier {
        context.say("training classifiers");
        let real = Images::of(training).into_diagnostic()?;
        let test = test_images(&trained, context)?;
        let labels: Option<Vec<u32>> = drawn.classes.iter().copied().collect();
        let epochs = arguments.classifier_epochs;
        Some(
            judge(
                &drawn.values,
                labels.as_deref(),
                &real,
                &test,
                epochs,
                config.seed,
                &context.device,
            )
            .into_diagnostic()?,
        )
    } else {
        None
    };
    let document = Document {
        plan: name,
        network_evaluations: plan.network_evaluations() * model.denoiser().guided(arguments.guidance).evaluations(),
        samples: arguments.count,
        levels,
        audit_w2: audit(&plan, &spectrum, Start::Prior).into_diagnostic()?.w2,
        gaussian_w2,
        gaussian_w2_of_held_out,
        judgement,
    };
    context.emit(&document, text)
}

/// What classifiers are tested on: the source's test part, or what was held out of a source without one.
fn test_images(trained: &Trained, context: &Context) -> miette::Result<Images> {
    let options = Options {
        part: Some(Part::Test),
        ..trained.config.data_options()
    };
    match open(&trained.config.data, &options) {
        Ok(test) => Images::of(&test).into_diagnostic(),
        Err(DataError::UnusedOption { option: "--part", .. }) => {
            context.say("the data have no test part; classifiers are tested on what was held out");
            Images::of(&trained.held_out).into_diagnostic()
        }
        Err(error) => Err(error).into_diagnostic(),
    }
}

fn text(document: &Document) -> String {
    let levels = level_table(&document.levels);
    let mut distances = table(["distance to the training data", "value"]);
    let mut row = |name: String, value: f64| {
        distances.add_row([name, number(value)]);
    };
    row(
        format!("W2 of Gaussian fits, {} samples", document.samples),
        document.gaussian_w2,
    );
    if let Some(value) = document.gaussian_w2_of_held_out {
        row("W2 of Gaussian fits, held-out data".to_owned(), value);
    }
    row(
        "W2 of this plan with a perfect network (audit)".to_owned(),
        document.audit_w2,
    );
    if let Some(judgement) = &document.judgement {
        row(
            "Frechet distance in features, samples".to_owned(),
            judgement.frechet_distance,
        );
        row(
            "Frechet distance in features, real test data".to_owned(),
            judgement.frechet_distance_of_real_data,
        );
        if let Some(accuracy) = judgement.accuracy_trained_on_samples {
            row("accuracy on real test data, trained on samples".to_owned(), accuracy);
        }
        row(
            "the same, trained on as many real".to_owned(),
            judgement.accuracy_trained_on_as_many_real,
        );
        row(
            "the same, trained on all real".to_owned(),
            judgement.accuracy_trained_on_real,
        );
    }
    format!(
        "{}, {} network evaluations\n\nmean squared error of the estimate of the clean data, on held-out samples\n{levels}\n\n{distances}",
        document.plan, document.network_evaluations
    )
}
