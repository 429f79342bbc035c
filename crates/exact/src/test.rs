//! What the tests of this crate share.

/// Asserts that two numbers agree to `tolerance`, relative to the expected one.
#[track_caller]
pub fn assert_close(actual: f64, expected: f64, tolerance: f64) {
    let scale = expected.abs().max(f64::MIN_POSITIVE);
    assert!(
        actual == expected || (actual - expected).abs() <= tolerance * scale,
        "{actual:e} is not {expected:e}: off by {:e} relative, {tolerance:e} allowed",
        (actual - expected).abs() / scale
    );
}
