//! What a network predicts, and how each kind becomes an estimate of the clean data.
//!
//! Every conversion is linear in the state and the prediction, so it is given by its two coefficients. States are
//! those of a [`Plan`](crate::sampler::Plan): `x = x0 + sigma z`, unit noise at an infinite level.

use serde::{Deserialize, Serialize};

/// The quantity that a network puts out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The clean data, `x0` (diffusers: `sample`).
    Sample,
    /// The unit noise, `epsilon = (x - x0) / sigma`.
    Epsilon,
    /// The velocity `v = sqrt(abar) epsilon - sqrt(1 - abar) x0` (Salimans & Ho 2022, appendix D; diffusers:
    /// `v_prediction`).
    #[serde(rename = "v_prediction")]
    Velocity,
}

/// `state · x + value · v`: a linear function of the state and of one other value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// Coefficient of the state.
    pub state: f64,
    /// Coefficient of the other value.
    pub value: f64,
}

impl Linear {
    /// The function's value.
    pub fn apply(self, state: f64, value: f64) -> f64 {
        self.state * state + self.value * value
    }
}

/// Why a prediction says nothing at a level.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum PredictionError {
    /// Noise prediction where there is only noise.
    #[error(
        "a network that predicts the noise says nothing about the data at infinite noise (zero terminal \
         signal-to-noise ratio): train it to predict the velocity or the clean sample, or keep the schedule's last \
         level finite"
    )]
    EpsilonAtInfiniteNoise,
    /// The noise of a state without noise.
    #[error("at noise level 0 the noise is not determined by the state: evaluate only at levels above 0")]
    NoiseAtZeroLevel,
}

impl Prediction {
    /// Whether this prediction can be used on every level up to `sigma_max`. Configurations call this when built.
    ///
    /// # Errors
    /// [`PredictionError::EpsilonAtInfiniteNoise`].
    pub fn check(self, sigma_max: f64) -> Result<(), PredictionError> {
        if self == Self::Epsilon && sigma_max.is_infinite() {
            return Err(PredictionError::EpsilonAtInfiniteNoise);
        }
        Ok(())
    }

    /// The clean data from the state and this prediction at level `sigma`.
    ///
    /// ```text
    /// sample    xhat0 = prediction
    /// epsilon   xhat0 = x - sigma · prediction
    /// velocity  xhat0 = x / (1 + sigma²) - sigma / sqrt(1 + sigma²) · prediction
    /// ```
    ///
    /// # Errors
    /// [`PredictionError::EpsilonAtInfiniteNoise`].
    pub fn to_denoised(self, sigma: f64) -> Result<Linear, PredictionError> {
        self.check(sigma)?;
        Ok(match self {
            Self::Sample => Linear { state: 0.0, value: 1.0 },
            Self::Epsilon => Linear {
                state: 1.0,
                value: -sigma,
            },
            Self::Velocity if sigma.is_infinite() => Linear {
                state: 0.0,
                value: -1.0,
            },
            Self::Velocity => Linear {
                state: 1.0 / (1.0 + sigma * sigma),
                value: -sigma / sigma.hypot(1.0),
            },
        })
    }

    /// This prediction from the state and the clean data at level `sigma`: the inverse of
    /// [`to_denoised`](Self::to_denoised), and with noisy training data the training target.
    ///
    /// # Errors
    /// [`PredictionError`] for epsilon at an infinite level, and for epsilon and velocity at level 0.
    pub fn from_denoised(self, sigma: f64) -> Result<Linear, PredictionError> {
        self.check(sigma)?;
        if sigma == 0.0 && self != Self::Sample {
            return Err(PredictionError::NoiseAtZeroLevel);
        }
        Ok(match self {
            Self::Sample => Linear { state: 0.0, value: 1.0 },
            Self::Epsilon => Linear {
                state: 1.0 / sigma,
                value: -1.0 / sigma,
            },
            Self::Velocity if sigma.is_infinite() => Linear {
                state: 0.0,
                value: -1.0,
            },
            Self::Velocity => {
                let root = sigma.hypot(1.0);
                Linear {
                    state: 1.0 / (sigma * root),
                    value: -root / sigma,
                }
            }
        })
    }

    /// Another prediction from the state and this one at level `sigma`.
    ///
    /// # Errors
    /// As [`to_denoised`](Self::to_denoised) and [`from_denoised`](Self::from_denoised).
    pub fn convert(self, other: Self, sigma: f64) -> Result<Linear, PredictionError> {
        let (inner, outer) = (self.to_denoised(sigma)?, other.from_denoised(sigma)?);
        Ok(Linear {
            state: outer.state + outer.value * inner.state,
            value: outer.value * inner.value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;
    use crate::test::assert_close;

    const ALL: [Prediction; 3] = [Prediction::Sample, Prediction::Epsilon, Prediction::Velocity];

    /// The three predictions written from their definitions, in the variance-preserving process's own terms.
    fn by_definition(clean: f64, noise: f64, sigma: f64) -> [f64; 3] {
        let process = Process::VariancePreserving;
        [
            clean,
            noise,
            process.signal(sigma) * noise - process.noise(sigma) * clean,
        ]
    }

    #[test]
    fn predictions_follow_their_definitions_and_convert_into_each_other() {
        for sigma in [1e-3, 0.3, 1.0, 40.0] {
            let (clean, noise) = (0.8, -1.3);
            let state = clean + sigma * noise;
            let values = by_definition(clean, noise, sigma);
            for (from, value) in ALL.into_iter().zip(values) {
                assert_close(from.to_denoised(sigma).unwrap().apply(state, value), clean, 1e-12);
                for (to, expected) in ALL.into_iter().zip(values) {
                    // The noise is a difference divided by sigma: its rounding grows as sigma shrinks.
                    assert_close(
                        from.convert(to, sigma).unwrap().apply(state, value),
                        expected,
                        1e-12 / sigma.min(1.0),
                    );
                }
            }
        }
    }

    #[test]
    fn infinite_noise_leaves_sample_and_velocity() {
        let infinite = f64::INFINITY;
        assert_eq!(
            Prediction::Epsilon.check(infinite),
            Err(PredictionError::EpsilonAtInfiniteNoise)
        );
        assert_eq!(
            Prediction::Epsilon.to_denoised(infinite),
            Err(PredictionError::EpsilonAtInfiniteNoise)
        );
        // v = -x0 there.
        let velocity = Prediction::Velocity.to_denoised(infinite).unwrap();
        assert_eq!(velocity.apply(0.4, -2.0), 2.0);
        assert_eq!(
            Prediction::Velocity
                .convert(Prediction::Sample, infinite)
                .unwrap()
                .apply(0.4, -2.0),
            2.0
        );
        assert_eq!(Prediction::Sample.check(infinite), Ok(()));
    }

    #[test]
    fn no_noise_has_no_direction() {
        assert_eq!(
            Prediction::Epsilon.from_denoised(0.0),
            Err(PredictionError::NoiseAtZeroLevel)
        );
        assert_eq!(
            Prediction::Velocity.from_denoised(0.0),
            Err(PredictionError::NoiseAtZeroLevel)
        );
        assert_eq!(Prediction::Sample.from_denoised(0.0).unwrap().apply(9.0, 2.0), 2.0);
    }
}
