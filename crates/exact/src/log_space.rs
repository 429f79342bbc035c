//! Sums of exponentials that neither overflow nor lose their small terms.
//!
//! Every function takes and returns natural logarithms. Minus infinity is the logarithm of zero and is an ordinary
//! value here; a NaN comes out as NaN.

/// `ln Σ exp(v_i)`; minus infinity for no values.
pub fn log_sum_exp(values: &[f64]) -> f64 {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        // All zero, one infinite, or a NaN that `max` skipped: the plain sum says which.
        return values.iter().map(|value| value.exp()).sum::<f64>().ln();
    }
    largest + values.iter().map(|value| (value - largest).exp()).sum::<f64>().ln()
}

/// `ln(exp(a) + exp(b))`.
pub fn log_add_exp(a: f64, b: f64) -> f64 {
    let (large, small) = if a < b { (b, a) } else { (a, b) };
    if large.is_infinite() {
        return if a.is_nan() || b.is_nan() { f64::NAN } else { large };
    }
    large + (small - large).exp().ln_1p()
}

/// `ln(1 + exp(x))`: about `exp(x)` far below zero, about `x` far above.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The logistic function `1 / (1 + exp(-x))`.
pub fn sigmoid(x: f64) -> f64 {
    let decay = (-x.abs()).exp();
    if x >= 0.0 {
        1.0 / (1.0 + decay)
    } else {
        decay / (1.0 + decay)
    }
}

/// `ln sigmoid(x) = -softplus(-x)`.
pub fn log_sigmoid(x: f64) -> f64 {
    -softplus(-x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn extremes_stay_exact() {
        assert_eq!(log_sum_exp(&[]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[f64::NEG_INFINITY; 3]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[1e308, 0.0]), 1e308);
        assert!((log_sum_exp(&[-1e5, -1e5]) - (-1e5 + std::f64::consts::LN_2)).abs() < 1e-10);
        assert!(log_sum_exp(&[0.0, f64::NAN]).is_nan());
        assert!(log_add_exp(f64::NAN, f64::NEG_INFINITY).is_nan());
        assert_eq!(log_add_exp(f64::NEG_INFINITY, -3.0), -3.0);
        // exp(-800) is below the smallest positive double, and so is ln(1 + exp(-800)); its logarithm is not.
        assert_eq!(log_sigmoid(-800.0), -800.0);
        assert_eq!(log_sigmoid(800.0), 0.0);
        // mpmath: log(1/(1+exp(-40))) = -4.248354255291589e-18
        assert!((log_sigmoid(40.0) / -4.248354255291589e-18 - 1.0).abs() < 1e-14);
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!(softplus(0.0), std::f64::consts::LN_2);
    }

    proptest! {
        #[test]
        fn pairwise_and_total_sums_agree(values in prop::collection::vec(-50.0..50.0f64, 1..12)) {
            let folded = values.iter().copied().fold(f64::NEG_INFINITY, log_add_exp);
            prop_assert!((folded - log_sum_exp(&values)).abs() < 1e-12);
        }

        #[test]
        fn sigmoid_and_its_logarithm_agree(x in -700.0..700.0f64) {
            prop_assert!((log_sigmoid(x).exp() - sigmoid(x)).abs() <= 1e-13 * sigmoid(x));
            prop_assert!((sigmoid(x) + sigmoid(-x) - 1.0).abs() < 1e-15);
        }
    }
}
