//! Log-probabilities of given responses.

use burn::tensor::Tensor;
use nn::decoder::Decoder;

use crate::comparison::{Prompt, Trees};
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

/// The log-probability of each token of each response, given the prompt and the tokens before it. The prompt goes through
/// the network once.
///
/// # Errors
///
/// [`ScoreError`] for an empty prompt, or tokens that the model does not have.
pub fn log_probs(decoder: &Decoder, prompt: &[u32], responses: &[Vec<u32>]) -> Result<Vec<Vec<f64>>, ScoreError> {
    let config = decoder.config();
    if prompt.is_empty() {
        return Err(ScoreError::EmptyPrompt);
    }
    let vocabulary = config.vocabulary_size;
    let mut all = prompt.iter().chain(responses.iter().flatten());
    if let Some(&token) = all.find(|token| **token as usize >= vocabulary) {
        return Err(ScoreError::Token { token, vocabulary });
    }
    let length = prompt.len() + responses.iter().map(Vec::len).max().unwrap_or(0);
    if let Some(positions) = config.learned_positions().filter(|positions| length > *positions) {
        return Err(ScoreError::TooLong { length, positions });
    }
    let prompt = Ranked {
        prompt: prompt.to_vec(),
        responses: responses.to_vec(),
    };
    Ok(log_probs_of(decoder, [&prompt]))
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
