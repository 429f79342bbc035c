//! A prompt and its ranked responses in tokens, and how several of them go through the network: each prompt once.

use std::ops::Range;

use exact::ranking::partial::MOST_TIED;
use ops::Forest;

use crate::data::{Row, Text};
use crate::encode::RowEncoder;
use crate::text::{Outcome, Ranked, TextError, truncate_example};
use crate::tuning::examples::{LeftOut, Made, Room, Sample};

/// A prompt and two or more responses to it, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The prompt and its responses, best first.
    pub ranked: Ranked,
    /// How many responses share each place; one place for each is a ranking without ties.
    pub groups: Vec<usize>,
    /// By how much the scores of a pair should differ.
    pub margin: f64,
}

impl Comparison {
    /// The comparison of a row of preferences.
    ///
    /// # Errors
    ///
    /// [`TextError`] from the template or the tokenizer, or for a row that compares nothing.
    pub fn of(encoder: &RowEncoder<'_>, row: &Row, room: Room) -> Result<Made<Self>, TextError> {
        let (prompt, responses, groups, margin) = parts(row)?;
        let mut ranked = encoder.responses(prompt, &responses)?;
        let outcome = truncate_example(&mut ranked, room.length, room.keep, room.begin)?;
        if outcome == Outcome::LeftOut {
            return Ok(Made::LeftOut(LeftOut::TooLong));
        }
        // What is cut may part only behind the cut.
        if ranked.responses.windows(2).all(|pair| pair[0] == pair[1]) {
            return Ok(Made::LeftOut(LeftOut::Alike));
        }
        let comparison = Self { ranked, groups, margin };
        if (0..comparison.ranked.responses.len()).any(|response| comparison.learned_of(response) == 0) {
            return Ok(Made::LeftOut(LeftOut::NothingToLearn));
        }
        Ok(Made::Example(comparison, outcome))
    }

    /// Tokens of a response that are foretold by something: without a prompt the first is not.
    #[must_use]
    pub fn learned_of(&self, response: usize) -> usize {
        self.ranked.responses[response].len() - usize::from(self.ranked.prompt.is_empty())
    }

    /// The pairs of responses of different places, the better one first.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let ends = self.groups.iter().scan(0, |end, size| {
            *end += size;
            Some((*end - size, *end))
        });
        let all = self.ranked.responses.len();
        ends.flat_map(move |(start, end)| {
            (start..end).flat_map(move |better| (end..all).map(move |worse| (better, worse)))
        })
    }

    /// Whether it is a pair.
    #[must_use]
    pub fn is_pair(&self) -> bool {
        self.groups == [1, 1]
    }
}

/// Prompt, responses best first, responses at each place, and margin.
type Parts<'a> = (&'a Text, Vec<&'a Text>, Vec<usize>, f64);

fn parts(row: &Row) -> Result<Parts<'_>, TextError> {
    let refused = |problem, remedy: &str| {
        Err(TextError::NothingToLearn {
            problem,
            remedy: remedy.to_owned(),
        })
    };
    match row {
        Row::Pair {
            prompt,
            chosen,
            rejected,
            margin,
        } => Ok((prompt, vec![chosen, rejected], vec![1, 1], margin.unwrap_or(0.0))),
        Row::Ranking { prompt, responses } => {
            let mut order: Vec<_> = responses.iter().collect();
            order.sort_by(|one, other| one.rank.total_cmp(&other.rank));
            let groups: Vec<usize> = order
                .chunk_by(|one, other| one.rank == other.rank)
                .map(<[_]>::len)
                .collect();
            let last = groups.len() - 1;
            if let Some(&tied) = groups[..last].iter().find(|&&tied| tied > MOST_TIED) {
                return refused(
                    format!("{tied} responses share a rank before others"),
                    &format!("at most {MOST_TIED} may; only the last rank may have more"),
                );
            }
            let responses = order.iter().map(|ranked| &ranked.completion).collect();
            Ok((prompt, responses, groups, 0.0))
        }
        other => refused(
            format!("a row of the shape \"{}\" compares nothing", other.shape()),
            "give chosen and rejected, or completions with ranks",
        ),
    }
}

impl Sample for Ranked {
    fn tokens(&self) -> usize {
        self.prompt.len() + self.learned()
    }

    fn learned(&self) -> usize {
        self.responses.iter().map(Vec::len).sum()
    }

    fn ids(&self) -> impl Iterator<Item = u32> {
        self.prompt.iter().chain(self.responses.iter().flatten()).copied()
    }
}

impl Sample for Comparison {
    fn tokens(&self) -> usize {
        self.ranked.tokens()
    }

    fn learned(&self) -> usize {
        (0..self.ranked.responses.len())
            .map(|response| self.learned_of(response))
            .sum()
    }

    fn ids(&self) -> impl Iterator<Item = u32> {
        self.ranked.ids()
    }
}

/// How prompts go through the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Once for all responses.
    Shared,
    /// Once for each response, which gives the same up to rounding and takes longer.
    Repeated,
}

/// Prompts with their responses under them, as a batch.
#[derive(Clone, Debug, Default)]
pub struct Trees {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Which belong together.
    pub forest: Forest,
    /// The rows that foretell the responses' tokens, one response after another.
    pub rows: Vec<usize>,
    /// The tokens that they foretell.
    pub targets: Vec<u32>,
    /// For each response which of `rows` are its own.
    pub responses: Vec<Range<usize>>,
    /// The row of each response's last token.
    pub ends: Vec<usize>,
    /// Each token's place where prompts are shared: copies of a prompt have one.
    pub places: Vec<usize>,
}

impl Trees {
    /// The trees of several prompts, in their order.
    #[must_use]
    pub fn of<'a>(prompts: impl IntoIterator<Item = &'a Ranked>, prompt: Prompt) -> Self {
        let mut trees = Self::default();
        for ranked in prompts {
            trees.push(ranked, prompt);
        }
        trees
    }

    fn push(&mut self, ranked: &Ranked, prompt: Prompt) {
        let first_place = self.places.last().map_or(0, |last| last + 1);
        let mut next_place = first_place + ranked.prompt.len();
        let root = |trees: &mut Self| {
            (!ranked.prompt.is_empty()).then(|| {
                trees.tokens.extend(&ranked.prompt);
                trees.places.extend(first_place..first_place + ranked.prompt.len());
                let root = trees.forest.push(ranked.prompt.len(), None);
                (root, trees.tokens.len() - 1)
            })
        };
        let shared = (prompt == Prompt::Shared).then(|| root(self));
        for response in &ranked.responses {
            let root = shared.unwrap_or_else(|| root(self));
            let (start, first) = (self.tokens.len(), self.rows.len());
            self.forest.push(response.len(), root.map(|(root, _)| root));
            self.tokens.extend(response);
            self.places.extend(next_place..next_place + response.len());
            next_place += response.len();
            for (at, &token) in response.iter().enumerate() {
                // The first token is foretold by the prompt's last, the others by the one before.
                let row = match (at, root) {
                    (0, None) => continue,
                    (0, Some((_, last_of_prompt))) => last_of_prompt,
                    _ => start + at - 1,
                };
                self.rows.push(row);
                self.targets.push(token);
            }
            self.responses.push(first..self.rows.len());
            self.ends.push(self.tokens.len() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Ranked as RankedText;
    use crate::text::{Keep, test_tokenizer};

    fn text(text: &str) -> Text {
        Text::Plain(text.to_owned())
    }

    fn made(row: &Row, length: usize, keep: Keep) -> Result<Made<Comparison>, TextError> {
        let tokenizer = test_tokenizer();
        let encoder = RowEncoder::new(&tokenizer).unwrap();
        Comparison::of(
            &encoder,
            row,
            Room {
                length,
                keep,
                begin: None,
            },
        )
    }

    fn ranking(completions: &[(f64, &str)]) -> Row {
        Row::Ranking {
            prompt: text("ab"),
            responses: completions
                .iter()
                .map(|(rank, completion)| RankedText {
                    rank: *rank,
                    completion: text(completion),
                })
                .collect(),
        }
    }

    fn pair(chosen: &str, rejected: &str) -> Row {
        Row::Pair {
            prompt: text("ab"),
            chosen: text(chosen),
            rejected: text(rejected),
            margin: Some(0.5),
        }
    }

    #[test]
    fn the_best_comes_first_and_equal_ranks_share_a_place() {
        let row = ranking(&[(3.0, "a"), (1.0, "b"), (2.0, "ab"), (1.0, "ba")]);
        let Made::Example(comparison, Outcome::Whole) = made(&row, 64, Keep::Whole).unwrap() else {
            panic!("it fits");
        };
        assert_eq!(comparison.groups, [2, 1, 1]);
        let same = ranking(&[(1.0, "b"), (1.0, "ba"), (2.0, "ab"), (3.0, "a")]);
        assert_eq!(
            made(&same, 64, Keep::Whole).unwrap(),
            Made::Example(comparison.clone(), Outcome::Whole)
        );
        assert_eq!(
            comparison.learned() + comparison.ranked.prompt.len(),
            comparison.tokens()
        );
        assert!(!comparison.is_pair());
        assert_eq!(
            comparison.pairs().collect::<Vec<_>>(),
            [(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
        );
    }

    #[test]
    fn what_compares_nothing_is_left_out_or_refused() {
        assert_eq!(
            made(&pair("a", "a"), 64, Keep::Whole).unwrap(),
            Made::LeftOut(LeftOut::Alike)
        );
        // They part behind the cut.
        let long = pair("aaaaaaaaaaaaaaaaaaaab", "aaaaaaaaaaaaaaaaaaaaa");
        assert_eq!(made(&long, 6, Keep::Start).unwrap(), Made::LeftOut(LeftOut::Alike));
        assert_eq!(made(&long, 6, Keep::Whole).unwrap(), Made::LeftOut(LeftOut::TooLong));
        let many: Vec<(f64, &str)> = (0..14).map(|at| (f64::from(u8::from(at == 13)), "a")).collect();
        let error = made(&ranking(&many), 64, Keep::Whole).unwrap_err().to_string();
        assert!(error.contains("13 responses share a rank"), "{error}");
        let text = Row::Text { text: "a".to_owned() };
        assert!(
            made(&text, 64, Keep::Whole)
                .unwrap_err()
                .to_string()
                .contains("compares nothing")
        );
    }

    #[test]
    fn a_prompt_comes_once_and_foretells_each_first_token() {
        let with = Ranked {
            prompt: vec![1, 2, 3],
            responses: vec![vec![4, 5], vec![6]],
        };
        let without = Ranked {
            prompt: Vec::new(),
            responses: vec![vec![7, 8, 9]],
        };
        let apart = Trees::of([&with, &without], Prompt::Repeated);
        assert_eq!(apart.tokens, [1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 8, 9]);
        assert_eq!(apart.forest.positions(), [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2]);
        assert_eq!(apart.rows, [2, 3, 7, 9, 10]);
        assert_eq!(apart.places, [0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 8]);
        let trees = Trees::of([&with, &without], Prompt::Shared);
        assert_eq!(trees.tokens, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(trees.forest.positions(), [0, 1, 2, 3, 4, 3, 0, 1, 2]);
        assert_eq!(trees.rows, [2, 3, 2, 6, 7]);
        assert_eq!(trees.targets, [4, 5, 6, 8, 9]);
        assert_eq!(trees.responses, [0..2, 2..3, 3..5]);
        assert_eq!(trees.ends, [4, 5, 8]);
        assert!(trees.places.iter().copied().eq(0..9));
    }
}
