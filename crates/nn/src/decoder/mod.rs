//! Decoder-only language models.
//!
//! One network for all families: what distinguishes Llama from GPT-2 are the values of a [`DecoderConfig`], read from
//! Hugging Face's `config.json`, and a table of [`parameters`] that says where files keep each weight.

mod adapter;
pub mod cache;
pub mod config;
mod family;
pub mod model;
mod packed;
pub mod parameters;
mod projection;
pub mod rope;
#[cfg(test)]
pub(crate) mod test_models;
mod training;

pub(crate) use adapter::ends_in;
pub use adapter::{Adapter, LoraConfig, LoraError, Targets};
pub use cache::Cache;
pub use config::{DecoderConfig, DecoderConfigError};
pub use model::{Decoder, select_rows};
pub use packed::PackedDecoder;
pub use training::TrainingPass;
