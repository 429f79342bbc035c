//! Fused differentiable operations on burn tensors.
//!
//! A network written in single tensor operations spends more than half of a training step outside its matrix
//! products: every addition is a pass over memory, every exponential a scalar call, every intermediate a fresh
//! allocation that automatic differentiation keeps. Each operation here is one such chain taken as a whole, with its
//! own backward pass.
//!
//! Every operation has its file and every file the same shape: the public function over [`burn::tensor::Tensor`],
//! the trait over [`burn::backend::Backend`] whose default bodies are composed of burn's own operations (so that any
//! backend can run it), its implementation for the CPU backend, and the one for automatic differentiation with the
//! backward pass.
//!
//! On the CPU, results have the same bits on any number of threads, whether a sample comes alone or in a batch, and
//! with AVX2 as with AVX-512; the best instruction set is chosen at run time. Only f32 has CPU bodies; other types
//! take the portable ones.

mod activation;
mod adamw;
mod attention;
mod cpu;
#[cfg(feature = "cuda")]
mod cube;
mod dropout;
mod ema;
mod forest;
mod gated;
mod layer_norm;
mod linear;
mod mapped;
mod memory;
mod norm;
mod packed;
mod residual;
mod rewrite;
mod rms_normed;
mod rotary;
mod rows;
mod sum_of_squares;
#[cfg(test)]
mod testing;
mod token_log_prob;
mod tree_attention;

pub use activation::{ActivationOps, gelu, silu};
pub use adamw::{AdamwOps, AdamwStep, adamw};
pub use attention::{AttentionOps, self_attention};
pub use dropout::dropout;
pub use ema::{EmaOps, ema};
pub use forest::{Forest, KeySpan, Layout, QuerySpan, Segment};
pub use gated::{GatedOps, geglu, geglu_linear, swiglu, swiglu_linear};
pub use layer_norm::{LayerNormOps, layer_norm_modulated};
pub use linear::{LinearOps, linear};
pub use mapped::MappedFile;
pub use memory::Memory;
pub use norm::{NormOps, layer_norm, rms_norm};
pub use packed::{PackedLinearOps, PackedWeight, Precision, packed_linear, packed_linears};
pub use residual::{ResidualOps, gated_residual};
pub use rms_normed::{RmsNormed, RmsNormedOps};
pub use rotary::{RotaryOps, Rotation, rotary};
pub use rows::{RowOps, put_rows};
pub use sum_of_squares::sum_of_squares;
pub use token_log_prob::{TokenLogProb, TokenLogProbOps, token_log_prob, token_log_prob_sum};
pub use tree_attention::{Heads, TreeAttentionOps, tree_attention};

/// The example in the README.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
