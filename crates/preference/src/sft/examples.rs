//! A data set in tokens: what is learned of each row, and what did not fit.

use std::borrow::Cow;
use std::sync::Arc;

use rayon::prelude::*;

use super::config::SftConfig;
use super::error::SftError;
use crate::data::Dataset;
use crate::encode::{RowEncoder, SftExample};
use crate::text::{Outcome, Tokenizer, Trace, truncate_example, truncate_trace};

/// Rows that are encoded side by side.
const ROWS: usize = 1024;

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
        ] {
            if count > 0 {
                notes.push(format!("{count} of {} examples were left out: {why}", self.rows));
            }
        }
        notes
    }
}

/// The examples of a data set.
#[derive(Debug)]
pub struct Examples {
    /// Tokens of each example.
    lengths: Arc<[u32]>,
    /// Tokens that are learned of each.
    learned: Vec<u32>,
    /// What became of the rows.
    counts: Counts,
    store: Store,
}

#[derive(Debug)]
enum Store {
    /// The examples themselves.
    Memory(Vec<Trace>),
    /// The rows that they are made of when they are asked for: data that are larger than memory stay in their files.
    Rows(Vec<usize>),
}

/// What a row became.
#[derive(Debug)]
enum Made {
    /// An example, and what it lost.
    Example(Trace, Outcome),
    /// Nothing: it is too long.
    TooLong,
    /// Nothing: there is nothing to learn in it.
    NothingToLearn,
}

/// How rows become examples.
#[derive(Debug)]
pub struct Rule<'a> {
    /// The settings.
    pub config: &'a SftConfig,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The model's number of tokens.
    pub vocabulary: usize,
}

impl Rule<'_> {
    /// The example of a row.
    fn example(&self, encoder: &RowEncoder<'_>, data: &Dataset, row: usize) -> Result<Made, SftError> {
        let at = |error| SftError::Row {
            origin: data.origin().to_owned(),
            row: data.number_in_files(row),
            error,
        };
        let (length, keep) = (self.config.max_length, self.config.truncation.keep());
        let example = encoder
            .example(&*data.get(row)?, self.config.train_on.trained())
            .map_err(at)?;
        if example.learned_tokens() == 0 {
            return Ok(Made::NothingToLearn);
        }
        let (trace, outcome) = match example {
            SftExample::Completion(mut ranked) => {
                let begin = self.tokenizer.special_id("bos_token");
                let outcome = truncate_example(&mut ranked, length, keep, begin).map_err(at)?;
                (Trace::from(SftExample::Completion(ranked)), outcome)
            }
            SftExample::Trace(mut trace) => {
                let outcome = truncate_trace(&mut trace, length, keep).map_err(at)?;
                (trace, outcome)
            }
        };
        if outcome == Outcome::LeftOut || learned(&trace) == 0 {
            return Ok(Made::TooLong);
        }
        match trace.ids.iter().find(|id| **id as usize >= self.vocabulary) {
            Some(&token) => Err(SftError::Token {
                origin: data.origin().to_owned(),
                row: data.number_in_files(row),
                token,
                vocabulary: self.vocabulary,
            }),
            None => Ok(Made::Example(trace, outcome)),
        }
    }

    fn encoder(&self) -> Result<RowEncoder<'_>, SftError> {
        let encoder = RowEncoder::new(self.tokenizer).map_err(crate::model::ModelError::from)?;
        Ok(encoder.with_trailing_text(self.config.keep_trailing_text))
    }
}

/// How many tokens of a sequence are learned: nothing foretells the first.
fn learned(trace: &Trace) -> usize {
    trace.learned.iter().skip(1).filter(|learned| **learned).count()
}

impl Examples {
    /// Encodes a data set once. The examples stay in memory if the rows are there, too.
    ///
    /// # Errors
    ///
    /// [`SftError`] for a row that cannot be read or encoded, or if nothing is left.
    pub fn new(data: &Dataset, rule: &Rule<'_>) -> Result<Self, SftError> {
        let rows = rule.config.limit.map_or(data.len(), |limit| limit.min(data.len()));
        let mut counts = Counts {
            rows,
            ..Counts::default()
        };
        let (mut traces, mut kept) = (Vec::new(), Vec::new());
        let (mut lengths, mut learned_of) = (Vec::new(), Vec::new());
        let encoder = rule.encoder()?;
        for start in (0..rows).step_by(ROWS) {
            let part: Vec<_> = (start..rows.min(start + ROWS))
                .into_par_iter()
                .map(|row| rule.example(&encoder, data, row))
                .collect::<Result<_, _>>()?;
            for (row, made) in (start..).zip(part) {
                let (trace, outcome) = match made {
                    Made::Example(trace, outcome) => (trace, outcome),
                    Made::TooLong => {
                        counts.too_long += 1;
                        continue;
                    }
                    Made::NothingToLearn => {
                        counts.nothing_to_learn += 1;
                        continue;
                    }
                };
                if let Outcome::Cut { prompt, response } = outcome {
                    counts.cut += 1;
                    counts.prompt_tokens_lost += prompt as u64;
                    counts.response_tokens_lost += response as u64;
                }
                counts.tokens += trace.ids.len() as u64;
                counts.learned_tokens += learned(&trace) as u64;
                lengths.push(trace.ids.len() as u32);
                learned_of.push(learned(&trace) as u32);
                if data.is_in_memory() {
                    traces.push(trace);
                } else {
                    kept.push(row);
                }
            }
        }
        if lengths.is_empty() {
            return Err(SftError::NothingLeft {
                origin: data.origin().to_owned(),
                rows,
                max_length: rule.config.max_length,
            });
        }
        Ok(Self {
            lengths: lengths.into(),
            learned: learned_of,
            counts,
            store: if data.is_in_memory() {
                Store::Memory(traces)
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

    /// How many tokens of an example are learned.
    #[must_use]
    pub fn learned(&self, example: usize) -> u32 {
        self.learned[example]
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
    /// [`SftError`] if it has to be read from a file that changed since.
    pub fn get(&self, example: usize, data: &Dataset, rule: &Rule<'_>) -> Result<Cow<'_, Trace>, SftError> {
        match &self.store {
            Store::Memory(traces) => Ok(Cow::Borrowed(&traces[example])),
            Store::Rows(rows) => {
                let row = rows[example];
                match rule.example(&rule.encoder()?, data, row)? {
                    Made::Example(trace, _) if trace.ids.len() == self.lengths[example] as usize => {
                        Ok(Cow::Owned(trace))
                    }
                    _ => Err(SftError::Changed {
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
    use crate::text::test_tokenizer;

    fn config(max_length: usize, truncation: &str) -> SftConfig {
        let text = format!("model = 'm'\ndata = 'd'\nmax-length = {max_length}\ntruncation = '{truncation}'");
        toml::from_str(&text).unwrap()
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
        let (config, tokenizer) = (config(1024, "start"), test_tokenizer());
        let rule = Rule {
            config: &config,
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
            assert_eq!(one.learned(example) as usize, learned(&trace));
        }
        // An empty completion is its end token.
        assert_eq!((one.len(), one.learned(3)), (4, 1));
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
            let config = config(max_length, truncation);
            let rule = Rule {
                config: &config,
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
            Ok(2) | Err(SftError::NothingLeft { .. })
        ));
        let config = config(1024, "start");
        let rule = Rule {
            config: &config,
            tokenizer: &tokenizer,
            vocabulary: 258,
        };
        let error = Examples::new(&data, &rule).map(drop).unwrap_err().to_string();
        assert!(error.contains("not one of the model's 258"), "{error}");
    }
}
