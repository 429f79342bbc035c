//! Gaussians fitted to samples, and the distance between two of them.

use nalgebra::{DMatrix, DVector, SymmetricEigen};

use crate::error::DiffusionError;

/// Mean and covariance of a set of samples.
#[derive(Clone, Debug, PartialEq)]
pub struct GaussianFit {
    mean: DVector<f64>,
    covariance: DMatrix<f64>,
}

impl GaussianFit {
    /// Fits `samples`, [count, size] row-major; the covariance is divided by the count.
    ///
    /// # Errors
    /// [`DiffusionError::TooFew`] for fewer than two samples.
    ///
    /// # Panics
    /// If `size` is 0 or does not divide the number of values.
    pub fn new(samples: &[f32], size: usize) -> Result<Self, DiffusionError> {
        assert!(
            size > 0 && samples.len().is_multiple_of(size),
            "whole samples of at least one value"
        );
        let count = samples.len() / size;
        if count < 2 {
            return Err(DiffusionError::TooFew { count });
        }
        // One column a sample.
        let mut values = DMatrix::from_iterator(size, count, samples.iter().map(|value| f64::from(*value)));
        let mean = values.column_mean();
        for mut column in values.column_iter_mut() {
            column -= &mean;
        }
        let covariance = &values * values.transpose() / count as f64;
        Ok(Self { mean, covariance })
    }

    /// The 2-Wasserstein distance
    ///
    /// ```text
    /// W2² = |m - m'|² + tr(C) + tr(C') - 2 tr((C^½ C' C^½)^½)
    /// ```
    ///
    /// (Dowson & Landau 1982). Its square, taken in a network's features, is the Frechet distance of Heusel et al.
    /// 2017.
    ///
    /// # Panics
    /// If the two have different sizes.
    pub fn wasserstein(&self, other: &Self) -> f64 {
        let root = square_root(&self.covariance);
        let product = &root * &other.covariance * &root;
        let cross: f64 = symmetric(product)
            .symmetric_eigenvalues()
            .iter()
            .map(|value| value.max(0.0).sqrt())
            .sum();
        let squared = (&self.mean - &other.mean).norm_squared() + self.covariance.trace() + other.covariance.trace()
            - 2.0 * cross;
        squared.max(0.0).sqrt()
    }
}

/// The symmetric square root of a covariance; eigenvalues that rounding made negative count as 0.
fn square_root(covariance: &DMatrix<f64>) -> DMatrix<f64> {
    let SymmetricEigen {
        eigenvectors,
        eigenvalues,
    } = SymmetricEigen::new(covariance.clone());
    let roots = DMatrix::from_diagonal(&eigenvalues.map(|value| value.max(0.0).sqrt()));
    &eigenvectors * roots * eigenvectors.transpose()
}

/// Rounding leaves a product slightly asymmetric.
fn symmetric(matrix: DMatrix<f64>) -> DMatrix<f64> {
    0.5 * (&matrix + matrix.transpose())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Eight points with exactly these means, and standard deviations along the axes.
    fn cross(mean: [f32; 2], std: [f32; 2]) -> Vec<f32> {
        let [x, y] = std.map(|std| std * 2.0_f32.sqrt());
        [[x, 0.0], [-x, 0.0], [0.0, y], [0.0, -y]]
            .into_iter()
            .flat_map(|point| [mean[0] + point[0], mean[1] + point[1]])
            .collect()
    }

    fn fit(mean: [f32; 2], std: [f32; 2]) -> GaussianFit {
        GaussianFit::new(&cross(mean, std), 2).unwrap()
    }

    #[test]
    fn axes_that_agree_have_the_closed_form() {
        // W2² = |m - m'|² + sum (s - s')²
        let distance = fit([0.0, 0.0], [1.0, 2.0]).wasserstein(&fit([3.0, 4.0], [2.0, 2.5]));
        assert!((distance - (25.0_f64 + 1.0 + 0.25).sqrt()).abs() < 1e-6);
        assert!(fit([0.5, 0.0], [1.0, 2.0]).wasserstein(&fit([0.5, 0.0], [1.0, 2.0])) < 1e-6);
    }

    #[test]
    fn axes_that_do_not_agree_too() {
        // For 2 x 2: tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)), with M = C C'.
        let c = DMatrix::from_row_slice(2, 2, &[2.0, 0.6, 0.6, 1.0]);
        let d = DMatrix::from_row_slice(2, 2, &[1.0, -0.4, -0.4, 3.0]);
        let product: DMatrix<f64> = &c * &d;
        let cross = (product.trace() + 2.0 * product.determinant().sqrt()).sqrt();
        let expected = (c.trace() + d.trace() - 2.0 * cross).sqrt();
        let mean = DVector::zeros(2);
        let left = GaussianFit {
            mean: mean.clone(),
            covariance: c,
        };
        let right = GaussianFit { mean, covariance: d };
        assert!((left.wasserstein(&right) - expected).abs() < 1e-12);
        assert!((right.wasserstein(&left) - expected).abs() < 1e-12);
    }

    #[test]
    fn one_sample_has_no_spread() {
        assert!(matches!(
            GaussianFit::new(&[1.0, 2.0], 2),
            Err(DiffusionError::TooFew { count: 1 })
        ));
    }
}
