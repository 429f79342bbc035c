//! How the world's models are trained: small models, in memory and a directory.

use std::path::{Path, PathBuf};

use burn::module::Module as _;
use burn::tensor::Device;
use nn::decoder::Decoder;
use nn::hub::{Environment, Watch};
use nn::weights::{Precision, SHARD_BYTES};
use train::files::FileError;
use train::interrupt::Interrupt;
use train::progress::Progress;
use train::trainer::Task as _;

use super::study::{Effort, StudyError};
use super::{LONGEST, MISSING_END_PENALTY, reward};
use crate::data::Text;
use crate::dpo::{self, DpoConfig, Preferences};
use crate::judge::{Function, Judge, RewardModel};
use crate::model::{LanguageModel, ModelError};
use crate::ppo::{self, Policy, PpoConfig};
use crate::reward::{RewardConfig, Rewards, normalize};
use crate::save::{Card, Saving};
use crate::sft::{Completions, SftConfig};
use crate::tuning::{Objective, Tuner, TuningConfig, reference};

/// Rows of a step.
pub(super) const BATCH: usize = 64;

/// Where a study's models and data are, and who may stop their training. The models are `untrained`, `reference` and, once
/// it was needed, `reward`.
#[derive(Debug)]
pub(super) struct Workshop {
    pub(super) directory: PathBuf,
    pub(super) seed: u64,
    pub(super) effort: Effort,
    pub(super) interrupt: Interrupt,
}

impl Workshop {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Rankings of four, one a row.
    pub(super) fn rankings(&self) -> PathBuf {
        self.path("rankings.jsonl")
    }

    /// Their pairs, six of each.
    pub(super) fn pairs(&self) -> PathBuf {
        self.path("pairs.jsonl")
    }

    /// The first of each.
    pub(super) fn best(&self) -> PathBuf {
        self.path("best.jsonl")
    }

    /// The prompts alone.
    pub(super) fn prompts(&self) -> PathBuf {
        self.path("prompts.jsonl")
    }

    /// What is tuned, on which rows, for how many steps. The rate rises over a twentieth of them and falls to 0 at the end,
    /// however many there are.
    fn tuning(&self, model: &str, data: &Path, steps: u64, learning_rate: f64) -> TuningConfig {
        TuningConfig {
            seed: self.seed,
            model: self.path(model).display().to_string(),
            data: data.display().to_string(),
            batch_size: Some(BATCH),
            max_steps: Some(steps),
            learning_rate: Some(learning_rate),
            warmup_steps: steps / 20,
            ..TuningConfig::default()
        }
    }

    /// Trains to the end.
    fn run<O: Objective>(&self, tuner: &mut Tuner<O>) -> Result<(), StudyError> {
        for step in 0..tuner.steps() {
            self.go_on()?;
            tuner.step(step)?;
        }
        Ok(())
    }

    /// Nothing, until somebody asks to stop.
    pub(super) fn go_on(&self) -> Result<(), StudyError> {
        if self.interrupt.is_requested() {
            return Err(StudyError::Interrupted);
        }
        Ok(())
    }

    fn save<O: Objective>(&self, tuner: &mut Tuner<O>, name: &str) -> Result<(), StudyError> {
        tuner.complete();
        let saving = Saving {
            precision: Precision::F32,
            shard_bytes: SHARD_BYTES,
            card: Card::default(),
        };
        Ok(tuner.model().replace(&self.path(name), &saving)?)
    }

    /// Tunes the untrained model to the corpus; what comes of it is the reference.
    pub(super) fn make_reference(&self, corpus: &Path) -> Result<Decoder, StudyError> {
        let config = SftConfig {
            tuning: self.tuning("untrained", corpus, self.effort.steps, 5e-3),
            ..SftConfig::default()
        };
        let mut tuner = open(Completions::new(config))?;
        self.run(&mut tuner)?;
        self.save(&mut tuner, "reference")?;
        Ok(tuner.model().decoder.valid())
    }

    /// Fine-tuning for so many steps on the best remark of each ranking.
    pub(super) fn preferred(&self, steps: u64) -> Result<Decoder, StudyError> {
        let config = SftConfig {
            tuning: self.tuning("reference", &self.best(), steps, 2e-3),
            ..SftConfig::default()
        };
        let mut tuner = open(Completions::new(config))?;
        self.run(&mut tuner)?;
        Ok(tuner.model().decoder.valid())
    }

    /// DPO on so many rows of rankings or pairs.
    pub(super) fn dpo(&self, data: &Path, rows: usize, beta: f64) -> Result<Decoder, StudyError> {
        let config = DpoConfig {
            beta,
            tuning: self.tuning("reference", data, self.effort.steps_over(rows), 2e-3),
            ..DpoConfig::default()
        };
        let mut tuner = open(Preferences::new(config, Environment::of_process()))?;
        let reference = with_watch(|watch| reference(&tuner, None, &Environment::of_process(), watch))?;
        // The reference's log-probabilities of these rows are the same whatever beta is.
        let kept = data.with_extension("reference");
        std::fs::create_dir_all(&kept).map_err(FileError::because("create", &kept))?;
        dpo::prepare(&mut tuner, &reference, &kept, &mut Progress::silent())?;
        self.run(&mut tuner)?;
        Ok(tuner.model().decoder.valid())
    }

    /// PPO at a price of divergence.
    pub(super) fn ppo(&self, judge: Judge, price: f64) -> Result<Decoder, StudyError> {
        let config = PpoConfig {
            kl_coefficient: price,
            missing_end_penalty: MISSING_END_PENALTY,
            samples: 16,
            max_new_tokens: LONGEST,
            rollout_batch: 192,
            show_every: 0,
            tuning: TuningConfig {
                batch_size: Some(12),
                ..self.tuning("reference", &self.prompts(), self.effort.ppo_steps, 3e-3)
            },
            ..PpoConfig::default()
        };
        let mut tuner = open(Policy::new(config, judge))?;
        let reference = with_watch(|watch| reference(&tuner, None, &Environment::of_process(), watch))?;
        ppo::prepare(&mut tuner, reference, &self.directory, 0)?;
        self.run(&mut tuner)?;
        tuner.complete();
        Ok(tuner.model().decoder.valid())
    }

    /// Trains the reward model on the rankings, unless it is there.
    pub(super) fn make_reward_model(&self) -> Result<(), StudyError> {
        if self.path("reward").exists() {
            return Ok(());
        }
        let steps = self.effort.steps_over(self.effort.labels);
        let config = RewardConfig {
            tuning: self.tuning("reference", &self.rankings(), steps, 2e-3),
            ..RewardConfig::default()
        };
        let mut tuner = open(Rewards::new(config))?;
        self.run(&mut tuner)?;
        normalize(&mut tuner)?;
        self.save(&mut tuner, "reward")
    }

    /// The reward model as a judge.
    pub(super) fn learned_reward(&self) -> Result<Judge, StudyError> {
        let model = open_model(&self.path("reward"))?;
        Ok(Judge::Model(Box::new(RewardModel::new(model)?)))
    }
}

/// The reward itself as a judge.
pub(super) fn true_reward() -> Judge {
    Judge::Function(Function::new(|prompt, remark| match prompt {
        Text::Plain(prompt) => reward(prompt, &remark.split_whitespace().collect::<Vec<_>>()),
        Text::Messages(_) => 0.0,
    }))
}

fn with_watch<T>(work: impl FnOnce(&mut Watch<'_>) -> T) -> T {
    work(&mut Watch {
        progress: &mut |_| {},
        cancelled: &|| false,
    })
}

fn open<O: Objective>(objective: O) -> Result<Tuner<O>, StudyError> {
    Ok(with_watch(|watch| {
        Tuner::new(objective, &Environment::of_process(), watch, &Device::flex())
    })?)
}

fn open_model(path: &Path) -> Result<LanguageModel, ModelError> {
    let name = path.display().to_string();
    with_watch(|watch| LanguageModel::open(&name, &Environment::of_process(), watch, &Device::flex()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Judged;
    use crate::text::Ranked;
    use crate::world::{PROMPTS, WORDS, all_remarks, model, rewards};

    /// What PPO is paid is what the frontier counts, of remarks that do not end, too.
    #[test]
    fn the_judge_and_the_frontier_agree_on_every_remark() {
        let directory = tempfile::tempdir().unwrap();
        model().write(directory.path(), 1).unwrap();
        let model = open_model(directory.path()).unwrap();
        let remarks = all_remarks();
        let texts: Vec<String> = remarks
            .iter()
            .map(|tokens| model.tokenizer.decode(tokens, false).unwrap())
            .collect();
        assert!(
            texts.iter().any(|text| text.trim() == "very warm"),
            "{:?}",
            &texts[..20]
        );
        let mut judge = true_reward();
        for prompt in PROMPTS {
            let judged = Judged {
                prompt: &Text::Plain(prompt.to_owned()),
                tokens: &Ranked::default(),
                texts: &texts,
            };
            let judged = judge.rewards(&[judged], &model.tokenizer).unwrap().remove(0);
            for ((tokens, judged), reward) in remarks.iter().zip(judged).zip(rewards(prompt)) {
                let ended = tokens.last() == Some(&0);
                let penalty = if ended { 0.0 } else { MISSING_END_PENALTY };
                let words: Vec<&str> = tokens.iter().map(|&token| WORDS[token as usize]).collect();
                assert_eq!(judged - penalty, reward, "{prompt} {words:?}");
            }
        }
    }
}
