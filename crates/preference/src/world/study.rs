//! Every method on the world, measured exactly.

use std::path::{Path, PathBuf};

use burn::module::Module as _;
use burn::tensor::Device;
use exact::finite::FiniteError;
use exact::frontier::{Frontier, Standing, best_of};
use nn::decoder::Decoder;
use nn::hub::{Environment, Watch};
use nn::weights::{Precision, SHARD_BYTES};
use serde::{Deserialize, Serialize};
use serde_json::json;
use train::files::FileError;
use train::progress::Progress;
use train::trainer::Task as _;

use super::{
    LONGEST, Labels, MISSING_END_PENALTY, PROMPTS, all_remarks, frontier, policy, reward, rewards, write, write_rows,
};
use crate::data::Text;
use crate::dpo::{self, DpoConfig, Preferences};
use crate::judge::{Function, Judge, JudgeError, RewardModel};
use crate::model::{LanguageModel, ModelError};
use crate::ppo::{self, Policy, PpoConfig};
use crate::reward::{RewardConfig, Rewards, normalize};
use crate::save::{Card, SaveError, Saving};
use crate::sft::{Completions, SftConfig};
use crate::small::SmallModelError;
use crate::tuning::{Objective, Tuner, TuningConfig, TuningError, reference};

/// A way from labels, or from the reward itself, to a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// DPO on rankings of four; the setting is beta.
    DpoRankings,
    /// DPO on all pairs of the same rankings; the setting is beta.
    DpoPairs,
    /// PPO to a reward model of the same rankings; the setting is the price of a nat.
    PpoLearned,
    /// PPO to the true reward; the setting is the price of a nat.
    PpoTrue,
    /// Fine-tuning on the best remark of each ranking; the setting is the number of steps.
    Preferred,
    /// The best of so many remarks of the reference, by the true reward; worked out, not trained.
    BestOf,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::DpoRankings,
        Self::DpoPairs,
        Self::PpoLearned,
        Self::PpoTrue,
        Self::Preferred,
        Self::BestOf,
    ];

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DpoRankings => "DPO, rankings of 4",
            Self::DpoPairs => "DPO, their pairs",
            Self::PpoLearned => "PPO, learned reward",
            Self::PpoTrue => "PPO, true reward",
            Self::Preferred => "fine-tuning on the best",
            Self::BestOf => "best of N",
        }
    }

    /// Settings that span the distances of interest.
    #[must_use]
    pub fn settings(self) -> &'static [f64] {
        match self {
            Self::DpoRankings | Self::DpoPairs | Self::PpoLearned | Self::PpoTrue => &[0.5, 1.0, 2.0, 4.0],
            Self::Preferred => &[25.0, 100.0, 400.0],
            Self::BestOf => &[2.0, 4.0, 16.0, 64.0],
        }
    }
}

/// How much a study does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Effort {
    /// Remarks of the corpus.
    pub corpus: usize,
    /// Rankings of four.
    pub labels: usize,
    /// Steps of fine-tuning, reward model and DPO.
    pub steps: u64,
    /// Steps of PPO, of 192 remarks each.
    pub ppo_steps: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            corpus: 3000,
            labels: 600,
            steps: 300,
            ppo_steps: 60,
        }
    }
}

/// A policy of a study.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// How it was made,
    pub method: Method,
    /// and with which setting.
    pub setting: f64,
    /// The study's seed.
    pub seed: u64,
    /// Seconds of training; of a method with a learned reward without those of the reward model.
    pub seconds: f64,
    /// What it earns and how far it is from the best.
    #[serde(flatten)]
    pub standing: Standing,
}

/// A study failed.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// A small model cannot be written.
    #[error(transparent)]
    Small(#[from] SmallModelError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A model cannot be opened.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A model cannot be written.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// Training failed.
    #[error(transparent)]
    Tuning(#[from] TuningError),
    /// A policy gives no numbers.
    #[error(transparent)]
    Finite(#[from] FiniteError),
    /// A reward model gives no numbers.
    #[error(transparent)]
    Judge(#[from] JudgeError),
}

/// A world of one seed: a reference, labels, a reward model, and the most that can be earned.
#[derive(Debug)]
pub struct Study {
    place: Place,
    effort: Effort,
    frontier: Frontier,
    reference: Vec<Vec<f64>>,
}

/// Where the files of a study are, and its seed.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
    seed: u64,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn tuning(&self, model: &str, data: &str, steps: u64, learning_rate: f64) -> TuningConfig {
        TuningConfig {
            seed: self.seed,
            model: self.path(model).display().to_string(),
            data: self.path(data).display().to_string(),
            batch_size: Some(64),
            max_steps: Some(steps),
            learning_rate: Some(learning_rate),
            warmup_steps: steps.min(5),
            ..TuningConfig::default()
        }
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
}

impl Study {
    /// Makes the world in an empty directory: the reference is tuned to the corpus, remarks of its own are ranked, and a
    /// reward model is trained on the rankings.
    ///
    /// # Errors
    ///
    /// [`StudyError`].
    pub fn new(directory: &Path, seed: u64, effort: Effort) -> Result<Self, StudyError> {
        let place = Place {
            directory: directory.to_owned(),
            seed,
        };
        let path = |name: &str| place.path(name);
        for name in ["untrained", "reference"] {
            std::fs::create_dir_all(path(name)).map_err(FileError::because("create", path(name)))?;
        }
        write(&path("untrained"), &path("corpus.jsonl"), effort.corpus, seed)?;
        let config = SftConfig {
            tuning: place.tuning("untrained", "corpus.jsonl", effort.steps, 5e-3),
            ..SftConfig::default()
        };
        let mut tuner = open(Completions::new(config))?;
        run(&mut tuner)?;
        place.save(&mut tuner, "reference")?;
        let decoder = tuner.model().decoder.valid();
        let reference = policy(&decoder);
        let frontier = frontier(&decoder)?;

        let labels = Labels {
            count: effort.labels,
            responses: 4,
            seed,
        };
        let (all, labels) = (all_remarks(), labels.draw(&reference));
        write_rows(&path("rankings.jsonl"), labels.iter().map(|label| label.ranking(&all)))?;
        write_rows(&path("pairs.jsonl"), labels.iter().flat_map(|label| label.pairs(&all)))?;
        write_rows(&path("best.jsonl"), labels.iter().map(|label| label.best(&all)))?;
        write_rows(
            &path("prompts.jsonl"),
            PROMPTS.iter().map(|prompt| json!({ "prompt": prompt })),
        )?;
        let config = RewardConfig {
            tuning: place.tuning("reference", "rankings.jsonl", effort.steps, 2e-3),
            ..RewardConfig::default()
        };
        let mut tuner = open(Rewards::new(config))?;
        run(&mut tuner)?;
        normalize(&mut tuner)?;
        place.save(&mut tuner, "reward")?;
        Ok(Self {
            place,
            effort,
            frontier,
            reference,
        })
    }

    /// The most that can be earned at any distance.
    #[must_use]
    pub fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// What the reference earns.
    ///
    /// # Errors
    ///
    /// [`StudyError::Finite`].
    pub fn standing_of_reference(&self) -> Result<Standing, StudyError> {
        Ok(self.frontier.standing(&self.reference)?)
    }

    /// Makes the policy of a method and a setting, and measures it.
    ///
    /// # Errors
    ///
    /// [`StudyError`].
    pub fn point(&self, method: Method, setting: f64) -> Result<Point, StudyError> {
        let begun = std::time::Instant::now();
        let (law, seconds) = if method == Method::BestOf {
            let laws = PROMPTS.iter().zip(&self.reference);
            let best = |(prompt, log_probs): (&&str, &Vec<f64>)| best_of(log_probs, &rewards(prompt), setting as u32);
            (laws.map(best).collect(), 0.0)
        } else {
            let decoder = self.train(method, setting)?;
            let seconds = begun.elapsed().as_secs_f64();
            (policy(&decoder), seconds)
        };
        Ok(Point {
            method,
            setting,
            seed: self.place.seed,
            seconds,
            standing: self.frontier.standing(&law)?,
        })
    }

    fn train(&self, method: Method, setting: f64) -> Result<Decoder, StudyError> {
        let steps = self.effort.steps;
        match method {
            Method::DpoRankings | Method::DpoPairs => {
                let data = if method == Method::DpoPairs {
                    "pairs.jsonl"
                } else {
                    "rankings.jsonl"
                };
                let config = DpoConfig {
                    beta: setting,
                    tuning: self.place.tuning("reference", data, steps, 2e-3),
                    ..DpoConfig::default()
                };
                let mut tuner = open(Preferences::new(config, Environment::of_process()))?;
                let reference = with_watch(|watch| reference(&tuner, None, &Environment::of_process(), watch))?;
                let kept = self.place.path(&format!("{method:?}-{setting}"));
                std::fs::create_dir_all(&kept).map_err(FileError::because("create", &kept))?;
                dpo::prepare(&mut tuner, &reference, &kept, &mut Progress::silent())?;
                run(&mut tuner)?;
                Ok(tuner.model().decoder.valid())
            }
            Method::Preferred => {
                let config = SftConfig {
                    tuning: self.place.tuning("reference", "best.jsonl", setting as u64, 2e-3),
                    ..SftConfig::default()
                };
                let mut tuner = open(Completions::new(config))?;
                run(&mut tuner)?;
                Ok(tuner.model().decoder.valid())
            }
            Method::PpoLearned | Method::PpoTrue => {
                let config = PpoConfig {
                    kl_coefficient: setting,
                    missing_end_penalty: MISSING_END_PENALTY,
                    samples: 16,
                    max_new_tokens: LONGEST,
                    rollout_batch: 192,
                    show_every: 0,
                    tuning: TuningConfig {
                        batch_size: Some(12),
                        ..self
                            .place
                            .tuning("reference", "prompts.jsonl", self.effort.ppo_steps, 3e-3)
                    },
                    ..PpoConfig::default()
                };
                let judge = if method == Method::PpoTrue {
                    Judge::Function(Function::new(|prompt, remark| match prompt {
                        Text::Plain(prompt) => reward(prompt, &remark.split_whitespace().collect::<Vec<_>>()),
                        Text::Messages(_) => 0.0,
                    }))
                } else {
                    let model = open_model(&self.place.path("reward"))?;
                    Judge::Model(Box::new(RewardModel::new(model)?))
                };
                let mut tuner = open(Policy::new(config, judge))?;
                let reference = with_watch(|watch| reference(&tuner, None, &Environment::of_process(), watch))?;
                ppo::prepare(&mut tuner, reference, &self.place.directory, 0)?;
                run(&mut tuner)?;
                tuner.complete();
                Ok(tuner.model().decoder.valid())
            }
            Method::BestOf => unreachable!("it is not trained"),
        }
    }
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

fn run<O: Objective>(tuner: &mut Tuner<O>) -> Result<(), TuningError> {
    for step in 0..tuner.steps() {
        tuner.step(step)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A short study: the reference speaks the language, and every method goes where it should.
    #[test]
    fn every_method_earns_more_than_the_reference_and_no_more_than_the_best() {
        let directory = tempfile::tempdir().unwrap();
        let effort = Effort {
            corpus: 600,
            labels: 150,
            steps: 120,
            ppo_steps: 15,
        };
        let study = Study::new(directory.path(), 1, effort).unwrap();
        let before = study.standing_of_reference().unwrap();
        assert!(before.kl.abs() < 1e-12);
        // It says remarks of the corpus: they have few forms, and each ends.
        let remarks = all_remarks();
        let ended: f64 = remarks
            .iter()
            .zip(&study.reference[0])
            .filter(|(remark, _)| remark.last() == Some(&0))
            .map(|(_, log_prob)| log_prob.exp())
            .sum();
        assert!(ended > 0.9, "{ended}");
        for method in Method::ALL {
            let setting = if method == Method::Preferred { 40.0 } else { 2.0 };
            let point = study.point(method, setting).unwrap();
            let Standing {
                expected_reward,
                kl,
                gap,
                ..
            } = point.standing;
            assert!(expected_reward > before.expected_reward + 0.1, "{method:?}: {point:?}");
            assert!(kl > 0.01 && gap > -1e-6, "{method:?}: {point:?}");
        }
    }
}
