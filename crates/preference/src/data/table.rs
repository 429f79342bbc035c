//! Parquet files, row group by row group.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use serde_json::{Map, Value};

use super::assemble::{Column, Node};
use super::lines::LONGEST;
use super::thrift::{self, Fault};
use super::{DataError, Place};
use crate::quiet;

/// The longest footer that is read, in bytes. Footers have about 100 bytes for each column of each row group.
const LONGEST_FOOTER: u64 = 64 << 20;

/// The largest page, unpacked, in bytes. Pages have 1 MB or one value.
const LARGEST_PAGE: u64 = 4 * LONGEST;

/// Entries (values, nulls and empty lists) that a column may have in one row group. Runs of equal entries take next to
/// no space in a file, so its size cannot bear their number out.
const MOST_ENTRIES: u64 = 1 << 25;

const DAMAGED: &str = "the file is damaged, or was not written to its end; write it again";

/// A Parquet file, its footer read and checked.
pub(super) struct Table {
    path: Arc<Path>,
    reader: SerializedFileReader<File>,
    /// The wanted fields of the schema with their columns, and the numbers of those columns in the file.
    fields: Vec<(String, Node)>,
    columns: Vec<usize>,
    /// The names of the other fields.
    pub unread: Vec<String>,
}

impl Table {
    /// Opens a file and finds the fields for which `wanted` holds.
    pub fn open(path: &Arc<Path>, wanted: impl Fn(&str) -> bool) -> Result<Self, DataError> {
        let mut file = File::open(path).map_err(DataError::unreadable(path))?;
        check_footer(path, &mut file)?;
        let damaged = |problem: String| Place::whole(path).malformed(problem, DAMAGED);
        let reader = quiet::catch(|| SerializedFileReader::new(file))
            .ok_or_else(|| damaged("the footer contradicts itself".to_owned()))?
            .map_err(|error| damaged(error.to_string()))?;
        let mut table = Self {
            path: Arc::clone(path),
            reader,
            fields: Vec::new(),
            columns: Vec::new(),
            unread: Vec::new(),
        };
        table.find_fields(wanted)?;
        Ok(table)
    }

    fn find_fields(&mut self, wanted: impl Fn(&str) -> bool) -> Result<(), DataError> {
        let schema = self.metadata().file_metadata().schema_descr_ptr();
        let mut number_of = (0..schema.num_columns()).peekable();
        for (at, field) in schema.root_schema().get_fields().iter().enumerate() {
            let mut below = Vec::new();
            while let Some(column) = number_of.next_if(|column| schema.get_column_root_idx(*column) == at) {
                below.push(column);
            }
            let name = field.name();
            if !wanted(name) {
                self.unread.push(name.to_owned());
                continue;
            }
            if self.fields.iter().any(|(other, _)| other == name) {
                return Err(Place::whole(&self.path).key(name, "two columns of this name", "rename one of them"));
            }
            let mut next = self.columns.len();
            let node = Node::new(field, &mut next).map_err(|problem| {
                let remedy = "write the column in another form, or remove it";
                Place::whole(&self.path).key(name, problem, remedy)
            })?;
            self.columns.extend(below);
            if next != self.columns.len() {
                return Err(self.damaged("the schema contradicts itself"));
            }
            self.fields.push((name.to_owned(), node));
        }
        Ok(())
    }

    fn metadata(&self) -> &ParquetMetaData {
        self.reader.metadata()
    }

    fn damaged(&self, problem: impl Into<String>) -> DataError {
        Place::whole(&self.path).malformed(problem, DAMAGED)
    }

    /// The number of rows that each row group announces.
    pub fn group_rows(&self) -> Vec<u64> {
        let groups = self.metadata().row_groups().iter();
        groups
            .map(|group| u64::try_from(group.num_rows()).unwrap_or(0))
            .collect()
    }

    /// The bytes of the wanted columns of each row group, unpacked, as announced.
    pub fn group_sizes(&self) -> Vec<u64> {
        let groups = self.metadata().row_groups().iter();
        let size = |chunk: &ColumnChunkMetaData| u64::try_from(chunk.uncompressed_size()).unwrap_or(0);
        groups
            .map(|group| {
                let chunks = self.columns.iter().filter_map(|column| group.columns().get(*column));
                chunks.fold(0, |sum, chunk| size(chunk).saturating_add(sum))
            })
            .collect()
    }

    /// The rows of a row group.
    pub fn group(&self, group: usize) -> Result<Rows, DataError> {
        let rows = *self
            .group_rows()
            .get(group)
            .ok_or_else(|| self.damaged("a row group is missing"))?;
        let mut columns = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            self.check_pages(group, *column)?;
            let opened = quiet::catch(|| self.column(group, *column))
                .ok_or_else(|| self.damaged("a column contradicts its description"))?;
            columns.push(opened.map_err(|problem| self.damaged(problem))?);
        }
        Ok(Rows {
            rows,
            taken: 0,
            columns,
        })
    }

    fn column(&self, group: usize, column: usize) -> Result<Column, String> {
        let group = self.reader.get_row_group(group).map_err(|error| error.to_string())?;
        let pages = group
            .get_column_page_reader(column)
            .map_err(|error| error.to_string())?;
        let description = group.metadata().column(column).column_descr_ptr();
        let pages = Box::new(CheckedPages { pages, entries: 0 });
        Column::new(description, pages)
    }

    /// The next row of `rows`, which belong to this table.
    pub fn next(&self, rows: &mut Rows) -> Option<Result<Map<String, Value>, String>> {
        quiet::catch(|| rows.next(&self.fields)).unwrap_or_else(|| {
            rows.taken = rows.rows;
            Some(Err("its pages contradict themselves".to_owned()))
        })
    }

    /// Walks over the pages of a column and compares what they announce with what there is.
    fn check_pages(&self, group: usize, column: usize) -> Result<(), DataError> {
        let unreadable = || DataError::unreadable(&self.path);
        let chunk = self
            .metadata()
            .row_groups()
            .get(group)
            .and_then(|group| group.columns().get(column));
        let chunk = chunk.ok_or_else(|| self.damaged("a row group lacks a column"))?;
        let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
        let range = (u64::try_from(start), u64::try_from(chunk.compressed_size()));
        let (Ok(start), Ok(length)) = range else {
            return Err(self.damaged("a column starts or ends before the file"));
        };
        let mut file = File::open(&self.path).map_err(unreadable())?;
        let size = file.metadata().map_err(unreadable())?.len();
        let end = start.checked_add(length).filter(|end| *end <= size);
        let end = end.ok_or_else(|| self.damaged("a column ends behind the file's end"))?;
        let mut at = start;
        while at < end {
            let sizes = self.page_sizes(&mut file, at, end)?;
            let content = at + sizes.header as u64;
            if sizes.packed > end - content {
                return Err(self.damaged("a page is longer than its column"));
            }
            if sizes.unpacked > LARGEST_PAGE {
                let found = format!(
                    "a page of {} bytes, where {LARGEST_PAGE} are read at most",
                    sizes.unpacked
                );
                return Err(DataError::unsupported(
                    &self.path,
                    found,
                    "write the file with smaller pages",
                ));
            }
            // The crate unpacks gzip to its end, whatever size was announced; the other codecs know the size.
            if matches!(chunk.compression(), Compression::GZIP(_)) {
                file.seek(SeekFrom::Start(content)).map_err(unreadable())?;
                let packed = io::BufReader::new((&file).take(sizes.packed));
                let most = sizes.unpacked.saturating_add(1);
                let unpacked = io::copy(&mut MultiGzDecoder::new(packed).take(most), &mut io::sink());
                if unpacked.is_ok_and(|unpacked| unpacked > sizes.unpacked) {
                    return Err(self.damaged("a page unpacks to more than it announces"));
                }
            }
            at = content + sizes.packed;
        }
        Ok(())
    }

    fn page_sizes(&self, file: &mut File, at: u64, end: u64) -> Result<thrift::PageSizes, DataError> {
        // A header has some 50 bytes, or the longest value twice if statistics are kept in it.
        let mut window = 256;
        loop {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(at))
                .map_err(DataError::unreadable(&self.path))?;
            let read = Read::by_ref(file).take(window.min(end - at)).read_to_end(&mut bytes);
            read.map_err(DataError::unreadable(&self.path))?;
            match thrift::page_sizes(&bytes) {
                Ok(sizes) => return Ok(sizes),
                Err(Fault::Short) if window < 2 * LONGEST && window < end - at => window *= 16,
                Err(Fault::Short) => return Err(self.damaged("a page header without its end")),
                Err(Fault::Wrong(problem)) => return Err(self.damaged(format!("in a page header: {problem}"))),
            }
        }
    }
}

/// Checks the sizes that a footer announces.
fn check_footer(path: &Arc<Path>, file: &mut File) -> Result<(), DataError> {
    let size = file.metadata().map_err(DataError::unreadable(path))?.len();
    let mut read = |start: u64, length: u64| {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start)).map_err(DataError::unreadable(path))?;
        let read = Read::by_ref(file).take(length).read_to_end(&mut bytes);
        read.map_err(DataError::unreadable(path))?;
        Ok(bytes)
    };
    let damaged = |problem: String| Place::whole(path).malformed(problem, DAMAGED);
    // Header "PAR1", row groups, footer, its length in four bytes, "PAR1" (or "PARE" if encrypted).
    let end = if size < 12 { Vec::new() } else { read(size - 8, 8)? };
    let [a, b, c, d, magic @ ..] = &end[..] else {
        return Err(damaged("too short for a Parquet file".to_owned()));
    };
    match magic {
        b"PAR1" => {}
        b"PARE" => {
            return Err(DataError::unsupported(
                path,
                "an encrypted Parquet file",
                "write it without encryption",
            ));
        }
        _ => return Err(damaged("no Parquet footer at the file's end".to_owned())),
    }
    let length = u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
    if length > size - 12 {
        return Err(damaged(format!("a footer of {length} bytes in a file of {size}")));
    }
    if length > LONGEST_FOOTER {
        let found = format!("a footer of {length} bytes, where {LONGEST_FOOTER} are read at most");
        return Err(DataError::unsupported(path, found, "split the file"));
    }
    let footer = read(size - 8 - length, length)?;
    thrift::check_footer(&footer).map_err(|fault| match fault {
        Fault::Short => damaged("the footer announces more than it holds".to_owned()),
        Fault::Wrong(problem) => damaged(format!("in the footer: {problem}")),
    })
}

/// The rows of a row group.
pub(super) struct Rows {
    rows: u64,
    taken: u64,
    columns: Vec<Column>,
}

impl Rows {
    fn next(&mut self, fields: &[(String, Node)]) -> Option<Result<Map<String, Value>, String>> {
        if self.taken >= self.rows {
            return None;
        }
        self.taken += 1;
        let row = self.row(fields);
        if row.is_err() {
            self.taken = self.rows;
        }
        Some(row)
    }

    fn row(&mut self, fields: &[(String, Node)]) -> Result<Map<String, Value>, String> {
        for column in &mut self.columns {
            if !column.has_row()? {
                return Err("a column has fewer rows than the row group announces".to_owned());
            }
        }
        let mut budget = LONGEST;
        let mut row = Map::new();
        for (name, node) in fields {
            let value = node.value(&mut self.columns, &mut budget);
            row.insert(
                name.clone(),
                value.map_err(|problem| format!("column {name:?}: {problem}"))?,
            );
        }
        if self.columns.iter().all(Column::at_row_start) {
            Ok(row)
        } else {
            Err("the columns contradict each other".to_owned())
        }
    }
}

/// Pages, each checked before it is decoded.
struct CheckedPages {
    pages: Box<dyn PageReader>,
    /// Entries of the pages so far.
    entries: u64,
}

impl CheckedPages {
    fn check(&mut self, page: &Page) -> Result<(), ParquetError> {
        let refuse = |problem: String| Err(ParquetError::General(problem));
        if let Page::DictionaryPage { buf, num_values, .. } = page {
            // Space is made for as many values as are announced. Each takes a byte at least, a text four.
            return if *num_values as usize > buf.len() {
                refuse(format!("a dictionary of {num_values} values in {} bytes", buf.len()))
            } else {
                Ok(())
            };
        }
        self.entries += u64::from(page.num_values());
        if self.entries > MOST_ENTRIES {
            return refuse(format!(
                "more than {MOST_ENTRIES} values of one column in a row group; write smaller row groups"
            ));
        }
        // These two begin with a number of texts that the crate makes space for unchecked. Writers choose them only
        // when told to.
        match page.encoding() {
            Encoding::DELTA_LENGTH_BYTE_ARRAY | Encoding::DELTA_BYTE_ARRAY => refuse(format!(
                "the encoding {} is not read; write the file with pyarrow's defaults",
                page.encoding()
            )),
            _ => Ok(()),
        }
    }
}

impl Iterator for CheckedPages {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        let page = self.pages.get_next_page()?;
        if let Some(page) = &page {
            self.check(page)?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool, ParquetError> {
        self.pages.at_record_boundary()
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
pub(super) mod tests;

#[cfg(test)]
#[path = "table_fuzz_tests.rs"]
mod fuzz_tests;
