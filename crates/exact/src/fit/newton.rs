//! Newton's method with a line search, each step by conjugate gradients.
//!
//! The log-likelihood is concave in log-strengths and log-prevalences together (all of them are natural parameters
//! of an exponential family), so Newton's steps, halved until they climb, reach the maximum from anywhere and
//! double the number of right digits at each step near it. Hunter's MM algorithm (2004) has the same limit and gains
//! a fixed factor per pass, which on a sparse graph is close to one.

use super::information::Information;
use super::likelihood::Likelihood;

/// Steps before giving up; a few dozen is the most that well-posed data have needed.
const MAXIMUM_STEPS: usize = 200;
/// When every parameter moves by less than this in a full step, the next step would be rounding.
const SMALL_STEP: f64 = 1e-7;

/// Where the climb ended.
pub(super) struct Maximum {
    /// Log-strengths, then log-prevalences.
    pub parameters: Vec<f64>,
    /// The information there.
    pub information: Information,
    /// Newton steps taken.
    pub iterations: usize,
    /// Whether the last step was small; if not, the steps ran out.
    pub converged: bool,
}

/// Climbs from equal strengths and prevalences of one.
pub(super) fn maximise(likelihood: &Likelihood) -> Maximum {
    let mut parameters = vec![0.0; likelihood.items() + likelihood.tie_sizes().len()];
    let mut information = likelihood.empty_information();
    let mut value = likelihood.objective(&parameters);
    let mut converged = false;
    let mut iterations = 0;
    while iterations < MAXIMUM_STEPS && !converged {
        iterations += 1;
        likelihood.fill_information(&parameters, &mut information);
        let gradient = likelihood.gradient(&parameters);
        let step = solve(&information, &gradient);
        let climb = dot(&gradient, &step);
        let rounding = 1e-13 * (1.0 + value.abs());
        let mut length = 1.0;
        loop {
            let trial: Vec<f64> = parameters.iter().zip(&step).map(|(x, dx)| x + length * dx).collect();
            let reached = likelihood.objective(&trial);
            if reached >= value + 1e-4 * length * climb - rounding || length < 1e-9 {
                parameters = trial;
                value = reached;
                break;
            }
            length /= 2.0;
        }
        converged = length == 1.0 && step.iter().all(|dx| dx.abs() < SMALL_STEP);
    }
    likelihood.fill_information(&parameters, &mut information);
    Maximum {
        parameters,
        information,
        iterations,
        converged,
    }
}

/// Solves `information · x = right` by conjugate gradients with the diagonal as preconditioner (Hestenes and
/// Stiefel 1952).
pub(super) fn solve(information: &Information, right: &[f64]) -> Vec<f64> {
    let diagonal = information.diagonal();
    let precondition = |residual: &[f64]| -> Vec<f64> {
        residual
            .iter()
            .zip(&diagonal)
            .map(|(r, d)| if *d > 0.0 { r / d } else { 0.0 })
            .collect()
    };
    let mut solution = vec![0.0; right.len()];
    let mut residual = right.to_vec();
    let mut direction = precondition(&residual);
    let mut size = dot(&residual, &direction);
    let target = 1e-24 * size;
    for _ in 0..10 * right.len() + 100 {
        if size <= target {
            break;
        }
        let image = information.times(&direction);
        let curvature = dot(&direction, &image);
        // Flat to rounding: nothing more can be learned in this direction.
        if curvature <= 0.0 {
            break;
        }
        let length = size / curvature;
        for index in 0..right.len() {
            solution[index] += length * direction[index];
            residual[index] -= length * image[index];
        }
        let next = precondition(&residual);
        let next_size = dot(&residual, &next);
        let keep = next_size / size;
        for (direction, next) in direction.iter_mut().zip(&next) {
            *direction = next + keep * *direction;
        }
        size = next_size;
    }
    solution
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
