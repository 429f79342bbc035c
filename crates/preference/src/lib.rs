//! Language models and preferences: text in, tuned models out.
//!
//! [`data`] reads rows from files, [`text`] makes tokens of them, [`model`] opens a model with its tokenizer, and
//! [`generate`] draws texts from it.

pub mod data;
pub mod generate;
pub mod model;
mod quiet;
pub mod score;
pub mod text;

/// The example in the README.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
