//! The shift and scale of a reward model's scores.

use burn::module::Module as _;
use serde::{Deserialize, Serialize};

use super::config::Normalize;
use super::responses::Responses;
use super::rewards::{RewardTraining, scores_of};
use crate::tuning::TuningError;
use crate::tuning::objective::Split;

/// The file of a model's directory that says what becomes of its scores.
pub const REWARD: &str = "reward.json";

/// Comparisons whose responses are scored.
const MOST: usize = 2048;

/// A reward is `gain · score + bias`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// Positive.
    pub gain: f64,
    /// Any number.
    pub bias: f64,
}

impl Default for Normalization {
    fn default() -> Self {
        Self { gain: 1.0, bias: 0.0 }
    }
}

impl Normalization {
    /// The one that gives these scores mean 0 and, if asked, variance 1 (the biased one).
    #[must_use]
    pub fn of(scores: &[f64], unit_variance: bool) -> Self {
        let count = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / count;
        let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / count;
        let gain = if unit_variance && variance > 0.0 {
            variance.powf(-0.5)
        } else {
            1.0
        };
        Self {
            gain,
            bias: -gain * mean,
        }
    }

    /// The reward of a score.
    #[must_use]
    pub fn reward(self, score: f64) -> f64 {
        self.gain * score + self.bias
    }
}

/// Shifts and, if asked, scales the model's scores, so that over the responses of the training data (the first of them)
/// their mean is 0 and their variance 1.
///
/// # Errors
///
/// [`TuningError`] for data that changed under the run.
pub fn normalize(training: &mut RewardTraining) -> Result<(), TuningError> {
    let mut scores = Vec::new();
    if training.config().normalize != Normalize::Nothing {
        let decoder = training.model().decoder.valid();
        let numbers: Vec<usize> = (0..training.examples().len().min(MOST)).collect();
        for batch in training.batches(Split::Training, &numbers) {
            let batch = batch?;
            let prompts = batch.examples.iter().map(|(_, comparison)| &comparison.ranked);
            scores.extend(scores_of(&decoder, prompts));
        }
    }
    settle(training, &scores);
    Ok(())
}

/// The same over all of these responses.
pub fn normalize_over(training: &mut RewardTraining, responses: &Responses) {
    let scores = responses.scores(&training.model().decoder.valid());
    settle(training, &scores);
}

fn settle(training: &mut RewardTraining, scores: &[f64]) {
    training.model_mut().reward = match training.config().normalize {
        Normalize::Nothing => Normalization::default(),
        wanted => Normalization::of(scores, wanted == Normalize::Variance),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewards_have_mean_0_and_variance_1() {
        let scores = [3.0, 5.0, 7.0, 9.0];
        let shifted = Normalization::of(&scores, false);
        assert_eq!((shifted.gain, shifted.bias), (1.0, -6.0));
        let scaled = Normalization::of(&scores, true);
        let rewards = scores.map(|score| scaled.reward(score));
        assert!(rewards.iter().sum::<f64>().abs() < 1e-14);
        assert!((rewards.iter().map(|reward| reward * reward).sum::<f64>() / 4.0 - 1.0).abs() < 1e-14);
        assert_eq!(Normalization::of(&[2.0; 3], true).gain, 1.0);
    }
}
