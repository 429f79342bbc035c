//! A data set in tokens: what is learned of each row, and what did not fit.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use rayon::prelude::*;

use super::config::TrainerConfig as _;
use super::error::TuningError;
use super::objective::Objective;
use crate::data::{Dataset, Row};
use crate::encode::RowEncoder;
use crate::text::{Keep, Outcome, TextError, Tokenizer};

/// Rows that are encoded side by side.
const ROWS: usize = 1024;

/// A row in tokens.
pub trait Sample: Clone + fmt::Debug + Send + Sync {
    /// Tokens that go through the network.
    fn tokens(&self) -> usize;

    /// Those of them that are learned.
    fn learned(&self) -> usize;

    /// All ids.
    fn ids(&self) -> impl Iterator<Item = u32>;
}

/// How long an example may be, and what becomes of a longer one.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Most tokens of a sequence.
    pub length: usize,
    /// What is kept.
    pub keep: Keep,
    /// The token that begins texts.
    pub begin: Option<u32>,
}

/// What a row became.
#[derive(Clone, Debug, PartialEq)]
pub enum Made<E> {
    /// An example, and what it lost.
    Example(E, Outcome),
    /// Nothing.
    LeftOut(LeftOut),
}

/// Why a row became no example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It is too long.
    TooLong,
    /// There is nothing to learn in it.
    NothingToLearn,
    /// Its responses are all the same.
    Alike,
}

/// What became of the rows of a data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows.
    pub rows: usize,
    /// Rows that were cut.
    pub cut: usize,
    /// Tokens that prompts lost.
    pub prompt_tokens_lost: u64,
    /// Tokens that completions lost.
    pub response_tokens_lost: u64,
    /// Rows that were left out because they are too long.
    pub too_long: usize,
    /// Rows that were left out because there is nothing to learn in them.
    pub nothing_to_learn: usize,
    /// Rows that were left out because their responses are all the same.
    pub alike: usize,
    /// Tokens that are left.
    pub tokens: u64,
    /// Those of them that are learned.
    pub learned_tokens: u64,
}

impl Counts {
    /// What the user should know, in sentences.
    #[must_use]
    pub fn notes(&self, max_length: usize) -> Vec<String> {
        let mut notes = Vec::new();
        if self.cut > 0 {
            notes.push(format!(
                "{} of {} examples were longer than {max_length} tokens and lost {} tokens of prompts and {} of completions",
                self.cut, self.rows, self.prompt_tokens_lost, self.response_tokens_lost
            ));
        }
        for (count, why) in [
            (self.too_long, format!("longer than {max_length} tokens")),
            (self.nothing_to_learn, "nothing to learn in them".to_owned()),
            (self.alike, "their responses are the same tokens".to_owned()),
        ] {
            if count > 0 {
                notes.push(format!("{count} of {} examples were left out: {why}", self.rows));
            }
        }
        notes
    }

    /// Counts what became of a row.
    pub(crate) fn add<E: Sample>(&mut self, made: &Made<E>) {
        match made {
            Made::Example(example, outcome) => {
                if let Outcome::Cut { prompt, response } = outcome {
                    self.cut += 1;
                    self.prompt_tokens_lost += *prompt as u64;
                    self.response_tokens_lost += *response as u64;
                }
                self.tokens += example.tokens() as u64;
                self.learned_tokens += example.learned() as u64;
            }
            Made::LeftOut(LeftOut::TooLong) => self.too_long += 1,
            Made::LeftOut(LeftOut::NothingToLearn) => self.nothing_to_learn += 1,
            Made::LeftOut(LeftOut::Alike) => self.alike += 1,
        }
    }
}

/// The examples of a data set.
#[derive(Debug)]
pub struct Examples<E> {
    /// Tokens of each example.
    lengths: Arc<[u32]>,
    /// What each counts in the average over a step.
    weights: Vec<u32>,
    /// What became of the rows.
    counts: Counts,
    store: Store<E>,
}

#[derive(Debug)]
enum Store<E> {
    /// The examples themselves.
    Memory(Vec<E>),
    /// The rows that they are made of when they are asked for: data that are larger than memory stay in their files.
    Rows(Vec<usize>),
}

/// How rows become examples.
#[derive(Debug)]
pub struct Rule<'a, O> {
    /// What is learned.
    pub objective: &'a O,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The model's number of tokens.
    pub vocabulary: usize,
}

impl<O: Objective> Rule<'_, O> {
    /// The example of a row.
    fn example(&self, encoder: &RowEncoder<'_>, data: &Dataset, row: usize) -> Result<Made<O::Example>, TuningError> {
        self.made(data, row, |row, room| self.objective.encode(encoder, row, room))
    }

    /// What `encode` makes of a row, of tokens that the model has.
    ///
    /// # Errors
    ///
    /// [`TuningError`] for a row that cannot be read or encoded; it names the row.
    pub(crate) fn made<E: Sample>(
        &self,
        data: &Dataset,
        row: usize,
        encode: impl FnOnce(&Row, Room) -> Result<Made<E>, TextError>,
    ) -> Result<Made<E>, TuningError> {
        let tuning = self.objective.config().tuning();
        let room = Room {
            length: tuning.max_length,
            keep: tuning.truncation.unwrap_or(O::Config::DEFAULTS.truncation).keep(),
            begin: self.tokenizer.special_id("bos_token"),
        };
        let made = encode(&*data.get(row)?, room).map_err(|error| TuningError::Row {
            origin: data.origin().to_owned(),
            row: data.number_in_files(row),
            error,
        })?;
        if let Made::Example(example, _) = &made
            && let Some(token) = example.ids().find(|id| *id as usize >= self.vocabulary)
        {
            return Err(TuningError::Token {
                origin: data.origin().to_owned(),
                row: data.number_in_files(row),
                token,
                vocabulary: self.vocabulary,
            });
        }
        Ok(made)
    }

    /// What turns rows into tokens.
    ///
    /// # Errors
    ///
    /// [`TuningError`] for a chat template that is not valid.
    pub(crate) fn encoder(&self) -> Result<RowEncoder<'_>, TuningError> {
        let encoder = RowEncoder::new(self.tokenizer).map_err(crate::model::ModelError::from)?;
        Ok(encoder.with_trailing_text(self.objective.config().tuning().keep_trailing_text))
    }
}

impl<E: Sample> Examples<E> {
    /// Encodes a data set once. The examples stay in memory if the rows are there, too.
    ///
    /// # Errors
    ///
    /// [`TuningError`] for a row that cannot be read or encoded, or if nothing is left.
    pub fn new<O: Objective<Example = E>>(data: &Dataset, rule: &Rule<'_, O>) -> Result<Self, TuningError> {
        let tuning = rule.objective.config().tuning();
        let rows = tuning.limit.map_or(data.len(), |limit| limit.min(data.len()));
        let mut counts = Counts {
            rows,
            ..Counts::default()
        };
        let (mut examples, mut kept) = (Vec::new(), Vec::new());
        let (mut lengths, mut weights) = (Vec::new(), Vec::new());
        let encoder = rule.encoder()?;
        for start in (0..rows).step_by(ROWS) {
            let part: Vec<_> = (start..rows.min(start + ROWS))
                .into_par_iter()
                .map(|row| rule.example(&encoder, data, row))
                .collect::<Result<_, _>>()?;
            for (row, made) in (start..).zip(part) {
                counts.add(&made);
                let Made::Example(example, _) = made else { continue };
                lengths.push(example.tokens() as u32);
                weights.push(rule.objective.weight(&example));
                if data.is_in_memory() {
                    examples.push(example);
                } else {
                    kept.push(row);
                }
            }
        }
        if lengths.is_empty() {
            return Err(TuningError::NothingLeft {
                origin: data.origin().to_owned(),
                rows,
                max_length: tuning.max_length,
            });
        }
        Ok(Self {
            lengths: lengths.into(),
            weights,
            counts,
            store: if data.is_in_memory() {
                Store::Memory(examples)
            } else {
                Store::Rows(kept)
            },
        })
    }

    /// The number of examples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there are none; there always are some.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Tokens of each example.
    #[must_use]
    pub fn lengths(&self) -> &Arc<[u32]> {
        &self.lengths
    }

    /// What an example counts in the average over a step.
    #[must_use]
    pub fn weight(&self, example: usize) -> u32 {
        self.weights[example]
    }

    /// What became of the rows.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// An example.
    ///
    /// # Errors
    ///
    /// [`TuningError`] if it has to be read from a file that changed since.
    pub fn get<O: Objective<Example = E>>(
        &self,
        example: usize,
        data: &Dataset,
        rule: &Rule<'_, O>,
    ) -> Result<Cow<'_, E>, TuningError> {
        match &self.store {
            Store::Memory(examples) => Ok(Cow::Borrowed(&examples[example])),
            Store::Rows(rows) => {
                let row = rows[example];
                match rule.example(&rule.encoder()?, data, row)? {
                    Made::Example(made, _) if made.tokens() == self.lengths[example] as usize => Ok(Cow::Owned(made)),
                    _ => Err(TuningError::Changed {
                        what: format!("example {} of {}", data.number_in_files(row), data.origin()),
                        before: format!("{} tokens", self.lengths[example]),
                        now: "another number of tokens".to_owned(),
                    }),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Kind;
    use crate::sft::Completions;
    use crate::text::test_tokenizer;

    fn objective(max_length: usize, truncation: &str) -> Completions {
        let text = format!("model = 'm'\ndata = 'd'\nmax-length = {max_length}\ntruncation = '{truncation}'");
        Completions::new(toml::from_str(&text).unwrap())
    }

    fn file(directory: &tempfile::TempDir) -> std::path::PathBuf {
        let path = directory.path().join("data.jsonl");
        let rows = [
            r#"{"text": "ab ab"}"#,
            r#"{"prompt": "ab ab ab", "completion": " ab"}"#,
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "ab"}]}"#,
            r#"{"prompt": "a", "completion": ""}"#,
        ];
        std::fs::write(&path, rows.join("\n")).unwrap();
        path
    }

    #[test]
    fn data_in_files_give_what_data_in_memory_do() {
        let directory = tempfile::tempdir().unwrap();
        let paths = [file(&directory)];
        let (objective, tokenizer) = (objective(1024, "start"), test_tokenizer());
        let rule = Rule {
            objective: &objective,
            tokenizer: &tokenizer,
            vocabulary: 300,
        };
        let open = |memory| Dataset::open(&paths, Kind::LanguageModelling, memory).unwrap();
        let (near, far) = (open(u64::MAX), open(0));
        assert!(near.is_in_memory() && !far.is_in_memory());
        let [one, other] = [&near, &far].map(|data| Examples::new(data, &rule).unwrap());
        assert_eq!(one.counts(), other.counts());
        assert_eq!(one.lengths(), other.lengths());
        for example in 0..one.len() {
            let trace = one.get(example, &near, &rule).unwrap();
            assert_eq!(trace, other.get(example, &far, &rule).unwrap());
            assert_eq!(one.lengths()[example] as usize, trace.ids.len());
            assert_eq!(one.weight(example) as usize, trace.learned());
        }
        // An empty completion is its end token.
        assert_eq!((one.len(), one.weight(3)), (4, 1));
        // A file that changed under the run.
        std::fs::write(&paths[0], "{\"text\": \"ab\"}\n").unwrap();
        assert!(other.get(1, &far, &rule).is_err());
    }

    #[test]
    fn what_was_cut_and_left_out_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let data = Dataset::open(&[file(&directory)], Kind::LanguageModelling, u64::MAX).unwrap();
        let tokenizer = test_tokenizer();
        let counts = |max_length, truncation| {
            let objective = objective(max_length, truncation);
            let rule = Rule {
                objective: &objective,
                tokenizer: &tokenizer,
                vocabulary: 300,
            };
            Examples::new(&data, &rule).map(|examples| examples.counts())
        };
        let whole = counts(1024, "start").unwrap();
        assert_eq!(
            (whole.rows, whole.cut, whole.too_long, whole.nothing_to_learn),
            (4, 0, 0, 0)
        );
        assert!(whole.notes(1024).is_empty());
        let cut = counts(4, "completion").unwrap();
        assert!(cut.cut > 0 && cut.prompt_tokens_lost > 0, "{cut:?}");
        assert!(cut.notes(4)[0].contains("lost"));
        let left = counts(4, "leave-out").unwrap();
        assert!(left.too_long > 0 && left.cut + left.nothing_to_learn == 0, "{left:?}");
        assert!(left.notes(4)[0].contains("longer than 4 tokens"));
        assert!(matches!(
            counts(2, "leave-out").map(|counts| counts.tokens),
            Ok(2) | Err(TuningError::NothingLeft { .. })
        ));
        let objective = objective(1024, "start");
        let rule = Rule {
            objective: &objective,
            tokenizer: &tokenizer,
            vocabulary: 258,
        };
        let error = Examples::new(&data, &rule).map(drop).unwrap_err().to_string();
        assert!(error.contains("not one of the model's 258"), "{error}");
    }
}
