//! What a model earns and how far it is from its reference, by answers drawn from it.

use burn::module::Module as _;
use nn::decoder::Decoder;
use serde::Serialize;

use super::answers::{answer, judge, look_back};
use super::config::PpoConfig;
use super::episode::Episode;
use crate::data::Row;
use crate::dpo::Estimate;
use crate::encode::RowEncoder;
use crate::judge::Judge;
use crate::model::{LanguageModel, ModelError};
use crate::text::Keep;
use crate::tuning::TuningError;
use crate::tuning::examples::{Made, Room};
use crate::tuning::objective::Snapshot;

/// Prompts that are answered together.
const PROMPTS: usize = 16;

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Mean score of an answer, less `missing_end_penalty` where it did not end.
    pub reward: Estimate,
    /// KL(model || reference) in nats an answer.
    pub kl: Estimate,
    /// Prompts that were answered; those without room for an answer are not.
    pub prompts: usize,
    /// Share of answers that came to their end.
    pub ended: f64,
    /// The first answer to the first prompt.
    pub example: String,
}

/// Lets a model answer the prompts of these rows as `config` says, and judges the answers; `progress` hears now and then how
/// many are judged. Errors of the means are those of means over prompts, as answers to one prompt are alike.
///
/// # Errors
///
/// [`TuningError`] for rows without prompts, answers without rewards, or if no prompt is left.
pub fn measure(
    model: &LanguageModel,
    reference: &Decoder,
    rows: &[Row],
    judged_by: &mut Judge,
    config: &PpoConfig,
    progress: &mut dyn FnMut(usize),
) -> Result<Measured, TuningError> {
    let encoder = RowEncoder::new(&model.tokenizer).map_err(ModelError::from)?;
    let policy = Snapshot {
        decoder: model.decoder.valid(),
        tokenizer: &model.tokenizer,
    };
    let room = Room {
        length: policy.decoder.config().learned_positions().unwrap_or(usize::MAX),
        keep: Keep::Whole,
        begin: None,
    };
    let mut episodes = Vec::with_capacity(rows.len());
    for row in rows {
        let made = Episode::of(&encoder, row, room, config.max_new_tokens).map_err(ModelError::from)?;
        if let Made::Example(episode, _) = made {
            episodes.push(episode);
        }
    }
    let (mut rewards, mut divergences, mut ended, mut answers) = (Vec::new(), Vec::new(), 0, 0);
    for (number, group) in (0..).zip(episodes.chunks_mut(PROMPTS)) {
        let mut group: Vec<&mut Episode> = group.iter_mut().collect();
        answer(&mut group, &policy, config, config.tuning.seed.wrapping_add(number))?;
        judge(&mut group, judged_by, policy.tokenizer, config)?;
        look_back(&mut group, &policy.decoder, reference, config.temperature, false);
        for episode in group {
            let own = &episode.answers;
            let count = own.len() as f64;
            rewards.push(own.iter().map(|answer| answer.score).sum::<f64>() / count);
            divergences.push(own.iter().map(super::Answer::divergence).sum::<f64>() / count);
            ended += own.iter().filter(|answer| answer.ended).count();
            answers += own.len();
        }
        progress(answers);
    }
    let example = episodes.first().and_then(|episode| episode.answers.first());
    let Some(example) = example.map(|answer| answer.text.clone()) else {
        return Err(TuningError::NoPrompts);
    };
    Ok(Measured {
        reward: Estimate::of(&rewards),
        kl: Estimate::of(&divergences),
        prompts: episodes.len(),
        ended: ended as f64 / answers as f64,
        example,
    })
}
