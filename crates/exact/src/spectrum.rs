//! The variances of Gaussian data along its principal axes.

/// Variances, one an axis: finite, not negative, at least one of them positive.
#[derive(Clone, Debug, PartialEq)]
pub struct Spectrum {
    variances: Vec<f64>,
}

/// Why a list of numbers is not a spectrum.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpectrumError {
    /// No axes.
    #[error("a spectrum needs at least one variance")]
    Empty,
    /// Not a variance.
    #[error("the variance of axis {axis} (counted from 0) is {value}: variances are finite and not negative")]
    NotAVariance {
        /// Which, from 0.
        axis: usize,
        /// What stands there.
        value: f64,
    },
    /// No data at all.
    #[error("every variance is 0: the data would be a single point")]
    Constant,
}

impl Spectrum {
    /// Checks a list of variances.
    ///
    /// # Errors
    /// [`SpectrumError`] if it is empty, all zero, or holds a negative or non-finite number.
    pub fn new(variances: Vec<f64>) -> Result<Self, SpectrumError> {
        if variances.is_empty() {
            return Err(SpectrumError::Empty);
        }
        if let Some((axis, &value)) = variances
            .iter()
            .enumerate()
            .find(|(_, v)| !(v.is_finite() && **v >= 0.0))
        {
            return Err(SpectrumError::NotAVariance { axis, value });
        }
        if variances.iter().all(|&variance| variance == 0.0) {
            return Err(SpectrumError::Constant);
        }
        // A negative zero passes the checks and would print as "-0".
        Ok(Self {
            variances: variances.into_iter().map(f64::abs).collect(),
        })
    }

    /// One axis with standard deviation `std`.
    ///
    /// # Errors
    /// [`SpectrumError`] unless `std` is positive and its square finite.
    pub fn from_std(std: f64) -> Result<Self, SpectrumError> {
        if std < 0.0 {
            return Err(SpectrumError::NotAVariance { axis: 0, value: std });
        }
        Self::new(vec![std * std])
    }

    /// The variances, in the order given.
    pub fn variances(&self) -> &[f64] {
        &self.variances
    }

    /// Number of axes.
    pub fn axes(&self) -> usize {
        self.variances.len()
    }

    /// Root mean square of the data over the axes: one standard deviation to stand for all.
    pub fn rms(&self) -> f64 {
        (self.variances.iter().sum::<f64>() / self.axes() as f64).sqrt()
    }

    /// What the ideal denoiser leaves unknown at level `sigma`, averaged over the axes: the variance of x0 given the
    /// state, `mean s² sigma² / (s² + sigma²)`; the data's mean variance at an infinite level.
    pub fn mean_posterior_variance(&self, sigma: f64) -> f64 {
        let noise = sigma * sigma;
        let left = |&variance: &f64| match variance {
            0.0 => 0.0,
            _ if noise.is_infinite() => variance,
            _ => variance * noise / (variance + noise),
        };
        self.variances.iter().map(left).sum::<f64>() / self.axes() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::assert_close;

    #[test]
    fn only_variances_pass() {
        assert_eq!(Spectrum::new(vec![]), Err(SpectrumError::Empty));
        assert_eq!(Spectrum::new(vec![0.0, 0.0]), Err(SpectrumError::Constant));
        assert_eq!(
            Spectrum::new(vec![1.0, -0.5]),
            Err(SpectrumError::NotAVariance { axis: 1, value: -0.5 })
        );
        assert!(Spectrum::new(vec![f64::NAN]).is_err());
        assert!(Spectrum::new(vec![f64::INFINITY]).is_err());
        assert!(Spectrum::from_std(-1.0).is_err());
        let spectrum = Spectrum::new(vec![-0.0, 4.0]).unwrap();
        assert!(spectrum.variances()[0].is_sign_positive());
        assert_close(spectrum.rms(), 2.0_f64.sqrt(), 1e-12);
    }

    #[test]
    fn what_is_left_unknown() {
        let spectrum = Spectrum::new(vec![1.0, 3.0, 0.0]).unwrap();
        assert_close(
            spectrum.mean_posterior_variance(2.0),
            (4.0 / 5.0 + 12.0 / 7.0) / 3.0,
            1e-12,
        );
        assert_eq!(spectrum.mean_posterior_variance(0.0), 0.0);
        assert_close(spectrum.mean_posterior_variance(f64::INFINITY), 4.0 / 3.0, 1e-12);
    }
}
