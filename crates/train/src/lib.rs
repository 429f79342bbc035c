//! What every training run shares: it knows nothing of texts, images or networks.
//!
//! A training run here makes one promise: killed at any moment and resumed, it gives the same bits as if it had never
//! been killed. The parts are shaped by it.
//!
//! - [`random`]: a random number has an address (seed, purpose, sample, step) and there is no generator state, so
//!   nothing random needs saving and neither batch size nor thread count changes a draw.
//! - [`run`]: a run is a directory, locked while it is trained into, that holds its full configuration.
//! - [`checkpoint`]: directories that are either whole or absent, verified before they are trusted; a damaged one is
//!   reported, never silently skipped. [`tensors`] are their strict, named tensor files, [`files`] the atomic writes.
//! - [`metrics`]: named numbers and their averages; [`metrics_log`]: `metrics.jsonl`, cut back to the checkpoint on
//!   resume; [`tensorboard`] writes the same as events.
//! - [`fingerprint`]: whether the data are still those that the run was started on.
//! - [`schedule`] and [`batches`]: the learning rate and the examples of a step as functions of the step's number.
//! - [`progress`] and [`interrupt`]: what the person at the terminal sees, and Ctrl-C.
//! - [`parameters`]: a module's parameters by name; [`gradients`], [`adamw`] and [`ema`] are keyed by those names.
//! - [`trainer`]: the loop that arranges all this around a [`trainer::Task`].

pub mod adamw;
pub mod batches;
pub mod checkpoint;
pub mod ema;
pub mod files;
pub mod fingerprint;
pub mod gradients;
pub mod interrupt;
mod manifest;
pub mod metrics;
pub mod metrics_log;
pub mod parameters;
pub mod progress;
pub mod random;
pub mod run;
pub mod schedule;
pub mod tensorboard;
pub mod tensors;
pub mod trainer;

/// The example in the README.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
