//! Supervised fine-tuning: maximum likelihood of given completions (P1 in the book's mathematics).

pub mod config;
mod training;

pub use config::SftConfig;
pub use training::{Completions, Sft};
