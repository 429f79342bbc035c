//! Reward models: a score for a response, learned from comparisons (P2 and P10 in the book's mathematics).
//!
//! The network is a language model's with one number for a head, read at the true last token of each response, its end
//! token. The loss is minus the log-likelihood of the scores, Bradley-Terry's of a pair and Plackett-Luce's of a ranking.
//! Only differences of scores count in it, so after training they are shifted to mean 0.

mod config;
mod normalization;
mod rewards;

pub use config::{Normalize, RewardConfig};
pub use normalization::{Normalization, REWARD, normalize};
pub use rewards::{RewardTraining, Rewards, scores_of};
