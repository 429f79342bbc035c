//! NumPy's `.npy`: a strict reader and a writer.
//!
//! The format (NumPy Enhancement Proposal 1, "A simple file format for NumPy arrays"): the magic bytes
//! `\x93NUMPY`, a version, the length of a header, the header as a Python dictionary with exactly the keys `descr`,
//! `fortran_order` and `shape`, then the values. Here values are little-endian `u1`, `f4`, `f8` or `i8` in C order,
//! and the file is exactly as long as its header says; whatever else NumPy can write is refused with the NumPy
//! expression that turns it into this.

use std::io;
use std::path::Path;

use train::files::{FileError, write_atomic};

use super::content::{Content, product};
use super::{DataError, Place};

const MAGIC: &[u8] = b"\x93NUMPY";
const REMEDY: &str = "write the file again with numpy.save";

/// An array of a `.npy` file, in C order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// The length of each axis; none for a single value.
    pub shape: Vec<usize>,
    /// The values, the last axis fastest.
    pub values: Elements,
}

/// The values of an [`Array`], by type.
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    /// `u1`.
    U8(Vec<u8>),
    /// `f4`.
    F32(Vec<f32>),
    /// `f8`.
    F64(Vec<f64>),
    /// `i8`.
    I64(Vec<i64>),
}

impl Array {
    /// The number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.values {
            Elements::U8(values) => values.len(),
            Elements::F32(values) => values.len(),
            Elements::F64(values) => values.len(),
            Elements::I64(values) => values.len(),
        }
    }

    /// Whether there are no values, because an axis has the length 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values in double precision; integers beyond 2^53 are rounded.
    #[must_use]
    pub fn into_f64(self) -> Vec<f64> {
        match self.values {
            Elements::U8(values) => values.into_iter().map(f64::from).collect(),
            Elements::F32(values) => values.into_iter().map(f64::from).collect(),
            Elements::F64(values) => values,
            Elements::I64(values) => values.into_iter().map(|value| value as f64).collect(),
        }
    }
}

/// Reads the array of a file.
///
/// # Errors
/// [`DataError::Unreadable`], [`DataError::Malformed`] with the byte at which the file departs from the format, or
/// [`DataError::Unsupported`] for values of another type or order.
pub fn read(path: &Path) -> Result<Array, DataError> {
    parse(&Content::read(path)?)
}

/// Writes `values` of the given shape as `f4`. The file appears under its name only when it is complete.
///
/// # Errors
/// [`FileError`], naming the path; the shape must hold as many values as there are.
pub fn write_f32(path: &Path, shape: &[usize], values: &[f32]) -> Result<(), FileError> {
    if product(shape.iter().copied()) != Some(values.len()) {
        let problem = format!("{} values do not fill the shape {shape:?}", values.len());
        return Err(FileError::because("write", path)(io::Error::new(
            io::ErrorKind::InvalidInput,
            problem,
        )));
    }
    let axes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    // Python writes a tuple as (), (2,), (2, 3).
    let comma = if shape.len() == 1 { "," } else { "" };
    let mut header = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}{comma}), }}",
        axes.join(", ")
    );
    // Ten bytes stand before the header, a newline ends it, and the values start at a multiple of 64.
    let padding = (10 + header.len() + 1).next_multiple_of(64) - (10 + header.len() + 1);
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let mut content = Vec::with_capacity(10 + header.len() + 4 * values.len());
    content.extend_from_slice(MAGIC);
    content.extend_from_slice(&[1, 0]);
    // A shape of u16::MAX bytes would need thousands of axes, which no array that fills it has.
    content.extend_from_slice(&(header.len() as u16).to_le_bytes());
    content.extend_from_slice(header.as_bytes());
    content.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    write_atomic(path, &content)
}

/// Whether content starts like a `.npy` file.
pub(super) fn recognises(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The array in `content`.
pub(super) fn parse(content: &Content) -> Result<Array, DataError> {
    let bytes = content.bytes.as_slice();
    if !recognises(bytes) {
        return Err(content.malformed(Place::Byte(0), "this is not a .npy file", REMEDY));
    }
    let short = || content.malformed(Place::Byte(bytes.len()), "the file ends within the header", REMEDY);
    let (length, start) = match bytes.get(6).ok_or_else(short)? {
        1 => (
            bytes.get(8..10).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]]))),
            10,
        ),
        2 | 3 => (
            bytes
                .get(8..12)
                .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize),
            12,
        ),
        version => return Err(content.unsupported(format!(".npy version {version}"), "write version 1, 2 or 3")),
    };
    let end = length.ok_or_else(short)?.checked_add(start).ok_or_else(short)?;
    let text = bytes.get(start..end).ok_or_else(short)?;
    let header = HeaderParser { text, at: 0 }
        .header()
        .map_err(|(at, problem)| content.malformed(Place::Byte(start + at), problem, REMEDY))?;
    if header.fortran_order && header.shape.len() > 1 {
        return Err(content.unsupported("an array in Fortran order", "save numpy.ascontiguousarray(array)"));
    }
    let data = &bytes[end..];
    let size = match header.descr.as_str() {
        "|u1" | "<u1" => 1,
        "<f4" => 4,
        "<f8" | "<i8" => 8,
        other => {
            return Err(content.unsupported(
                format!("values of type {other:?}, where '|u1', '<f4', '<f8' and '<i8' are read"),
                "save array.astype('<f4')",
            ));
        }
    };
    let announced = product(header.shape.iter().copied().chain([size]));
    if announced != Some(data.len()) {
        let problem = format!(
            "the header announces {} of {size} bytes, {} bytes follow",
            shape_text(&header.shape),
            data.len()
        );
        return Err(content.malformed(Place::Byte(end), problem, REMEDY));
    }
    let values = match header.descr.as_str() {
        "<f4" => Elements::F32(words(data, f32::from_le_bytes)),
        "<f8" => Elements::F64(words(data, f64::from_le_bytes)),
        "<i8" => Elements::I64(words(data, i64::from_le_bytes)),
        _ => Elements::U8(data.to_vec()),
    };
    Ok(Array {
        shape: header.shape,
        values,
    })
}

fn words<const SIZE: usize, T>(data: &[u8], from_bytes: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
    let (words, _) = data.as_chunks::<SIZE>();
    words.iter().map(|word| from_bytes(*word)).collect()
}

fn shape_text(shape: &[usize]) -> String {
    let axes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    if axes.is_empty() {
        "1 value".to_owned()
    } else {
        format!("{} values", axes.join(" x "))
    }
}

struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// Reads the one form of Python dictionary that the format allows.
struct HeaderParser<'a> {
    text: &'a [u8],
    at: usize,
}

/// A problem and its offset in the header.
type Problem = (usize, String);

impl HeaderParser<'_> {
    fn header(mut self) -> Result<Header, Problem> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.take(b'}') {
            let (at, key) = (self.at, self.string()?);
            self.expect(b':')?;
            let repeated = match key.as_str() {
                "descr" => descr.replace(self.string()?).is_some(),
                "fortran_order" => fortran_order.replace(self.boolean()?).is_some(),
                "shape" => shape.replace(self.tuple()?).is_some(),
                _ => return Err((at, format!("unknown key {key:?} in the header"))),
            };
            if repeated {
                return Err((at, format!("the key {key:?} twice in the header")));
            }
            if !self.take(b',') {
                self.expect(b'}')?;
                break;
            }
        }
        self.skip_space();
        if self.at < self.text.len() {
            return self.problem("text after the header's closing brace");
        }
        match (descr, fortran_order, shape) {
            (Some(descr), Some(fortran_order), Some(shape)) => Ok(Header {
                descr,
                fortran_order,
                shape,
            }),
            _ => self.problem("the header lacks one of 'descr', 'fortran_order' and 'shape'"),
        }
    }

    fn problem<T>(&self, problem: impl Into<String>) -> Result<T, Problem> {
        Err((self.at, problem.into()))
    }

    fn skip_space(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn take(&mut self, wanted: u8) -> bool {
        self.skip_space();
        let found = self.text.get(self.at) == Some(&wanted);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Problem> {
        if self.take(wanted) {
            return Ok(());
        }
        self.problem(format!("{:?} expected in the header", char::from(wanted)))
    }

    fn string(&mut self) -> Result<String, Problem> {
        self.skip_space();
        let quote = match self.text.get(self.at) {
            Some(quote @ (b'\'' | b'"')) => *quote,
            Some(b'[') => return self.problem("a structured type in the header; save its fields one by one"),
            _ => return self.problem("a string expected in the header"),
        };
        let rest = &self.text[self.at + 1..];
        let length = rest.iter().position(|byte| *byte == quote);
        let Some(text) = length.and_then(|length| std::str::from_utf8(&rest[..length]).ok()) else {
            return self.problem("a string in the header without an end, or not in UTF-8");
        };
        self.at += text.len() + 2;
        Ok(text.to_owned())
    }

    fn boolean(&mut self) -> Result<bool, Problem> {
        self.skip_space();
        for (word, value) in [(&b"True"[..], true), (b"False", false)] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        self.problem("True or False expected in the header")
    }

    fn tuple(&mut self) -> Result<Vec<usize>, Problem> {
        let mut sizes = Vec::new();
        self.expect(b'(')?;
        while !self.take(b')') {
            self.skip_space();
            let digits = self.text[self.at..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            let number = std::str::from_utf8(&self.text[self.at..self.at + digits]).ok();
            let Some(size) = number.and_then(|number| number.parse().ok()) else {
                return self.problem("a size expected in the header's shape");
            };
            self.at += digits;
            sizes.push(size);
            if !self.take(b',') {
                self.expect(b')')?;
                break;
            }
        }
        Ok(sizes)
    }
}

#[cfg(test)]
#[path = "npy_tests.rs"]
mod tests;
