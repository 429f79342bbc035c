//! How likely a comparison or a ranking is, given one score per item.
//!
//! A score is a logarithm of strength in nats: a reward, a language model's log-ratio `beta ln(pi / pi_ref)`, an
//! item's ability. Only differences count: adding one number to all scores of a prompt changes no likelihood, which
//! is why the partition function of a preference-tuned policy never has to be known.
//!
//! - [`bradley_terry`]: two items, with Davidson's extension to ties.
//! - [`plackett_luce`]: rankings without ties, in full, to the first m places, or only the best of K. Two items in
//!   full are Bradley-Terry.
//! - [`davidson_luce`]: rankings with ties of any size; two items are Davidson's model, no ties are Plackett-Luce.
//! - [`partial`]: rankings of which the order is known in part, by Plackett-Luce summed over the orders that agree.
//! - [`pair_loss`]: what else is made of a pair's log-ratios in training: hinge, IPO, robust and others.
//! - [`sample`]: rankings drawn from Plackett-Luce.
//!
//! These are the f64 references for every faster implementation; the fit of item strengths runs them directly.

pub mod bradley_terry;
pub mod davidson_luce;
pub mod pair_loss;
pub mod partial;
pub mod plackett_luce;
pub mod sample;
