//! Log-probabilities of given responses.

use std::sync::Arc;

use nn::decoder::Decoder;
use ops::Forest;

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
    let mut forest = Forest::default();
    let root = forest.push(prompt.len(), None);
    let (mut tokens, mut rows) = (prompt.to_vec(), Vec::new());
    for response in responses {
        let segment = forest.push(response.len(), Some(root));
        let start = forest.segments()[segment].start;
        // The first token is foretold by the prompt's last, the others by the one before.
        rows.extend((0..response.len()).map(|i| if i == 0 { prompt.len() - 1 } else { start + i - 1 }));
        tokens.extend(response);
    }
    let targets: Arc<[u32]> = responses.concat().into();
    let found = decoder.token_log_prob(decoder.hidden(&tokens, &forest), &rows, targets, 1.0);
    let found = found
        .log_prob
        .into_data()
        .convert::<f32>()
        .try_into_vec::<f32>()
        .unwrap_or_default();
    let mut rest = found.into_iter().map(f64::from);
    Ok(responses
        .iter()
        .map(|response| rest.by_ref().take(response.len()).collect())
        .collect())
}
