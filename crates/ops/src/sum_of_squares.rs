//! The sum of a tensor's squares, for norms over all parameters.

use burn::tensor::Tensor;

/// `sum of x_i^2` in f64, the same bits whatever the number of threads.
///
/// The square root of the sum over all gradients is the global norm that clipping compares with its bound.
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> f64 {
    let square: Tensor<D> = x.clone() * x;
    f64::from(square.sum().into_scalar::<f32>())
}
