//! The mean and the principal variances of a data set, which are all that an exact audit needs to know of it.

use nalgebra::DMatrix;
use rayon::prelude::*;

use super::Dataset;

/// Axes of a tile of the covariance matrix, and samples accumulated at a time.
const TILE: usize = 128;
const CHUNK: usize = 512;

/// The Gaussian that fits a data set: its mean, and its variances along the principal axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Spectrum {
    /// The mean of each value, `[values]`, in the network's units.
    pub mean: Vec<f64>,
    /// The eigenvalues of the covariance matrix, greatest first, `[values]`, in the network's units squared.
    pub variances: Vec<f64>,
}

impl Dataset {
    /// The mean of each value, scaled as a network sees it: `[values]`.
    #[must_use]
    pub fn mean(&self) -> Vec<f64> {
        let size = self.shape().values();
        // A fixed division of the samples keeps the order of the sums, and so the result, the same on any number of
        // threads.
        let starts: Vec<usize> = (0..self.len()).step_by(CHUNK).collect();
        let sums: Vec<Vec<f64>> = starts
            .par_iter()
            .map(|&start| {
                let mut sum = vec![0.0f64; size];
                let mut sample = vec![0.0f32; size];
                for index in start..(start + CHUNK).min(self.len()) {
                    self.sample_into(index, &mut sample);
                    for (sum, value) in sum.iter_mut().zip(&sample) {
                        *sum += f64::from(*value);
                    }
                }
                sum
            })
            .collect();
        let mut mean = vec![0.0; size];
        for sum in sums {
            for (mean, sum) in mean.iter_mut().zip(sum) {
                *mean += sum / self.len() as f64;
            }
        }
        mean
    }

    /// The covariance matrix, `[values, values]`, of the samples as a network sees them:
    /// `C = 1/n Σ (x_i - m)(x_i - m)^T`. It describes these very samples, so it is divided by their number.
    #[must_use]
    pub fn covariance(&self) -> DMatrix<f64> {
        self.covariance_around(&self.mean())
    }

    /// The mean, and the eigenvalues of the covariance matrix (those below the rounding of the greatest are 0).
    ///
    /// The covariance takes `n d²` multiplications for `n` samples of `d` values and runs on all threads; the
    /// eigenvalues take `4/3 d³` on one.
    #[must_use]
    pub fn spectrum(&self) -> Spectrum {
        let mean = self.mean();
        let size = mean.len();
        let eigenvalues = self.covariance_around(&mean).symmetric_eigenvalues();
        // What is below the rounding of the greatest is rounding itself: pixels that never change have variance 0.
        let greatest = eigenvalues.iter().copied().fold(0.0, f64::max);
        let rounding = greatest * size as f64 * f64::EPSILON;
        let mut variances: Vec<f64> = eigenvalues
            .iter()
            .map(|variance| if *variance > rounding { *variance } else { 0.0 })
            .collect();
        variances.sort_by(|a, b| b.total_cmp(a));
        Spectrum { mean, variances }
    }

    fn covariance_around(&self, mean: &[f64]) -> DMatrix<f64> {
        let size = self.shape().values();
        let tile_starts: Vec<usize> = (0..size).step_by(TILE).collect();
        let width = |start: usize| TILE.min(size - start);
        // The lower triangle, tile by tile: each thread owns its tiles, so nothing is summed in a changing order.
        let mut tiles: Vec<(usize, usize, DMatrix<f64>)> = tile_starts
            .iter()
            .flat_map(|&row| {
                tile_starts
                    .iter()
                    .filter(move |&&column| column <= row)
                    .map(move |&column| (row, column))
            })
            .map(|(row, column)| (row, column, DMatrix::zeros(width(row), width(column))))
            .collect();
        for start in (0..self.len()).step_by(CHUNK) {
            let count = CHUNK.min(self.len() - start);
            let mut centred = DMatrix::<f64>::zeros(size, count);
            centred.as_mut_slice().par_chunks_mut(size).enumerate().for_each_init(
                || vec![0.0f32; size],
                |sample, (offset, column)| {
                    self.sample_into(start + offset, sample);
                    for ((out, value), mean) in column.iter_mut().zip(sample.iter()).zip(mean) {
                        *out = f64::from(*value) - mean;
                    }
                },
            );
            let transposed = centred.transpose();
            tiles.par_iter_mut().for_each(|(row, column, tile)| {
                let left = centred.rows(*row, tile.nrows());
                let right = transposed.columns(*column, tile.ncols());
                tile.gemm(1.0 / self.len() as f64, &left, &right, 1.0);
            });
        }
        let mut covariance = DMatrix::zeros(size, size);
        for (row, column, tile) in &tiles {
            covariance.view_mut((*row, *column), tile.shape()).copy_from(tile);
            if row != column {
                covariance
                    .view_mut((*column, *row), (tile.ncols(), tile.nrows()))
                    .copy_from(&tile.transpose());
            }
        }
        covariance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{PointScaling, Scaling, Shape, ValueRange, Values};

    /// 300 values cross the borders of tiles, 1,100 samples those of chunks; against the definition, entry by entry.
    #[test]
    fn the_covariance_is_its_definition() {
        let (n, d) = (1_100, 300);
        let bytes: Vec<u8> = (0..n * d).map(|i| ((i * i) % 251 + (i % d) % 5) as u8).collect();
        let shape = Shape::Points { dimensions: d };
        let scaling = Scaling::from_range(ValueRange::BYTE);
        let dataset = Dataset::new("test", shape, Values::Bytes(bytes), scaling).unwrap();
        let all = dataset.batch(&(0..n).collect::<Vec<_>>());
        let value = |i: usize, j: usize| f64::from(all[i * d + j]);
        let mean: Vec<f64> = (0..d)
            .map(|j| (0..n).map(|i| value(i, j)).sum::<f64>() / n as f64)
            .collect();
        assert!(mean.iter().zip(dataset.mean()).all(|(a, b)| (a - b).abs() < 1e-13));
        let covariance = dataset.covariance();
        for (j, k) in [
            (0, 0),
            (0, 299),
            (127, 128),
            (128, 127),
            (255, 256),
            (299, 299),
            (200, 10),
        ] {
            let expected = (0..n)
                .map(|i| (value(i, j) - mean[j]) * (value(i, k) - mean[k]))
                .sum::<f64>()
                / n as f64;
            assert!((covariance[(j, k)] - expected).abs() < 1e-13, "{j} {k}");
        }
        let spectrum = dataset.spectrum();
        assert!((spectrum.variances.iter().sum::<f64>() - covariance.trace()).abs() < 1e-10);
        assert!(spectrum.variances.is_sorted_by(|a, b| a >= b));
    }

    /// Points `± a u` and `± b v` with orthonormal `u`, `v` have the covariance `(a² u u^T + b² v v^T) / 2`.
    #[test]
    fn the_variances_lie_along_the_principal_axes() {
        let (a, b) = (3.0f32, 0.5f32);
        let points = [
            0.6 * a,
            0.8 * a,
            -0.6 * a,
            -0.8 * a,
            -0.8 * b,
            0.6 * b,
            0.8 * b,
            -0.6 * b,
        ];
        let shifted: Vec<f32> = points.iter().map(|value| value + 7.0).collect();
        let dataset = Dataset::points("test", 2, shifted, None, PointScaling::Raw).unwrap();
        let spectrum = dataset.spectrum();
        assert!((spectrum.variances[0] - 4.5).abs() < 1e-5 && (spectrum.variances[1] - 0.125).abs() < 1e-6);
        assert!(spectrum.mean.iter().all(|mean| (mean - 7.0).abs() < 1e-6));
    }

    /// `d = load_digits().data / 8 - 1; numpy.linalg.eigvalsh(numpy.cov(d.T, bias=True))[[-1, -2, -10, 0]]`,
    /// scikit-learn 1.9, NumPy 2.4.
    #[test]
    fn the_spectrum_of_the_digits_is_numpys() {
        let variances = Dataset::digits().unwrap().spectrum().variances;
        for (index, expected) in [
            (0, 2.7954268090563956),
            (1, 2.556666261473054),
            (9, 0.5779875306966908),
            (63, 0.0),
        ] {
            assert!(
                (variances[index] - expected).abs() < 1e-12,
                "{index}: {} {expected}",
                variances[index]
            );
        }
    }
}
