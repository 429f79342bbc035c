//! The two noise processes and their one coordinate.
//!
//! A noise level is one number, `sigma`: the standard deviation of the noise that was added to the data, in the
//! data's own units, with the data's scale left alone. That is the variance-exploding coordinate. A
//! variance-preserving state is the same state times `sqrt(abar) = 1 / sqrt(1 + sigma²)`, because
//! `sigma² = (1 - abar) / abar` (Karras et al. 2022, appendix B.1). Samplers are therefore written once, on sigma,
//! and a process only says how its own states are scaled.
//!
//! `sigma` may be infinite: a variance-preserving schedule with zero terminal signal-to-noise ratio. Its state is
//! then pure unit noise.

use serde::{Deserialize, Serialize};

/// Which coordinates a process's states are written in.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Process {
    /// `x = x0 + sigma z`: the data keep their scale, the variance grows (Song et al. 2021, eq. 9).
    VarianceExploding,
    /// `y = sqrt(abar) x0 + sqrt(1 - abar) z`: unit-variance data keep unit variance (Ho et al. 2020, eq. 4).
    VariancePreserving,
}

/// A normal distribution on one axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normal {
    /// Its mean.
    pub mean: f64,
    /// Its variance.
    pub variance: f64,
}

impl Process {
    /// Factor of the clean data inside this process's state at `sigma`: 1, or `sqrt(abar)`.
    pub fn signal(self, sigma: f64) -> f64 {
        match self {
            Self::VarianceExploding => 1.0,
            Self::VariancePreserving => 1.0 / sigma.hypot(1.0),
        }
    }

    /// Factor of the unit noise inside this process's state at `sigma`: `sigma`, or `sqrt(1 - abar)`.
    pub fn noise(self, sigma: f64) -> f64 {
        match self {
            Self::VarianceExploding => sigma,
            Self::VariancePreserving if sigma.is_infinite() => 1.0,
            Self::VariancePreserving => sigma / sigma.hypot(1.0),
        }
    }

    /// Standard deviation, in the coordinates of a [`Plan`](crate::sampler::Plan), of the draw that sampling starts
    /// from when the data's own variance is not known.
    ///
    /// N(0, sigma²) for the variance-exploding process. The variance-preserving one starts from N(0, 1) in its own
    /// coordinates, which is `sqrt(1 + sigma²)` here, and 1 at an infinite level, where the state is unit noise.
    pub fn prior_std(self, sigma: f64) -> f64 {
        match self {
            _ if sigma.is_infinite() => 1.0,
            Self::VarianceExploding => sigma,
            Self::VariancePreserving => sigma.hypot(1.0),
        }
    }

    /// The forward process from the data: the law of the state at `sigma` given `clean`.
    ///
    /// `q(x_t | x_0) = N(x_0, sigma²)`, or `q(y_t | x_0) = N(sqrt(abar) x_0, 1 - abar)` (Ho et al. 2020, eq. 4).
    pub fn forward(self, clean: f64, sigma: f64) -> Normal {
        Normal {
            mean: self.signal(sigma) * clean,
            variance: self.noise(sigma).powi(2),
        }
    }

    /// The law of the state at `sigma` when the data are N(0, `variance`).
    ///
    /// `N(0, s² + sigma²)`, or `N(0, abar s² + 1 - abar)`.
    pub fn marginal(self, variance: f64, sigma: f64) -> Normal {
        Normal {
            mean: 0.0,
            variance: self.signal(sigma).powi(2) * variance + self.noise(sigma).powi(2),
        }
    }

    /// The forward process between two levels: the law of the state at `from` given `state` at the less noisy `to`.
    ///
    /// `N(x_to, from² - to²)`, or `N(sqrt(1 - b) y_to, b)` with `b = 1 - abar_from / abar_to`
    /// (Ho et al. 2020, eq. 2, for any pair of levels).
    pub fn transition(self, state: f64, to: f64, from: f64) -> Normal {
        Normal {
            mean: self.signal(from) / self.signal(to) * state,
            variance: self.transition_variance(to, from),
        }
    }

    /// Variance of [`transition`](Self::transition), in the process's own coordinates: `from² - to²`, or
    /// `b = 1 - abar_from / abar_to = (from² - to²) / (1 + from²)`.
    pub fn transition_variance(self, to: f64, from: f64) -> f64 {
        match self {
            Self::VarianceExploding => (from - to) * (from + to),
            Self::VariancePreserving if from.is_infinite() => 1.0,
            Self::VariancePreserving => (from - to) * (from + to) / (1.0 + from * from),
        }
    }

    /// The posterior of the state at `to` given `state` at the noisier `from` and the clean data.
    ///
    /// For the variance-preserving process with `b = 1 - abar_from / abar_to` (Ho et al. 2020, eq. 6 and 7, for any
    /// pair of levels):
    ///
    /// ```text
    /// variance = (1 - abar_to) / (1 - abar_from) b
    /// mean     = sqrt(1 - b) (1 - abar_to) / (1 - abar_from) y + sqrt(abar_to) b / (1 - abar_from) x0
    /// ```
    ///
    /// which in the common coordinate is `N(r x + (1 - r) x0, to² (1 - r))` with `r = to² / from²`. At `from = 0`
    /// there is no noise left to remove, and the posterior is the state itself.
    pub fn posterior(self, state: f64, clean: f64, to: f64, from: f64) -> Normal {
        if from == 0.0 {
            return Normal {
                mean: state,
                variance: 0.0,
            };
        }
        let ratio = squared_ratio(to, from);
        let signal = self.signal(to);
        // At an infinite level the state is unit noise and says nothing about the data: its factor vanishes.
        let kept = if from.is_infinite() {
            0.0
        } else {
            signal / self.signal(from) * ratio
        };
        Normal {
            mean: kept * state + signal * (1.0 - ratio) * clean,
            variance: (signal * to).powi(2) * one_minus_squared_ratio(to, from),
        }
    }

    /// The exact reverse step when the data are N(0, `variance`): the state at `to` given `state` at `from`.
    ///
    /// In the common coordinate, with s² the data's variance,
    /// `N((s² + to²) / (s² + from²) x, (s² + to²) (from² - to²) / (s² + from²))`: Gaussian conditioning on
    /// `x_from = x_to + N(0, from² - to²)`. For a small step the variance tends to `from² - to²`.
    pub fn reverse(self, state: f64, variance: f64, to: f64, from: f64) -> Normal {
        let signal = self.signal(to);
        if from.is_infinite() {
            return Normal {
                mean: 0.0,
                variance: signal.powi(2) * (variance + to * to),
            };
        }
        let (total_to, total_from) = (variance + to * to, variance + from * from);
        if total_from == 0.0 {
            return Normal {
                mean: 0.0,
                variance: 0.0,
            };
        }
        Normal {
            mean: signal / self.signal(from) * total_to / total_from * state,
            variance: signal.powi(2) * total_to / total_from * (from - to) * (from + to),
        }
    }

    /// The score `d log p(state) / d state` that a denoiser's estimate of the clean data amounts to.
    ///
    /// `(xhat0 - x) / sigma²`, or `(sqrt(abar) xhat0 - y) / (1 - abar)` (Tweedie's formula; Karras et al. 2022,
    /// eq. 3). Infinite or NaN at `sigma = 0`, where a noise-free state has no density.
    pub fn score(self, state: f64, denoised: f64, sigma: f64) -> f64 {
        (self.signal(sigma) * denoised - state) / self.noise(sigma).powi(2)
    }
}

/// The ideal denoiser of N(0, `variance`) data: `xhat0 = gain · x`, `gain = s² / (s² + sigma²)`.
///
/// 1 at `sigma = 0` whatever the variance. At an infinite level the state is unit noise, and the best estimate is
/// the data's mean: the gain is 0.
pub fn ideal_gain(variance: f64, sigma: f64) -> f64 {
    if sigma == 0.0 {
        1.0
    } else {
        variance / (variance + sigma * sigma)
    }
}

/// `to² / from²`, 0 at an infinite `from`.
pub(crate) fn squared_ratio(to: f64, from: f64) -> f64 {
    (to / from).powi(2)
}

/// `1 - to² / from²` without cancellation, 1 at an infinite `from`.
pub(crate) fn one_minus_squared_ratio(to: f64, from: f64) -> f64 {
    if from.is_infinite() {
        1.0
    } else {
        (from - to) / from * (1.0 + to / from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::assert_close;

    const BOTH: [Process; 2] = [Process::VarianceExploding, Process::VariancePreserving];

    #[test]
    fn forward_is_the_closed_form() {
        // abar = 1 / (1 + sigma²): sigma = 2 is abar = 0.2.
        let preserved = Process::VariancePreserving.forward(3.0, 2.0);
        assert_close(preserved.mean, 0.2_f64.sqrt() * 3.0, 1e-12);
        assert_close(preserved.variance, 0.8, 1e-12);
        let exploded = Process::VarianceExploding.forward(3.0, 2.0);
        assert_eq!((exploded.mean, exploded.variance), (3.0, 4.0));
        // Gaussian data at t = 1: x_1 ~ N(0, s² + 1).
        assert_close(Process::VarianceExploding.marginal(0.25, 1.0).variance, 1.25, 1e-12);
        let unit_noise = Process::VariancePreserving.forward(3.0, f64::INFINITY);
        assert_eq!((unit_noise.mean, unit_noise.variance), (0.0, 1.0));
    }

    #[test]
    fn forward_steps_compose() {
        // q(x_r | x_0) = ∫ q(x_r | x_s) q(x_s | x_0) dx_s.
        for process in BOTH {
            let middle = process.forward(1.5, 0.3);
            let end = process.transition(middle.mean, 0.3, 1.7);
            let shrink = process.signal(1.7) / process.signal(0.3);
            let direct = process.forward(1.5, 1.7);
            assert_close(end.mean, direct.mean, 1e-12);
            assert_close(shrink.powi(2) * middle.variance + end.variance, direct.variance, 1e-12);
        }
    }

    #[test]
    fn posterior_is_gaussian_conditioning() {
        // x_s | x_0 ~ N(m, v) and x_r | x_s ~ N(k x_s, w): then x_s | x_r, x_0 has precision 1/v + k²/w.
        for process in BOTH {
            for (to, from) in [(0.1, 0.2), (0.5, 3.0), (1e-3, 50.0), (0.0, 0.7)] {
                let (state, clean) = (0.9, -0.4);
                let prior = process.forward(clean, to);
                let shrink = process.signal(from) / process.signal(to);
                let kernel = process.transition_variance(to, from);
                let total = shrink.powi(2) * prior.variance + kernel;
                let mean = (prior.mean * kernel + shrink * state * prior.variance) / total;
                let posterior = process.posterior(state, clean, to, from);
                assert_close(posterior.mean, mean, 1e-12);
                assert_close(posterior.variance, prior.variance * kernel / total, 1e-12);
            }
        }
    }

    #[test]
    fn posterior_is_the_papers_formula_for_one_beta() {
        // Ho et al. 2020, eq. 6 and 7, with abar_{t-1} = 0.6 and beta_t = 0.1.
        let (before, beta) = (0.6_f64, 0.1_f64);
        let after = before * (1.0 - beta);
        let sigma = |abar: f64| ((1.0 - abar) / abar).sqrt();
        let posterior = Process::VariancePreserving.posterior(0.7, 1.3, sigma(before), sigma(after));
        let mean =
            before.sqrt() * beta / (1.0 - after) * 1.3 + (1.0 - beta).sqrt() * (1.0 - before) / (1.0 - after) * 0.7;
        assert_close(posterior.mean, mean, 1e-12);
        assert_close(posterior.variance, (1.0 - before) / (1.0 - after) * beta, 1e-12);
    }

    #[test]
    fn reverse_is_the_posterior_averaged_over_the_data() {
        // x_0 | x_from ~ N(g x / signal, s² sigma² / (s² + sigma²)); mixing the posterior over it is the exact reverse.
        for process in BOTH {
            let (variance, to, from, state) = (0.25, 0.4, 1.1, 0.8);
            let gain = ideal_gain(variance, from);
            let estimate = gain * state / process.signal(from);
            let left = variance * from * from / (variance + from * from);
            let mean = process.posterior(state, estimate, to, from);
            let slope = process.posterior(0.0, 1.0, to, from).mean;
            let exact = process.reverse(state, variance, to, from);
            assert_close(exact.mean, mean.mean, 1e-12);
            assert_close(exact.variance, mean.variance + slope.powi(2) * left, 1e-12);
        }
    }

    #[test]
    fn reverse_in_time_is_the_closed_form() {
        // x_{t-d} | x_t ~ N((s² + t - d) / (s² + t) x_t, (s² + t - d) d / (s² + t)).
        let (variance, time, step) = (0.25_f64, 0.8_f64, 0.1_f64);
        let exact = Process::VarianceExploding.reverse(2.0, variance, (time - step).sqrt(), time.sqrt());
        assert_close(exact.mean, (variance + time - step) / (variance + time) * 2.0, 1e-12);
        assert_close(
            exact.variance,
            (variance + time - step) * step / (variance + time),
            1e-12,
        );
    }

    #[test]
    fn score_of_gaussian_data_is_minus_state_over_variance() {
        for process in BOTH {
            for sigma in [0.05, 0.6, 12.0] {
                let state = 0.7;
                let denoised = ideal_gain(0.25, sigma) * state / process.signal(sigma);
                let exact = -state / process.marginal(0.25, sigma).variance;
                assert_close(process.score(state, denoised, sigma), exact, 1e-12);
            }
        }
        // Zero terminal signal-to-noise ratio: the state is unit noise.
        assert_close(Process::VariancePreserving.score(0.7, 5.0, f64::INFINITY), -0.7, 1e-12);
    }
}
