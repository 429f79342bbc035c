//! The loss of comparisons.

use std::ops::{AddAssign, ControlFlow};
use std::sync::Arc;

use burn::tensor::{Gradients, Tensor};
use exact::ranking::pair_loss::PairLoss;
use exact::ranking::partial::partial;
use nn::decoder::{Decoder, TrainingPass};
use nn::hub::{Environment, Watch};

use super::config::DpoConfig;
use super::divergence::sampled_kl;
use super::reference::Reference;
use crate::comparison::{Comparison, Prompt, Trees};
use crate::data::{Kind, Row};
use crate::encode::RowEncoder;
use crate::model::LanguageModel;
use crate::score::{host, with_derivatives};
use crate::text::TextError;
use crate::tuning::examples::{Made, Room};
use crate::tuning::objective::{Batch, Objective, Snapshot, Update};
use crate::tuning::{Tuner, TuningError};

/// A language model in training on preferences.
pub type Dpo = Tuner<Preferences>;

/// How far the first loss may be from what it must be.
const FIRST_LOSS_TOLERANCE: f64 = 1e-4;

/// Preferences as the likelihood of log-ratios to a reference, averaged over the prompts of a step.
#[derive(Debug)]
pub struct Preferences {
    config: DpoConfig,
    /// Where the reference is opened again when the policy is compared with it.
    environment: Environment,
    /// Filled before the first step.
    pub(super) reference: Reference,
}

/// Sums over comparisons.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    loss: f64,
    /// What the loss would be if policy and reference were one.
    loss_at_reference: f64,
    chosen_reward: f64,
    rejected_reward: f64,
    /// Pairs of different places that are scored the right way round, and all such pairs, as shares of each comparison.
    accuracy: f64,
    chosen_log_prob: f64,
    rejected_log_prob: f64,
    gradient_weight: f64,
    entropy: f64,
    tokens: f64,
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.loss_at_reference += other.loss_at_reference;
        self.chosen_reward += other.chosen_reward;
        self.rejected_reward += other.rejected_reward;
        self.accuracy += other.accuracy;
        self.chosen_log_prob += other.chosen_log_prob;
        self.rejected_log_prob += other.rejected_log_prob;
        self.gradient_weight += other.gradient_weight;
        self.entropy += other.entropy;
        self.tokens += other.tokens;
    }
}

/// What a comparison loses, and the derivative by each response's log-ratio.
#[derive(Clone, Debug, PartialEq)]
struct Term {
    loss: f64,
    gradient: Vec<f64>,
}

impl Preferences {
    /// With these settings.
    #[must_use]
    pub fn new(config: DpoConfig, environment: Environment) -> Self {
        Self {
            config,
            environment,
            reference: Reference::default(),
        }
    }

    fn trees(&self, batch: &Batch<'_, Comparison>) -> Trees {
        let prompt = if self.config.share_prompts {
            Prompt::Shared
        } else {
            Prompt::Repeated
        };
        Trees::of(batch.examples.iter().map(|(_, comparison)| &comparison.ranked), prompt)
    }

    /// The loss of a comparison whose responses have these log-ratios.
    fn term(&self, comparison: &Comparison, log_ratios: &[f64]) -> Term {
        let DpoConfig {
            beta,
            loss,
            label_smoothing,
            places,
            ..
        } = self.config;
        if comparison.is_pair() {
            let scale = |at: usize| {
                if loss.per_token() {
                    1.0 / comparison.learned_of(at) as f64
                } else {
                    1.0
                }
            };
            let scales = [scale(0), scale(1)];
            let log_ratios = [log_ratios[0] * scales[0], log_ratios[1] * scales[1]];
            let term = loss.term(beta, label_smoothing, comparison.margin, log_ratios);
            return Term {
                loss: term.loss,
                gradient: vec![term.gradient[0] * scales[0], term.gradient[1] * scales[1]],
            };
        }
        let scores: Vec<f64> = log_ratios.iter().map(|log_ratio| beta * log_ratio).collect();
        let found = partial(&scores, &comparison.groups, places.unwrap_or(scores.len()));
        Term {
            loss: -found.log_likelihood,
            gradient: found.gradient.iter().map(|derivative| -beta * derivative).collect(),
        }
    }

    /// The sums of one comparison, and the derivative of its loss by the log-probability of each response.
    fn judge(&self, comparison: &Comparison, log_probs: &[f64], reference: &[f64]) -> (Sums, Vec<f64>) {
        let beta = self.config.beta;
        let log_ratios: Vec<f64> = log_probs
            .iter()
            .zip(reference)
            .map(|(policy, reference)| policy - reference)
            .collect();
        let term = self.term(comparison, &log_ratios);
        let at_reference = self.term(comparison, &vec![0.0; log_ratios.len()]);
        // The first place against all others.
        let first = comparison.groups[0];
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let (mut right, mut pairs) = (0.0, 0.0);
        for (better, worse) in comparison.pairs() {
            pairs += 1.0;
            right += f64::from(u8::from(log_ratios[better] > log_ratios[worse]));
        }
        let sums = Sums {
            loss: term.loss,
            loss_at_reference: at_reference.loss,
            chosen_reward: beta * mean(&log_ratios[..first]),
            rejected_reward: beta * mean(&log_ratios[first..]),
            accuracy: right / pairs,
            chosen_log_prob: mean(&log_probs[..first]),
            rejected_log_prob: mean(&log_probs[first..]),
            gradient_weight: -term.gradient[..first].iter().sum::<f64>() / beta,
            ..Sums::default()
        };
        (sums, term.gradient)
    }

    /// The sums of a batch whose rows have these log-probabilities and entropies, and the derivative of the sum of its
    /// losses by each log-probability.
    fn judge_all(
        &self,
        batch: &Batch<'_, Comparison>,
        trees: &Trees,
        found: &ops::TokenLogProb,
    ) -> Result<(Sums, Vec<f64>), TuningError> {
        let log_prob = host(&found.log_prob);
        let mut sums = Sums {
            entropy: host(&found.entropy).iter().sum(),
            tokens: log_prob.len() as f64,
            ..Sums::default()
        };
        let mut derivatives = vec![0.0; log_prob.len()];
        let mut responses = trees.responses.iter();
        for ((_, comparison), reference) in batch.examples.iter().zip(self.reference.of(batch)?) {
            let own: Vec<_> = responses.by_ref().take(comparison.ranked.responses.len()).collect();
            let log_probs: Vec<f64> = own.iter().map(|rows| log_prob[(*rows).clone()].iter().sum()).collect();
            let (own_sums, gradient) = self.judge(comparison, &log_probs, &reference);
            sums += own_sums;
            for (rows, derivative) in own.into_iter().zip(gradient) {
                derivatives[rows.clone()].fill(derivative);
            }
        }
        Ok((sums, derivatives))
    }
}

impl Objective for Preferences {
    type Config = DpoConfig;
    type Example = Comparison;
    type Sums = Sums;

    const KIND: Kind = Kind::Preference;

    fn config(&self) -> &DpoConfig {
        &self.config
    }

    fn config_mut(&mut self) -> &mut DpoConfig {
        &mut self.config
    }

    fn encode(&self, encoder: &RowEncoder<'_>, row: &Row, room: Room) -> Result<Made<Comparison>, TextError> {
        let made = Comparison::of(encoder, row, room)?;
        if let Made::Example(comparison, _) = &made {
            let refused = |problem: String, remedy: &str| {
                Err(TextError::NothingToLearn {
                    problem,
                    remedy: remedy.to_owned(),
                })
            };
            let (loss, responses) = (self.config.loss, comparison.ranked.responses.len());
            if !comparison.is_pair() && (loss != PairLoss::Sigmoid || self.config.label_smoothing > 0.0) {
                return refused(
                    format!("a ranking of {responses} responses has neither loss {loss} nor label smoothing"),
                    "both are for pairs; leave them out, or the ranking",
                );
            }
            if comparison.margin != 0.0 && !loss.has_margin() {
                return refused(
                    format!("a margin has no effect with loss {loss}"),
                    "leave the margin out, or use loss sigmoid",
                );
            }
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
        let trees = self.trees(batch);
        let mut judged = Ok(Sums::default());
        let loss = |hidden: Tensor<2>| {
            let found = decoder.token_log_prob(hidden, &trees.rows, trees.targets.clone().into(), 1.0);
            let (result, derivatives) = match self.judge_all(batch, &trees, &found) {
                Ok((sums, derivatives)) => (Ok(sums), derivatives),
                Err(error) => (Err(error), vec![0.0; trees.rows.len()]),
            };
            judged = result;
            with_derivatives(found.log_prob, &derivatives, total)
        };
        // Copies of a prompt drop what the one drops.
        let keys = |keys: &Arc<[u64]>| trees.places.iter().map(|&place| keys[place]).collect();
        let pass = TrainingPass {
            dropout: pass.dropout.as_ref().map(keys),
            ..*pass
        };
        decoder.gradients(&trees.tokens, &trees.forest, &pass, loss, collect);
        judged
    }

    fn evaluate(&self, model: &Snapshot<'_>, batch: &Batch<'_, Comparison>) -> Result<Sums, TuningError> {
        let trees = self.trees(batch);
        let decoder = &model.decoder;
        let hidden = decoder.hidden(&trees.tokens, &trees.forest);
        let found = decoder.token_log_prob(hidden, &trees.rows, trees.targets.clone().into(), 1.0);
        Ok(self.judge_all(batch, &trees, &found)?.0)
    }

    fn metrics(&self, sums: &Sums, total: f64) -> Vec<(&'static str, f64)> {
        vec![
            ("loss", sums.loss / total),
            ("rewards/chosen", sums.chosen_reward / total),
            ("rewards/rejected", sums.rejected_reward / total),
            ("rewards/accuracies", sums.accuracy / total),
            ("rewards/margins", (sums.chosen_reward - sums.rejected_reward) / total),
            ("logps/chosen", sums.chosen_log_prob / total),
            ("logps/rejected", sums.rejected_log_prob / total),
            ("gradient_weight", sums.gradient_weight / total),
            ("entropy", sums.entropy / sums.tokens),
        ]
    }

    fn measured(&self) -> usize {
        self.config.kl_prompts
    }

    fn measure(
        &self,
        model: &Snapshot<'_>,
        examples: &Batch<'_, Comparison>,
    ) -> Result<Vec<(&'static str, f64)>, TuningError> {
        let longest = self.config.kl_max_new_tokens;
        let room = model.decoder.config().learned_positions().unwrap_or(usize::MAX);
        let prompts: Vec<Vec<u32>> = examples
            .examples
            .iter()
            .map(|(_, comparison)| comparison.ranked.prompt.clone())
            .filter(|prompt| !prompt.is_empty() && prompt.len() + longest <= room)
            .collect();
        if prompts.is_empty() || longest == 0 {
            return Ok(Vec::new());
        }
        // It is not kept between evaluations: a second model would double the memory of training.
        let name = self.config.reference.as_ref().unwrap_or(&self.config.tuning.model);
        let mut watch = Watch {
            progress: &mut |_| {},
            cancelled: &|| false,
        };
        let reference = LanguageModel::open(name, &self.environment, &mut watch, &model.decoder.device())?;
        let kl = sampled_kl(model, &reference.decoder, &prompts, longest, self.config.tuning.seed)?;
        Ok(vec![("kl", kl.mean), ("kl_std_error", kl.error)])
    }

    fn updated(&self, update: &Update<'_, Self>) -> Result<ControlFlow<()>, TuningError> {
        let Update { sums, total, .. } = update;
        let (loss, expected) = (sums.loss / total, sums.loss_at_reference / total);
        let off = (loss - expected).abs();
        // Another reference may differ, and dropout makes the policy differ from itself.
        let same = self.config.reference.is_none() && self.config.tuning.lora_dropout == 0.0;
        if update.step == 0 && same && off.is_finite() && off > FIRST_LOSS_TOLERANCE * (1.0 + expected.abs()) {
            return Err(TuningError::FirstLoss { loss, expected });
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[cfg(test)]
#[path = "preferences_tests.rs"]
mod tests;
