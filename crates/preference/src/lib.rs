//! Language models and preferences: text in, tuned models out.
//!
//! [`data`] reads rows from files, [`text`] and [`encode`] make tokens of them, [`model`] opens a model with its
//! tokenizer and [`save`] writes it, [`generate`] draws texts from it and [`score`] judges given ones. [`tuning`] is what
//! trainers share; [`sft`] tunes a model to examples, [`dpo`] to preferences between them ([`comparison`]), and [`reward`] makes
//! a model that scores them.

pub mod comparison;
pub mod data;
pub mod dpo;
pub mod encode;
pub mod generate;
pub mod model;
mod quiet;
pub mod reward;
pub mod save;
pub mod score;
pub mod sft;
pub mod text;
pub mod tuning;

/// The example in the README.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
