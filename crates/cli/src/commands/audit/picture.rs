//! The audit's pictures: what is drawn, in the process's own coordinates.

use std::path::Path;

use exact::audit::{Start, Waypoint, trajectory};
use exact::process::Process;
use exact::spectrum::Spectrum;
use miette::IntoDiagnostic as _;

use super::Candidate;
use crate::output::number;
use crate::plot::{Curve, PictureFormat, std_against_level};

/// Axes that are drawn: every one of up to three, else the largest, the median and the smallest above 0.
const DRAWN: usize = 3;

/// One sampler, an axis a colour.
pub fn axes(
    path: &Path,
    format: PictureFormat,
    candidate: &Candidate,
    spectrum: &Spectrum,
    start: Start,
) -> miette::Result<()> {
    let drawn = Spectrum::new(drawn_variances(spectrum)).into_diagnostic()?;
    let waypoints = trajectory(&candidate.plan, &drawn, start).into_diagnostic()?;
    let mut curves = Vec::new();
    for (axis, &variance) in drawn.variances().iter().enumerate() {
        let target = |sigma: f64| candidate.process.marginal(variance, sigma).variance.sqrt();
        let name = format!("std {}", number(variance.sqrt()));
        curves.push(Curve {
            label: format!("data, {name}"),
            points: dense(&waypoints)
                .into_iter()
                .map(|sigma| (sigma, target(sigma)))
                .collect(),
            target: true,
            group: Some(axis),
        });
        let points = waypoints
            .iter()
            .map(|waypoint| {
                (
                    waypoint.sigma,
                    scale(candidate.process, waypoint.sigma) * waypoint.sampler_std[axis],
                )
            })
            .collect();
        curves.push(Curve {
            label: format!("{}, {name}", candidate.name),
            points,
            target: false,
            group: Some(axis),
        });
    }
    let title = format!("{}, {} steps", candidate.name, candidate.steps);
    std_against_level(
        path,
        format,
        &title,
        &y_label(candidate.process, "standard deviation"),
        &curves,
    )
}

/// Several samplers, each a colour, in the root mean square over the axes.
pub fn candidates(
    path: &Path,
    format: PictureFormat,
    candidates: &[Candidate],
    spectrum: &Spectrum,
    start: Start,
) -> miette::Result<()> {
    let mut curves = Vec::new();
    let mut levels = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        let waypoints = trajectory(&candidate.plan, spectrum, start).into_diagnostic()?;
        let points = waypoints
            .iter()
            .map(|waypoint| {
                (
                    waypoint.sigma,
                    scale(candidate.process, waypoint.sigma) * rms(&waypoint.sampler_std),
                )
            })
            .collect();
        let label = format!("{}, {} steps", candidate.name, candidate.steps);
        curves.push(Curve {
            label,
            points,
            target: false,
            group: Some(index),
        });
        levels.extend(dense(&waypoints));
    }
    let process = candidates
        .first()
        .map_or(Process::VarianceExploding, |candidate| candidate.process);
    levels.sort_by(|a, b| b.total_cmp(a));
    levels.dedup();
    let mean = spectrum.rms().powi(2);
    let points = levels
        .into_iter()
        .map(|sigma| (sigma, process.marginal(mean, sigma).variance.sqrt()))
        .collect();
    curves.insert(
        0,
        Curve {
            label: "data".to_owned(),
            points,
            target: true,
            group: None,
        },
    );
    let label = y_label(process, "root mean square");
    std_against_level(path, format, "Samplers compared", &label, &curves)
}

fn y_label(process: Process, quantity: &str) -> String {
    match process {
        Process::VarianceExploding => format!("{quantity} of the state"),
        Process::VariancePreserving => format!("{quantity} of the variance-preserving state"),
    }
}

/// From a plan's coordinates to the process's own.
fn scale(process: Process, sigma: f64) -> f64 {
    // At an infinite level both are unit noise.
    if sigma.is_infinite() {
        1.0
    } else {
        process.signal(sigma)
    }
}

fn rms(stds: &[f64]) -> f64 {
    (stds.iter().map(|std| std * std).sum::<f64>() / stds.len() as f64).sqrt()
}

fn drawn_variances(spectrum: &Spectrum) -> Vec<f64> {
    let mut variances = spectrum.variances().to_vec();
    if variances.len() <= DRAWN {
        return variances;
    }
    variances.retain(|&variance| variance > 0.0);
    variances.sort_by(|a, b| b.total_cmp(a));
    vec![
        variances[0],
        variances[variances.len() / 2],
        variances[variances.len() - 1],
    ]
}

/// The plan's levels with more between them, so that a curve of known shape is smooth.
fn dense(waypoints: &[Waypoint]) -> Vec<f64> {
    let mut levels = Vec::new();
    for pair in waypoints.windows(2) {
        let (from, to) = (pair[0].sigma, pair[1].sigma);
        levels.push(from);
        if from.is_finite() && to > 0.0 {
            levels.extend((1..8).map(|part| from * (to / from).powf(f64::from(part) / 8.0)));
        }
    }
    levels.extend(waypoints.last().map(|waypoint| waypoint.sigma));
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_axes_stand_for_many() {
        let spectrum = Spectrum::new(vec![0.0, 3.0, 1.0, 9.0, 4.0, 0.5]).unwrap();
        assert_eq!(drawn_variances(&spectrum), [9.0, 3.0, 0.5]);
        let few = Spectrum::new(vec![0.0, 3.0]).unwrap();
        assert_eq!(drawn_variances(&few), [0.0, 3.0]);
    }
}
