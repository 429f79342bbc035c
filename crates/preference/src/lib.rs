//! Language models and preferences: text in, tuned models out.
//!
//! [`data`] reads rows from files, [`text`] and [`encode`] make tokens of them, [`model`] opens a model with its
//! tokenizer and [`save`] writes it, [`generate`] draws texts from it and [`score`] judges given ones. [`tuning`] is what
//! trainers share; [`sft`] tunes a model to examples, [`dpo`] to preferences between them ([`comparison`]), [`ppo`] to what a
//! [`judge`] rewards, and [`reward`] makes a model that is one.

pub mod comparison;
pub mod data;
pub mod dpo;
pub mod encode;
pub mod enumerate;
pub mod generate;
pub mod judge;
pub mod model;
pub mod ppo;
mod quiet;
pub mod reward;
pub mod save;
pub mod score;
pub mod sft;
pub mod small;
pub mod text;
pub mod tuning;
pub mod world;

/// The example in the README.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
