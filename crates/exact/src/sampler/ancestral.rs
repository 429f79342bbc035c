//! Ancestral sampling: the reverse process's mean and a choice of its variance.

use super::{Plan, SamplerError, Step, mean_only};
use crate::process::{Process, one_minus_squared_ratio};
use crate::spacing::Levels;
use crate::spectrum::Spectrum;

/// The variance of an ancestral step's noise. The true one lies between small and large.
#[derive(Clone, Debug, PartialEq)]
pub enum Variance {
    /// The posterior's variance given the clean data, exact for data at a single point:
    /// `to² (from² - to²) / from²`, which is `(1 - abar_to) / (1 - abar_from) b` (Ho et al. 2020, eq. 7; diffusers'
    /// `fixed_small`).
    Small,
    /// The forward process's own variance, exact for unit-variance data under the variance-preserving process:
    /// `from² - to²`, or `b = 1 - abar_from / abar_to` in variance-preserving coordinates (Ho et al. 2020,
    /// section 3.2; diffusers' `fixed_large`).
    Large,
    /// The best isotropic variance for this data: the small one plus
    /// `(1 - to²/from²)²` times the mean over the axes of `Var(x0 | x) = s² from² / (s² + from²)`
    /// (Bao et al. 2022, theorem 1, with the exact score). For one axis it is the exact reverse variance.
    Optimal(Spectrum),
    /// `from² - to²` in the common coordinate, at every step, the last included: the noise that the forward process
    /// added there is put back.
    Increment,
}

/// Ancestral sampling: `x' = x + (d / t) (xhat0 - x) + noise z`, with `t = from²` and `d = from² - to²`
/// (Ho et al. 2020, algorithm 2, between any two levels).
///
/// No noise is added in the last step, except by [`Variance::Increment`].
///
/// # Errors
/// [`SamplerError::InfiniteStart`] where the variance has no limit at infinite noise; [`SamplerError::Plan`] where
/// coefficients overflow.
pub fn ancestral(process: Process, levels: &Levels, variance: &Variance) -> Result<Plan, SamplerError> {
    if levels.first().is_infinite() {
        let boundless = match variance {
            Variance::Increment => true,
            Variance::Large => process == Process::VarianceExploding,
            Variance::Small | Variance::Optimal(_) => false,
        };
        if boundless {
            let (sampler, remedy) = (
                "ancestral sampling with this variance",
                "take the small or the optimal variance",
            );
            return Err(SamplerError::InfiniteStart { sampler, remedy });
        }
    }
    let mut plan = mean_only(process, levels)?;
    let last = plan.steps.len() - 1;
    for (index, step) in plan.steps.iter_mut().enumerate() {
        if index < last || *variance == Variance::Increment {
            step.noise = noise_variance(process, step, variance).sqrt();
        }
    }
    plan.check()?;
    Ok(plan)
}

fn noise_variance(process: Process, step: &Step, variance: &Variance) -> f64 {
    let Step { from, to, .. } = *step;
    let removed = one_minus_squared_ratio(to, from);
    match variance {
        Variance::Small => to * to * removed,
        // A variance in the process's coordinates is smaller than here by the state's scale squared.
        Variance::Large => process.transition_variance(to, from) / process.signal(to).powi(2),
        Variance::Optimal(spectrum) => to * to * removed + removed.powi(2) * spectrum.mean_posterior_variance(from),
        Variance::Increment => (from - to) * (from + to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::assert_close;

    fn levels() -> Levels {
        Levels::new(vec![5.0, 1.0, 0.3, 0.0]).unwrap()
    }

    #[test]
    fn variances_follow_their_definitions() {
        let noise = |process, variance: &Variance| ancestral(process, &levels(), variance).unwrap().steps[1].noise;
        let small = noise(Process::VarianceExploding, &Variance::Small);
        // In variance-preserving terms, with abar = 1 / (1 + sigma²).
        let (from, to) = (1.0_f64 / 2.0, 1.0 / 1.09);
        let beta: f64 = 1.0 - from / to;
        assert_close(small, ((1.0 - to) / (1.0 - from) * beta / to).sqrt(), 1e-12);
        assert_close(
            noise(Process::VariancePreserving, &Variance::Large),
            (beta / to).sqrt(),
            1e-12,
        );
        assert_close(
            noise(Process::VarianceExploding, &Variance::Large),
            0.91_f64.sqrt(),
            1e-12,
        );
        assert_close(
            noise(Process::VariancePreserving, &Variance::Increment),
            0.91_f64.sqrt(),
            1e-12,
        );
        // One axis: the optimal variance is that of the exact reverse conditional.
        let optimal = noise(
            Process::VarianceExploding,
            &Variance::Optimal(Spectrum::from_std(0.5).unwrap()),
        );
        let exact = Process::VarianceExploding.reverse(0.0, 0.25, 0.3, 1.0).variance;
        assert_close(optimal, exact.sqrt(), 1e-12);
    }

    #[test]
    fn only_the_increment_adds_noise_at_the_end() {
        let spectrum = Spectrum::from_std(0.5).unwrap();
        for variance in [Variance::Small, Variance::Large, Variance::Optimal(spectrum)] {
            let plan = ancestral(Process::VariancePreserving, &levels(), &variance).unwrap();
            assert_eq!(plan.steps[2].noise, 0.0);
            assert!(plan.steps[..2].iter().all(|step| step.noise > 0.0));
        }
        let plan = ancestral(Process::VarianceExploding, &levels(), &Variance::Increment).unwrap();
        assert_close(plan.steps[2].noise, 0.3, 1e-12);
    }

    #[test]
    fn infinite_noise_is_allowed_where_it_has_a_limit() {
        let levels = Levels::new(vec![f64::INFINITY, 2.0, 0.0]).unwrap();
        let small = ancestral(Process::VariancePreserving, &levels, &Variance::Small)
            .unwrap()
            .steps[0];
        // The state says nothing: x' = xhat0 + to z.
        assert_eq!((small.state, small.denoised, small.noise), (0.0, 1.0, 2.0));
        let large = ancestral(Process::VariancePreserving, &levels, &Variance::Large)
            .unwrap()
            .steps[0];
        assert_close(large.noise, 5.0_f64.sqrt(), 1e-12);
        assert!(ancestral(Process::VarianceExploding, &levels, &Variance::Large).is_err());
        assert!(ancestral(Process::VariancePreserving, &levels, &Variance::Increment).is_err());
    }
}
