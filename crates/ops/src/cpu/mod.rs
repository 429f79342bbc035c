//! What the CPU implementations share: memory, vector code and matrix products.

pub(crate) mod attention;
pub(crate) mod buffer;
pub(crate) mod matrix;
pub(crate) mod panel;
pub(crate) mod product;
pub(crate) mod tile;
pub(crate) mod vector;
pub(crate) mod vocabulary;
