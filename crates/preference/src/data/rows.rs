//! Rows of files, one after the other, whatever their number.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};

use super::files::{self, Format, Source};
use super::lines::{Fault, Lines, Objects, Span};
use super::message::describe;
use super::parse;
use super::row::Row;
use super::table::{self, Table};
use super::{DataError, Kind, Place, Position, json};

/// Names of columns that are kept aside, at most.
const MOST_NAMES: usize = 100;

/// Rows of one or more files, read one at a time. Ends after an error.
///
/// ```no_run
/// # use posterior_preference::data::{Kind, Rows};
/// for row in Rows::open("pairs.jsonl".as_ref(), Kind::Preference)? {
///     let (place, row) = row?;
///     println!("{place}: {}", row.shape());
/// }
/// # Ok::<(), posterior_preference::data::DataError>(())
/// ```
pub struct Rows {
    kind: Kind,
    sources: std::vec::IntoIter<Source>,
    records: Option<Records>,
    other_columns: BTreeSet<String>,
    unpacked: u64,
}

impl Rows {
    /// The rows of a file, or of the files of a directory in the order of their names.
    ///
    /// # Errors
    /// [`DataError::Unreadable`], or [`DataError::Unsupported`] if the name says no known format.
    pub fn open(path: &Path, kind: Kind) -> Result<Self, DataError> {
        Self::open_all(&[path.to_owned()], kind)
    }

    /// The rows of several files or directories, in order.
    ///
    /// # Errors
    /// Those of [`Rows::open`].
    pub fn open_all(paths: &[PathBuf], kind: Kind) -> Result<Self, DataError> {
        Ok(Self::new(files::find(paths, kind)?, kind))
    }

    pub(super) fn new(sources: Vec<Source>, kind: Kind) -> Self {
        Self {
            kind,
            sources: sources.into_iter(),
            records: None,
            other_columns: BTreeSet::new(),
            unpacked: 0,
        }
    }

    /// Names of the columns that the rows so far had besides those of their shape (the first hundred of them).
    #[must_use]
    pub fn other_columns(&self) -> &BTreeSet<String> {
        &self.other_columns
    }

    /// Bytes of text read so far, unpacked; Parquet files do not count.
    pub(super) fn bytes_read(&self) -> u64 {
        self.unpacked + self.records.as_ref().map_or(0, Records::bytes_read)
    }

    pub(super) fn next_with_spot(&mut self) -> Option<Result<(Place, Spot, Row), DataError>> {
        let row = self.advance();
        if let Some(Err(_)) = row {
            (self.records, self.sources) = (None, Vec::new().into_iter());
        }
        row
    }

    fn advance(&mut self) -> Option<Result<(Place, Spot, Row), DataError>> {
        loop {
            if self.records.is_none() {
                let source = self.sources.next()?;
                match Records::open(&source, self.kind) {
                    Ok(records) => {
                        self.keep_names(records.unread().iter().cloned());
                        self.records = Some(records);
                    }
                    Err(error) => return Some(Err(error)),
                }
            }
            let records = self.records.as_mut()?;
            match records.next() {
                Some(Ok(Record { place, spot, keys })) => {
                    return Some(match parse::parse(self.kind, &place, keys, records.unread()) {
                        Ok((row, aside)) => {
                            self.keep_names(aside.into_iter().map(|(name, _)| name));
                            Ok((place, spot, row))
                        }
                        Err(error) => Err(error),
                    });
                }
                Some(Err(error)) => return Some(Err(error)),
                None => {
                    self.unpacked += records.bytes_read();
                    self.records = None;
                }
            }
        }
    }

    fn keep_names(&mut self, names: impl Iterator<Item = String>) {
        for name in names {
            if self.other_columns.len() < MOST_NAMES && !self.other_columns.contains(&name) {
                self.other_columns.insert(parse::shortened(&name));
            }
        }
    }
}

impl Iterator for Rows {
    type Item = Result<(Place, Row), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_with_spot()?.map(|(place, _, row)| (place, row)))
    }
}

/// Where in its file a record can be read again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Spot {
    /// Text, by its first byte and its length.
    Bytes { start: u64, length: u32 },
    /// A row of a Parquet file, by its row group and its number in it.
    Row { group: u32, row: u64 },
}

/// A record before it is known to be a row.
struct Record {
    place: Place,
    spot: Spot,
    keys: Map<String, Value>,
}

/// The records of one file.
struct Records {
    path: Arc<Path>,
    packed: bool,
    kind: Kind,
    form: Form,
}

type Reader = Box<dyn BufRead + Send>;

enum Form {
    Lines(Lines<Reader>),
    Array(Objects<Reader>),
    Plain(Lines<Reader>),
    Table(Box<TableRecords>),
}

struct TableRecords {
    table: Table,
    group: u32,
    rows: Option<table::Rows>,
    row: u64,
    row_in_group: u64,
}

impl Records {
    fn open(source: &Source, kind: Kind) -> Result<Self, DataError> {
        let form = if source.format == Format::Table {
            Form::Table(Box::new(TableRecords {
                table: Table::open(&source.path, |name| parse::reads(kind, name))?,
                group: 0,
                rows: None,
                row: 0,
                row_in_group: 0,
            }))
        } else {
            let file = File::open(&source.path).map_err(DataError::unreadable(&source.path))?;
            let mut reader: Reader = if source.packed {
                Box::new(BufReader::with_capacity(
                    1 << 16,
                    MultiGzDecoder::new(BufReader::new(file)),
                ))
            } else {
                Box::new(BufReader::with_capacity(1 << 16, file))
            };
            match source.format {
                Format::Plain => Form::Plain(Lines::new(reader)),
                Format::Json if !starts_object(&mut reader) => Form::Array(Objects::new(reader)),
                _ => Form::Lines(Lines::new(reader)),
            }
        };
        Ok(Self {
            path: Arc::clone(&source.path),
            packed: source.packed,
            kind,
            form,
        })
    }

    fn unread(&self) -> &[String] {
        match &self.form {
            Form::Table(records) => &records.table.unread,
            _ => &[],
        }
    }

    fn bytes_read(&self) -> u64 {
        match &self.form {
            Form::Lines(lines) | Form::Plain(lines) => lines.offset(),
            Form::Array(objects) => objects.offset(),
            Form::Table(_) => 0,
        }
    }

    fn next(&mut self) -> Option<Result<Record, DataError>> {
        let place_of = |position| Place {
            path: Arc::clone(&self.path),
            position,
        };
        let (plain, found) = match &mut self.form {
            Form::Table(records) => return records.next(place_of),
            Form::Lines(lines) => (false, lines.next()?),
            Form::Plain(lines) => (true, lines.next()?),
            Form::Array(objects) => (false, objects.next()?),
        };
        let (span, text) = match found {
            Ok(found) => found,
            Err(Fault::Text(line, problem, remedy)) => {
                return Some(Err(place_of(Position::Line(line)).malformed(problem, remedy)));
            }
            Err(Fault::Read(error)) => return Some(Err(read_error(&self.path, self.packed, error))),
        };
        let Span { line, start, length } = span;
        let place = place_of(Position::Line(line));
        let keys = if plain {
            plain_keys(&place, self.kind, text)
        } else {
            json_keys(&place, text)
        };
        // A record is at most 64 MiB.
        let spot = Spot::Bytes {
            start,
            length: length as u32,
        };
        Some(keys.map(|keys| Record { place, spot, keys }))
    }
}

impl TableRecords {
    fn next(&mut self, place_of: impl Fn(Position) -> Place) -> Option<Result<Record, DataError>> {
        loop {
            if self.rows.is_none() {
                if self.group as usize >= self.table.group_rows().len() {
                    return None;
                }
                match self.table.group(self.group as usize) {
                    Ok(rows) => self.rows = Some(rows),
                    Err(error) => return Some(Err(error)),
                }
            }
            let rows = self.rows.as_mut()?;
            let Some(row) = self.table.next(rows) else {
                self.rows = None;
                self.group += 1;
                self.row_in_group = 0;
                continue;
            };
            let place = place_of(Position::Row(self.row));
            let spot = Spot::Row {
                group: self.group,
                row: self.row_in_group,
            };
            self.row += 1;
            self.row_in_group += 1;
            return Some(match row {
                Ok(keys) => Ok(Record { place, spot, keys }),
                Err(problem) => Err(place.malformed(problem, "write the file again")),
            });
        }
    }
}

/// Whether text starts with an object rather than with a list of them.
fn starts_object(reader: &mut Reader) -> bool {
    // An error here shows itself again when the first record is read.
    let start = reader.fill_buf().unwrap_or(&[]);
    let mut bytes = start
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace() && !matches!(byte, 0xef | 0xbb | 0xbf));
    bytes.next() == Some(&b'{')
}

fn read_error(path: &Path, packed: bool, error: io::Error) -> DataError {
    if !packed {
        return DataError::unreadable(path)(error);
    }
    let problem = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the gzip stream ends early".to_owned(),
        _ => format!("the gzip stream is damaged ({error})"),
    };
    Place::whole(&Arc::from(path)).malformed(problem, "pack or download it again")
}

/// The keys of a line of plain text.
pub(super) fn plain_keys(place: &Place, kind: Kind, text: &[u8]) -> Result<Map<String, Value>, DataError> {
    let text = std::str::from_utf8(text).map_err(|_| place.malformed("not UTF-8", "save the file as UTF-8"))?;
    let key = if kind == Kind::Prompts { "prompt" } else { "text" };
    Ok(Map::from_iter([(key.to_owned(), Value::String(text.to_owned()))]))
}

/// The keys of a JSON object.
pub(super) fn json_keys(place: &Place, text: &[u8]) -> Result<Map<String, Value>, DataError> {
    match json::parse(text) {
        Ok(Value::Object(keys)) => Ok(keys),
        Ok(other) => {
            let problem = format!("{}, where an object belongs", describe(&other));
            Err(place.malformed(problem, "write each row as {\"key\": value, ...} on a line of its own"))
        }
        Err(problem) => Err(place.malformed(
            problem,
            "write each row as one JSON object, in UTF-8, on a line of its own",
        )),
    }
}
