//! Images and points, a denoiser, samples.
//!
//! A run goes through five files' worth of ideas. [`data`] reads samples of any origin into one form. [`objective`]
//! makes them noisy and says what the network should answer, in four coefficients per sample. [`training`] is the task
//! that the shared training loop drives. [`sample`] runs a plan: the very table of coefficients that `exact::audit`
//! analyses, so that what is proved about a sampler is true of the one that runs. [`evaluate`] measures what came out.
//!
//! Networks see scaled, preconditioned inputs and nothing of noise processes; plans see estimates of the clean data and
//! nothing of networks. Either side can be replaced by a closed form: the ideal denoiser of a data set takes the
//! network's place in [`sample::run`], the audit takes the sampler's.

pub mod classify;
pub mod config;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod gaussian;
pub mod model;
pub mod network;
pub mod objective;
pub mod picture;
pub mod sample;
pub mod training;

pub use error::DiffusionError;

/// The example in the README.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
