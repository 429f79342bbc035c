//! The operations on an NVIDIA card: the portable bodies, every one.

use burn::backend::Cube;

macro_rules! portable {
    ($($operations:path),* $(,)?) => {
        $(impl $operations for Cube {})*
    };
}

portable![
    crate::activation::ActivationOps,
    crate::adamw::AdamwOps,
    crate::attention::AttentionOps,
    crate::ema::EmaOps,
    crate::gated::GatedOps,
    crate::layer_norm::LayerNormOps,
    crate::linear::LinearOps,
    crate::norm::NormOps,
    crate::packed::PackedLinearOps,
    crate::residual::ResidualOps,
    crate::rms_normed::RmsNormedOps,
    crate::rotary::RotaryOps,
    crate::rows::RowOps,
    crate::sum_of_squares::SumOfSquaresOps,
    crate::token_log_prob::TokenLogProbOps,
    crate::tree_attention::TreeAttentionOps,
];
