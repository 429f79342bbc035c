//! The loss of a reward model.

use std::ops::AddAssign;

use burn::tensor::{Gradients, Tensor};
use exact::log_space::sigmoid;
use exact::ranking::pair_loss::PairLoss;
use exact::ranking::partial::partial;
use nn::decoder::{Decoder, TrainingPass};
use rand::Rng;

use super::config::RewardConfig;
use crate::comparison::{Comparison, Prompt, Trees};
use crate::data::{Kind, Row};
use crate::encode::RowEncoder;
use crate::score::{host, with_derivatives};
use crate::text::{Ranked, TextError};
use crate::tuning::examples::{Made, Room};
use crate::tuning::objective::{Batch, Objective, Snapshot};
use crate::tuning::{Tuner, TuningError};

/// A reward model in training.
pub type RewardTraining = Tuner<Rewards>;

/// Bins of confidence from one half to one.
const BINS: usize = 10;

/// Comparisons as the likelihood of scores, averaged over the prompts of a step.
#[derive(Clone, Debug)]
pub struct Rewards {
    config: RewardConfig,
}

/// Sums over comparisons.
#[derive(Clone, Copy, Debug)]
pub struct Sums {
    loss: f64,
    accuracy: f64,
    margin: f64,
    score: f64,
    responses: f64,
    least: f64,
    most: f64,
    /// Pairs of responses of different places by how sure the model is of their order: how many, the sum of its
    /// confidences, how many are right.
    bins: [[f64; 3]; BINS],
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            loss: 0.0,
            accuracy: 0.0,
            margin: 0.0,
            score: 0.0,
            responses: 0.0,
            least: f64::INFINITY,
            most: f64::NEG_INFINITY,
            bins: [[0.0; 3]; BINS],
        }
    }
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.accuracy += other.accuracy;
        self.margin += other.margin;
        self.score += other.score;
        self.responses += other.responses;
        self.least = self.least.min(other.least);
        self.most = self.most.max(other.most);
        for (bin, others) in self.bins.iter_mut().zip(other.bins) {
            for (sum, value) in bin.iter_mut().zip(others) {
                *sum += value;
            }
        }
    }
}

impl Sums {
    /// The expected calibration error: how far the share of right orders is from the confidence in them, on average over
    /// pairs (Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3).
    fn calibration_error(&self) -> f64 {
        let pairs: f64 = self.bins.iter().map(|[count, ..]| count).sum();
        let off = self
            .bins
            .iter()
            .map(|[_, confidence, right]| (confidence - right).abs());
        off.sum::<f64>() / pairs
    }
}

impl Rewards {
    /// With these settings.
    #[must_use]
    pub fn new(config: RewardConfig) -> Self {
        Self { config }
    }

    /// The sums of one comparison, and the derivative of its loss by each score.
    fn judge(&self, comparison: &Comparison, scores: &[f64]) -> (Sums, Vec<f64>) {
        let RewardConfig {
            label_smoothing,
            places,
            center,
            ..
        } = self.config;
        let (mut loss, mut gradient) = if comparison.is_pair() {
            let scores = [scores[0], scores[1]];
            let term = PairLoss::Sigmoid.term(1.0, label_smoothing, comparison.margin, scores);
            (term.loss, term.gradient.to_vec())
        } else {
            let found = partial(scores, &comparison.groups, places.unwrap_or(scores.len()));
            (
                -found.log_likelihood,
                found.gradient.iter().map(|derivative| -derivative).collect(),
            )
        };
        let count = scores.len() as f64;
        let twice = 2.0 * scores.iter().sum::<f64>() / count;
        loss += center * twice * twice;
        for derivative in &mut gradient {
            *derivative += center * 4.0 * twice / count;
        }
        let first = comparison.groups[0];
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let mut sums = Sums {
            loss,
            margin: mean(&scores[..first]) - mean(&scores[first..]),
            score: scores.iter().sum(),
            responses: count,
            least: scores.iter().copied().fold(f64::INFINITY, f64::min),
            most: scores.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            ..Sums::default()
        };
        let (mut right, mut pairs) = (0.0, 0.0);
        for (better, worse) in comparison.pairs() {
            let difference = scores[better] - scores[worse];
            let is_right = f64::from(u8::from(difference > 0.0));
            let confidence = sigmoid(difference.abs());
            let bin = (((confidence - 0.5) * 2.0 * BINS as f64) as usize).min(BINS - 1);
            for (sum, value) in sums.bins[bin].iter_mut().zip([1.0, confidence, is_right]) {
                *sum += value;
            }
            pairs += 1.0;
            right += is_right;
        }
        sums.accuracy = right / pairs;
        (sums, gradient)
    }

    fn judge_all(&self, batch: &Batch<'_, Comparison>, scores: &[f64]) -> (Sums, Vec<f64>) {
        let (mut sums, mut derivatives) = (Sums::default(), Vec::with_capacity(scores.len()));
        let mut rest = scores;
        for (_, comparison) in &batch.examples {
            let (own, later) = rest.split_at(comparison.ranked.responses.len());
            let (own_sums, gradient) = self.judge(comparison, own);
            sums += own_sums;
            derivatives.extend(gradient);
            rest = later;
        }
        (sums, derivatives)
    }
}

/// The scores of responses, those to the first prompt first.
pub fn scores_of<'a>(decoder: &Decoder, prompts: impl IntoIterator<Item = &'a Ranked>) -> Vec<f64> {
    let trees = Trees::of(prompts, Prompt::Shared);
    let hidden = decoder.hidden(&trees.tokens, &trees.forest);
    host(&decoder.scores(hidden, &trees.ends))
}

impl Objective for Rewards {
    type Config = RewardConfig;
    type Example = Comparison;
    type Sums = Sums;

    const KIND: Kind = Kind::Preference;
    const TRAINED_WHOLE: &'static [&'static str] = &["score"];

    fn config(&self) -> &RewardConfig {
        &self.config
    }

    fn config_mut(&mut self) -> &mut RewardConfig {
        &mut self.config
    }

    fn start(&self, decoder: &mut Decoder, rng: &mut dyn Rng) -> Result<(), TuningError> {
        decoder.give_scores(rng);
        Ok(())
    }

    fn encode(&self, encoder: &RowEncoder<'_>, row: &Row, room: Room) -> Result<Made<Comparison>, TextError> {
        let made = Comparison::of(encoder, row, room)?;
        if let Made::Example(comparison, _) = &made
            && !comparison.is_pair()
            && self.config.label_smoothing > 0.0
        {
            return Err(TextError::NothingToLearn {
                problem: format!(
                    "a ranking of {} responses has no label smoothing",
                    comparison.ranked.responses.len()
                ),
                remedy: "it is for pairs; leave it out, or the ranking".to_owned(),
            });
        }
        Ok(made)
    }

    fn weight(&self, _example: &Comparison) -> u32 {
        1
    }

    fn differentiate(
        &self,
        decoder: &Decoder,
        batch: &Batch<'_, Comparison>,
        pass: &TrainingPass,
        total: f64,
        collect: &mut dyn FnMut(Gradients),
    ) -> Result<Sums, TuningError> {
        let prompts = batch.examples.iter().map(|(_, comparison)| &comparison.ranked);
        let trees = Trees::of(prompts, Prompt::Shared);
        let mut sums = Sums::default();
        let loss = |hidden: Tensor<2>| {
            let scores = decoder.scores(hidden, &trees.ends);
            let (found, derivatives) = self.judge_all(batch, &host(&scores));
            sums = found;
            with_derivatives(scores, &derivatives, total)
        };
        decoder.gradients(&trees.tokens, &trees.forest, pass, loss, collect);
        Ok(sums)
    }

    fn evaluate(&self, model: &Snapshot<'_>, batch: &Batch<'_, Comparison>) -> Result<Sums, TuningError> {
        let prompts = batch.examples.iter().map(|(_, comparison)| &comparison.ranked);
        Ok(self.judge_all(batch, &scores_of(&model.decoder, prompts)).0)
    }

    fn metrics(&self, sums: &Sums, total: f64) -> Vec<(&'static str, f64)> {
        vec![
            ("loss", sums.loss / total),
            ("accuracy", sums.accuracy / total),
            ("margin", sums.margin / total),
            ("mean_reward", sums.score / sums.responses),
            ("min_reward", sums.least),
            ("max_reward", sums.most),
            ("calibration_error", sums.calibration_error()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(groups: &[usize]) -> Comparison {
        Comparison {
            ranked: Ranked {
                prompt: vec![1],
                responses: vec![vec![2]; groups.iter().sum()],
            },
            groups: groups.to_vec(),
            margin: 0.25,
        }
    }

    #[test]
    fn the_gradient_is_the_derivative() {
        for (groups, scores) in [(&[1, 1][..], &[0.4, -1.0][..]), (&[1, 2, 1], &[0.1, 0.7, -0.4, 2.0])] {
            let rewards = Rewards::new(RewardConfig {
                label_smoothing: if scores.len() == 2 { 0.1 } else { 0.0 },
                center: 0.3,
                ..RewardConfig::default()
            });
            let comparison = comparison(groups);
            let (_, gradient) = rewards.judge(&comparison, scores);
            for (at, derivative) in gradient.iter().enumerate() {
                let moved = |by: f64| {
                    let mut scores = scores.to_vec();
                    scores[at] += by;
                    rewards.judge(&comparison, &scores).0.loss
                };
                assert!(((moved(1e-5) - moved(-1e-5)) / 2e-5 - derivative).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn confidence_that_is_borne_out_is_calibrated() {
        let rewards = Rewards::new(RewardConfig::default());
        // Three of four right at a confidence of three quarters.
        let sure = 3.0_f64.ln();
        let mut sums = Sums::default();
        for difference in [sure, sure, sure, -sure] {
            sums += rewards.judge(&comparison(&[1, 1]), &[difference, 0.0]).0;
        }
        assert!(sums.calibration_error() < 1e-12);
        assert_eq!(sums.accuracy / 4.0, 0.75);
        let (wrong, _) = rewards.judge(&comparison(&[1, 1]), &[-50.0, 0.0]);
        assert!((wrong.calibration_error() - 1.0).abs() < 1e-12);
    }
}
