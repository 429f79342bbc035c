//! From prompts to answers with everything that an update needs of them.

use exact::policy::advantage::{generalized, group_relative, leave_one_out, whiten};
use nn::decoder::Decoder;
use ops::Precision;

use super::config::{Advantage, PpoConfig};
use super::episode::{Answer, Episode};
use crate::comparison::{Prompt, Trees};
use crate::generate::{Choice, Ending, Request, Verdict, generate};
use crate::judge::{Judge, Judged};
use crate::score::host;
use crate::text::Tokenizer;
use crate::tuning::TuningError;
use crate::tuning::objective::Snapshot;

/// Tokens that go through a network together when nothing is learned of them.
const TOKENS: usize = 4096;

/// Lets the policy answer each prompt.
pub fn answer(
    episodes: &mut [&mut Episode],
    policy: &Snapshot<'_>,
    config: &PpoConfig,
    seed: u64,
) -> Result<(), TuningError> {
    let prompts: Vec<Vec<u32>> = episodes.iter().map(|episode| episode.tokens.prompt.clone()).collect();
    let request = Request {
        choice: Choice {
            temperature: config.temperature,
            ..Choice::default()
        },
        samples: config.samples,
        max_new_tokens: config.max_new_tokens,
        min_new_tokens: config.min_new_tokens,
        end: policy.tokenizer.end_ids().iter().copied().collect(),
        batch_size: config.rollout_batch,
        seed,
        first: 0,
    };
    let packed = policy.decoder.clone().packed(Precision::Single);
    for episode in &mut *episodes {
        episode.answers.clear();
        episode.tokens.responses.clear();
    }
    for text in generate(&packed, &prompts, &request, &mut |_, _| Verdict::Continue)? {
        let episode = &mut episodes[text.prompt];
        let decoded = policy.tokenizer.decode(&text.tokens, false);
        episode.answers.push(Answer {
            text: decoded.map_err(crate::model::ModelError::from)?,
            tokens: text.tokens.clone(),
            ended: text.ending == Ending::EndToken,
            ..Answer::default()
        });
        episode.tokens.responses.push(text.tokens);
    }
    Ok(())
}

/// Gives each answer its score.
pub fn judge(
    episodes: &mut [&mut Episode],
    judge: &mut Judge,
    tokenizer: &Tokenizer,
    config: &PpoConfig,
) -> Result<(), TuningError> {
    let texts: Vec<Vec<String>> = episodes
        .iter()
        .map(|episode| episode.answers.iter().map(|answer| answer.text.clone()).collect())
        .collect();
    let judged: Vec<Judged<'_>> = episodes
        .iter()
        .zip(&texts)
        .map(|(episode, texts)| Judged {
            prompt: &episode.prompt,
            tokens: &episode.tokens,
            texts,
        })
        .collect();
    let rewards = judge.rewards(&judged, tokenizer)?;
    for (episode, rewards) in episodes.iter_mut().zip(rewards) {
        for (answer, reward) in episode.answers.iter_mut().zip(rewards) {
            let penalty = if answer.ended { 0.0 } else { config.missing_end_penalty };
            answer.score = reward - penalty;
        }
    }
    Ok(())
}

/// Gives each token its log-probability under policy and reference and, if the policy has values, its value. What is
/// compared with the policy in training is found in the way in which it is found there.
pub fn look_back(
    episodes: &mut [&mut Episode],
    policy: &Decoder,
    reference: &Decoder,
    temperature: f64,
    with_values: bool,
) {
    for group in episodes.chunk_by_mut(together()) {
        let trees = Trees::of(group.iter().map(|episode| &episode.tokens), Prompt::Shared);
        let of = |decoder: &Decoder, with_values: bool| {
            let hidden = decoder.hidden(&trees.tokens, &trees.forest);
            let targets = trees.targets.clone().into();
            let values = with_values.then(|| host(&decoder.scores(hidden.clone(), &trees.rows)));
            let found = decoder.token_log_prob(hidden, &trees.rows, targets, temperature);
            (host(&found.log_prob), values.unwrap_or_default())
        };
        let (log_probs, values) = of(policy, with_values);
        let (reference, _) = of(reference, false);
        let answers = group.iter_mut().flat_map(|episode| episode.answers.iter_mut());
        for (answer, rows) in answers.zip(&trees.responses) {
            answer.log_probs = log_probs[rows.clone()].to_vec();
            answer.reference = reference[rows.clone()].to_vec();
            answer.values = values.get(rows.clone()).map(<[f64]>::to_vec).unwrap_or_default();
        }
    }
}

/// Says of each two episodes that follow each other whether they go through the network together.
fn together() -> impl FnMut(&&mut Episode, &&mut Episode) -> bool {
    use crate::tuning::examples::Sample as _;

    let mut tokens = 0;
    move |one, other| {
        tokens += one.tokens();
        let fits = tokens + other.tokens() <= TOKENS;
        if !fits {
            tokens = 0;
        }
        fits
    }
}

/// Works the advantages out, with this price of divergence.
pub fn value(episodes: &mut [&mut Episode], config: &PpoConfig, coefficient: f64) {
    match config.advantage {
        Advantage::Gae => {
            let mut rewards: Vec<f64> = Vec::new();
            for answer in episodes.iter().flat_map(|episode| &episode.answers) {
                let pairs = answer.log_probs.iter().zip(&answer.reference);
                rewards.extend(pairs.map(|(policy, reference)| -coefficient * (policy - reference)));
                if let Some(last) = rewards.last_mut() {
                    *last += answer.score;
                }
            }
            if config.whitens_rewards() {
                whiten(&mut rewards, true);
            }
            let mut rest = &rewards[..];
            for answer in answers_of(episodes) {
                let (own, later) = rest.split_at(answer.tokens.len());
                rest = later;
                let found = generalized(own, &answer.values, config.discount, config.lambda());
                (answer.advantages, answer.returns) = (found.advantages, found.returns);
            }
        }
        of_answers @ (Advantage::LeaveOneOut | Advantage::GroupRelative) => {
            for episode in &mut *episodes {
                let earned = episode.answers.iter();
                let earned: Vec<f64> = earned
                    .map(|answer| answer.score - coefficient * answer.divergence())
                    .collect();
                let advantages = match of_answers {
                    Advantage::GroupRelative => group_relative(&earned),
                    _ => leave_one_out(&earned),
                };
                for (answer, advantage) in episode.answers.iter_mut().zip(advantages) {
                    answer.advantages = vec![advantage; answer.tokens.len()];
                }
            }
        }
    }
    if config.whitens_advantages() {
        let mut all: Vec<f64> = answers_of(episodes)
            .flat_map(|answer| answer.advantages.clone())
            .collect();
        whiten(&mut all, false);
        let mut rest = all.into_iter();
        for answer in answers_of(episodes) {
            answer.advantages = rest.by_ref().take(answer.tokens.len()).collect();
        }
    }
}

fn answers_of<'a>(episodes: &'a mut [&mut Episode]) -> impl Iterator<Item = &'a mut Answer> {
    episodes.iter_mut().flat_map(|episode| episode.answers.iter_mut())
}
