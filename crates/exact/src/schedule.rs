//! Discrete variance-preserving schedules: the betas that denoisers are trained with.
//!
//! Only `log abar` is stored, summed from `log1p(-beta)`. From it both `abar` and `1 - abar` come out with full
//! relative precision (`exp` and `expm1`), so the first levels, where `1 - abar` is 1e-4 or less, are as exact as
//! the last ones.

use std::f64::consts::FRAC_PI_2;

/// How a schedule's betas run over the training timesteps. Shapes and defaults as in diffusers.
#[derive(Clone, Debug, PartialEq)]
pub enum BetaShape {
    /// Equally spaced betas (Ho et al. 2020, section 4).
    Linear {
        /// First beta.
        start: f64,
        /// Last beta.
        end: f64,
    },
    /// Equally spaced square roots of the betas (latent diffusion's schedule).
    ScaledLinear {
        /// First beta.
        start: f64,
        /// Last beta.
        end: f64,
    },
    /// `abar(u) ∝ cos²(π/2 (u + 0.008) / 1.008)`, betas at most 0.999 (Nichol & Dhariwal 2021, eq. 17).
    Cosine,
    /// A logistic curve from one beta to the other.
    Sigmoid {
        /// Lower bound of the curve.
        start: f64,
        /// Upper bound of the curve.
        end: f64,
    },
    /// Log signal-to-noise ratios spread as a Laplace distribution, betas at most 0.999.
    Laplace,
    /// The betas themselves.
    Betas(Vec<f64>),
}

impl BetaShape {
    /// Linear betas between diffusers' default ends.
    pub const LINEAR: Self = Self::Linear { start: 1e-4, end: 0.02 };
    /// Linear square roots between diffusers' default ends.
    pub const SCALED_LINEAR: Self = Self::ScaledLinear { start: 1e-4, end: 0.02 };
}

/// Why a schedule cannot be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// No training timesteps.
    #[error("a schedule needs at least one training timestep")]
    Empty,
    /// A beta is not a variance fraction.
    #[error("beta {beta} at training timestep {timestep} must lie strictly between 0 and 1")]
    BetaOutOfRange {
        /// Training timestep, from 0.
        timestep: usize,
        /// Its value.
        beta: f64,
    },
    /// The number of betas given differs from the number of timesteps.
    #[error("{given} betas were given for {expected} training timesteps: the two must agree")]
    WrongCount {
        /// Betas given.
        given: usize,
        /// Training timesteps.
        expected: usize,
    },
    /// Rescaling needs a first and a last level.
    #[error("rescaling to zero terminal signal-to-noise ratio needs at least two training timesteps")]
    CannotRescale,
}

/// A discrete variance-preserving schedule: a noise level for each training timestep.
///
/// Timesteps run from 0, the least noisy, to `len() - 1`. Each one's level is strictly above the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    log_alpha_bar: Vec<f64>,
}

impl Schedule {
    /// The schedule of `timesteps` betas in the given shape.
    ///
    /// # Errors
    /// [`ScheduleError`] if there is no timestep, a beta lies outside (0, 1), or the counts disagree.
    pub fn new(shape: &BetaShape, timesteps: usize) -> Result<Self, ScheduleError> {
        if timesteps == 0 {
            return Err(ScheduleError::Empty);
        }
        let fraction = |index: usize| index as f64 / timesteps as f64;
        let betas: Vec<f64> = match shape {
            BetaShape::Linear { start, end } => linspace(*start, *end, timesteps),
            BetaShape::ScaledLinear { start, end } => linspace(start.sqrt(), end.sqrt(), timesteps)
                .iter()
                .map(|root| root * root)
                .collect(),
            BetaShape::Cosine => (0..timesteps)
                .map(|index| cosine_beta(fraction(index), fraction(index + 1)).min(0.999))
                .collect(),
            BetaShape::Sigmoid { start, end } => linspace(-6.0, 6.0, timesteps)
                .iter()
                .map(|x| (end - start) / (1.0 + (-x).exp()) + start)
                .collect(),
            BetaShape::Laplace => (0..timesteps)
                .map(|index| {
                    let ratio = laplace_log_alpha_bar(fraction(index + 1)) - laplace_log_alpha_bar(fraction(index));
                    (-ratio.exp_m1()).min(0.999)
                })
                .collect(),
            BetaShape::Betas(betas) if betas.len() != timesteps => {
                return Err(ScheduleError::WrongCount {
                    given: betas.len(),
                    expected: timesteps,
                });
            }
            BetaShape::Betas(betas) => betas.clone(),
        };
        if let Some((timestep, &beta)) = betas
            .iter()
            .enumerate()
            .find(|(_, beta)| !(**beta > 0.0 && **beta < 1.0))
        {
            return Err(ScheduleError::BetaOutOfRange { timestep, beta });
        }
        let log_alpha_bar = betas
            .iter()
            .scan(0.0, |sum, beta| {
                *sum += (-beta).ln_1p();
                Some(*sum)
            })
            .collect();
        Ok(Self { log_alpha_bar })
    }

    /// The same schedule shifted and stretched so that the last timestep holds no signal at all.
    ///
    /// `sqrt(abar') = (sqrt(abar) - sqrt(abar_T)) sqrt(abar_0) / (sqrt(abar_0) - sqrt(abar_T))`: the first level
    /// stays, the last becomes infinite (Lin et al. 2024, algorithm 1).
    ///
    /// # Errors
    /// [`ScheduleError::CannotRescale`] for a schedule of one timestep.
    pub fn rescaled_to_zero_terminal_snr(&self) -> Result<Self, ScheduleError> {
        // u = 1 - sqrt(abar). Writing 1 - sqrt(abar') as a sum of positive terms keeps it free of cancellation:
        // [(u - u_0) + u_0 (u_T - u)] / (u_T - u_0).
        let deficit: Vec<f64> = self.log_alpha_bar.iter().map(|log| -(0.5 * log).exp_m1()).collect();
        let (Some(&first), Some(&last)) = (deficit.first(), deficit.last()) else {
            return Err(ScheduleError::Empty);
        };
        if deficit.len() < 2 {
            return Err(ScheduleError::CannotRescale);
        }
        let log_alpha_bar = deficit
            .iter()
            .map(|&u| {
                let rescaled = ((u - first) + first * (last - u)) / (last - first);
                if u == last {
                    f64::NEG_INFINITY
                } else {
                    2.0 * (-rescaled).ln_1p()
                }
            })
            .collect();
        Ok(Self { log_alpha_bar })
    }

    /// Number of training timesteps.
    #[expect(clippy::len_without_is_empty, reason = "a schedule is never empty")]
    pub fn len(&self) -> usize {
        self.log_alpha_bar.len()
    }

    /// `log abar` at a training timestep; negative infinity where no signal is left.
    ///
    /// # Panics
    /// If `timestep` is not below [`len`](Self::len), as indexing a slice does.
    pub fn log_alpha_bar(&self, timestep: usize) -> f64 {
        self.log_alpha_bar[timestep]
    }

    /// `abar = Π (1 - beta)` up to and including a training timestep.
    ///
    /// # Panics
    /// If `timestep` is not below [`len`](Self::len).
    pub fn alpha_bar(&self, timestep: usize) -> f64 {
        self.log_alpha_bar[timestep].exp()
    }

    /// `1 - abar`, without cancellation.
    ///
    /// # Panics
    /// If `timestep` is not below [`len`](Self::len).
    pub fn one_minus_alpha_bar(&self, timestep: usize) -> f64 {
        -self.log_alpha_bar[timestep].exp_m1()
    }

    /// The beta of one training timestep.
    ///
    /// # Panics
    /// If `timestep` is not below [`len`](Self::len).
    pub fn beta(&self, timestep: usize) -> f64 {
        let before = if timestep == 0 {
            0.0
        } else {
            self.log_alpha_bar[timestep - 1]
        };
        -(self.log_alpha_bar[timestep] - before).exp_m1()
    }

    /// The noise level of a training timestep: `sigma = sqrt((1 - abar) / abar)`; infinite where no signal is left.
    ///
    /// # Panics
    /// If `timestep` is not below [`len`](Self::len).
    pub fn sigma(&self, timestep: usize) -> f64 {
        (-self.log_alpha_bar[timestep]).exp_m1().sqrt()
    }

    /// The noisiest level.
    pub fn sigma_max(&self) -> f64 {
        self.sigma(self.len() - 1)
    }

    /// The least noisy level above 0.
    pub fn sigma_min(&self) -> f64 {
        self.sigma(0)
    }

    /// The training timestep, fractional, at which the schedule's level would be `sigma`: linear between
    /// neighbouring timesteps in log sigma, clamped to the ends.
    pub fn timestep(&self, sigma: f64) -> f64 {
        let above = self.log_alpha_bar.partition_point(|log| (-log).exp_m1().sqrt() < sigma);
        if above == 0 {
            return 0.0;
        }
        if above == self.len() {
            return (self.len() - 1) as f64;
        }
        let (low, high) = (self.sigma(above - 1), self.sigma(above));
        if high.is_infinite() {
            return if sigma.is_infinite() {
                above as f64
            } else {
                (above - 1) as f64
            };
        }
        (above - 1) as f64 + (sigma / low).ln() / (high / low).ln()
    }
}

/// `count` equally spaced numbers, both ends included; the first one alone if `count` is 1.
pub(crate) fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let step = (end - start) / (count.max(2) - 1) as f64;
    // From the nearer end, so that the last number is `end` exactly.
    (0..count)
        .map(|index| {
            if 2 * index < count {
                start + step * index as f64
            } else {
                end - step * (count - 1 - index) as f64
            }
        })
        .collect()
}

/// `1 - cos²(b) / cos²(a) = sin(b - a) sin(b + a) / cos²(a)`, free of cancellation.
fn cosine_beta(from: f64, to: f64) -> f64 {
    let angle = |u: f64| (u + 0.008) / 1.008 * FRAC_PI_2;
    let (a, b) = (angle(from), angle(to));
    (b - a).sin() * (b + a).sin() / a.cos().powi(2)
}

/// `log sqrt(snr / (1 + snr))` with `log snr = -sign(1/2 - u) / 2 · log(1 - 2 |1/2 - u| + 1e-6)`.
fn laplace_log_alpha_bar(u: f64) -> f64 {
    let log_snr = -0.5 * (0.5 - u).signum() * (1.0 - 2.0 * (0.5 - u).abs() + 1e-6).ln();
    -0.5 * (-log_snr).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::assert_close;

    const LINEAR: BetaShape = BetaShape::Linear { start: 1e-4, end: 0.02 };
    const SCALED_LINEAR: BetaShape = BetaShape::ScaledLinear { start: 1e-4, end: 0.02 };
    const SIGMOID: BetaShape = BetaShape::Sigmoid { start: 1e-4, end: 0.02 };

    // import numpy as np, diffusers.schedulers.scheduling_ddpm as m, torch        (diffusers 0.42.1, in f64)
    // m.torch = type("T", (), {"tensor": lambda b, dtype: np.array(b), "float32": 0, "Tensor": torch.Tensor})
    // b = np.linspace(1e-4, .02, 1000); np.linspace(.01, .02 ** .5, 1000) ** 2;
    //     m.betas_for_alpha_bar(1000); 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (.02 - 1e-4) + 1e-4;
    //     m.betas_for_alpha_bar(1000, alpha_transform_type="laplace")
    // a = np.exp(np.cumsum(np.log1p(-b))); print([a[i] for i in (0, 499, 999)])
    #[test]
    fn shapes_agree_with_diffusers() {
        let expected = [
            [0.9999, 0.0785872428817783, 4.035829765375687e-05],
            [0.9999, 0.33318776735629996, 0.0007334124595808106],
            [0.999958715775178, 0.49384359044063814, 2.4287669070348708e-09],
            [0.9998507947991829, 0.30193105660219505, 3.968181990533168e-05],
            [0.978846242799588, 0.707460157800468, 0.031622776601683854],
        ];
        for (shape, values) in [LINEAR, SCALED_LINEAR, BetaShape::Cosine, SIGMOID, BetaShape::Laplace]
            .iter()
            .zip(expected)
        {
            let schedule = Schedule::new(shape, 1000).unwrap();
            for (timestep, value) in [0, 499, 999].into_iter().zip(values) {
                assert_close(schedule.alpha_bar(timestep), value, 1e-9);
            }
        }
    }

    #[test]
    fn small_levels_keep_their_digits() {
        // One beta of 1e-13: 1 - abar = 1e-13 exactly, where 1 - (1 - 1e-13) keeps three digits.
        let schedule = Schedule::new(&BetaShape::Betas(vec![1e-13, 1e-13]), 2).unwrap();
        assert_close(schedule.one_minus_alpha_bar(0), 1e-13, 1e-12);
        assert_close(schedule.sigma(0).powi(2), 1e-13, 1e-12);
        assert_close(schedule.beta(1), 1e-13, 1e-12);
    }

    #[test]
    fn levels_grow_and_invert() {
        for shape in [LINEAR, SCALED_LINEAR, BetaShape::Cosine, SIGMOID, BetaShape::Laplace] {
            let schedule = Schedule::new(&shape, 1000).unwrap();
            assert!((1..1000).all(|timestep| schedule.sigma(timestep) > schedule.sigma(timestep - 1)));
            for timestep in [0, 1, 417, 999] {
                assert!((schedule.timestep(schedule.sigma(timestep)) - timestep as f64).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn rescaling_ends_in_pure_noise() {
        let schedule = Schedule::new(&LINEAR, 1000).unwrap();
        let rescaled = schedule.rescaled_to_zero_terminal_snr().unwrap();
        assert_eq!(rescaled.sigma_max(), f64::INFINITY);
        assert_close(rescaled.sigma_min(), schedule.sigma_min(), 1e-12);
        let root = |timestep: usize| schedule.alpha_bar(timestep).sqrt();
        let expected = (root(600) - root(999)) * root(0) / (root(0) - root(999));
        assert_close(rescaled.alpha_bar(600).sqrt(), expected, 1e-12);
        let one = Schedule::new(&BetaShape::Betas(vec![0.5]), 1).unwrap();
        assert_eq!(one.rescaled_to_zero_terminal_snr(), Err(ScheduleError::CannotRescale));
    }

    #[test]
    fn impossible_betas_are_refused() {
        assert_eq!(Schedule::new(&LINEAR, 0), Err(ScheduleError::Empty));
        let one = BetaShape::Betas(vec![0.1, 1.0]);
        assert_eq!(
            Schedule::new(&one, 2),
            Err(ScheduleError::BetaOutOfRange { timestep: 1, beta: 1.0 })
        );
        assert!(
            Schedule::new(
                &BetaShape::Linear {
                    start: f64::NAN,
                    end: 0.1
                },
                5
            )
            .is_err()
        );
        assert_eq!(
            Schedule::new(&one, 3),
            Err(ScheduleError::WrongCount { given: 2, expected: 3 })
        );
    }
}
