//! The variance-preserving process in continuous time, with beta linear in time.
//!
//! `dy = -beta(t)/2 y dt + sqrt(beta(t)) dw` for t in [0, 1], `beta(t) = minimum + (maximum - minimum) t`
//! (Song et al. 2021, eq. 11 and appendix C; 0.1 and 20 there). Papers that write the drift as `-beta y` mean half
//! of these numbers (Pierret & Galerne 2024, eq. 1: 0.05 and 10).

/// The process, by its two betas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearBeta {
    minimum: f64,
    maximum: f64,
}

/// Why the process cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("beta must grow from a positive number to a larger or equal finite one, not from {minimum} to {maximum}")]
pub struct LinearBetaError {
    /// beta at t = 0.
    pub minimum: f64,
    /// beta at t = 1.
    pub maximum: f64,
}

impl Default for LinearBeta {
    /// 0.1 to 20, as in Song et al. 2021.
    fn default() -> Self {
        Self {
            minimum: 0.1,
            maximum: 20.0,
        }
    }
}

impl LinearBeta {
    /// The process with beta from `minimum` at t = 0 to `maximum` at t = 1.
    ///
    /// # Errors
    /// Unless `0 < minimum <= maximum < infinity`.
    pub fn new(minimum: f64, maximum: f64) -> Result<Self, LinearBetaError> {
        if minimum > 0.0 && maximum >= minimum && maximum.is_finite() {
            Ok(Self { minimum, maximum })
        } else {
            Err(LinearBetaError { minimum, maximum })
        }
    }

    /// The rate beta at time `time`, per unit of time.
    pub fn beta(&self, time: f64) -> f64 {
        self.minimum + (self.maximum - self.minimum) * time
    }

    /// `log abar(t) = -∫ beta = -(minimum t + (maximum - minimum) t²/2)`.
    pub fn log_alpha_bar(&self, time: f64) -> f64 {
        -time * (self.minimum + 0.5 * (self.maximum - self.minimum) * time)
    }

    /// The noise level at time `time`: `sigma² = (1 - abar) / abar = expm1(∫ beta)`.
    pub fn sigma(&self, time: f64) -> f64 {
        (-self.log_alpha_bar(time)).exp_m1().sqrt()
    }

    /// The time at which the noise level is `sigma`; the inverse of [`sigma`](Self::sigma).
    pub fn time(&self, sigma: f64) -> f64 {
        let integral = (sigma * sigma).ln_1p();
        let slope = self.maximum - self.minimum;
        2.0 * integral / (self.minimum + (self.minimum.powi(2) + 2.0 * slope * integral).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::assert_close;

    #[test]
    fn the_integral_of_beta_is_the_noise_level() {
        let process = LinearBeta::default();
        // ∫_0^1 (0.1 + 19.9 t) dt = 10.05.
        assert_close(process.log_alpha_bar(1.0), -10.05, 1e-12);
        assert_close(process.sigma(1.0).powi(2), 10.05_f64.exp_m1(), 1e-12);
        // The derivative of -log abar is beta.
        let slope = (process.log_alpha_bar(0.3) - process.log_alpha_bar(0.3 + 1e-6)) / 1e-6;
        assert_close(slope, process.beta(0.3), 1e-5);
    }

    #[test]
    fn time_inverts_sigma() {
        for process in [LinearBeta::default(), LinearBeta::new(2.0, 2.0).unwrap()] {
            for time in [1e-9, 1e-3, 0.4, 1.0] {
                assert_close(process.time(process.sigma(time)), time, 1e-12);
            }
        }
    }

    #[test]
    fn senseless_betas_are_refused() {
        for (minimum, maximum) in [(0.0, 1.0), (2.0, 1.0), (f64::NAN, 1.0), (0.1, f64::INFINITY)] {
            assert!(LinearBeta::new(minimum, maximum).is_err());
        }
    }
}
