//! What the reference gives the responses: worked out once, before the first step, and kept in the run.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use nn::decoder::Decoder;
use serde::{Deserialize, Serialize};
use train::files::FileError;
use train::fingerprint::Fingerprint;
use train::metrics::Metrics;
use train::progress::Progress;

use super::preferences::Dpo;
use crate::comparison::Comparison;
use crate::score::log_probs_of;
use crate::tuning::TuningError;
use crate::tuning::config::TrainerConfig as _;
use crate::tuning::objective::{Batch, Split};

/// The file's name in the run's directory.
const FILE: &str = "reference.jsonl";

/// The reference's log-probabilities of responses.
#[derive(Debug)]
pub(super) enum Reference {
    /// Worked out before the first step.
    Known(Known),
    /// Worked out when they are asked for.
    Network(Box<Decoder>),
}

/// Log-probabilities of responses by data and example.
type Known = HashMap<(Split, usize), Vec<f64>>;

/// What preparing did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Examples that went through the reference.
    pub computed: usize,
    /// Examples whose log-probabilities were in the run already.
    pub reused: usize,
}

/// The first line of the file: what the others belong to.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Header {
    weights: String,
    data: String,
    settings: String,
}

impl Header {
    /// Whether the lines behind it can be used: always, or an error says what is other than it was.
    fn check(&self, now: &Self) -> Result<bool, TuningError> {
        for (what, before, now) in [
            ("the reference", &self.weights, &now.weights),
            ("the data", &self.data, &now.data),
            ("the way from data to tokens", &self.settings, &now.settings),
        ] {
            if before != now {
                return Err(TuningError::Changed {
                    what: what.to_owned(),
                    before: before.clone(),
                    now: now.clone(),
                });
            }
        }
        Ok(true)
    }
}

/// An example's line.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Line {
    split: Split,
    example: usize,
    log_probs: Vec<f64>,
}

impl Default for Reference {
    fn default() -> Self {
        Self::Known(Known::new())
    }
}

impl Reference {
    /// The log-probabilities of each example's responses.
    pub(super) fn of(&self, batch: &Batch<'_, Comparison>) -> Result<Vec<Cow<'_, [f64]>>, TuningError> {
        match self {
            Self::Network(decoder) => {
                let found = under(decoder, batch)?.into_iter();
                Ok(found.map(|(_, log_probs)| Cow::Owned(log_probs)).collect())
            }
            Self::Known(known) => {
                let known = |(example, _): &(usize, _)| {
                    let found = known.get(&(batch.split, *example));
                    let found = found.ok_or(TuningError::NoReference { example: *example })?;
                    Ok(Cow::Borrowed(found.as_slice()))
                };
                batch.examples.iter().map(known).collect()
            }
        }
    }
}

/// Works out the log-probabilities of every response that the run will see under the reference, `decoder`. They are kept
/// in `run` and found there again, whole or as many as there are. If the settings say so, the reference itself is kept
/// instead, in memory.
///
/// # Errors
///
/// [`TuningError`] for a reference or data that are not those that the run was started on, a reference that gives no
/// number, and for files.
pub fn prepare(dpo: &mut Dpo, decoder: &Decoder, run: &Path, progress: &mut Progress) -> Result<Prepared, TuningError> {
    let tuning = dpo.config().tuning();
    let mut data = Fingerprint::default();
    data.bytes(dpo.data_fingerprint().as_bytes());
    let header = Header {
        weights: train::parameters::fingerprint_frozen(decoder),
        data: data.finish(),
        settings: format!(
            "max-length {}, truncation {:?}, keep-trailing-text {}, limit {:?}",
            tuning.max_length, tuning.truncation, tuning.keep_trailing_text, tuning.limit
        ),
    };
    let (mut known, mut file) = open(&run.join(FILE), &header)?;
    if !dpo.config().precompute {
        file.finish()?;
        dpo.objective_mut().reference = Reference::Network(Box::new(decoder.clone()));
        return Ok(Prepared::default());
    }
    let mut prepared = Prepared {
        computed: 0,
        reused: known.len(),
    };
    let needed = dpo.needed();
    let missing: Vec<(Split, Vec<usize>)> = needed
        .into_iter()
        .map(|(split, examples)| {
            let missing = |example: &usize| !known.contains_key(&(split, *example));
            (split, examples.into_iter().filter(missing).collect())
        })
        .collect();
    let total: usize = missing.iter().map(|(_, examples)| examples.len()).sum();
    if total > 0 {
        progress.start(0, total as u64);
    }
    for (split, examples) in &missing {
        for batch in dpo.batches(*split, examples) {
            let batch = batch?;
            for (example, log_probs) in under(decoder, &batch)? {
                let line = Line {
                    split: *split,
                    example,
                    log_probs,
                };
                write(&mut file, &line)?;
                known.insert((*split, example), line.log_probs);
                prepared.computed += 1;
            }
            progress.step(prepared.computed as u64, &Metrics::new());
        }
    }
    if total > 0 {
        progress.finish();
    }
    file.finish()?;
    dpo.objective_mut().reference = Reference::Known(known);
    Ok(prepared)
}

/// The examples of a batch with the log-probabilities of their responses.
fn under(decoder: &Decoder, batch: &Batch<'_, Comparison>) -> Result<Vec<(usize, Vec<f64>)>, TuningError> {
    let prompts = batch.examples.iter().map(|(_, comparison)| &comparison.ranked);
    let mut found = log_probs_of(decoder, prompts).into_iter();
    let mut examples = Vec::new();
    for (example, comparison) in &batch.examples {
        let responses = found.by_ref().take(comparison.ranked.responses.len());
        let log_probs: Vec<f64> = responses.map(|tokens| tokens.iter().sum()).collect();
        if log_probs.iter().any(|log_prob| !log_prob.is_finite()) {
            return Err(TuningError::ReferenceNotFinite { example: *example });
        }
        examples.push((*example, log_probs));
    }
    Ok(examples)
}

/// The run's file, open behind its last whole line.
struct Kept {
    path: PathBuf,
    writer: BufWriter<File>,
}

impl Kept {
    fn finish(mut self) -> Result<(), TuningError> {
        let path = self.path;
        self.writer.flush().map_err(FileError::because("write", &path))?;
        let file = self.writer.get_ref();
        Ok(file.sync_all().map_err(FileError::because("bring to the disk", path))?)
    }
}

fn write(file: &mut Kept, line: &impl Serialize) -> Result<(), TuningError> {
    let path = &file.path;
    let mut text = serde_json::to_vec(line).map_err(|error| FileError::because("write", path)(error.into()))?;
    text.push(b'\n');
    Ok(file
        .writer
        .write_all(&text)
        .map_err(FileError::because("write", path))?)
}

/// What a run's file has, and the file to go on with. A line that a killed process left unfinished is dropped.
///
/// # Errors
///
/// [`TuningError::Changed`] for a file of another reference or other data.
fn open(path: &Path, header: &Header) -> Result<(Known, Kept), TuningError> {
    let mut known = Known::new();
    let mut whole = 0;
    if path.exists() {
        let mut reader = BufReader::new(File::open(path).map_err(FileError::because("read", path))?);
        let mut line = String::new();
        let mut first = true;
        while let Ok(length @ 1..) = reader.read_line(&mut line) {
            let is_whole = match serde_json::from_str::<Line>(&line) {
                _ if !line.ends_with('\n') => false,
                _ if first => match serde_json::from_str::<Header>(&line) {
                    Ok(found) => found.check(header)?,
                    Err(_) => false,
                },
                Ok(found) => {
                    known.insert((found.split, found.example), found.log_probs);
                    true
                }
                Err(_) => false,
            };
            if !is_whole {
                break;
            }
            first = false;
            whole += length as u64;
            line.clear();
        }
    }
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let mut opened = opened.map_err(FileError::because("write", path))?;
    opened.set_len(whole).map_err(FileError::because("write", path))?;
    opened
        .seek(SeekFrom::Start(whole))
        .map_err(FileError::because("write", path))?;
    let mut file = Kept {
        path: path.to_owned(),
        writer: BufWriter::new(opened),
    };
    if whole == 0 {
        write(&mut file, header)?;
    }
    Ok((known, file))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn lines(path: &Path) -> usize {
        fs::read_to_string(path).unwrap().lines().count()
    }

    fn header(weights: &str) -> Header {
        Header {
            weights: weights.to_owned(),
            data: "d".to_owned(),
            settings: "s".to_owned(),
        }
    }

    fn line(example: usize) -> Line {
        Line {
            split: Split::Training,
            example,
            log_probs: vec![-1.25, -0.1 - example as f64],
        }
    }

    #[test]
    fn what_was_kept_is_found_again_and_torn_or_foreign_lines_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let (known, mut file) = open(&path, &header("w")).unwrap();
        assert!(known.is_empty());
        for example in [3, 5] {
            write(&mut file, &line(example)).unwrap();
        }
        file.finish().unwrap();
        let whole = fs::read(&path).unwrap();
        // Killed in the middle of a line, then gone on with.
        fs::write(&path, [&whole[..], b"{\"split\":\"trai"].concat()).unwrap();
        let (known, mut file) = open(&path, &header("w")).unwrap();
        assert_eq!(known[&(Split::Training, 5)], [-1.25, -5.1]);
        assert!(!known.contains_key(&(Split::Evaluation, 5)));
        write(&mut file, &line(7)).unwrap();
        file.finish().unwrap();
        let (known, _) = open(&path, &header("w")).unwrap();
        assert_eq!(known.len(), 3);
        assert_eq!(lines(&path), 4);
        // Other weights: nothing is used, and nothing is lost.
        let error = open(&path, &header("other"))
            .map(|(known, _)| known)
            .unwrap_err()
            .to_string();
        assert!(error.contains("the reference changed"), "{error}");
        assert_eq!(lines(&path), 4);
    }
}
