//! Supervised fine-tuning: maximum likelihood of given completions (P1 in the book's mathematics).
//!
//! [`config`] says what is tuned and how, [`examples`] turns a data set into tokens and counts what does not fit,
//! [`plan`] says which examples each optimiser step sees and in which parts, [`training`] does the steps.

pub mod config;
mod error;
pub mod examples;
pub mod plan;
pub mod training;

pub use config::SftConfig;
pub use error::SftError;
pub use training::Sft;
