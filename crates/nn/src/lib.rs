//! Networks and their weights.
//!
//! [`decoder`] is the one language model of all families, [`weights`], [`gguf`] and [`hub`] are where its parameters come
//! from and go to. A denoiser here is only the raw network `F(input, noise, classes)`: three tensors in, one out. What surrounds
//! it (how the noisy sample is scaled on its way in, how the output becomes an estimate of the clean sample) is
//! arithmetic on a handful of coefficients per sample and belongs to whoever trains or samples. That keeps every
//! network usable under every prediction type, and keeps this crate ignorant of training.
//!
//! Randomness is an argument: initial weights are drawn from the generator that the caller passes in, parameter
//! after parameter in declaration order, so one seed gives one network on every device.

pub mod classifier;
pub mod decoder;
pub mod denoiser;
mod dit;
mod embedding;
pub mod gguf;
pub mod hub;
mod initialize;
mod layer;
mod mlp;
pub mod weights;

pub use classifier::{Classifier, ClassifierConfig};
pub use denoiser::{Conditions, Denoiser, DenoiserConfig};
pub use dit::{Dit, DitConfig};
pub use mlp::{Mlp, MlpConfig};

/// The example in the README.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;

/// Why a network cannot be built from its configuration.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ConfigError {
    /// A size that must be positive is zero.
    #[error("{name} is 0; it must be at least 1")]
    Zero {
        /// The configuration key.
        name: &'static str,
    },
    /// One size must divide another and does not.
    #[error("{divisor_name} ({divisor}) does not divide {name} ({value}); choose one that does")]
    NotDivisible {
        /// The key of the size to be divided.
        name: &'static str,
        /// Its value.
        value: usize,
        /// The key of the divisor.
        divisor_name: &'static str,
        /// Its value.
        divisor: usize,
    },
}

/// Checks that `divisor` divides `value`, both named as in the configuration.
fn require_divides(
    (divisor_name, divisor): (&'static str, usize),
    (name, value): (&'static str, usize),
) -> Result<(), ConfigError> {
    require_positive(divisor_name, divisor)?;
    require_positive(name, value)?;
    if value.is_multiple_of(divisor) {
        Ok(())
    } else {
        Err(ConfigError::NotDivisible {
            name,
            value,
            divisor_name,
            divisor,
        })
    }
}

/// Checks that a size named as in the configuration is at least 1.
fn require_positive(name: &'static str, value: usize) -> Result<(), ConfigError> {
    if value == 0 {
        Err(ConfigError::Zero { name })
    } else {
        Ok(())
    }
}
