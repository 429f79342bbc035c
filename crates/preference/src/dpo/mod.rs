//! Direct preference optimisation: pairs and rankings of K responses, without a reward model (P8 to P12 in the book's
//! mathematics).
//!
//! A response's score is `h = beta ln(pi(y|x) / pi_ref(y|x))`, and a comparison's loss is minus the log-likelihood of the
//! scores: Bradley-Terry's of a pair, Plackett-Luce's of a ranking. Both and their derivatives by the scores have closed
//! forms ([`exact::ranking`]), so they are worked out in double precision and only the responses' log-probabilities are
//! differentiated by the network.

mod config;
mod divergence;
mod preferences;
mod reference;

pub use config::DpoConfig;
pub use divergence::{Estimate, sampled_kl};
pub use preferences::{Dpo, Preferences};
pub use reference::{Prepared, prepare};
