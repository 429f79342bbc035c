//! What a denoiser is trained to do: which levels it sees, what it puts out, and how its errors count.
//!
//! A network `F` never sees raw states. At level sigma its estimate of the clean data is
//! `xhat0 = skip · x + output · F(input · x, noise)` (Karras et al. 2022, eq. 7), and the loss of a sample is
//!
//! ```text
//! w(sigma) |xhat0 - x0|² = w(sigma) output² |F - (x0 - skip · x) / output|²
//! ```
//!
//! so training needs four coefficients, one target and one weight per sample, all computed here in f64; the network
//! and its loss know nothing else of diffusion.

use exact::prediction::{Prediction, PredictionError};
use exact::schedule::Schedule;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};
use serde::{Deserialize, Serialize};

/// What the network's raw output means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Parameterization {
    /// The clean data.
    X0,
    /// The unit noise (Ho et al. 2020).
    Epsilon,
    /// The velocity (Salimans & Ho 2022).
    V,
    /// EDM preconditioning: a mix that asks for unit variance at every level (Karras et al. 2022, table 1).
    Edm,
}

/// Between network and estimate at one level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// Factor on the state before it enters the network; brings it to unit variance.
    pub input: f64,
    /// Coefficient of the state in the estimate.
    pub skip: f64,
    /// Coefficient of the network's output in the estimate.
    pub output: f64,
    /// The noise coordinate that the network is told: ln(sigma) / 4.
    pub noise: f64,
}

/// ln(sigma) is held within ± this for the network's noise coordinate, so that an infinite level has a finite one.
const LOG_SIGMA_LIMIT: f64 = 8.0;

impl Parameterization {
    /// The coefficients at level `sigma` > 0, for data of standard deviation `data_std`.
    ///
    /// ```text
    /// input   1 / sqrt(data_std² + sigma²)
    /// x0      skip 0                                  output 1
    /// epsilon skip 1                                  output -sigma
    /// v       skip 1 / (1 + sigma²)                   output -sigma / sqrt(1 + sigma²)
    /// edm     skip data_std² / (data_std² + sigma²)   output sigma data_std / sqrt(data_std² + sigma²)
    /// ```
    ///
    /// At an infinite level the state is unit noise (see [`exact::sampler::Step`]), so `input` is 1 there.
    ///
    /// # Errors
    /// [`PredictionError::EpsilonAtInfiniteNoise`].
    pub fn coefficients(self, sigma: f64, data_std: f64) -> Result<Coefficients, PredictionError> {
        let infinite = sigma.is_infinite();
        let total = data_std.hypot(sigma);
        let (skip, output) = match self {
            Self::Edm if infinite => (0.0, data_std),
            Self::Edm => ((data_std / total).powi(2), sigma * data_std / total),
            Self::X0 | Self::Epsilon | Self::V => {
                let linear = self.prediction().to_denoised(sigma)?;
                (linear.state, linear.value)
            }
        };
        let noise = sigma.ln().clamp(-LOG_SIGMA_LIMIT, LOG_SIGMA_LIMIT) / 4.0;
        Ok(Coefficients {
            input: if infinite { 1.0 } else { 1.0 / total },
            skip,
            output,
            noise,
        })
    }

    /// The quantity predicted, for conversions; EDM's mix is closest to the clean sample in what it can express.
    fn prediction(self) -> Prediction {
        match self {
            Self::X0 | Self::Edm => Prediction::Sample,
            Self::Epsilon => Prediction::Epsilon,
            Self::V => Prediction::Velocity,
        }
    }

    /// Whether this parameterization can be used on every level up to `sigma_max`.
    ///
    /// # Errors
    /// [`PredictionError::EpsilonAtInfiniteNoise`].
    pub fn check(self, sigma_max: f64) -> Result<(), PredictionError> {
        self.prediction().check(sigma_max)
    }
}

/// Which noise levels training draws.
#[derive(Clone, Debug, PartialEq)]
pub enum Levels {
    /// sigma = sqrt(t), t uniform on (0, 1]: the variance-exploding process.
    UniformVariance,
    /// One of the training timesteps, each as likely (Ho et al. 2020, algorithm 1).
    UniformTimestep(Schedule),
    /// ln(sigma) normal with this mean and standard deviation (Karras et al. 2022, table 1).
    LogNormal {
        /// Mean of ln(sigma).
        mean: f64,
        /// Standard deviation of ln(sigma).
        std: f64,
    },
    /// sigma = tan(pi u / 2), u uniform: alpha = cos(pi u / 2) (Nichol & Dhariwal 2021, without their offset).
    Cosine,
}

impl Levels {
    /// A level from the distribution.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> f64 {
        // (0, 1]: no level is ever 0, where there is nothing to learn.
        let mut uniform = || 1.0 - rng.random::<f64>();
        match self {
            Self::UniformVariance => uniform().sqrt(),
            Self::UniformTimestep(schedule) => schedule.sigma(rng.random_range(0..schedule.len())),
            Self::LogNormal { mean, std } => {
                let draw: f64 = StandardNormal.sample(rng);
                (mean + std * draw).exp()
            }
            // The ends, where the tangent leaves every bound, are cut at 1/1000 of the quarter turn.
            Self::Cosine => (std::f64::consts::FRAC_PI_2 * (0.001 + 0.998 * uniform())).tan(),
        }
    }

    /// The greatest level that [`Self::draw`] can give; infinite for a schedule with zero terminal
    /// signal-to-noise ratio.
    pub fn sigma_max(&self) -> f64 {
        match self {
            Self::UniformVariance => 1.0,
            Self::UniformTimestep(schedule) => schedule.sigma_max(),
            // Unbounded, but never drawn infinite.
            Self::LogNormal { .. } | Self::Cosine => f64::MAX,
        }
    }
}

/// How the error at a level counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weighting {
    /// The network's own output error, unweighted: `|F - target|²`.
    Plain,
    /// `min(1 / sigma², gamma)` on the estimate's error (Hang et al. 2023).
    MinSnr {
        /// The cap on the signal-to-noise ratio.
        gamma: f64,
    },
    /// `(sigma² + data_std²) / (sigma data_std)²` on the estimate's error (Karras et al. 2022, table 1).
    Edm,
}

impl Weighting {
    /// The factor on `|F - target|²`.
    pub fn on_output(self, sigma: f64, data_std: f64, coefficients: &Coefficients) -> f64 {
        let output_squared = coefficients.output * coefficients.output;
        match self {
            Self::Plain => 1.0,
            Self::MinSnr { gamma } => (1.0 / (sigma * sigma)).min(gamma) * output_squared,
            Self::Edm if sigma.is_infinite() => output_squared / (data_std * data_std),
            Self::Edm => (sigma * sigma + data_std * data_std) / (sigma * data_std).powi(2) * output_squared,
        }
    }
}

/// Everything that turns clean samples into a training batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// What the network's output means.
    pub parameterization: Parameterization,
    /// Which levels it sees.
    pub levels: Levels,
    /// How errors count.
    pub weighting: Weighting,
    /// Standard deviation of the data, over all values, as the network sees them.
    pub data_std: f64,
}

/// One sample, made noisy.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// What enters the network.
    pub input: Vec<f32>,
    /// What it should put out.
    pub target: Vec<f32>,
    /// The noise coordinate.
    pub noise: f64,
    /// The factor on the squared error.
    pub weight: f64,
}

impl Objective {
    /// Makes `clean` noisy at level `sigma` with `rng`'s noise: `x = clean + sigma z`, then input and target.
    ///
    /// # Errors
    /// [`PredictionError::EpsilonAtInfiniteNoise`].
    pub fn example(&self, clean: &[f32], sigma: f64, rng: &mut ChaCha8Rng) -> Result<Example, PredictionError> {
        let coefficients = self.parameterization.coefficients(sigma, self.data_std)?;
        let infinite = sigma.is_infinite();
        let mut input = Vec::with_capacity(clean.len());
        let mut target = Vec::with_capacity(clean.len());
        for &value in clean {
            let value = f64::from(value);
            let noise: f64 = StandardNormal.sample(rng);
            let state = if infinite { noise } else { value + sigma * noise };
            input.push((coefficients.input * state) as f32);
            target.push(((value - coefficients.skip * state) / coefficients.output) as f32);
        }
        let weight = self.weighting.on_output(sigma, self.data_std, &coefficients);
        Ok(Example {
            input,
            target,
            noise: coefficients.noise,
            weight,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    const ALL: [Parameterization; 4] = [
        Parameterization::X0,
        Parameterization::Epsilon,
        Parameterization::V,
        Parameterization::Edm,
    ];

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(7)
    }

    #[test]
    fn a_perfect_output_gives_back_the_clean_sample() {
        let clean = [0.7_f32, -0.2, 0.0];
        for parameterization in ALL {
            for sigma in [0.01, 0.5, 1.0, 80.0] {
                let objective = Objective {
                    parameterization,
                    levels: Levels::Cosine,
                    weighting: Weighting::Plain,
                    data_std: 0.6,
                };
                let example = objective.example(&clean, sigma, &mut rng()).unwrap();
                let c = parameterization.coefficients(sigma, 0.6).unwrap();
                for ((input, target), clean) in example.input.iter().zip(&example.target).zip(clean) {
                    let state = f64::from(*input) / c.input;
                    let estimate = c.skip * state + c.output * f64::from(*target);
                    // f32 input and target: rounding relative to the state.
                    assert!(
                        (estimate - f64::from(clean)).abs() < 1e-6 * sigma.max(1.0),
                        "{parameterization:?} {sigma}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_noise_target_is_the_noise_and_the_velocity_its_definition() {
        let clean = [0.4_f32; 4];
        let sigma: f64 = 0.8;
        let noise: Vec<f64> = {
            let mut rng = rng();
            (0..4).map(|_| StandardNormal.sample(&mut rng)).collect()
        };
        for (parameterization, expected) in [
            (Parameterization::Epsilon, noise.clone()),
            (
                Parameterization::V,
                // v = sqrt(abar) epsilon - sqrt(1 - abar) x0 with abar = 1 / (1 + sigma²)
                noise.iter().map(|z| (z - sigma * 0.4) / sigma.hypot(1.0)).collect(),
            ),
        ] {
            let objective = Objective {
                parameterization,
                levels: Levels::Cosine,
                weighting: Weighting::Plain,
                data_std: 1.0,
            };
            let example = objective.example(&clean, sigma, &mut rng()).unwrap();
            for (target, expected) in example.target.iter().zip(expected) {
                assert!((f64::from(*target) - expected).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn edm_preconditioning_asks_for_unit_variance_and_its_weights_are_plain() {
        // Karras et al. 2022, appendix B.6: c_out² lambda = 1 and the target has unit variance on data of that spread.
        for sigma in [0.02, 0.5, 3.0, 60.0] {
            let c = Parameterization::Edm.coefficients(sigma, 0.5).unwrap();
            assert!((Weighting::Edm.on_output(sigma, 0.5, &c) - 1.0).abs() < 1e-12);
            // Var[(x0 - skip x) / output] for independent x0 and noise.
            let variance = ((1.0 - c.skip).powi(2) * 0.25 + (c.skip * sigma).powi(2)) / c.output.powi(2);
            assert!((variance - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn min_snr_caps_what_epsilon_training_leaves_open() {
        let weight = |sigma: f64| {
            let c = Parameterization::Epsilon.coefficients(sigma, 1.0).unwrap();
            Weighting::MinSnr { gamma: 5.0 }.on_output(sigma, 1.0, &c)
        };
        // On epsilon: min(SNR, gamma) / SNR (Hang et al. 2023, section 3.4).
        assert!((weight(2.0) - 1.0).abs() < 1e-12);
        assert!((weight(0.1) - 5.0 * 0.01).abs() < 1e-12);
    }

    #[test]
    fn zero_terminal_snr_is_learned_from_pure_noise_but_not_by_epsilon() {
        let infinite = f64::INFINITY;
        assert!(Parameterization::Epsilon.check(infinite).is_err());
        for parameterization in [Parameterization::X0, Parameterization::V, Parameterization::Edm] {
            let objective = Objective {
                parameterization,
                levels: Levels::Cosine,
                weighting: Weighting::Edm,
                data_std: 0.5,
            };
            let example = objective.example(&[0.3], infinite, &mut rng()).unwrap();
            let c = parameterization.coefficients(infinite, 0.5).unwrap();
            assert!((c.output * f64::from(example.target[0]) - 0.3).abs() < 1e-7);
            assert!(example.weight.is_finite() && example.noise == 2.0 && c.input == 1.0);
        }
    }

    #[test]
    fn levels_follow_their_distributions() {
        let mean = |levels: &Levels, f: &dyn Fn(f64) -> f64| {
            let mut rng = rng();
            (0..20_000).map(|_| f(levels.draw(&mut rng))).sum::<f64>() / 20_000.0
        };
        // E[t] = 1/2; E[ln sigma] = mean; E[2/pi arctan sigma] = 1/2, each to about five standard errors.
        assert!((mean(&Levels::UniformVariance, &|s| s * s) - 0.5).abs() < 0.011);
        assert!((mean(&Levels::LogNormal { mean: -1.2, std: 1.2 }, &f64::ln) + 1.2).abs() < 0.05);
        assert!((mean(&Levels::Cosine, &|s| s.atan() / std::f64::consts::FRAC_PI_2) - 0.5).abs() < 0.011);
    }
}
