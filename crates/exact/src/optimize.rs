//! Levels placed to make a sampler's exact error as small as it can be on given data.
//!
//! The audit gives a plan's 2-Wasserstein distance exactly and in microseconds, so the levels themselves can be
//! searched: any sampler, any number of steps. The first level stays where it is, levels below it move.
//!
//! Levels are described by the logarithms of the steps between them in the coordinate `log(sigma / (sigma + c))`,
//! with `c` the data's root mean square: it is log sigma below c and flattens above, where levels hardly matter, so
//! an infinite first level needs no special case. The search is a quasi-Newton one (BFGS; Nocedal & Wright 2006,
//! algorithm 6.1) on log W2 with central differences, from several starts, first on a spectrum of merged
//! neighbouring axes and then on the spectrum itself.

mod minimize;

use minimize::{Minimum, minimize};

use crate::audit::{Start, audit};
use crate::sampler::{Plan, SamplerError};
use crate::spacing::{Levels, SpacingError};
use crate::spectrum::Spectrum;

/// The best levels found, and what they reach.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizedLevels {
    /// The levels.
    pub levels: Levels,
    /// Exact 2-Wasserstein distance of the sampler on these levels.
    pub w2: f64,
}

/// Why the search fails.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OptimizeError {
    /// The range or the number of steps makes no levels.
    #[error(transparent)]
    Spacing(#[from] SpacingError),
    /// The sampler has no table on levels of this range.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
}

/// Searches `steps` levels from `sigma_max` down to nothing below `sigma_min`, and then 0, for the smallest exact
/// 2-Wasserstein distance of the plan that `plan` makes of them.
///
/// The answer is never worse than Karras's levels or equal angles in the same range. More than 32 steps are described by
/// 32 numbers, with log-increments linear in between, to keep the search short.
///
/// # Errors
/// [`OptimizeError`] for an empty range, no steps, or levels on which the sampler has no table.
pub fn optimize(
    spectrum: &Spectrum,
    start: Start,
    sigma_min: f64,
    sigma_max: f64,
    steps: usize,
    plan: impl Fn(&Levels) -> Result<Plan, SamplerError>,
) -> Result<OptimizedLevels, OptimizeError> {
    let space = Space::new(spectrum.rms(), sigma_min, sigma_max, steps)?;
    // Levels and plans cannot fail once they work at the centre: the space keeps levels decreasing and in range.
    plan(&space.levels(&space.even())?)?;
    let objective = |spectrum: &Spectrum, weights: &[f64], point: &[f64]| -> f64 {
        let run = || -> Option<f64> {
            let audit = audit(&plan(&space.levels(point).ok()?).ok()?, spectrum, start).ok()?;
            let pairs = audit.output_std.iter().zip(&audit.target_std).zip(weights);
            Some(0.5 * pairs.map(|((a, b), weight)| weight * (a - b).powi(2)).sum::<f64>().ln())
        };
        // Where levels run into each other or out of range there is no candidate.
        run().filter(|value| !value.is_nan()).unwrap_or(f64::INFINITY)
    };
    let (merged, weights) = merge(spectrum);
    let mut best = Minimum {
        point: space.even(),
        value: f64::INFINITY,
    };
    for point in space.starts() {
        let found = minimize(point, 400, |point| objective(&merged, &weights, point));
        if found.value < best.value {
            best = found;
        }
    }
    let ones = vec![1.0; spectrum.axes()];
    best = minimize(best.point, 100, |point| objective(spectrum, &ones, point));
    let evaluate = |levels: Levels| -> Result<OptimizedLevels, OptimizeError> {
        let w2 = audit(&plan(&levels)?, spectrum, start).map_err(SamplerError::from)?.w2;
        Ok(OptimizedLevels { levels, w2 })
    };
    let mut found = evaluate(space.levels(&best.point)?)?;
    for rule in space.rules() {
        found = evaluate(rule).ok().filter(|other| other.w2 < found.w2).unwrap_or(found);
    }
    Ok(found)
}

/// Numbers that describe a list of levels, at most.
const KNOTS: usize = 32;

/// The levels that are searched.
struct Space {
    center: f64,
    sigma_min: f64,
    sigma_max: f64,
    steps: usize,
}

impl Space {
    fn new(center: f64, sigma_min: f64, sigma_max: f64, steps: usize) -> Result<Self, SpacingError> {
        if steps == 0 {
            return Err(SpacingError::NoSteps);
        }
        if !(sigma_min > 0.0 && sigma_min < sigma_max) {
            let requirement = "the search needs 0 < lowest < highest";
            return Err(SpacingError::BadRange {
                sigma_min,
                sigma_max,
                requirement,
            });
        }
        Ok(Self {
            center,
            sigma_min,
            sigma_max,
            steps,
        })
    }

    fn knots(&self) -> usize {
        self.steps.min(KNOTS)
    }

    /// `log(sigma / (sigma + c))`, 0 at infinity.
    fn coordinate(&self, sigma: f64) -> f64 {
        -(self.center / sigma).ln_1p()
    }

    fn sigma(&self, coordinate: f64) -> f64 {
        self.center / (-coordinate).exp_m1()
    }

    /// The levels at a point: the logarithms of the steps in the coordinate, up to a common constant.
    fn levels(&self, point: &[f64]) -> Result<Levels, SpacingError> {
        let largest = point.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let increments: Vec<f64> = (0..self.steps)
            .map(|index| {
                // Linear between knots; with as many knots as steps, the knot itself.
                let place = index as f64 * (point.len() - 1) as f64 / (self.steps.max(2) - 1) as f64;
                let low = (place as usize).min(point.len().saturating_sub(2));
                let high = (low + 1).min(point.len() - 1);
                let log = point[low] + (place - low as f64) * (point[high] - point[low]);
                (log - largest).exp()
            })
            .collect();
        let total: f64 = increments.iter().sum();
        let (top, bottom) = (self.coordinate(self.sigma_max), self.coordinate(self.sigma_min));
        let mut sigmas = vec![self.sigma_max];
        let mut gone = 0.0;
        for increment in &increments[..self.steps - 1] {
            gone += increment / total;
            sigmas.push(self.sigma(top + (bottom - top) * gone));
        }
        sigmas.push(0.0);
        Levels::new(sigmas)
    }

    /// The fixed rules, where they have levels in this range.
    fn rules(&self) -> impl Iterator<Item = Levels> {
        let karras = Levels::karras(self.sigma_min, self.sigma_max, 7.0, self.steps);
        let tangent = Levels::tangent(self.center, self.sigma_max, self.steps);
        let lowest = self.sigma_min;
        let inside = move |levels: &Levels| levels.sigmas()[..levels.steps()].iter().all(|&sigma| sigma >= lowest);
        karras.into_iter().chain(tangent).filter(inside)
    }

    /// Equal steps in the coordinate.
    fn even(&self) -> Vec<f64> {
        vec![0.0; self.knots()]
    }

    /// Where searches begin: equal steps, and steps that shrink or grow towards low levels.
    fn starts(&self) -> Vec<Vec<f64>> {
        let knots = self.knots();
        let tilted = |slope: f64| {
            (0..knots)
                .map(|knot| slope * (knot as f64 / knots as f64 - 0.5))
                .collect()
        };
        [0.0, 2.0, -2.0, 4.0].into_iter().map(tilted).collect()
    }
}

/// Merges axes whose standard deviations differ by less than a tenth, for the first search: a shorter spectrum and
/// how many axes each entry stands for.
fn merge(spectrum: &Spectrum) -> (Spectrum, Vec<f64>) {
    let mut variances = spectrum.variances().to_vec();
    variances.sort_by(f64::total_cmp);
    let mut merged: Vec<(f64, f64)> = Vec::new();
    let mut first = f64::NEG_INFINITY;
    for variance in variances {
        match merged.last_mut() {
            Some((sum, count)) if variance <= 1.2 * first => {
                *sum += variance;
                *count += 1.0;
            }
            _ => {
                first = variance;
                merged.push((variance, 1.0));
            }
        }
    }
    let means = merged.iter().map(|(sum, count)| sum / count).collect();
    match Spectrum::new(means) {
        Ok(short) => (short, merged.iter().map(|(_, count)| *count).collect()),
        // Cannot be: means of valid variances are valid. The whole spectrum would do as well.
        Err(_) => (spectrum.clone(), vec![1.0; spectrum.axes()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;
    use crate::sampler::{Sampler, Variance, ddim, dpm_solver_plus_plus_2m};
    use crate::test::assert_close;

    #[test]
    fn equal_angles_are_best_for_one_std() {
        // DDIM on one axis: the product of cosines is largest at equal angles.
        let spectrum = Spectrum::from_std(0.5).unwrap();
        let plan = |levels: &Levels| ddim(Process::VariancePreserving, levels, 0.0);
        for sigma_max in [5.0, f64::INFINITY] {
            let found = optimize(&spectrum, Start::Exact, 1e-3, sigma_max, 6, plan).unwrap();
            let tangent = Levels::tangent(0.5, sigma_max, 6).unwrap();
            let best = audit(&plan(&tangent).unwrap(), &spectrum, Start::Exact).unwrap().w2;
            assert_close(found.w2, best, 1e-6);
            for (level, expected) in found.levels.sigmas()[1..6].iter().zip(&tangent.sigmas()[1..6]) {
                assert_close(*level, *expected, 1e-2);
            }
        }
    }

    /// A power law like that of natural images: 500 axes, standard deviations from 10 down to 0.01.
    fn power_law() -> Spectrum {
        Spectrum::new((0..500).map(|axis| 100.0 / (1.0 + f64::from(axis)).powf(2.2)).collect()).unwrap()
    }

    #[test]
    fn optimized_levels_beat_the_fixed_rules() {
        let spectrum = power_law();
        for sampler in [
            Sampler::DpmSolverPlusPlus2M,
            Sampler::Heun,
            Sampler::Ddim { eta: 0.0 },
            Sampler::Ancestral(Variance::Optimal(spectrum.clone())),
        ] {
            let plan = |levels: &Levels| sampler.plan(Process::VariancePreserving, levels);
            let found = optimize(&spectrum, Start::Prior, 0.01, 150.0, 10, plan).unwrap();
            let w2 = |levels: &Levels| audit(&plan(levels).unwrap(), &spectrum, Start::Prior).unwrap().w2;
            assert_close(w2(&found.levels), found.w2, 1e-12);
            assert_eq!(
                (found.levels.steps(), found.levels.first(), found.levels.last()),
                (10, 150.0, 0.0)
            );
            let fixed = [
                Levels::karras(0.01, 150.0, 7.0, 10).unwrap(),
                Levels::tangent(spectrum.rms(), 150.0, 10).unwrap(),
            ];
            for rule in fixed {
                assert!(found.w2 < w2(&rule), "{sampler:?}: {} against {}", found.w2, w2(&rule));
            }
        }
    }

    #[test]
    fn one_step_and_many_have_levels() {
        let spectrum = power_law();
        let plan = |levels: &Levels| dpm_solver_plus_plus_2m(Process::VariancePreserving, levels);
        let one = optimize(&spectrum, Start::Prior, 0.01, 150.0, 1, plan).unwrap();
        assert_eq!(one.levels.sigmas(), [150.0, 0.0]);
        let many = optimize(&spectrum, Start::Prior, 0.01, 150.0, 50, plan).unwrap();
        assert_eq!(many.levels.steps(), 50);
        let few = optimize(&spectrum, Start::Prior, 0.01, 150.0, 10, plan).unwrap();
        assert!(many.w2 < few.w2);
    }

    #[test]
    fn impossible_searches_are_refused() {
        let spectrum = Spectrum::from_std(1.0).unwrap();
        let plan = |levels: &Levels| Sampler::Heun.plan(Process::VariancePreserving, levels);
        assert!(matches!(
            optimize(&spectrum, Start::Prior, 0.1, 1.0, 0, plan),
            Err(OptimizeError::Spacing(_))
        ));
        assert!(matches!(
            optimize(&spectrum, Start::Prior, 2.0, 1.0, 3, plan),
            Err(OptimizeError::Spacing(_))
        ));
        let infinite = optimize(&spectrum, Start::Prior, 0.1, f64::INFINITY, 3, plan);
        assert!(matches!(
            infinite,
            Err(OptimizeError::Sampler(SamplerError::InfiniteStart { .. }))
        ));
    }
}
