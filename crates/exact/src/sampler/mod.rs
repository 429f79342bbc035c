//! A sampler is a table: the steps it takes, with their coefficients, fixed before any network runs.

mod plan;

pub use plan::{Plan, Step};
