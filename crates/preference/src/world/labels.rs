//! What people would say of remarks, if they liked them as the reward does.

use std::fs;
use std::path::Path;

use exact::ranking::sample::ranking;
use rand::RngExt as _;
use serde_json::{Value, json};
use train::files::FileError;
use train::random::{Purpose, stream};

use super::{PROMPTS, WORDS, responses, rewards};

/// Rankings of remarks that a policy made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels {
    /// How many.
    pub count: usize,
    /// Remarks that each ranks.
    pub responses: usize,
    /// Of the remarks and of what is said of them.
    pub seed: u64,
}

/// A ranking: the prompt's number, and the remarks' numbers, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    prompt: usize,
    order: Vec<usize>,
}

impl Labels {
    /// Draws different remarks, of those that end, from a policy, whose log-probabilities of all remarks these are, and ranks them by the reward
    /// with the noise of Plackett and Luce.
    #[must_use]
    pub fn draw(self, policy: &[Vec<f64>]) -> Vec<Labelled> {
        let rewards: Vec<Vec<f64>> = PROMPTS.iter().map(|prompt| rewards(prompt)).collect();
        let cumulative: Vec<Vec<f64>> = policy
            .iter()
            .map(|log_probs| {
                let sums = log_probs.iter().scan(0.0, |sum, log_prob| {
                    *sum += log_prob.exp();
                    Some(*sum)
                });
                sums.collect()
            })
            .collect();
        let whole = responses()
            .iter()
            .take_while(|remark| remark.last() == Some(&0))
            .count();
        let label = |number: usize| {
            let mut rng = stream(self.seed, Purpose::named("label"), number as u64, 0);
            let prompt = number % PROMPTS.len();
            let mut drawn: Vec<usize> = Vec::with_capacity(self.responses);
            while drawn.len() < self.responses {
                let uniform = rng.random::<f64>();
                let at = cumulative[prompt].partition_point(|sum| *sum <= uniform);
                // Those that end come first; one that does not is drawn again.
                if at < whole && !drawn.contains(&at) {
                    drawn.push(at);
                }
            }
            let scores: Vec<f64> = drawn.iter().map(|&at| rewards[prompt][at]).collect();
            let uniforms: Vec<f64> = drawn.iter().map(|_| rng.random()).collect();
            let order =
                ranking(&scores, &uniforms).unwrap_or_else(|error| unreachable!("rewards are numbers: {error}"));
            Labelled {
                prompt,
                order: order.into_iter().map(|place| drawn[place]).collect(),
            }
        };
        (0..self.count).map(label).collect()
    }
}

/// The shapes in which labels are written.
impl Labelled {
    /// The remark with this number as text.
    fn text(all: &[Vec<u32>], number: usize) -> String {
        let letters = all[number].iter().filter(|&&token| token != 0);
        letters.map(|&token| format!(" {}", WORDS[token as usize])).collect()
    }

    /// The row of the whole ranking.
    #[must_use]
    pub fn ranking(&self, all: &[Vec<u32>]) -> Value {
        let completions: Vec<Value> = (1..)
            .zip(&self.order)
            .map(|(rank, &number): (u32, _)| json!({ "rank": rank, "completion": Self::text(all, number) }))
            .collect();
        json!({ "prompt": PROMPTS[self.prompt], "completions": completions })
    }

    /// The rows of all its pairs.
    #[must_use]
    pub fn pairs(&self, all: &[Vec<u32>]) -> Vec<Value> {
        let mut pairs = Vec::new();
        for (at, &better) in self.order.iter().enumerate() {
            for &worse in &self.order[at + 1..] {
                let (chosen, rejected) = (Self::text(all, better), Self::text(all, worse));
                pairs.push(json!({ "prompt": PROMPTS[self.prompt], "chosen": chosen, "rejected": rejected }));
            }
        }
        pairs
    }

    /// The row of the best remark alone.
    #[must_use]
    pub fn best(&self, all: &[Vec<u32>]) -> Value {
        json!({ "prompt": PROMPTS[self.prompt], "completion": Self::text(all, self.order[0]) })
    }
}

/// Writes rows as lines.
///
/// # Errors
///
/// [`FileError`].
pub fn write_rows(path: &Path, rows: impl IntoIterator<Item = Value>) -> Result<(), FileError> {
    let text: String = rows.into_iter().map(|row| format!("{row}\n")).collect();
    fs::write(path, text).map_err(FileError::because("write", path))
}

/// All remarks in tokens, for [`Labelled::ranking`] and the others.
#[must_use]
pub fn all_remarks() -> Vec<Vec<u32>> {
    responses().iter().collect()
}
