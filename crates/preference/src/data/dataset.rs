//! A data set for training: rows by their number.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use super::files::{self, Format, Source};
use super::parse;
use super::row::Row;
use super::rows::Rows;
use super::table::Table;
use super::{DataError, Index, Kind};

/// Data up to this size, unpacked and in bytes, are best held in memory.
pub const MEMORY: u64 = 256 << 20;

/// Rows of one kind, by number. A clone or a part shares the rows with the original.
#[derive(Clone)]
pub struct Dataset {
    origin: Arc<str>,
    store: Arc<Store>,
    other_columns: Arc<[String]>,
    /// The rows of the store that belong to this set; all of them if absent.
    selection: Option<Arc<[usize]>>,
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("Dataset");
        shown.field("origin", &self.origin).field("rows", &self.len()).finish()
    }
}

enum Store {
    Memory(Vec<Row>),
    Files(Index),
}

impl Dataset {
    /// Reads files or directories, in order, and checks every row. If the data are larger than `memory` bytes,
    /// unpacked (see [`MEMORY`]), only the places of the rows are kept, and a row is read when it is asked for.
    ///
    /// # Errors
    /// [`DataError`] of the first row that is not in order; [`DataError::Unsupported`] for gzipped files that unpack to
    /// more than `memory`; [`DataError::Empty`].
    pub fn open(paths: &[PathBuf], kind: Kind, memory: u64) -> Result<Self, DataError> {
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let origin: Arc<str> = names.join(", ").into();
        let sources = files::find(paths, kind)?;
        let mut size = 0u64;
        for source in &sources {
            size = size.saturating_add(stated_size(source, kind)?);
        }
        let (store, other_columns) = if size <= memory {
            let mut rows = Rows::new(sources.clone(), kind);
            let mut all = Vec::new();
            while let Some(row) = rows.next() {
                all.push(row?.1);
                if rows.bytes_read() > memory {
                    return Err(too_large(&sources, memory));
                }
            }
            (Store::Memory(all), rows.other_columns().iter().cloned().collect())
        } else {
            let index = Index::new(sources, kind)?;
            let names = index.other_columns().into();
            (Store::Files(index), names)
        };
        let dataset = Self {
            origin,
            store: Arc::new(store),
            other_columns,
            selection: None,
        };
        if dataset.is_empty() {
            return Err(DataError::Empty {
                origin: dataset.origin.to_string(),
            });
        }
        Ok(dataset)
    }

    /// A set of rows that are there already.
    #[must_use]
    pub fn from_rows(origin: &str, rows: Vec<Row>) -> Self {
        Self {
            origin: origin.into(),
            store: Arc::new(Store::Memory(rows)),
            other_columns: Vec::new().into(),
            selection: None,
        }
    }

    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        match (&self.selection, &*self.store) {
            (Some(selection), _) => selection.len(),
            (None, Store::Memory(rows)) => rows.len(),
            (None, Store::Files(index)) => index.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The files or directories that it was read from.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether the rows are held in memory, rather than read when they are asked for.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        matches!(*self.store, Store::Memory(_))
    }

    /// What the user should know about the data, in sentences.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.other_columns.is_empty() {
            notes.push(format!("columns kept aside: {}", self.other_columns.join(", ")));
        }
        if let Store::Files(index) = &*self.store {
            notes.push(format!(
                "{} rows are read from the files when they are needed",
                index.len()
            ));
            notes.extend_from_slice(index.notes());
        }
        notes
    }

    /// A row, by its number in this set.
    ///
    /// # Errors
    /// [`DataError::TooFew`]; what reading the file gives if it was changed since.
    pub fn get(&self, row: usize) -> Result<Cow<'_, Row>, DataError> {
        let too_few = || DataError::TooFew {
            origin: self.origin.to_string(),
            wanted: row,
            available: self.len(),
        };
        let number = match &self.selection {
            Some(selection) => *selection.get(row).ok_or_else(too_few)?,
            None => row,
        };
        match &*self.store {
            Store::Memory(rows) => rows.get(number).map(Cow::Borrowed).ok_or_else(too_few),
            Store::Files(index) => index.get(number).map(Cow::Owned),
        }
    }

    /// A row's number in the files, counted from 1 over all of them.
    #[must_use]
    pub fn number_in_files(&self, row: usize) -> usize {
        let selection = self.selection.as_ref().and_then(|selection| selection.get(row));
        selection.copied().unwrap_or(row) + 1
    }

    /// Feeds everything that a model could learn from the set to a checksum: its rows in their order, in a form that
    /// depends neither on the format of the files nor on whether they are in memory. (The keys of a message come in the
    /// order that they have there.)
    ///
    /// # Errors
    /// Those of [`Dataset::get`].
    pub fn fingerprint(&self, feed: &mut dyn FnMut(&[u8])) -> Result<(), DataError> {
        for row in 0..self.len() {
            let row = self.get(row)?;
            // Writing JSON to memory fails only for keys that are not text, which a row does not have.
            let mut text = serde_json::to_vec(&*row).unwrap_or_default();
            text.push(b'\n');
            feed(&text);
        }
        Ok(())
    }

    /// Splits the set in two: the rest, and `count` rows held out. `order` is the numbers of all rows, shuffled by the
    /// caller; its first `count` are held out. Both parts keep the order of the files.
    ///
    /// # Errors
    /// [`DataError::TooFew`] unless at least one row is left for either part.
    pub fn split(&self, count: usize, order: &[usize]) -> Result<(Self, Self), DataError> {
        if count == 0 || count >= self.len() || order.len() != self.len() {
            return Err(DataError::TooFew {
                origin: self.origin.to_string(),
                wanted: count,
                available: self.len(),
            });
        }
        let part = |numbers: &[usize]| {
            let mut numbers = numbers.to_vec();
            numbers.sort_unstable();
            let numbers = numbers.into_iter().filter(|number| *number < self.len());
            let selection = match &self.selection {
                Some(selection) => numbers.map(|number| selection[number]).collect(),
                None => numbers.collect(),
            };
            Self {
                selection: Some(selection),
                ..self.clone()
            }
        };
        Ok((part(&order[count..]), part(&order[..count])))
    }
}

/// What a file takes, unpacked, as far as it says.
fn stated_size(source: &Source, kind: Kind) -> Result<u64, DataError> {
    if source.format == Format::Table {
        let sizes = Table::open(&source.path, |name| parse::reads(kind, name))?.group_sizes();
        return Ok(sizes.into_iter().fold(0, u64::saturating_add));
    }
    let metadata = std::fs::metadata(&source.path).map_err(DataError::unreadable(&source.path))?;
    Ok(metadata.len())
}

fn too_large(sources: &[Source], memory: u64) -> DataError {
    let packed = sources.iter().find(|source| source.packed).or(sources.first());
    let path = packed.map(|source| source.path.to_path_buf()).unwrap_or_default();
    let found = format!("unpacks to more than the {} MiB that are held in memory", memory >> 20);
    DataError::unsupported(&path, found, "unpack it with gunzip, or allow more memory")
}

#[cfg(test)]
#[path = "dataset_tests.rs"]
mod tests;
