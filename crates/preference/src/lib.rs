//! Language models and preferences: text in, tuned models out.

pub mod generate;
