//! One sampler's audit as a document and as text.

use diffusion::evaluate::LevelError;
use exact::audit::{Audit, ErrorSplit, Start};
use exact::sampler::Step;
use serde::{Serialize, Serializer};

use super::{Candidate, start_words};
use crate::output::{number, table};

/// The JSON document. What is infinite is the string "inf".
#[derive(Serialize)]
pub struct Document<'a> {
    output_std: &'a [f64],
    target_std: &'a [f64],
    w2: f64,
    #[serde(serialize_with = "number_or_inf")]
    kl: f64,
    error: ErrorSplit,
    network_evaluations: usize,
    steps: &'a [Step],
    prior_std: f64,
    output_scale: f64,
    clip: Option<f64>,
    warnings: &'a [String],
    /// With `--run`: the trained network's error at levels of the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<&'a [LevelError]>,
}

impl<'a> Document<'a> {
    /// The document of an audited candidate.
    pub fn new(candidate: &'a Candidate, audit: &'a Audit, network: Option<&'a [LevelError]>) -> Self {
        Self {
            output_std: &audit.output_std,
            target_std: &audit.target_std,
            w2: audit.w2,
            kl: audit.kl,
            error: audit.error,
            network_evaluations: audit.network_evaluations,
            steps: &candidate.plan.steps,
            prior_std: candidate.plan.prior_std,
            output_scale: candidate.plan.output_scale,
            clip: candidate.plan.clip,
            warnings: &candidate.warnings,
            network,
        }
    }
}

/// JSON has no infinity.
pub fn number_or_inf<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_infinite() {
        serializer.serialize_str("inf")
    } else {
        serializer.serialize_f64(*value)
    }
}

/// A network's mean squared error beside the best that a linear map reaches; on Gaussian data nothing does better.
pub fn level_table(errors: &[LevelError]) -> comfy_table::Table {
    let mut levels = table(["noise level", "network's error", "best linear error", "ratio"]);
    for level in errors {
        levels.add_row(
            [
                level.sigma,
                level.network,
                level.best_linear,
                level.network / level.best_linear,
            ]
            .map(number),
        );
    }
    levels
}

/// Axes that are listed one by one.
const FEW: usize = 8;

/// The same for people; `verbose` adds the rows of the plan.
pub fn text(
    candidate: &Candidate,
    audit: &Audit,
    network: Option<&[LevelError]>,
    start: Start,
    verbose: bool,
) -> String {
    let mut text = format!(
        "{}, {} steps {}: {} network evaluations\n\n",
        candidate.name,
        candidate.steps,
        start_words(start),
        audit.network_evaluations
    );
    for (name, value) in [
        ("2-Wasserstein distance", audit.w2),
        ("  initialization", audit.error.initialization),
        ("  truncation", audit.error.truncation),
        ("  discretization", audit.error.discretization),
        ("KL(output ‖ data), nats", audit.kl),
    ] {
        text += &format!(" {name:<24} {:>9}\n", number(value));
    }
    text += &format!("\n{}\n", axes(audit));
    if let Some(network) = network {
        text += &format!(
            "\nthe trained network at the plan's levels, on held-out samples\n{}\n",
            level_table(network)
        );
    }
    if verbose {
        text += &format!(
            "\nstart: N(0, {}²)\n{}\n",
            number(candidate.plan.prior_std),
            rows(&candidate.plan.steps)
        );
        if candidate.plan.output_scale != 1.0 {
            text += &format!("output: the last state times {}\n", number(candidate.plan.output_scale));
        }
    }
    text
}

/// Every axis if there are few, otherwise some from the largest to the smallest.
fn axes(audit: &Audit) -> comfy_table::Table {
    let mut order: Vec<usize> = (0..audit.target_std.len()).collect();
    let mut listed = table(["axis", "data std", "output std", "ratio"]);
    let row = |name: String, axis: usize| {
        let (target, output) = (audit.target_std[axis], audit.output_std[axis]);
        let ratio = if target == 0.0 {
            "-".to_owned()
        } else {
            number(output / target)
        };
        [name, number(target), number(output), ratio]
    };
    if order.len() <= FEW {
        for axis in order {
            listed.add_row(row((axis + 1).to_string(), axis));
        }
        return listed;
    }
    order.sort_by(|&a, &b| audit.target_std[b].total_cmp(&audit.target_std[a]));
    let last = order.len() - 1;
    for (name, fraction) in [
        ("largest", 0.0),
        ("1 % down", 0.01),
        ("10 % down", 0.1),
        ("median", 0.5),
        ("90 % down", 0.9),
        ("smallest", 1.0),
    ] {
        listed.add_row(row(name.to_owned(), order[(fraction * last as f64).round() as usize]));
    }
    listed
}

fn rows(steps: &[Step]) -> comfy_table::Table {
    let mut listed = table(["step", "from", "to", "state", "denoised", "previous", "noise"]);
    for (index, step) in steps.iter().enumerate() {
        let numbers = [
            step.from,
            step.to,
            step.state,
            step.denoised,
            step.previous_denoised,
            step.noise,
        ];
        listed.add_row(std::iter::once((index + 1).to_string()).chain(numbers.map(number)));
    }
    listed
}
