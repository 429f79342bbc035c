//! Rows by their number, straight from the files: for data larger than memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::files::{self, Format, Source};
use super::parse;
use super::row::Row;
use super::rows::{self, Rows, Spot};
use super::table::{self, Table};
use super::{DataError, Kind, Place};

/// Files that are kept open.
const MOST_OPEN: usize = 64;

/// A row group above this size, unpacked, makes reading single rows from it slow: 64 MiB take about a second.
const LARGE_GROUP: u64 = 64 << 20;

/// Where each row of some files is. Takes 24 bytes for each row.
pub struct Index {
    kind: Kind,
    sources: Vec<Source>,
    spots: Vec<(u32, Spot)>,
    other_columns: Vec<String>,
    notes: Vec<String>,
    open: Mutex<BTreeMap<u32, Open>>,
}

/// A file with what is read of it.
enum Open {
    Bytes(File),
    Table(Box<OpenTable>),
}

struct OpenTable {
    table: Table,
    /// The row group last read from, with the number of its next row: rows in order are read without going back.
    group: Option<(u32, u64, table::Rows)>,
}

impl Index {
    /// Reads and checks every row once, and remembers where it is.
    ///
    /// # Errors
    /// The first row's that is not in order; [`DataError::Unsupported`] for gzipped files, which can only be read from
    /// their beginning; [`DataError::Empty`].
    pub fn build(paths: &[PathBuf], kind: Kind) -> Result<Self, DataError> {
        Self::new(files::find(paths, kind)?, kind)
    }

    pub(super) fn new(sources: Vec<Source>, kind: Kind) -> Result<Self, DataError> {
        let mut index = Self {
            kind,
            sources,
            spots: Vec::new(),
            other_columns: Vec::new(),
            notes: Vec::new(),
            open: Mutex::new(BTreeMap::new()),
        };
        if let Some(packed) = index.sources.iter().find(|source| source.packed) {
            let found = "gzipped, so its rows cannot be read one by one";
            let remedy = "unpack it with gunzip, or allow as much memory as the unpacked data need";
            return Err(DataError::unsupported(&packed.path, found, remedy));
        }
        let mut names = std::collections::BTreeSet::new();
        for (file, source) in index.sources.iter().enumerate() {
            let mut rows = Rows::new(vec![source.clone()], kind);
            while let Some(row) = rows.next_with_spot() {
                let (_, spot, _) = row?;
                index.spots.push((file as u32, spot));
            }
            names.extend(rows.other_columns().iter().cloned());
            if source.format == Format::Table {
                index.notes.extend(note_on_groups(source, kind)?);
            }
        }
        index.other_columns = names.into_iter().collect();
        Ok(index)
    }

    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spots.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spots.is_empty()
    }

    /// Names of the columns besides those of the rows' shapes.
    #[must_use]
    pub fn other_columns(&self) -> &[String] {
        &self.other_columns
    }

    /// What the user should know, in sentences.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Reads a row. Rows of a Parquet file are quickest in order.
    ///
    /// # Errors
    /// [`DataError::TooFew`]; what reading the file gives if it was changed since.
    pub fn get(&self, row: usize) -> Result<Row, DataError> {
        let (file, spot) = self.spots.get(row).copied().ok_or_else(|| DataError::TooFew {
            origin: "the data".to_owned(),
            wanted: row,
            available: self.len(),
        })?;
        let source = &self.sources[file as usize];
        let place = Place::whole(&source.path);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MOST_OPEN && !open.contains_key(&file) {
            open.clear();
        }
        let opened = match open.entry(file) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Open::new(source, self.kind)?),
        };
        let keys = match (opened, spot) {
            (Open::Bytes(file), Spot::Bytes { start, length }) => {
                let mut text = Vec::new();
                let read = file
                    .seek(SeekFrom::Start(start))
                    .and_then(|_| file.take(u64::from(length)).read_to_end(&mut text));
                read.map_err(DataError::unreadable(&source.path))?;
                if source.format == Format::Plain {
                    rows::plain_keys(&place, self.kind, &text)
                } else {
                    rows::json_keys(&place, &text)
                }
            }
            (Open::Table(table), Spot::Row { group, row }) => table.row(&place, group, row),
            _ => Err(changed(&place)),
        };
        Ok(parse::parse(self.kind, &place, keys?, &[])?.0)
    }
}

impl Open {
    fn new(source: &Source, kind: Kind) -> Result<Self, DataError> {
        if source.format != Format::Table {
            return File::open(&source.path)
                .map(Self::Bytes)
                .map_err(DataError::unreadable(&source.path));
        }
        let table = Table::open(&Arc::clone(&source.path), |name| parse::reads(kind, name))?;
        Ok(Self::Table(Box::new(OpenTable { table, group: None })))
    }
}

impl OpenTable {
    fn row(
        &mut self,
        place: &Place,
        group: u32,
        row: u64,
    ) -> Result<serde_json::Map<String, serde_json::Value>, DataError> {
        let (mut at, mut rows) = match self.group.take() {
            Some((open, at, rows)) if open == group && at <= row => (at, rows),
            _ => (0, self.table.group(group as usize)?),
        };
        loop {
            let found = self.table.next(&mut rows).ok_or_else(|| changed(place))?;
            let found = found.map_err(|problem| place.malformed(problem, "write the file again"))?;
            at += 1;
            if at > row {
                self.group = Some((group, at, rows));
                return Ok(found);
            }
        }
    }
}

fn changed(place: &Place) -> DataError {
    place.malformed(
        "changed since its rows were counted",
        "put it back as it was, or start again",
    )
}

fn note_on_groups(source: &Source, kind: Kind) -> Result<Option<String>, DataError> {
    let sizes = Table::open(&source.path, |name| parse::reads(kind, name))?.group_sizes();
    let largest = sizes.into_iter().max().unwrap_or(0);
    Ok((largest > LARGE_GROUP).then(|| {
        format!(
            "{} has row groups of up to {} MiB, and to read one row the group is read up to it: allow more memory, or \
             write the file with smaller row groups (in pandas: df.to_parquet(path, row_group_size=1000))",
            source.path.display(),
            largest >> 20
        )
    }))
}
