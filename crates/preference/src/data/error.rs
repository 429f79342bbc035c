//! What can be wrong with text data, said so that its owner can put it right.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where in which file a row or a problem is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: Arc<Path>,
    /// Where in it.
    pub position: Position,
}

/// Where in a file something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The file as a whole.
    Whole,
    /// A line, counted from 1 as editors do.
    Line(u64),
    /// A row of a Parquet file, counted from 0 as data frames do.
    Row(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.path.display())?;
        match self.position {
            Position::Whole => Ok(()),
            Position::Line(line) => write!(formatter, ", line {line}"),
            Position::Row(row) => write!(formatter, ", row {row} (counted from 0)"),
        }
    }
}

/// Why text data could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused.
    #[error("cannot read {}: {source}; check that the path is right and that you may read it", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file's content contradicts its format.
    #[error("{place}: {problem}; {remedy}")]
    Malformed {
        /// Where.
        place: Place,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// A row is in order as a row, but one of its keys is missing or holds what it may not.
    #[error("{place}, \"{key}\": {problem}; {remedy}")]
    Key {
        /// Where.
        place: Place,
        /// The key, with the way to it: `chosen[1].content`.
        key: String,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// A row has not the keys of the wanted kind, or those of two shapes at once.
    #[error("{place}: {wanted}; this row has {found}; {remedy}")]
    Shape {
        /// Where.
        place: Place,
        /// What the caller needs.
        wanted: String,
        /// The keys of the row.
        found: String,
        /// What to do about it.
        remedy: String,
    },
    /// The file or directory is in order, but cannot be used in this way.
    #[error("{}: {found}; {remedy}", path.display())]
    Unsupported {
        /// The file or directory.
        path: PathBuf,
        /// What it is or holds.
        found: String,
        /// What to do about it.
        remedy: String,
    },
    /// There is no row.
    #[error("{origin}: no rows; check that this is the file you meant")]
    Empty {
        /// The files.
        origin: String,
    },
    /// A row or a number of rows was asked for that the data do not have.
    #[error("{origin} has {available} rows, not {wanted}; ask for fewer")]
    TooFew {
        /// The files.
        origin: String,
        /// What was asked for.
        wanted: usize,
        /// The rows there are.
        available: usize,
    },
}

impl DataError {
    pub(super) fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Unreadable {
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn unsupported(path: &Path, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Unsupported {
            path: path.to_owned(),
            found: found.into(),
            remedy: remedy.into(),
        }
    }
}

impl Place {
    /// The file as a whole.
    pub(super) fn whole(path: &Arc<Path>) -> Self {
        Self {
            path: Arc::clone(path),
            position: Position::Whole,
        }
    }

    pub(super) fn malformed(&self, problem: impl Into<String>, remedy: impl Into<String>) -> DataError {
        DataError::Malformed {
            place: self.clone(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    pub(super) fn key(
        &self,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> DataError {
        DataError::Key {
            place: self.clone(),
            key: key.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}
