//! The ideal denoiser of a finite data set.
//!
//! For data that are exactly a list of points the best estimate of the clean data is known: the points' average,
//! each weighted by how likely it made the noisy state. A sampler run with it shows the sampler's error alone; a
//! network's own error is what comes on top.

/// A data set whose exact denoiser is asked for: `points` rows of `dimension` numbers each.
#[derive(Clone, Debug, PartialEq)]
pub struct IdealDenoiser {
    values: Vec<f64>,
    dimension: usize,
}

/// Why a denoiser cannot be built or asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DenoiserError {
    /// No data.
    #[error("a denoiser needs at least one data point with at least one number")]
    Empty,
    /// The numbers do not divide into points.
    #[error("{values} numbers do not divide into points of {dimension}")]
    Uneven {
        /// Numbers given.
        values: usize,
        /// Numbers a point.
        dimension: usize,
    },
    /// A data point that is not a number.
    #[error("number {component} of point {point} is {value}: data must be finite")]
    NotFinite {
        /// Point, from 0.
        point: usize,
        /// Component, from 0.
        component: usize,
        /// What stands there.
        value: f64,
    },
    /// A state of another size.
    #[error("a state of {given} numbers was given for data of {expected} numbers a point")]
    WrongSize {
        /// The state's length.
        given: usize,
        /// The data's dimension.
        expected: usize,
    },
    /// Not a level.
    #[error("{0} is not a noise level: levels are not negative")]
    NotALevel(f64),
}

impl IdealDenoiser {
    /// The denoiser of `values`, points of `dimension` numbers one after the other.
    ///
    /// # Errors
    /// [`DenoiserError`] for no data, an uneven division, or a number that is not finite.
    pub fn new(values: Vec<f64>, dimension: usize) -> Result<Self, DenoiserError> {
        if values.is_empty() || dimension == 0 {
            return Err(DenoiserError::Empty);
        }
        if !values.len().is_multiple_of(dimension) {
            return Err(DenoiserError::Uneven {
                values: values.len(),
                dimension,
            });
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let (point, component) = (index / dimension, index % dimension);
            return Err(DenoiserError::NotFinite {
                point,
                component,
                value: values[index],
            });
        }
        Ok(Self { values, dimension })
    }

    /// Numbers a point.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The posterior weight of each point given the noisy state: `softmax(-|x - x_i|² / (2 sigma²))`.
    ///
    /// Exact in log space: the nearest point's exponent is 0, whatever the distances. At level 0 the nearest points
    /// share all the weight, at an infinite level all points do.
    ///
    /// # Errors
    /// [`DenoiserError`] for a state of another size or a negative or NaN level.
    pub fn weights(&self, state: &[f64], sigma: f64) -> Result<Vec<f64>, DenoiserError> {
        if state.len() != self.dimension {
            return Err(DenoiserError::WrongSize {
                given: state.len(),
                expected: self.dimension,
            });
        }
        if sigma.is_nan() || sigma < 0.0 {
            return Err(DenoiserError::NotALevel(sigma));
        }
        if sigma.is_infinite() {
            let points = self.values.len() / self.dimension;
            return Ok(vec![1.0 / points as f64; points]);
        }
        let distances: Vec<f64> = self
            .points()
            .map(|point| point.iter().zip(state).map(|(a, b)| (a - b) * (a - b)).sum::<f64>())
            .collect();
        let nearest = distances.iter().copied().fold(f64::INFINITY, f64::min);
        let weight = |distance: f64| match distance - nearest {
            0.0 => 1.0,
            excess => (-0.5 * (excess / sigma) / sigma).exp(),
        };
        let mut weights: Vec<f64> = distances.into_iter().map(weight).collect();
        let total: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= total);
        Ok(weights)
    }

    /// The expected clean data given the noisy state `x = x0 + sigma z`: `E[x0 | x] = Σ w_i x_i` with the
    /// [`weights`](Self::weights) (Karras et al. 2022, eq. 57).
    ///
    /// # Errors
    /// As [`weights`](Self::weights).
    pub fn denoise(&self, state: &[f64], sigma: f64) -> Result<Vec<f64>, DenoiserError> {
        let weights = self.weights(state, sigma)?;
        let mut mean = vec![0.0; self.dimension];
        for (point, weight) in self.points().zip(weights) {
            for (sum, value) in mean.iter_mut().zip(point) {
                *sum += weight * value;
            }
        }
        Ok(mean)
    }

    fn points(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.dimension)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::process::Process;
    use crate::sampler::ddim;
    use crate::spacing::Levels;
    use crate::test::assert_close;

    #[test]
    fn two_points_are_a_hyperbolic_tangent() {
        // Points ±a: E[x0 | x] = a tanh(a x / sigma²).
        let denoiser = IdealDenoiser::new(vec![-0.7, 0.7], 1).unwrap();
        for (x, sigma) in [(0.3_f64, 0.5_f64), (-1.2, 2.0), (0.01, 0.1)] {
            let expected = 0.7 * (0.7 * x / (sigma * sigma)).tanh();
            assert_close(denoiser.denoise(&[x], sigma).unwrap()[0], expected, 1e-12);
        }
    }

    #[test]
    fn extremes_stay_finite() {
        let denoiser = IdealDenoiser::new(vec![0.0, 0.0, 3.0, 4.0, 1.0, 1.0], 2).unwrap();
        assert_eq!(denoiser.denoise(&[2.9, 4.1], 0.0).unwrap(), [3.0, 4.0]);
        assert_eq!(denoiser.denoise(&[2.9, 4.1], 1e-200).unwrap(), [3.0, 4.0]);
        // Every exponent underflows on its own.
        assert_eq!(denoiser.denoise(&[1e6, 1e6], 1e-3).unwrap(), [3.0, 4.0]);
        let mean = denoiser.denoise(&[0.3, -0.1], f64::INFINITY).unwrap();
        assert_close(mean[0], 4.0 / 3.0, 1e-12);
        assert_close(mean[1], 5.0 / 3.0, 1e-12);
        // Halfway between two points at level 0 both count alike.
        let pair = IdealDenoiser::new(vec![-1.0, 1.0], 1).unwrap();
        assert_eq!(pair.denoise(&[0.0], 0.0).unwrap(), [0.0]);
    }

    #[test]
    fn a_sampler_run_with_it_lands_on_the_data() {
        let denoiser = IdealDenoiser::new(vec![-1.0, 0.25, 2.0], 1).unwrap();
        let plan = ddim(
            Process::VarianceExploding,
            &Levels::karras(0.01, 20.0, 7.0, 200).unwrap(),
            0.0,
        )
        .unwrap();
        for start in [-17.0, -3.0, 0.4, 6.0, 21.0] {
            let mut state = start;
            for step in &plan.steps {
                let denoised = denoiser.denoise(&[state], step.from).unwrap()[0];
                state = step.state * state + step.denoised * denoised;
            }
            let nearest = [-1.0, 0.25, 2.0]
                .iter()
                .map(|point: &f64| (point - state).abs())
                .fold(f64::INFINITY, f64::min);
            assert!(nearest < 1e-6, "{start} ends at {state}");
        }
    }

    #[test]
    fn impossible_requests_are_refused() {
        assert_eq!(IdealDenoiser::new(vec![], 2), Err(DenoiserError::Empty));
        assert_eq!(IdealDenoiser::new(vec![1.0], 0), Err(DenoiserError::Empty));
        assert_eq!(
            IdealDenoiser::new(vec![1.0; 3], 2),
            Err(DenoiserError::Uneven {
                values: 3,
                dimension: 2
            })
        );
        assert!(matches!(
            IdealDenoiser::new(vec![1.0, f64::NAN], 1),
            Err(DenoiserError::NotFinite {
                point: 1,
                component: 0,
                ..
            })
        ));
        let denoiser = IdealDenoiser::new(vec![1.0, 2.0], 2).unwrap();
        assert_eq!(
            denoiser.denoise(&[1.0], 1.0),
            Err(DenoiserError::WrongSize { given: 1, expected: 2 })
        );
        assert_eq!(denoiser.denoise(&[1.0, 2.0], -1.0), Err(DenoiserError::NotALevel(-1.0)));
    }

    proptest! {
        #[test]
        fn weights_are_a_distribution(
            values in prop::collection::vec(-1e3..1e3_f64, 1..30),
            state in -1e3..1e3_f64,
            log_sigma in -30.0..30.0_f64,
        ) {
            let weights = IdealDenoiser::new(values, 1).unwrap().weights(&[state], log_sigma.exp()).unwrap();
            prop_assert!(weights.iter().all(|weight| (0.0..=1.0).contains(weight)));
            prop_assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }
}
