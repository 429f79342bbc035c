//! Normalisation of rows with learned weights.

use burn::tensor::Tensor;

/// `x / sqrt(mean(x²) + epsilon) * weight`, row by row.
///
/// Zhang & Sennrich, "Root Mean Square Layer Normalization" (2019), equation 4, with Llama's epsilon.
///
/// # Shapes
///
/// - `x` and result: `[rows, width]`
/// - `weight`: `[width]`
///
/// # Panics
///
/// When the shapes do not fit.
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let [_, width] = x.dims();
    assert_eq!(
        weight.dims(),
        [width],
        "rms_norm: the weight must have a value per column"
    );
    let mean_square = (x.clone() * x.clone()).mean_dim(1);
    x * mean_square.add_scalar(epsilon).sqrt().recip() * weight.reshape([1, width])
}

/// `(x - mean) / sqrt(variance + epsilon) * weight + bias`, row by row, with the biased variance.
///
/// Ba et al., "Layer Normalization" (2016), equation 4.
///
/// # Shapes
///
/// - `x` and result: `[rows, width]`
/// - `weight`, `bias`: `[width]`
///
/// # Panics
///
/// When the shapes do not fit.
pub fn layer_norm(x: Tensor<2>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let [_, width] = x.dims();
    assert_eq!(
        weight.dims(),
        [width],
        "layer_norm: the weight must have a value per column"
    );
    assert_eq!(
        bias.dims(),
        [width],
        "layer_norm: the bias must have a value per column"
    );
    let centered = x.clone() - x.mean_dim(1);
    let variance = (centered.clone() * centered.clone()).mean_dim(1);
    let normalized = centered * variance.add_scalar(epsilon).sqrt().recip();
    normalized * weight.reshape([1, width]) + bias.reshape([1, width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, numbers};

    const SHAPE: [usize; 2] = [3, 5];
    const EPSILON: f64 = 1e-3;

    #[test]
    fn rms_norm_is_its_formula_with_its_gradients() {
        check_gradients(
            [numbers(1, 15), numbers(2, 5)],
            |[x, weight]| rms_norm(x.reshape(SHAPE), weight, EPSILON).reshape([15]),
            |[x, weight]| {
                let row = |row: &[f64]| {
                    let root = (row.iter().map(|x| x * x).sum::<f64>() / 5.0 + EPSILON).sqrt();
                    row.iter().zip(weight).map(|(x, w)| x / root * w).collect::<Vec<_>>()
                };
                x.chunks(5).flat_map(row).collect()
            },
        );
    }

    #[test]
    fn layer_norm_is_its_formula_with_its_gradients() {
        check_gradients(
            [numbers(1, 15), numbers(2, 5), numbers(3, 5)],
            |[x, weight, bias]| layer_norm(x.reshape(SHAPE), weight, bias, EPSILON).reshape([15]),
            |[x, weight, bias]| {
                let row = |row: &[f64]| {
                    let mean = row.iter().sum::<f64>() / 5.0;
                    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 5.0;
                    let root = (variance + EPSILON).sqrt();
                    let affine = weight.iter().zip(bias);
                    row.iter()
                        .zip(affine)
                        .map(|(x, (w, b))| (x - mean) / root * w + b)
                        .collect::<Vec<_>>()
                };
                x.chunks(5).flat_map(row).collect()
            },
        );
    }
}
