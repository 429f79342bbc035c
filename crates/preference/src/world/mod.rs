//! A world that the program carries: what people say of a kettle, a radio and a tent, and how pleasant that is.
//!
//! Its language has sixteen words, and a remark at most three before it ends, so every remark can be listed and every
//! policy's mean reward and divergence be known exactly ([`exact::frontier`]). Everything in it was made up for this
//! project.
//!
//! - **The corpus** is drawn from a grammar of remarks: *good*, *not loud*, *very warm*, *cheap and light*, *warm but loud*.
//! - **The reward** adds the valences of the words. It knows of whom they are said (a tent should be warm, a radio need not),
//!   that *not* turns a word round and *very* makes it stronger, that what follows *but* counts more, and that a word said
//!   twice counts once. It does not know the grammar, so there is something to exploit: what is likeliest to please is no
//!   longer what anybody says.
//! - **Labels** are drawn from the reward by the likelihood of Bradley and Terry, or Plackett and Luce.

mod labels;
mod method;
mod reward;
mod study;
mod training;

use std::fs;
use std::path::Path;

use exact::frontier::Frontier;
use nn::decoder::Decoder;
use rand::{Rng, RngExt as _};
use serde_json::json;
use train::files::FileError;
use train::random::{Purpose, stream};

use crate::enumerate::Responses;
use crate::small::{SmallModel, SmallModelError};

pub use labels::{Labelled, Labels, all_remarks, write_rows};
pub use method::{Method, UnknownMethod};
pub use reward::reward;
pub use study::{Effort, Point, Study, StudyError};

/// The words. The first ends a remark.
pub const WORDS: [&str; 16] = [
    "<end>", "kettle", "radio", "tent", "is", "not", "very", "and", "but", "good", "bad", "loud", "light", "warm",
    "cheap", "broken",
];
/// What remarks are made about.
pub const PROMPTS: [&str; 3] = ["kettle is", "radio is", "tent is"];
/// Most tokens of a remark, its end included.
pub const LONGEST: usize = 4;
/// What a remark loses that does not end.
pub const MISSING_END_PENALTY: f64 = 1.0;

/// How often each adjective is said, in ninths of a word.
const ADJECTIVES: [(&str, u32); 7] = [
    ("good", 1),
    ("bad", 2),
    ("loud", 3),
    ("light", 2),
    ("warm", 2),
    ("cheap", 3),
    ("broken", 2),
];

/// The small model that speaks the language.
#[must_use]
pub fn model() -> SmallModel {
    SmallModel::of(&WORDS)
}

/// Every remark.
///
/// # Panics
///
/// Never: there are some fifty thousand.
#[must_use]
pub fn responses() -> Responses {
    Responses::new(WORDS.len(), 0, LONGEST).unwrap_or_else(|error| unreachable!("the world is small: {error}"))
}

/// The token ids of a prompt.
#[must_use]
pub fn prompt_ids(prompt: &str) -> Vec<u32> {
    let model = model();
    prompt.split(' ').filter_map(|word| model.id(word)).collect()
}

/// The rewards of all remarks on a prompt, in the order of [`Responses::iter`].
#[must_use]
pub fn rewards(prompt: &str) -> Vec<f64> {
    let words = |tokens: &[u32]| -> Vec<&'static str> {
        let letters = tokens.iter().filter(|&&token| token != 0);
        letters.map(|&token| WORDS[token as usize]).collect()
    };
    let of = |tokens: Vec<u32>| {
        let penalty = if tokens.last() == Some(&0) {
            0.0
        } else {
            MISSING_END_PENALTY
        };
        reward(prompt, &words(&tokens)) - penalty
    };
    responses().iter().map(of).collect()
}

/// The natural log-probabilities of all remarks on each prompt.
#[must_use]
pub fn policy(decoder: &Decoder) -> Vec<Vec<f64>> {
    let responses = responses();
    PROMPTS
        .iter()
        .map(|prompt| responses.log_probs(decoder, &prompt_ids(prompt)))
        .collect()
}

/// The most that can be earned at any distance from this reference.
///
/// # Errors
///
/// [`exact::finite::FiniteError`] for a model that gives no numbers.
pub fn frontier(reference: &Decoder) -> Result<Frontier, exact::finite::FiniteError> {
    let prompts = policy(reference).into_iter().zip(PROMPTS);
    Frontier::new(
        prompts
            .map(|(log_reference, prompt)| (log_reference, rewards(prompt)))
            .collect(),
    )
}

/// A remark as the corpus has it.
#[must_use]
pub fn remark(rng: &mut dyn Rng) -> String {
    let adjective = |rng: &mut dyn Rng| {
        let total: u32 = ADJECTIVES.iter().map(|(_, share)| share).sum();
        let mut left = rng.random_range(0..total);
        for (word, share) in ADJECTIVES {
            if left < share {
                return word;
            }
            left -= share;
        }
        unreachable!("the shares add up")
    };
    let one = adjective(rng);
    match rng.random_range(0..10) {
        0..3 => one.to_owned(),
        3 => format!("not {one}"),
        4..6 => format!("very {one}"),
        kind => {
            let mut other = adjective(rng);
            while other == one {
                other = adjective(rng);
            }
            let between = if kind < 8 { "and" } else { "but" };
            format!("{one} {between} {other}")
        }
    }
}

/// Writes the untrained model into `directory`, and `count` examples of the corpus to `corpus`.
///
/// # Errors
///
/// [`SmallModelError`] for files.
pub fn write(directory: &Path, corpus: &Path, count: usize, seed: u64) -> Result<(), SmallModelError> {
    model().write(directory, seed)?;
    let mut text = String::new();
    for number in 0..count {
        let mut rng = stream(seed, Purpose::named("remark"), number as u64, 0);
        let row = json!({ "prompt": PROMPTS[number % PROMPTS.len()], "completion": format!(" {}", remark(&mut rng)) });
        text += &format!("{row}\n");
    }
    fs::write(corpus, text).map_err(FileError::because("write", corpus))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_world_is_as_large_as_it_says() {
        assert_eq!(responses().count(), 1 + 15 + 225 + 3375 + 50_625);
        assert_eq!(prompt_ids("tent is"), [3, 4]);
        let rewards = rewards(PROMPTS[0]);
        assert_eq!(rewards.len(), responses().count());
        // To say nothing is worth nothing, and not to come to an end costs.
        assert_eq!(rewards[0], 0.0);
        let least = rewards.iter().copied().fold(f64::INFINITY, f64::min);
        let most = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert!(least < -3.0 && most > 3.0, "{least} {most}");
    }

    #[test]
    fn every_remark_of_the_corpus_is_one_of_the_world() {
        for number in 0..200 {
            let mut rng = stream(1, Purpose::named("remark"), number, 0);
            let remark = remark(&mut rng);
            let words: Vec<&str> = remark.split(' ').collect();
            assert!(
                words.len() < LONGEST && words.iter().all(|word| WORDS[5..].contains(word)),
                "{remark}"
            );
        }
    }
}
