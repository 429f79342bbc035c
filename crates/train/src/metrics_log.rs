//! `metrics.jsonl`: what a run measured, a line at a time.
//!
//! Each line is a JSON object with `step`, the number of optimiser steps done, and the metrics by name. NaN and
//! infinities, which JSON lacks, are null.
//!
//! A resumed run cuts the file back to its checkpoint's step before it appends; so the file of an interrupted run and
//! that of an uninterrupted one differ in nothing but the times they state.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::files::FileError;
use crate::metrics::Metrics;

/// `metrics.jsonl` could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A line is not what this program writes.
    #[error("line {line} of {} is not a line of metrics ({reason}); repair or remove it", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// `metrics.jsonl`, open for appending.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    not_finite: BTreeSet<String>,
}

impl MetricsLog {
    /// Opens the file (creating it) and cuts it back to the lines up to `step`.
    ///
    /// # Errors
    /// [`MetricsError::Line`] when a line that would stay is damaged, [`MetricsError::File`] when the system refuses.
    pub fn open(path: &Path, step: u64) -> Result<Self, MetricsError> {
        let open = File::options().read(true).append(true).create(true).open(path);
        let mut file = open.map_err(FileError::because("open", path))?;
        let (kept, ends_in_newline) = length_up_to(path, &file, step)?;
        // Setting the length is one operation of the file system, so the file is whole before and after it, and it
        // works on a full disk.
        file.set_len(kept).map_err(FileError::because("shorten", path))?;
        if !ends_in_newline {
            file.write_all(b"\n").map_err(FileError::because("write", path))?;
        }
        Ok(Self {
            path: path.to_path_buf(),
            file,
            not_finite: BTreeSet::new(),
        })
    }

    /// Appends a line in one write. NaN and infinities, which JSON lacks, are written as null with a warning the first
    /// time.
    ///
    /// # Errors
    /// [`MetricsError::File`] when the system refuses.
    pub fn append(&mut self, step: u64, metrics: &Metrics) -> Result<(), MetricsError> {
        for (name, value) in metrics.iter().filter(|(_, value)| !value.is_finite()) {
            if self.not_finite.insert(name.to_owned()) {
                tracing::warn!(
                    "the metric {name} is {value} at step {step}; {} shows null",
                    self.path.display()
                );
            }
        }
        let mut line = serde_json::to_vec(&Line { step, metrics })
            .map_err(|error| FileError::because("write", &self.path)(error.into()))?;
        line.push(b'\n');
        Ok(self
            .file
            .write_all(&line)
            .map_err(FileError::because("write", &self.path))?)
    }

    /// Brings the lines to the disk; done before every checkpoint, so that a checkpoint never precedes its metrics.
    ///
    /// # Errors
    /// [`MetricsError::File`] when the system refuses.
    pub fn sync(&self) -> Result<(), MetricsError> {
        Ok(self
            .file
            .sync_data()
            .map_err(FileError::because("bring to the disk", &self.path))?)
    }
}

struct Line<'a> {
    step: u64,
    metrics: &'a Metrics,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("step", &self.step)?;
        // serde_json writes f64 that are not finite as null. A metric cannot take the step's name.
        for (name, value) in self.metrics.iter().filter(|(name, _)| *name != "step") {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

/// A line of `metrics.jsonl` as read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct MetricsLine {
    /// The number of optimiser steps done.
    pub step: u64,
    /// The metrics; `None` where the value was NaN or infinite.
    #[serde(flatten)]
    pub values: BTreeMap<String, Option<f64>>,
}

/// Reads a `metrics.jsonl`. A last line without its end, as a kill leaves it, is left out.
///
/// # Errors
/// [`MetricsError`] naming the file and the line.
pub fn read_metrics(path: &Path) -> Result<Vec<MetricsLine>, MetricsError> {
    let file = File::open(path).map_err(FileError::because("open", path))?;
    let mut lines = Vec::new();
    scan(path, &file, |line, _, _| {
        lines.push(line);
        true
    })?;
    Ok(lines)
}

/// The length of the file's beginning with all lines up to `step`, and whether it ends in a line break (or is empty).
fn length_up_to(path: &Path, file: &File, step: u64) -> Result<(u64, bool), MetricsError> {
    let mut kept = (0, true);
    scan(path, file, |line, end, complete| {
        if line.step <= step {
            kept = (end, complete);
        }
        line.step <= step
    })?;
    Ok(kept)
}

/// Calls `each` with every line, where it ends, and whether it ends in a line break, until `each` returns false.
fn scan(path: &Path, file: &File, mut each: impl FnMut(MetricsLine, u64, bool) -> bool) -> Result<(), MetricsError> {
    let mut reader = BufReader::new(file);
    let (mut bytes, mut end) = (Vec::new(), 0u64);
    for line in 1.. {
        bytes.clear();
        end += reader
            .read_until(b'\n', &mut bytes)
            .map_err(FileError::because("read", path))? as u64;
        let complete = bytes.last() == Some(&b'\n');
        match serde_json::from_slice(&bytes) {
            _ if bytes.is_empty() => break,
            Ok(parsed) => {
                if !each(parsed, end, complete) {
                    break;
                }
            }
            // The last line of a process that was killed while writing it.
            Err(_) if !complete => break,
            Err(error) => {
                return Err(MetricsError::Line {
                    path: path.to_path_buf(),
                    line,
                    reason: error.to_string(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        (directory, path)
    }

    #[test]
    fn lines_are_appended_and_read() {
        let (_directory, path) = place();
        let mut log = MetricsLog::open(&path, 0).unwrap();
        log.append(1, &Metrics::new().mean("loss", 0.1).last("rewards/chosen", f64::NAN))
            .unwrap();
        log.append(1, &Metrics::new().mean("eval_loss", f64::INFINITY).last("step", 9.0))
            .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\"step\":1,\"loss\":0.1,\"rewards/chosen\":null}\n{\"step\":1,\"eval_loss\":null}\n"
        );
        let lines = read_metrics(&path).unwrap();
        assert_eq!((lines.len(), lines[0].step, lines[0].values["loss"]), (2, 1, Some(0.1)));
        assert_eq!(lines[0].values["rewards/chosen"], None);
    }

    #[test]
    fn damage_before_the_cut_is_named_and_changes_nothing() {
        let (_directory, path) = place();
        let text = "{\"step\":1,\"loss\":1.0}\nnonsense\n{\"step\":3,\"loss\":1.0}\n";
        std::fs::write(&path, text).unwrap();
        let message = MetricsLog::open(&path, 3).unwrap_err().to_string();
        assert!(
            message.contains("line 2 of") && message.contains("metrics.jsonl"),
            "{message}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_explained() {
        let (_directory, path) = place();
        let full = MetricsLog {
            path,
            file: File::create("/dev/full").unwrap(),
            not_finite: BTreeSet::new(),
        };
        let message = { full }.append(1, &Metrics::new()).unwrap_err().to_string();
        assert!(
            message.contains("metrics.jsonl") && message.contains("free some space"),
            "{message}"
        );
    }

    fn line(step: u64) -> String {
        format!("{{\"step\":{step},\"loss\":{}}}\n", step as f64 * 0.1)
    }

    proptest! {
        #[test]
        fn cutting_back_keeps_exactly_the_lines_up_to_the_step(last in 0u64..30, step in 0u64..35, torn in 0usize..40) {
            let (_directory, path) = place();
            let whole: String = (1..=last).map(line).collect();
            let next = line(last + 1);
            // A torn line may be anything from empty to whole but for its line break.
            let torn = &next[..torn.min(next.len() - 1)];
            std::fs::write(&path, format!("{whole}{torn}")).unwrap();
            drop(MetricsLog::open(&path, step).unwrap());
            let mut expected: String = (1..=last.min(step)).map(line).collect();
            if torn.len() == next.len() - 1 && step > last {
                expected.push_str(&next);
            }
            prop_assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), step in any::<u64>()) {
            let (_directory, path) = place();
            std::fs::write(&path, &bytes).unwrap();
            match MetricsLog::open(&path, step) {
                Ok(_) => prop_assert!(read_metrics(&path).unwrap().iter().all(|line| line.step <= step)),
                Err(_) => prop_assert_eq!(std::fs::read(&path).unwrap(), bytes),
            }
        }
    }
}
