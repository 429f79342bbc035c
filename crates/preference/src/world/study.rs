//! Every method on the world, measured exactly.

use std::path::Path;
use std::time::Instant;

use exact::finite::FiniteError;
use exact::frontier::{Frontier, Standing, best_of};
use nn::decoder::Decoder;
use serde::Serialize;
use serde_json::json;
use train::files::FileError;
use train::interrupt::Interrupt;

use super::training::{BATCH, Workshop, true_reward};
use super::{Labels, Method, PROMPTS, all_remarks, frontier, policy, rewards, write, write_rows};
use crate::judge::JudgeError;
use crate::model::ModelError;
use crate::save::SaveError;
use crate::small::SmallModelError;
use crate::tuning::TuningError;

/// Remarks that each label ranks, and pairs of them.
const RANKED: usize = 4;
const PAIRS: usize = RANKED * (RANKED - 1) / 2;

/// How much a study does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Effort {
    /// Remarks of the corpus.
    pub corpus: usize,
    /// Rankings of four.
    pub labels: usize,
    /// Steps of fine-tuning on the corpus, of 64 remarks each.
    pub steps: u64,
    /// Passes over the labels by the reward model and by DPO, on rankings or their pairs, 64 of them a step. Everybody sees
    /// each label equally often, so pairs, of which there are six to a ranking, take six times as many steps.
    pub epochs: u64,
    /// Steps of PPO, of 192 remarks each.
    pub ppo_steps: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            corpus: 3000,
            labels: 600,
            steps: 300,
            epochs: 8,
            ppo_steps: 60,
        }
    }
}

impl Effort {
    /// The steps that see each of so many rows `epochs` times.
    #[must_use]
    pub fn steps_over(&self, rows: usize) -> u64 {
        (self.epochs * rows as u64).div_ceil(BATCH as u64)
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
    /// `KL(pi || pi*)` in nats, mean over the prompts, of a method whose setting is a price: `pi*` is the best policy at this
    /// price by the true reward, which PPO is to find, and DPO, as its labels are drawn from the same reward.
    pub from_optimum: Option<f64>,
}

/// A study failed.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
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

/// A world of one seed: a reference, labels, and the most that can be earned.
#[derive(Debug)]
pub struct Study {
    workshop: Workshop,
    frontier: Frontier,
    reference: Vec<Vec<f64>>,
}

impl Study {
    /// Makes the world in an empty directory: the reference is tuned to the corpus, and remarks of its own are ranked. Whoever
    /// interrupts it, or a method later, waits for the step of training that it is in.
    ///
    /// # Errors
    ///
    /// [`StudyError`].
    pub fn new(directory: &Path, seed: u64, effort: Effort, interrupt: &Interrupt) -> Result<Self, StudyError> {
        let workshop = Workshop {
            directory: directory.to_owned(),
            seed,
            effort,
            interrupt: interrupt.clone(),
        };
        let path = |name: &str| workshop.path(name);
        for name in ["untrained", "reference"] {
            std::fs::create_dir_all(path(name)).map_err(FileError::because("create", path(name)))?;
        }
        let corpus = path("corpus.jsonl");
        write(&path("untrained"), &corpus, effort.corpus, seed)?;
        let decoder = workshop.make_reference(&corpus)?;
        let reference = policy(&decoder);
        let frontier = frontier(&decoder)?;

        let labels = Labels {
            count: effort.labels,
            responses: RANKED,
            seed,
        };
        let (all, labels) = (all_remarks(), labels.draw(&reference));
        write_rows(&workshop.rankings(), labels.iter().map(|label| label.ranking(&all)))?;
        write_rows(&workshop.pairs(), labels.iter().flat_map(|label| label.pairs(&all)))?;
        write_rows(&workshop.best(), labels.iter().map(|label| label.best(&all)))?;
        let prompts = PROMPTS.iter().map(|prompt| json!({ "prompt": prompt }));
        write_rows(&workshop.prompts(), prompts)?;
        Ok(Self {
            workshop,
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

    /// Makes the policy of a method and a setting, and measures it. The first with a learned reward has the reward model
    /// trained.
    ///
    /// # Errors
    ///
    /// [`StudyError`].
    pub fn point(&self, method: Method, setting: f64) -> Result<Point, StudyError> {
        self.workshop.go_on()?;
        let (law, seconds) = if method == Method::BestOf {
            (self.best_of(setting as u32), 0.0)
        } else {
            if method == Method::PpoLearned {
                self.workshop.make_reward_model()?;
            }
            let begun = Instant::now();
            let decoder = self.train(method, setting)?;
            let seconds = begun.elapsed().as_secs_f64();
            (policy(&decoder), seconds)
        };
        let from_optimum = method.has_price().then(|| self.frontier.from_optimum(&law, setting));
        Ok(Point {
            method,
            setting,
            seed: self.workshop.seed,
            seconds,
            standing: self.frontier.standing(&law)?,
            from_optimum: from_optimum.transpose()?,
        })
    }

    fn best_of(&self, count: u32) -> Vec<Vec<f64>> {
        let laws = PROMPTS.iter().zip(&self.reference);
        laws.map(|(prompt, log_probs)| best_of(log_probs, &rewards(prompt), count))
            .collect()
    }

    fn train(&self, method: Method, setting: f64) -> Result<Decoder, StudyError> {
        let (workshop, labels) = (&self.workshop, self.workshop.effort.labels);
        match method {
            Method::DpoRankings => workshop.dpo(&workshop.rankings(), labels, setting),
            Method::DpoPairs => workshop.dpo(&workshop.pairs(), labels * PAIRS, setting),
            Method::PpoLearned => workshop.ppo(workshop.learned_reward()?, setting),
            Method::PpoTrue => workshop.ppo(true_reward(), setting),
            Method::Preferred => workshop.preferred(setting as u64),
            Method::BestOf => unreachable!("it is not trained"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Effort = Effort {
        corpus: 600,
        labels: 150,
        steps: 120,
        epochs: 8,
        ppo_steps: 15,
    };

    #[test]
    fn every_label_is_seen_equally_often() {
        let effort = Effort::default();
        // 8 passes over 600 rankings, and over their 3,600 pairs, 64 at a time.
        assert_eq!([600, 600 * PAIRS].map(|rows| effort.steps_over(rows)), [75, 450]);
        // The last step may be more than is left, and goes on from the beginning.
        assert_eq!(Effort { epochs: 1, ..effort }.steps_over(65), 2);
    }

    /// A short study: the reference speaks the language, and every method goes where it should.
    #[test]
    fn every_method_earns_more_than_the_reference_and_no_more_than_the_best() {
        let directory = tempfile::tempdir().unwrap();
        let study = Study::new(directory.path(), 1, SMALL, &Interrupt::new()).unwrap();
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
        let reward_model = directory.path().join("reward");
        for method in Method::ALL {
            // Trained only when it is needed.
            assert_eq!(reward_model.exists(), method > Method::PpoLearned);
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
            // Whatever has a price to aim at comes nearer to the best policy at this price than the reference is.
            let reference = study.frontier.from_optimum(&study.reference, setting).unwrap();
            assert_eq!(point.from_optimum.is_some(), method.has_price());
            assert!(
                point.from_optimum.is_none_or(|kl| kl > 0.0 && kl < reference),
                "{method:?}: {point:?}, the reference {reference}"
            );
        }
    }

    #[test]
    fn who_asks_to_stop_is_heard() {
        let directory = tempfile::tempdir().unwrap();
        let interrupt = Interrupt::new();
        let quick = Effort {
            steps: 2,
            labels: 8,
            ..SMALL
        };
        let study = Study::new(directory.path(), 1, quick, &interrupt).unwrap();
        interrupt.request();
        let another = tempfile::tempdir().unwrap();
        for error in [
            study.point(Method::BestOf, 2.0).unwrap_err(),
            Study::new(another.path(), 1, quick, &interrupt).unwrap_err(),
        ] {
            assert!(matches!(error, StudyError::Interrupted), "{error}");
        }
    }
}
