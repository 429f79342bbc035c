//! Reward models: a score for a response, learned from comparisons (P2 and P10 in the book's mathematics).
//!
//! The network is a language model's with one number for a head, read at the true last token of each response, its end
//! token. The loss is minus the log-likelihood of the scores, Bradley-Terry's of a pair and Plackett-Luce's of a ranking.
//! Only differences of scores count in it, so after training they are shifted to mean 0, over the responses of the training
//! data or over given ones, those of the policy that the rewards are for (Ziegler et al. 2019, "Fine-Tuning Language Models
//! from Human Preferences", section 2).

mod config;
mod normalization;
mod responses;
mod rewards;

pub use config::{Normalize, RewardConfig};
pub use normalization::{Normalization, REWARD, normalize, normalize_over};
pub use responses::Responses;
pub use rewards::{RewardTraining, Rewards, scores_of};
