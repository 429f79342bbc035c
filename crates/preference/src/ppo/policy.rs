//! The loss of proximal policy optimisation.

use std::fmt;
use std::ops::{AddAssign, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use burn::tensor::{Gradients, Tensor};
use exact::policy::clipped;
use exact::policy::divergence::{KlController, KlEstimator};
use nn::decoder::{Decoder, TrainingPass};
use rand::Rng as _;
use serde_json::Value;
use train::checkpoint::Better;
use train::files::{FileError, write_atomic};
use train::random::{Purpose, permutation, stream};

use super::answers::{answer, judge, look_back, value};
use super::config::{Advantage, PpoConfig};
use super::episode::Episode;
use super::samples::{self, Sample};
use crate::comparison::{Prompt, Trees};
use crate::data::{Kind, Row};
use crate::encode::RowEncoder;
use crate::judge::Judge;
use crate::score::{host, with_derivatives};
use crate::text::TextError;
use crate::tuning::examples::{Made, Room};
use crate::tuning::objective::{Batch, Objective, Snapshot, Update};
use crate::tuning::{Tuner, TuningError};

/// A language model in training by its own answers.
pub type Ppo = Tuner<Policy>;

/// What a step's answers are drawn with,
const ROLLOUT: Purpose = Purpose::named("rollout");
/// those of an evaluation,
const EVALUATION: Purpose = Purpose::named("evaluation rollout");
/// and the order in which a pass goes through them.
const ORDER: Purpose = Purpose::named("minibatches");
/// How far a ratio may be from 1 before the first update of a step.
const FIRST_RATIO_TOLERANCE: f64 = 1e-3;
/// Answers of a step that whoever watches sees.
const SHOWN: usize = 2;

/// Rewards of a policy's own answers, less the price of its divergence from a reference.
pub struct Policy {
    config: PpoConfig,
    /// Evaluations judge, too, and those change nothing.
    judge: Mutex<Judge>,
    controller: KlController,
    /// There before the first step.
    reference: Option<Box<Decoder>>,
    run: PathBuf,
    /// Answers for whoever watches.
    notes: Vec<String>,
    /// How long the parts of the step took that come before its updates, and when those began.
    clock: Option<([f64; 3], Instant)>,
}

impl fmt::Debug for Policy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Policy")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Sums over answers, and over the tokens of updates.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    answers: f64,
    answer_tokens: f64,
    ended: f64,
    score: f64,
    divergence: f64,
    third_divergence: f64,
    surprise: f64,
    /// Of the price of divergence, over answers.
    charged: f64,
    /// The price itself, over answers.
    coefficient: f64,

    tokens: f64,
    policy_loss: f64,
    value_loss: f64,
    policy_clipped: f64,
    value_clipped: f64,
    /// Half the square of the log-ratio to the policy that answered.
    moved: f64,
    ratio: f64,
    ratio_squared: f64,
    /// The largest distance of a ratio from 1.
    furthest: f64,
    entropy: f64,
    loss: f64,
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.answers += other.answers;
        self.answer_tokens += other.answer_tokens;
        self.ended += other.ended;
        self.score += other.score;
        self.divergence += other.divergence;
        self.third_divergence += other.third_divergence;
        self.surprise += other.surprise;
        self.charged += other.charged;
        self.coefficient += other.coefficient;
        self.tokens += other.tokens;
        self.policy_loss += other.policy_loss;
        self.value_loss += other.value_loss;
        self.policy_clipped += other.policy_clipped;
        self.value_clipped += other.value_clipped;
        self.moved += other.moved;
        self.ratio += other.ratio;
        self.ratio_squared += other.ratio_squared;
        // A NaN stays.
        self.furthest = if other.furthest <= self.furthest {
            self.furthest
        } else {
            other.furthest
        };
        self.entropy += other.entropy;
        self.loss += other.loss;
    }
}

/// The sums of an update's tokens, and the derivatives of its loss by each token's log-probability and value.
struct Judged {
    sums: Sums,
    by_log_prob: Vec<f64>,
    by_value: Vec<f64>,
}

impl Policy {
    /// With these settings, answers being judged by `judge`.
    #[must_use]
    pub fn new(config: PpoConfig, judge: Judge) -> Self {
        Self {
            controller: config.controller(),
            config,
            judge: Mutex::new(judge),
            reference: None,
            run: PathBuf::new(),
            notes: Vec::new(),
            clock: None,
        }
    }

    fn has_values(&self) -> bool {
        self.config.advantage == Advantage::Gae
    }

    /// Answers, scores and log-probabilities: the sums of them, and the seconds that each took.
    fn roll_out(
        &self,
        episodes: &mut [&mut Episode],
        policy: &Snapshot<'_>,
        seed: u64,
    ) -> Result<(Sums, [f64; 3]), TuningError> {
        let reference = self.reference.as_deref().ok_or(TuningError::Unprepared)?;
        let begun = Instant::now();
        answer(episodes, policy, &self.config, seed)?;
        let answered = begun.elapsed().as_secs_f64();
        judge(
            episodes,
            &mut self.judge.lock().unwrap_or_else(PoisonError::into_inner),
            policy.tokenizer,
            &self.config,
        )?;
        let judged = begun.elapsed().as_secs_f64();
        let (temperature, values) = (self.config.temperature, self.has_values());
        look_back(episodes, &policy.decoder, reference, temperature, values);
        let looked = begun.elapsed().as_secs_f64();
        let mut sums = Sums::default();
        for answer in episodes.iter().flat_map(|episode| &episode.answers) {
            let divergence = answer.divergence();
            let pairs = answer.log_probs.iter().zip(&answer.reference);
            sums += Sums {
                answers: 1.0,
                answer_tokens: answer.tokens.len() as f64,
                ended: f64::from(u8::from(answer.ended)),
                score: answer.score,
                divergence,
                third_divergence: pairs
                    .map(|(policy, reference)| KlEstimator::K3.of(policy - reference))
                    .sum(),
                surprise: -answer.log_probs.iter().sum::<f64>(),
                charged: -self.controller.coefficient * divergence,
                coefficient: self.controller.coefficient,
                ..Sums::default()
            };
        }
        Ok((sums, [answered, judged - answered, looked - judged]))
    }

    /// The update of episodes whose tokens now have these log-probabilities and values.
    fn judge_update<'a>(
        &self,
        episodes: impl Iterator<Item = &'a Episode>,
        log_probs: &[f64],
        values: &[f64],
    ) -> Judged {
        let (mut sums, count) = (Sums::default(), log_probs.len());
        let (mut by_log_prob, mut by_value) = (Vec::with_capacity(count), Vec::with_capacity(values.len()));
        let weight = self.config.value_weight();
        for answer in episodes.flat_map(|episode| &episode.answers) {
            for (at, (&old, &advantage)) in answer.log_probs.iter().zip(&answer.advantages).enumerate() {
                let now = by_log_prob.len();
                let term = clipped::policy(log_probs[now], old, advantage, self.config.clip_range);
                let ratio = (log_probs[now] - old).exp();
                sums += Sums {
                    tokens: 1.0,
                    policy_loss: term.loss,
                    loss: term.loss,
                    policy_clipped: f64::from(u8::from(term.clipped)),
                    moved: KlEstimator::K2.of(log_probs[now] - old),
                    ratio,
                    ratio_squared: ratio * ratio,
                    furthest: (ratio - 1.0).abs(),
                    ..Sums::default()
                };
                by_log_prob.push(term.gradient);
                if let Some(&value) = values.get(now) {
                    let range = self.config.value_range();
                    let term = clipped::value(value, answer.values[at], answer.returns[at], range);
                    sums.value_loss += term.loss;
                    sums.loss += weight * term.loss;
                    sums.value_clipped += f64::from(u8::from(term.clipped));
                    by_value.push(weight * term.gradient);
                }
            }
        }
        Judged {
            sums,
            by_log_prob,
            by_value,
        }
    }
}

/// Gives the policy its reference and the run's directory, which has done `steps` steps.
///
/// # Errors
///
/// [`TuningError`] for files.
pub fn prepare(ppo: &mut Ppo, reference: Decoder, run: &Path, steps: u64) -> Result<(), TuningError> {
    samples::forget_after(run, steps)?;
    let policy = ppo.objective_mut();
    policy.reference = Some(Box::new(reference));
    run.clone_into(&mut policy.run);
    Ok(())
}

impl Objective for Policy {
    type Config = PpoConfig;
    type Example = Episode;
    type Sums = Sums;

    const KIND: Kind = Kind::Prompts;
    const BEST: (&'static str, Better) = ("eval_objective/rlhf_reward", Better::Higher);

    fn config(&self) -> &PpoConfig {
        &self.config
    }

    fn config_mut(&mut self) -> &mut PpoConfig {
        &mut self.config
    }

    fn encode(&self, encoder: &RowEncoder<'_>, row: &Row, room: Room) -> Result<Made<Episode>, TextError> {
        Episode::of(encoder, row, room, self.config.max_new_tokens)
    }

    fn begin(&self, decoder: &mut Decoder) {
        if self.has_values() {
            decoder.give_values();
        }
    }

    fn complete(&self, decoder: &mut Decoder) {
        decoder.take_values();
    }

    fn weight(&self, example: &Episode) -> u32 {
        use crate::tuning::examples::Sample as _;

        example.learned() as u32
    }

    fn experience(
        &mut self,
        policy: &Snapshot<'_>,
        batch: &mut Batch<'_, Episode>,
        step: u64,
    ) -> Result<Sums, TuningError> {
        let mut episodes: Vec<&mut Episode> = batch.examples.iter_mut().map(|(_, episode)| episode.to_mut()).collect();
        let seed = stream(self.config.tuning.seed, ROLLOUT, step, 0).next_u64();
        let (sums, seconds) = self.roll_out(&mut episodes, policy, seed)?;
        value(&mut episodes, &self.config, self.controller.coefficient);
        let every = self.config.show_every;
        if every > 0 && step.is_multiple_of(every) {
            let kept = samples::keep(&self.run, step + 1, &episodes, self.config.show_prompts)?;
            let shown = kept.iter().step_by(self.config.samples).take(SHOWN);
            self.notes.extend(shown.map(Sample::to_string));
        }
        self.controller
            .update(sums.divergence / sums.answers, sums.answers as usize);
        self.clock = Some((seconds, Instant::now()));
        Ok(sums)
    }

    fn updates(&self, step: u64, examples: usize) -> Vec<Vec<usize>> {
        let (passes, pieces) = (self.config.ppo_epochs, self.config.minibatches.min(examples));
        let mut updates = Vec::with_capacity(passes * pieces);
        for pass in 0..passes as u64 {
            let seed = self.config.tuning.seed ^ ORDER.value();
            let order = permutation(seed, step * passes as u64 + pass, examples);
            let cut = |piece| piece * examples / pieces;
            updates.extend((0..pieces).map(|piece| order[cut(piece)..cut(piece + 1)].to_vec()));
        }
        updates
    }

    fn differentiate(
        &self,
        decoder: &Decoder,
        batch: &Batch<'_, Episode>,
        pass: &TrainingPass,
        total: f64,
        collect: &mut dyn FnMut(Gradients),
    ) -> Result<Sums, TuningError> {
        let episodes = || batch.examples.iter().map(|(_, episode)| &**episode);
        let trees = Trees::of(episodes().map(|episode| &episode.tokens), Prompt::Shared);
        let mut sums = Sums::default();
        let loss = |hidden: Tensor<2>| {
            let values = self.has_values().then(|| decoder.scores(hidden.clone(), &trees.rows));
            let targets = trees.targets.clone().into();
            let found = decoder.token_log_prob(hidden, &trees.rows, targets, self.config.temperature);
            let of_values = values.as_ref().map(host).unwrap_or_default();
            let judged = self.judge_update(episodes(), &host(&found.log_prob), &of_values);
            sums = Sums {
                entropy: host(&found.entropy).iter().sum(),
                ..judged.sums
            };
            let policy = with_derivatives(found.log_prob, &judged.by_log_prob, total);
            match values {
                Some(values) => policy + with_derivatives(values, &judged.by_value, total),
                None => policy,
            }
        };
        decoder.gradients(&trees.tokens, &trees.forest, pass, loss, collect);
        Ok(sums)
    }

    fn updated(&self, update: &Update<'_, Self>) -> Result<ControlFlow<()>, TuningError> {
        let sums = update.sums;
        if !(sums.loss.is_finite() && update.gradient_norm.is_finite()) {
            let step = update.step + 1;
            let path = self.run.join(format!("failed-step-{step}.json"));
            let episodes: Vec<&Episode> = update.batch.examples.iter().map(|(_, episode)| &**episode).collect();
            let text = serde_json::to_vec_pretty(&episodes)
                .map_err(|error| FileError::because("write", &path)(error.into()))?;
            write_atomic(&path, &text)?;
            return Err(TuningError::UpdateNotFinite { step, path });
        }
        if update.number == 0 && sums.furthest > FIRST_RATIO_TOLERANCE {
            return Err(TuningError::FirstRatio { off: sums.furthest });
        }
        let moved = sums.moved / sums.tokens;
        Ok(match self.config.stop_divergence {
            Some(most) if moved > most => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    }

    fn evaluate(&self, policy: &Snapshot<'_>, batch: &Batch<'_, Episode>) -> Result<Sums, TuningError> {
        // The same random numbers each time; which prompts come together depends on nothing that training changes.
        let first = batch.examples.first().map_or(0, |(number, _)| *number as u64);
        let seed = stream(self.config.tuning.seed, EVALUATION, first, 0).next_u64();
        let mut episodes: Vec<Episode> = batch.examples.iter().map(|(_, episode)| (**episode).clone()).collect();
        Ok(self
            .roll_out(&mut episodes.iter_mut().collect::<Vec<_>>(), policy, seed)?
            .0)
    }

    fn metrics(&self, sums: &Sums, _total: f64) -> Vec<(&'static str, f64)> {
        let Sums { answers, tokens, .. } = *sums;
        let mut metrics = vec![
            ("objective/kl", sums.divergence / answers),
            ("objective/kl_k3", sums.third_divergence / answers),
            ("objective/entropy", sums.surprise / answers),
            ("objective/non_score_reward", sums.charged / answers),
            ("objective/rlhf_reward", (sums.score + sums.charged) / answers),
            ("objective/scores", sums.score / answers),
            ("objective/kl_coef", sums.coefficient / answers),
            ("completions/mean_length", sums.answer_tokens / answers),
            ("val/num_eos_tokens", sums.ended),
        ];
        if tokens > 0.0 {
            let ratio = sums.ratio / tokens;
            metrics.extend([
                ("loss", sums.loss / tokens),
                ("loss/policy_avg", sums.policy_loss / tokens),
                ("policy/approxkl_avg", sums.moved / tokens),
                ("policy/clipfrac_avg", sums.policy_clipped / tokens),
                ("policy/entropy_avg", sums.entropy / tokens),
                ("val/ratio", ratio),
                ("val/ratio_var", (sums.ratio_squared / tokens - ratio * ratio).max(0.0)),
            ]);
            if self.has_values() {
                metrics.push(("loss/value_avg", sums.value_loss / tokens));
                metrics.push(("val/clipfrac_avg", sums.value_clipped / tokens));
            }
        }
        metrics
    }

    fn take_notes(&mut self) -> Vec<String> {
        let mut notes = std::mem::take(&mut self.notes);
        if let Some(([answering, judging, looking], begun)) = self.clock.take().filter(|_| !notes.is_empty()) {
            notes.push(format!(
                "answers {answering:.2} s, rewards {judging:.2} s, policy and reference {looking:.2} s, updates {:.2} s",
                begun.elapsed().as_secs_f64()
            ));
        }
        notes
    }

    fn state(&self) -> Value {
        serde_json::to_value(self.controller.coefficient).unwrap_or_default()
    }

    fn restore(&mut self, state: &Value) -> Result<(), String> {
        let coefficient = state
            .as_f64()
            .filter(|coefficient| coefficient.is_finite() && *coefficient >= 0.0);
        self.controller.coefficient = coefficient.ok_or_else(|| format!("{state} is no price of divergence"))?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
