//! What all trainers of language models share: settings, examples, the plan of steps, the steps themselves.
//!
//! A trainer is an [`Objective`]: which rows it reads, what it makes of one, and the derivative of its loss. [`Tuner`] does
//! everything else.

pub mod config;
mod error;
pub mod examples;
pub mod objective;
pub mod plan;
mod reference;
mod tuner;

pub use config::{ConfigError, MAY_CHANGE, TrainerConfig, TuningConfig};
pub use error::TuningError;
pub use examples::{Counts, Examples};
pub use objective::Objective;
pub use reference::reference;
pub use tuner::Tuner;
