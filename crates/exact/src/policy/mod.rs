//! What reinforcement learning of a policy over tokens is made of: each piece as a function of numbers.
//!
//! A response is a row of decisions. Each has its log-probability under the policy that made it, under the policy as it
//! is now and under the reference, and an estimate of what is still to come, its value. From these follow
//!
//! - [`divergence`]: what a token adds to the KL divergence from the reference, and the controller of its price;
//! - [`advantage`]: how much better a decision was than expected (generalised advantages), or a response than its
//!   siblings (leave-one-out, group-relative); whitening;
//! - [`clipped`]: the losses of proximal policy optimisation, with their derivatives.
//!
//! These are no references beside a faster implementation: training runs them, as there are a few thousand numbers to a
//! step.

pub mod advantage;
pub mod clipped;
pub mod divergence;
