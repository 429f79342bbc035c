//! Gated activations of the feed-forward layer.

use burn::tensor::Tensor;

use crate::{gelu, silu};

/// `silu(gate) * up`.
///
/// Shazeer, "GLU Variants Improve Transformer" (2020), equation 6, between its products.
///
/// # Panics
///
/// When the shapes differ.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    assert_eq!(gate.dims(), up.dims(), "swiglu: gate and up must have one shape");
    silu(gate) * up
}

/// `gelu(gate) * up`, with GELU's tanh approximation.
///
/// Shazeer (2020), equation 6 likewise, as Gemma has it.
///
/// # Panics
///
/// When the shapes differ.
pub fn geglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    assert_eq!(gate.dims(), up.dims(), "geglu: gate and up must have one shape");
    gelu(gate) * up
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradients, numbers};

    fn check(operation: fn(Tensor<2>, Tensor<2>) -> Tensor<2>, activation: fn(f64) -> f64) {
        check_gradients(
            [numbers(1, 12), numbers(2, 12)],
            |[gate, up]| operation(gate.reshape([3, 4]), up.reshape([3, 4])).reshape([12]),
            |[gate, up]| gate.iter().zip(up).map(|(gate, up)| activation(*gate) * up).collect(),
        );
    }

    #[test]
    fn swiglu_is_its_formula_with_its_gradients() {
        check(swiglu, |x| x / (1.0 + (-x).exp()));
    }

    #[test]
    fn geglu_is_its_formula_with_its_gradients() {
        check(geglu, |x| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        });
    }
}
