//! What the CPU implementations share: memory, vector code and matrix products.

pub(crate) mod buffer;
pub(crate) mod product;
pub(crate) mod vector;
