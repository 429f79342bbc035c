//! All responses that a model can give to a prompt, where they can be listed, with their exact probabilities.

use exact::log_space::log_sum_exp;
use exact::response_count::{TooManyResponses, enumerable_responses};
use nn::decoder::{Decoder, select_rows};
use ops::Forest;

/// Most responses that are listed.
const MOST: u64 = 10_000_000;
/// Tokens that go through the network together.
const TOKENS: usize = 1 << 14;

/// The responses of at most so many tokens: those that come to their end, and those that are cut before they do. Every way
/// of going on leads to exactly one of them, so their probabilities sum to 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Responses {
    /// All tokens but the one that ends.
    letters: Vec<u32>,
    end: u32,
    longest: usize,
}

impl Responses {
    /// Over a vocabulary of `vocabulary` tokens, of which `end` ends a response, of at most `longest` tokens, the end token
    /// included.
    ///
    /// # Errors
    ///
    /// [`TooManyResponses`] says how many there would be.
    ///
    /// # Panics
    ///
    /// When `longest` is 0 or `end` lies outside the vocabulary.
    pub fn new(vocabulary: usize, end: u32, longest: usize) -> Result<Self, TooManyResponses> {
        assert!(longest > 0, "a response has at least one token");
        assert!((end as usize) < vocabulary, "the end token is one of the vocabulary");
        enumerable_responses(vocabulary as u64, longest as u64, MOST)?;
        Ok(Self {
            letters: (0..vocabulary as u32).filter(|&token| token != end).collect(),
            end,
            longest,
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        (0..=self.longest).map(|length| self.words(length)).sum()
    }

    /// Sequences of so many letters.
    fn words(&self, length: usize) -> usize {
        self.letters.len().pow(length as u32)
    }

    /// The letters of a sequence by its number.
    fn word(&self, length: usize, number: usize) -> Vec<u32> {
        let letters = self.letters.len();
        let at = |place: usize| self.letters[number / letters.pow((length - 1 - place) as u32) % letters];
        (0..length).map(at).collect()
    }

    /// All of them, shorter ones first; those that end have the end token.
    pub fn iter(&self) -> impl Iterator<Item = Vec<u32>> {
        (0..=self.longest).flat_map(move |length| {
            (0..self.words(length)).map(move |number| {
                let mut tokens = self.word(length, number);
                if length < self.longest {
                    tokens.push(self.end);
                }
                tokens
            })
        })
    }

    /// The natural logarithm of the probability of each under a model, given a prompt, in the order of
    /// [`Responses::iter`]. Each beginning goes through the network with the longest responses that have it, under one
    /// prompt.
    ///
    /// # Panics
    ///
    /// When the prompt is empty, or the model has another vocabulary.
    #[must_use]
    pub fn log_probs(&self, decoder: &Decoder, prompt: &[u32]) -> Vec<f64> {
        let (vocabulary, depth) = (self.letters.len() + 1, self.longest - 1);
        assert_eq!(
            decoder.config().vocabulary_size,
            vocabulary,
            "the model has this vocabulary"
        );
        assert!(!prompt.is_empty(), "the first token follows something");
        let letters = self.letters.len();
        // Of each beginning the logarithm of its probability, and of its end.
        let mut reached: Vec<Vec<f64>> = (0..=self.longest).map(|length| vec![0.0; self.words(length)]).collect();
        let mut ended: Vec<Vec<f64>> = (0..=depth).map(|length| vec![0.0; self.words(length)]).collect();
        let chunk = (TOKENS / depth.max(1)).max(1);
        for start in (0..self.words(depth)).step_by(chunk) {
            let numbers = start..self.words(depth).min(start + chunk);
            let mut forest = Forest::default();
            let root = forest.push(prompt.len(), None);
            let mut tokens = prompt.to_vec();
            // Beginnings that come here for the first time, and the rows after them.
            let (mut beginnings, mut rows) = (Vec::new(), Vec::new());
            for number in numbers {
                let first = tokens.len();
                if depth > 0 {
                    forest.push(depth, Some(root));
                    tokens.extend(self.word(depth, number));
                }
                for length in 0..=depth {
                    let longer = self.words(depth - length);
                    if number % longer == 0 {
                        beginnings.push((length, number / longer));
                        rows.push(if length == 0 {
                            prompt.len() - 1
                        } else {
                            first + length - 1
                        });
                    }
                }
            }
            let hidden = decoder.hidden(&tokens, &forest);
            let logits = decoder.logits(select_rows(hidden, &rows)).into_data().convert::<f32>();
            let logits: Vec<f32> = logits.try_into_vec().unwrap_or_default();
            for ((length, number), logits) in beginnings.into_iter().zip(logits.chunks_exact(vocabulary)) {
                let logits: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
                let before = reached[length][number] - log_sum_exp(&logits);
                ended[length][number] = before + logits[self.end as usize];
                for (letter, &token) in self.letters.iter().enumerate() {
                    reached[length + 1][number * letters + letter] = before + logits[token as usize];
                }
            }
        }
        let cut = reached.pop().unwrap_or_default();
        ended.into_iter().flatten().chain(cut).collect()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::score::log_probs_of;
    use crate::small::{SmallModel, decoder};
    use crate::text::Ranked;

    #[test]
    fn every_response_has_the_probability_that_scoring_gives_it() {
        let words = ["<end>", "a", "b", "c"];
        let small = SmallModel::of(&words);
        let decoder = decoder(&small, 3, &Device::flex());
        for longest in 1..=3 {
            let responses = Responses::new(words.len(), 0, longest).unwrap();
            let all: Vec<Vec<u32>> = responses.iter().collect();
            assert_eq!(all.len(), responses.count());
            let found = responses.log_probs(&decoder, &[1, 2]);
            assert!(log_sum_exp(&found).abs() < 1e-6);
            let ranked = Ranked {
                prompt: vec![1, 2],
                responses: all.clone(),
            };
            for ((response, found), scored) in all.iter().zip(&found).zip(log_probs_of(&decoder, [&ranked])) {
                let scored: f64 = scored.iter().sum();
                assert!((found - scored).abs() < 1e-5, "{response:?}: {found} and {scored}");
            }
        }
        assert_eq!(Responses::new(4, 0, 2).unwrap().count(), 1 + 3 + 9);
        let error = Responses::new(50_257, 0, 2048).unwrap_err().to_string();
        assert!(error.contains("e9628"), "{error}");
    }
}
