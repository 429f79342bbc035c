//! Everything with a closed form, in f64, without tensors or files.
//!
//! Two halves, one idea: both draw from a posterior. Reverse diffusion draws the less noisy state given the
//! noisier one; the best KL-regularised policy is the reference reweighted by exp(reward / beta). Both are known
//! exactly wherever the data are Gaussian or the answers can be enumerated, so what is learned or sampled
//! elsewhere in the workspace is scored against this crate.

pub mod audit;
pub mod denoiser;
pub mod finite;
pub mod fit;
pub mod frontier;
pub mod linear_beta;
pub mod log_space;
pub mod optimize;
pub mod policy;
pub mod prediction;
pub mod process;
pub mod ranking;
pub mod recipe;
pub mod response_count;
pub mod sampler;
pub mod schedule;
pub mod scheduler_config;
pub mod spacing;
pub mod spectrum;

/// The example in the README.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;

#[cfg(test)]
mod test;
