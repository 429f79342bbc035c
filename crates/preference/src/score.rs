//! Log-probabilities and rewards of given responses.

use burn::tensor::{Tensor, TensorData};
use nn::decoder::Decoder;

use crate::comparison::{Prompt, Trees};
use crate::model::LanguageModel;
use crate::reward::scores_of;
use crate::text::Ranked;

/// Responses that cannot be scored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// The first token of a response has nothing before it.
    #[error("the prompt has no tokens, so the responses' first tokens have no probability; give a prompt")]
    EmptyPrompt,
    /// A token that the model does not have.
    #[error("there is a token {token}, but the model has {vocabulary}; tokenizer and model do not belong together")]
    Token {
        /// The token.
        token: u32,
        /// The model's number of tokens.
        vocabulary: usize,
    },
    /// Longer than the model's learned positions.
    #[error("prompt and response have {length} tokens, but the model has {positions} positions; shorten them")]
    TooLong {
        /// Their tokens.
        length: usize,
        /// Positions.
        positions: usize,
    },
}

/// What a model says of a response.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Score {
    /// A language model: the log-probability of its tokens, its end token included, given the prompt.
    LogProb(f64),
    /// A reward model: the reward.
    Reward(f64),
}

/// What the model says of each response. The prompt goes through the network once.
///
/// # Errors
///
/// [`ScoreError`] for tokens that the model does not have, or an empty prompt where the first token needs one.
pub fn scores(model: &LanguageModel, ranked: &Ranked) -> Result<Vec<Score>, ScoreError> {
    let config = model.decoder.config();
    if ranked.prompt.is_empty() && !config.scores {
        return Err(ScoreError::EmptyPrompt);
    }
    let vocabulary = config.vocabulary_size;
    let mut all = ranked.prompt.iter().chain(ranked.responses.iter().flatten());
    if let Some(&token) = all.find(|token| **token as usize >= vocabulary) {
        return Err(ScoreError::Token { token, vocabulary });
    }
    let length = ranked.prompt.len() + ranked.responses.iter().map(Vec::len).max().unwrap_or(0);
    if let Some(positions) = config.learned_positions().filter(|positions| length > *positions) {
        return Err(ScoreError::TooLong { length, positions });
    }
    if config.scores {
        let scores = scores_of(&model.decoder, [ranked]).into_iter();
        return Ok(scores.map(|score| Score::Reward(model.reward.reward(score))).collect());
    }
    let found = log_probs_of(&model.decoder, [ranked]).into_iter();
    Ok(found.map(|tokens| Score::LogProb(tokens.iter().sum())).collect())
}

/// The log-probability of each token of each response to several prompts, those of the first prompt first. Without a
/// prompt a response's first token has none.
pub(crate) fn log_probs_of<'a>(decoder: &Decoder, prompts: impl IntoIterator<Item = &'a Ranked>) -> Vec<Vec<f64>> {
    let trees = Trees::of(prompts, Prompt::Shared);
    let hidden = decoder.hidden(&trees.tokens, &trees.forest);
    let found = decoder.token_log_prob(hidden, &trees.rows, trees.targets.into(), 1.0);
    let found = host(&found.log_prob);
    trees.responses.into_iter().map(|rows| found[rows].to_vec()).collect()
}

/// The values of a tensor.
pub(crate) fn host(tensor: &Tensor<1>) -> Vec<f64> {
    let values = tensor.clone().into_data().convert::<f32>().try_into_vec::<f32>();
    values.unwrap_or_default().into_iter().map(f64::from).collect()
}

/// A loss whose derivatives by `values` are known, over `total`: the weighted sum, which has those derivatives.
pub(crate) fn with_derivatives(values: Tensor<1>, derivatives: &[f64], total: f64) -> Tensor<1> {
    let weights: Vec<f32> = derivatives
        .iter()
        .map(|derivative| (derivative / total) as f32)
        .collect();
    let (count, device) = (weights.len(), values.device());
    (values * Tensor::from_data(TensorData::new(weights, [count]), &device)).sum()
}
