//! What every training run shares.

pub mod random;
