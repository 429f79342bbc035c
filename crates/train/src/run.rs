//! A run is a directory.
//!
//! ```text
//! RUN/config.toml             every setting, defaults filled in
//! RUN/metrics.jsonl           one line per logging interval and per evaluation
//! RUN/tensorboard/            the same as TensorBoard events
//! RUN/checkpoints/step-N/     everything that is needed to continue
//! RUN/model/                  the result, in the ecosystem's own format
//! RUN/samples/                what was sampled along the way
//! RUN/.lock                   held while a process trains into the run
//! ```
//!
//! Whatever is known about a run is in there, so copying the directory copies the run, and a run is resumed from
//! nothing but its path. The lock is the operating system's advisory lock on an open file: it vanishes with the
//! process that held it, however that ended, so there are no stale locks to remove by hand.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::checkpoint::{CheckpointError, Checkpoints};
use crate::files::{FileError, is_temporary, parent, sync_directory, write_atomic};

const CONFIG: &str = "config.toml";
const LOCK: &str = ".lock";

/// A run could not be created or opened.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The checkpoints could not be tidied up.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The directory holds a run already.
    #[error("{} holds a run already; continue it with --resume, or give another directory with --out", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds something else.
    #[error("{} is not empty and holds no run (there is no {CONFIG} in it); give another directory with --out", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// There is no run to resume.
    #[error("{} holds no run (there is no {CONFIG} in it); check the path, or start a run by leaving out --resume", path.display())]
    NoRun {
        /// The directory.
        path: PathBuf,
    },
    /// Another process trains into the run.
    #[error("another process{} is training into {}; wait for it or stop it, or give another directory with --out",
        if holder.is_empty() { String::new() } else { format!(" (process {holder})") }, path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process id that the lock's holder left, if it can be read.
        holder: String,
    },
    /// The configuration is not what the run was started with.
    #[error(
        "the run in {} was started with other settings: {}; resume it with its own settings (leave those flags out), \
         or start a new run with another --out", path.display(), list(differences)
    )]
    Differs {
        /// The directory.
        path: PathBuf,
        /// The settings that may not change.
        differences: Vec<Difference>,
    },
    /// The configuration file cannot be understood.
    #[error("{} cannot be read: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// The configuration cannot be expressed in TOML.
    #[error("the configuration cannot be written as TOML: {reason}; whole numbers must be below 2^63")]
    Unwritable {
        /// Which value and why.
        reason: String,
    },
}

/// A setting that is not what the run was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The setting's key, with dots between tables.
    pub key: String,
    /// The run's value, as TOML; `None` when the run does not have the setting.
    pub before: Option<String>,
    /// The value now.
    pub now: Option<String>,
}

fn list(differences: &[Difference]) -> String {
    let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
    let one = |it: &Difference| format!("{} was {} and is now {}", it.key, show(&it.before), show(&it.now));
    differences.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A run that this process trains into; it is locked until this value is dropped.
#[derive(Debug)]
pub struct Run {
    directory: PathBuf,
    // Dropping the file releases the lock.
    _lock: File,
}

impl Run {
    /// Starts a run in a new or empty directory and writes `config` there.
    ///
    /// # Errors
    /// [`RunError`]; the directory is then as it was before.
    pub fn create(directory: &Path, config: &impl Serialize) -> Result<Self, RunError> {
        let text = to_toml(config)?;
        let is_new = !directory.exists();
        if !is_new {
            refuse_content(directory)?;
        }
        fs::create_dir_all(directory).map_err(FileError::because("create the directory", directory))?;
        let start = || {
            let lock = lock(directory)?;
            // Another process may have started a run here before the lock was held.
            refuse_content(directory)?;
            write_atomic(&directory.join(CONFIG), text.as_bytes())?;
            sync_directory(parent(directory))?;
            Ok(lock)
        };
        match start() {
            Ok(lock) => Ok(Self {
                directory: directory.to_path_buf(),
                _lock: lock,
            }),
            Err(error) => {
                if is_new && !matches!(error, RunError::Locked { .. } | RunError::Exists { .. }) {
                    // Best effort: the first error is the one to report, and a directory that is in use stays.
                    let _ = fs::remove_file(directory.join(LOCK));
                    let _ = fs::remove_dir(directory);
                }
                Err(error)
            }
        }
    }

    /// Opens a run to continue it. Settings under the keys in `may_change` (a table's key covers the table) may differ
    /// from the run's and replace them in `config.toml`; they are returned. Leftovers of a killed process are removed.
    ///
    /// # Errors
    /// [`RunError`], in particular [`RunError::Differs`] naming every other setting that is not the run's own.
    pub fn resume(
        directory: &Path,
        config: &impl Serialize,
        may_change: &[&str],
    ) -> Result<(Self, Vec<Difference>), RunError> {
        let path = directory.join(CONFIG);
        if !Self::exists(directory) {
            return Err(RunError::NoRun {
                path: directory.to_path_buf(),
            });
        }
        let run = Self {
            directory: directory.to_path_buf(),
            _lock: lock(directory)?,
        };
        let text = to_toml(config)?;
        let differences = compare(&read_toml(&path)?, &parse_toml(&path, &text)?);
        let allowed = |key: &str| {
            may_change
                .iter()
                .any(|free| key == *free || key.strip_prefix(free).is_some_and(|rest| rest.starts_with('.')))
        };
        let (changed, refused): (Vec<_>, Vec<_>) = differences.into_iter().partition(|it| allowed(&it.key));
        if !refused.is_empty() {
            return Err(RunError::Differs {
                path: directory.to_path_buf(),
                differences: refused,
            });
        }
        if !changed.is_empty() {
            write_atomic(&path, text.as_bytes())?;
        }
        for name in names(directory)?.iter().filter(|name| is_temporary(name)) {
            let path = directory.join(name);
            fs::remove_file(&path).map_err(FileError::because("remove", path))?;
        }
        run.checkpoints().remove_unfinished()?;
        Ok((run, changed))
    }

    /// Whether there is a run in this directory.
    #[must_use]
    pub fn exists(directory: &Path) -> bool {
        directory.join(CONFIG).is_file()
    }

    /// Reads the configuration of the run in `directory`, whether or not a process trains into it.
    ///
    /// # Errors
    /// [`RunError::NoRun`], or [`RunError::Config`] when the file does not fit the type.
    pub fn read_config<T: DeserializeOwned>(directory: &Path) -> Result<T, RunError> {
        if !Self::exists(directory) {
            return Err(RunError::NoRun {
                path: directory.to_path_buf(),
            });
        }
        let path = directory.join(CONFIG);
        let text = fs::read_to_string(&path).map_err(FileError::because("read", &path))?;
        toml::from_str(&text).map_err(|error| RunError::Config {
            path,
            reason: error.to_string(),
        })
    }

    /// The run's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the metrics are.
    #[must_use]
    pub fn metrics_path(&self) -> PathBuf {
        self.directory.join("metrics.jsonl")
    }

    /// Where the TensorBoard events are.
    #[must_use]
    pub fn tensorboard_directory(&self) -> PathBuf {
        self.directory.join("tensorboard")
    }

    /// Where the resulting model goes.
    #[must_use]
    pub fn model_directory(&self) -> PathBuf {
        self.directory.join("model")
    }

    /// Where samples drawn along the way go.
    #[must_use]
    pub fn samples_directory(&self) -> PathBuf {
        self.directory.join("samples")
    }

    /// The run's checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> Checkpoints {
        Self::checkpoints_of(&self.directory)
    }

    /// The checkpoints of the run in `directory`, for reading.
    #[must_use]
    pub fn checkpoints_of(directory: &Path) -> Checkpoints {
        Checkpoints::new(directory.join("checkpoints"))
    }
}

/// Refuses a directory that holds anything but what a process killed while creating a run leaves behind.
fn refuse_content(directory: &Path) -> Result<(), RunError> {
    if Run::exists(directory) {
        return Err(RunError::Exists {
            path: directory.to_path_buf(),
        });
    }
    match names(directory)?.iter().all(|name| name == LOCK || is_temporary(name)) {
        true => Ok(()),
        false => Err(RunError::NotEmpty {
            path: directory.to_path_buf(),
        }),
    }
}

fn names(directory: &Path) -> Result<Vec<String>, FileError> {
    let entries = fs::read_dir(directory).map_err(FileError::because("read", directory))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    names
        .collect::<Result<_, _>>()
        .map_err(FileError::because("read", directory))
}

fn lock(directory: &Path) -> Result<File, RunError> {
    let path = directory.join(LOCK);
    let open = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let mut file = open.map_err(FileError::because("open", &path))?;
    match file.try_lock() {
        Ok(()) => {
            // The process id is only for the message to others; the lock does not depend on it.
            let note = (|| {
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
                file.write_all(std::process::id().to_string().as_bytes())
            })();
            note.map_err(FileError::because("write", &path))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Without a readable id the message does without.
            let _ = file.take(20).read_to_string(&mut holder);
            Err(RunError::Locked {
                path: directory.to_path_buf(),
                holder,
            })
        }
        Err(TryLockError::Error(cause)) => Err(FileError::because("lock", path)(cause).into()),
    }
}

fn to_toml(config: &impl Serialize) -> Result<String, RunError> {
    let unwritable = |reason: String| RunError::Unwritable { reason };
    let text = toml::to_string(config).map_err(|error| unwritable(error.to_string()))?;
    // The serializer writes whole numbers that the reader refuses; the run would be lost at its first resume.
    text.parse::<toml::Table>()
        .map_err(|error| unwritable(error.to_string()))?;
    Ok(text)
}

fn read_toml(path: &Path) -> Result<toml::Table, RunError> {
    let text = fs::read_to_string(path).map_err(FileError::because("read", path))?;
    parse_toml(path, &text)
}

fn parse_toml(path: &Path, text: &str) -> Result<toml::Table, RunError> {
    text.parse().map_err(|error: toml::de::Error| RunError::Config {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })
}

fn compare(before: &toml::Table, now: &toml::Table) -> Vec<Difference> {
    let (before, now) = (flatten(before), flatten(now));
    let mut keys: Vec<&String> = before.iter().chain(&now).map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    let find = |settings: &[(String, String)], key: &str| {
        settings
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.clone())
    };
    let pairs = keys
        .into_iter()
        .map(|key| (key.clone(), find(&before, key), find(&now, key)));
    pairs
        .filter(|(_, before, now)| before != now)
        .map(|(key, before, now)| Difference { key, before, now })
        .collect()
}

/// The leaves of nested tables as (dotted key, value as TOML). An array is a leaf.
fn flatten(table: &toml::Table) -> Vec<(String, String)> {
    let mut leaves = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => {
                leaves.extend(
                    flatten(inner)
                        .into_iter()
                        .map(|(rest, value)| (format!("{key}.{rest}"), value)),
                );
            }
            leaf => leaves.push((key.clone(), leaf.to_string())),
        }
    }
    leaves
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
