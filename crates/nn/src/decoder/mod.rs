//! Decoder-only language models.
//!
//! One network for all families: what distinguishes Llama from GPT-2 are the values of a [`DecoderConfig`], read from
//! Hugging Face's `config.json`, and a table of [`parameters`] that says where files keep each weight.

pub mod cache;
pub mod config;
mod family;
pub mod model;
pub mod parameters;
mod projection;
pub mod rope;

pub use cache::Cache;
pub use config::{DecoderConfig, DecoderConfigError};
pub use model::{Decoder, select_rows};
