//! Checkpoints: directories that are either whole or not there.
//!
//! `checkpoints/step-N/` holds the files that a task wrote (weights, optimiser, ...) and a manifest `checkpoint.json`
//! with each file's size and CRC-32. A checkpoint is written into a hidden sibling directory, every file is brought to
//! the disk, and the directory is renamed; removal renames first, too. So at any moment of a kill or a power cut, what
//! is called `step-N` is complete, and reading still verifies it, because disks and people damage files as well.
//!
//! The newest checkpoint counts. If it is damaged, [`Checkpoints::latest`] says what is wrong and which older one is
//! whole, and stops: training silently continued from an older state would look like a successful resume.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{FileError, parent, sync_directory};
use crate::manifest::{self, Manifest, ManifestError};

/// Prefix of a directory that is being written or removed; a leftover of a killed process is deleted on resume.
const UNFINISHED: &str = ".unfinished-";

/// A checkpoint could not be written, found or trusted.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A checkpoint is damaged.
    #[error("the checkpoint {} is damaged: {reason}{}", path.display(), advice(*older))]
    Damaged {
        /// The checkpoint's directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The newest older checkpoint that is whole.
        older: Option<u64>,
    },
    /// A newer program wrote the checkpoint.
    #[error("the checkpoint {} has format version {version}, but this program reads {}; use the newer program", path.display(), manifest::VERSION)]
    Version {
        /// The checkpoint's directory.
        path: PathBuf,
        /// The version it states.
        version: u32,
    },
    /// There is no checkpoint for this step.
    #[error("there is no checkpoint {}; {}", path.display(), offer(available))]
    NoSuchStep {
        /// The checkpoint's directory.
        path: PathBuf,
        /// The steps for which there are checkpoints.
        available: Vec<u64>,
    },
    /// A checkpoint for this step is there already.
    #[error("the checkpoint {} exists already; remove it, or resume from it instead of repeating its steps", path.display())]
    Exists {
        /// The checkpoint's directory.
        path: PathBuf,
    },
    /// A file that the program needs is not part of the checkpoint.
    #[error("the checkpoint {} has no file \"{name}\"; it was written by another command or program version", path.display())]
    NoSuchFile {
        /// The checkpoint's directory.
        path: PathBuf,
        /// The file.
        name: String,
    },
    /// The writer put something into the checkpoint that cannot be kept there.
    #[error("{} cannot be part of a checkpoint: only plain files and directories with UTF-8 names can, and {} is taken", path.display(), manifest::NAME)]
    Unsuitable {
        /// The offending entry.
        path: PathBuf,
    },
}

fn advice(older: Option<u64>) -> String {
    match older {
        Some(step) => {
            format!("; to continue from step {step} instead, whose checkpoint is whole, remove this directory")
        }
        None => "; no older checkpoint is whole: start a new run, or restore the files from a copy".to_owned(),
    }
}

fn offer(available: &[u64]) -> String {
    if available.is_empty() {
        return "the run has no checkpoints yet".to_owned();
    }
    let steps: Vec<String> = available.iter().map(u64::to_string).collect();
    format!("there are checkpoints for the steps {}", steps.join(", "))
}

/// Why [`Checkpoints::save`] failed: in the task's own writing, or around it.
#[derive(Debug, thiserror::Error)]
pub enum SaveError<E: std::error::Error + 'static> {
    /// The closure that writes the files failed.
    #[error(transparent)]
    Content(E),
    /// The checkpoint could not be completed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Which way a score is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// A loss.
    Lower,
    /// An accuracy or a reward.
    Higher,
}

/// Which checkpoints are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The newest this many; at least one is always kept.
    pub last: usize,
    /// In addition, the one with the best score.
    pub best: Option<Better>,
}

/// The checkpoints of one run, in `checkpoints/`.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    directory: PathBuf,
}

impl Checkpoints {
    /// The checkpoints in this directory, which need not exist yet.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// The directory of the checkpoint for a step.
    #[must_use]
    pub fn path(&self, step: u64) -> PathBuf {
        self.directory.join(format!("step-{step}"))
    }

    /// The steps for which there are checkpoints, ascending; nothing is verified.
    ///
    /// # Errors
    /// [`FileError`] when the directory cannot be read.
    pub fn steps(&self) -> Result<Vec<u64>, FileError> {
        let mut steps: Vec<u64> = self.names()?.iter().filter_map(|name| step_of(name)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Writes the checkpoint for `step`: `write` puts files into the (empty) directory it is given, and when it is
    /// done the directory becomes `step-N` in one move. `score` is what [`Retention::best`] compares.
    ///
    /// # Errors
    /// [`SaveError`]; nothing called `step-N` then exists, and all earlier checkpoints are as they were.
    pub fn save<E: std::error::Error + 'static>(
        &self,
        step: u64,
        score: Option<f64>,
        write: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Checkpoint, SaveError<E>> {
        let path = self.path(step);
        if path.exists() {
            return Err(CheckpointError::Exists { path }.into());
        }
        let unfinished = self.directory.join(format!("{UNFINISHED}step-{step}"));
        let result = self.fill(&unfinished, &path, step, score, write);
        if result.is_err() {
            // The first error is the one to report; what cannot be removed now is removed by the next resume.
            let _ = fs::remove_dir_all(&unfinished);
        }
        result
    }

    fn fill<E: std::error::Error + 'static>(
        &self,
        unfinished: &Path,
        path: &Path,
        step: u64,
        score: Option<f64>,
        write: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Checkpoint, SaveError<E>> {
        if unfinished.exists() {
            fs::remove_dir_all(unfinished).map_err(file("remove", unfinished))?;
        }
        fs::create_dir_all(unfinished).map_err(file("create the directory", unfinished))?;
        write(unfinished).map_err(SaveError::Content)?;
        let manifest = Manifest::seal(unfinished, step, score).map_err(|error| explain(unfinished, error))?;
        fs::rename(unfinished, path).map_err(file("rename the finished checkpoint to", path))?;
        sync_directory(&self.directory).map_err(CheckpointError::File)?;
        sync_directory(parent(&self.directory)).map_err(CheckpointError::File)?;
        Ok(Checkpoint {
            directory: path.to_path_buf(),
            manifest,
        })
    }

    /// The newest checkpoint, verified; `None` when there is none.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] when the newest is not whole; the message names the newest one that is.
    pub fn latest(&self) -> Result<Option<Checkpoint>, CheckpointError> {
        let mut steps = self.steps()?;
        let Some(newest) = steps.pop() else { return Ok(None) };
        match self.open(newest) {
            Err(CheckpointError::Damaged { path, reason, .. }) => {
                let older = steps.into_iter().rev().find(|step| self.open(*step).is_ok());
                Err(CheckpointError::Damaged { path, reason, older })
            }
            result => result.map(Some),
        }
    }

    /// The checkpoint for a step, verified: every file has the size and the checksum of the manifest.
    ///
    /// # Errors
    /// [`CheckpointError`] naming what is wrong.
    pub fn open(&self, step: u64) -> Result<Checkpoint, CheckpointError> {
        let directory = self.path(step);
        if !directory.is_dir() {
            return Err(CheckpointError::NoSuchStep {
                path: directory,
                available: self.steps()?,
            });
        }
        let read = Manifest::read(&directory).and_then(|manifest| {
            if manifest.step != step {
                let reason = format!("its {} says that it is of step {}", manifest::NAME, manifest.step);
                return Err(ManifestError::Damaged(reason));
            }
            manifest.verify(&directory).map(|()| manifest)
        });
        let manifest = read.map_err(|error| explain(&directory, error))?;
        Ok(Checkpoint { directory, manifest })
    }

    /// Removes the checkpoints that `retention` does not ask for, and gives their steps.
    ///
    /// # Errors
    /// [`CheckpointError`] when a manifest cannot be read or a directory cannot be removed.
    pub fn prune(&self, retention: Retention) -> Result<Vec<u64>, CheckpointError> {
        let steps = self.steps()?;
        let mut kept: BTreeSet<u64> = steps.iter().rev().take(retention.last.max(1)).copied().collect();
        if let Some(better) = retention.best {
            kept.extend(self.best(better)?);
        }
        let removed: Vec<u64> = steps.into_iter().filter(|step| !kept.contains(step)).collect();
        removed.iter().try_for_each(|step| self.remove(*step))?;
        Ok(removed)
    }

    /// The step of the checkpoint with the best score, the earliest among equals; `None` when none has a score.
    ///
    /// # Errors
    /// [`FileError`] when a directory cannot be read. A checkpoint whose manifest is damaged has no score.
    pub fn best(&self, better: Better) -> Result<Option<u64>, FileError> {
        let mut best: Option<(f64, u64)> = None;
        for step in self.steps()? {
            let Some(score) = Manifest::read(&self.path(step))
                .ok()
                .and_then(|manifest| manifest.score)
            else {
                continue;
            };
            let improves = best.is_none_or(|(held, _)| match better {
                Better::Lower => score < held,
                Better::Higher => score > held,
            });
            if improves {
                best = Some((score, step));
            }
        }
        Ok(best.map(|(_, step)| step))
    }

    /// Removes what a killed process left half-written or half-removed. Only the holder of the run's lock may call it.
    ///
    /// # Errors
    /// [`CheckpointError::File`] when a directory cannot be removed.
    pub fn remove_unfinished(&self) -> Result<(), CheckpointError> {
        for name in self.names()?.iter().filter(|name| name.starts_with(UNFINISHED)) {
            let path = self.directory.join(name);
            fs::remove_dir_all(&path).map_err(FileError::because("remove", path))?;
        }
        Ok(())
    }

    fn remove(&self, step: u64) -> Result<(), CheckpointError> {
        let (path, unfinished) = (
            self.path(step),
            self.directory.join(format!("{UNFINISHED}removal-{step}")),
        );
        fs::rename(&path, &unfinished).map_err(FileError::because("remove", &path))?;
        fs::remove_dir_all(&unfinished).map_err(FileError::because("remove", &unfinished))?;
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, FileError> {
        if !self.directory.exists() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&self.directory).map_err(FileError::because("read", &self.directory))?;
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().unwrap_or_default()));
        names
            .collect::<Result<_, _>>()
            .map_err(FileError::because("read", &self.directory))
    }
}

/// A verified checkpoint.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    directory: PathBuf,
    manifest: Manifest,
}

impl Checkpoint {
    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The number of steps done when it was written.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// The score it was saved with.
    #[must_use]
    pub fn score(&self) -> Option<f64> {
        self.manifest.score
    }

    /// The names of its files, relative to the directory, with `/` between parts.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.manifest.files.iter().map(|entry| entry.path.as_str())
    }

    /// The path of one of its files.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchFile`] when the manifest does not list it.
    pub fn file(&self, name: &str) -> Result<PathBuf, CheckpointError> {
        if self.files().any(|file| file == name) {
            return Ok(self.directory.join(name));
        }
        Err(CheckpointError::NoSuchFile {
            path: self.directory.clone(),
            name: name.to_owned(),
        })
    }

    /// The content of one of its files.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchFile`] when the manifest does not list it, [`CheckpointError::File`] when it cannot be
    /// read.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let path = self.file(name)?;
        Ok(fs::read(&path).map_err(FileError::because("read", path))?)
    }
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CheckpointError {
    let because = FileError::because(action, path);
    move |cause| because(cause).into()
}

/// Adds the checkpoint's directory to what its manifest complains of.
fn explain(directory: &Path, error: ManifestError) -> CheckpointError {
    let path = directory.to_path_buf();
    match error {
        ManifestError::File(error) => error.into(),
        ManifestError::Unsuitable(path) => CheckpointError::Unsuitable { path },
        ManifestError::Version(version) => CheckpointError::Version { path, version },
        ManifestError::Damaged(reason) => CheckpointError::Damaged {
            path,
            reason,
            older: None,
        },
    }
}

fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("step-")?;
    // "step-007" and "step-+7" are somebody else's directories.
    digits.parse().ok().filter(|step: &u64| step.to_string() == digits)
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
