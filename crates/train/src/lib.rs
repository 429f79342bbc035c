//! What every training run shares.

pub mod checkpoint;
pub mod files;
pub mod random;
pub mod run;
pub mod tensors;
