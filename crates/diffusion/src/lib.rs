//! Images and points, a denoiser, samples.

pub mod data;
pub mod picture;
