//! The container: metadata and the table of tensors, checked as a whole before anything is read from it.
//!
//! The format (ggml's `docs/gguf.md`, versions 2 and 3, which differ in nothing that is read here): the magic bytes
//! `GGUF`, the version as u32, the number of tensors and of metadata entries as u64; the entries (key, type, value);
//! for each tensor its name, the number of its dimensions, the dimensions (the fastest first), the kind and the offset
//! of its data; padding; the data of all tensors, each at a multiple of `general.alignment`.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use super::cursor::{Cursor, Problem};
use super::value::read_value;
use super::{GgufError, TensorKind, Value};

/// The alignment of a file that states none.
const ALIGNMENT: usize = 32;

/// Tensors of more dimensions are refused; ggml has at most 4.
const MOST_DIMENSIONS: u32 = 8;

/// Where a tensor is in the file, and what it looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name that llama.cpp gives it.
    pub name: String,
    /// Sizes of the dimensions in row-major order, the last one fastest, as NumPy shows them: the reverse of the
    /// file's own order.
    pub shape: Vec<usize>,
    /// How the values are stored.
    pub kind: TensorKind,
    /// The bytes of the values, counted from the start of the file.
    pub bytes: Range<usize>,
}

/// What a file says about itself.
pub(super) struct Container {
    pub(super) version: u32,
    pub(super) alignment: usize,
    pub(super) metadata: BTreeMap<String, Value>,
    /// In the order of the file.
    pub(super) tensors: Vec<TensorInfo>,
    /// Places in `tensors` by name.
    pub(super) places: HashMap<String, usize>,
}

/// Reads and checks everything but the values of the tensors.
pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Container, GgufError> {
    let version = version(bytes, path)?;
    contents(bytes, version).map_err(|(offset, problem)| GgufError::Malformed {
        path: path.to_path_buf(),
        offset,
        problem,
    })
}

/// The version, from the first eight bytes.
fn version(bytes: &[u8], path: &Path) -> Result<u32, GgufError> {
    let path = || path.to_path_buf();
    let unsupported = |found: String, remedy: &str| GgufError::Unsupported {
        path: path(),
        found,
        remedy: remedy.to_owned(),
    };
    let big_endian = || {
        unsupported(
            "big-endian GGUF".to_owned(),
            "convert the original model again, without `--bigendian`",
        )
    };
    match bytes.first_chunk() {
        Some(b"GGUF") => (),
        Some(b"FUGG") => return Err(big_endian()),
        Some(b"ggjt" | b"tjgg" | b"ggml" | b"lmgg" | b"ggmf" | b"fmgg" | b"ggla" | b"algg") => {
            return Err(unsupported(
                "a file of ggml's formats before GGUF".to_owned(),
                "convert the original model to GGUF with a current llama.cpp",
            ));
        }
        start => {
            let found = match start {
                Some(start) => format!("it starts with \"{}\", not \"GGUF\"", start.escape_ascii()),
                None => format!("it has {} bytes", bytes.len()),
            };
            return Err(GgufError::NotGguf { path: path(), found });
        }
    }
    let version = Cursor::new(bytes, 4)
        .u32("the version")
        .map_err(|(offset, problem)| GgufError::Malformed {
            path: path(),
            offset,
            problem,
        })?;
    match version {
        2 | 3 => Ok(version),
        // Written by converters from before the magic bytes told the byte order.
        swapped if swapped & 0xffff == 0 && swapped != 0 => Err(big_endian()),
        other => Err(unsupported(
            format!("GGUF version {other}, where 2 and 3 are read"),
            "convert the original model with a current llama.cpp",
        )),
    }
}

fn contents(bytes: &[u8], version: u32) -> Result<Container, Problem> {
    let mut cursor = Cursor::new(bytes, 8);
    // The least tensor entry: an empty name, no dimensions, kind and offset.
    let tensor_count = cursor.count(24, "the number of tensors")?;
    // The least metadata entry: an empty key, a type, one byte.
    let entry_count = cursor.count(13, "the number of metadata entries")?;

    let mut metadata = BTreeMap::new();
    for _ in 0..entry_count {
        let at = cursor.at();
        let key = cursor.string("a metadata key")?;
        let kind = cursor.u32("the type of a metadata value")?;
        let value = read_value(&mut cursor, kind).map_err(|(at, problem)| (at, format!("key {key:?}: {problem}")))?;
        if metadata.insert(key.to_owned(), value).is_some() {
            return Err((at, format!("the metadata key {key:?} twice")));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT,
        Some(value) => match value.as_u64().and_then(|value| usize::try_from(value).ok()) {
            Some(alignment) if alignment.is_power_of_two() => alignment,
            _ => return cursor.problem("general.alignment is not a power of two"),
        },
    };

    let mut entries = Vec::new();
    let mut places = HashMap::new();
    for place in 0..tensor_count {
        let at = cursor.at();
        let entry = entry(&mut cursor)?;
        if places.insert(entry.name.clone(), place).is_some() {
            return Err((at, format!("the tensor {:?} twice", entry.name)));
        }
        entries.push((at, entry));
    }
    let start = cursor
        .at()
        .checked_next_multiple_of(alignment)
        .filter(|start| *start <= bytes.len() || tensor_count == 0);
    let Some(start) = start else {
        return cursor.problem("the file ends before the data of the tensors");
    };
    let mut tensors = Vec::with_capacity(entries.len());
    for (at, entry) in entries {
        tensors.push(
            entry
                .placed(start, alignment, bytes.len())
                .map_err(|problem| (at, problem))?,
        );
    }
    overlap(&tensors).map_or(Ok(()), |problem| Err((start, problem)))?;
    Ok(Container {
        version,
        alignment,
        metadata,
        tensors,
        places,
    })
}

/// A tensor's entry in the table.
struct Entry {
    name: String,
    shape: Vec<usize>,
    kind: TensorKind,
    /// From the start of the data.
    offset: u64,
}

fn entry(cursor: &mut Cursor<'_>) -> Result<Entry, Problem> {
    let name = cursor.string("a tensor's name")?.to_owned();
    let at = cursor.at();
    let dimensions = cursor.u32("the number of a tensor's dimensions")?;
    if dimensions > MOST_DIMENSIONS {
        return Err((at, format!("the tensor {name:?} has {dimensions} dimensions")));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let at = cursor.at();
        let size = cursor.u64("a dimension of a tensor")?;
        let size = usize::try_from(size).map_err(|_| (at, format!("the tensor {name:?} has the dimension {size}")))?;
        shape.push(size);
    }
    shape.reverse();
    let at = cursor.at();
    let number = cursor.u32("a tensor's kind")?;
    let Some(kind) = TensorKind::from_number(number) else {
        return Err((
            at,
            format!("the tensor {name:?} is of kind {number}, which is not known"),
        ));
    };
    let offset = cursor.u64("a tensor's offset")?;
    Ok(Entry {
        name,
        shape,
        kind,
        offset,
    })
}

impl Entry {
    /// The tensor with its bytes, once they are known to lie in the file.
    fn placed(self, start: usize, alignment: usize, file_size: usize) -> Result<TensorInfo, String> {
        let Self {
            name,
            shape,
            kind,
            offset,
        } = self;
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(kind.values_per_block()) {
            let block = kind.values_per_block();
            return Err(format!(
                "the tensor {name:?} has rows of {row} values, which are not whole blocks of {block} ({kind})"
            ));
        }
        let size = shape
            .iter()
            .try_fold(1usize, |product, size| product.checked_mul(*size))
            .and_then(|values| (values / kind.values_per_block()).checked_mul(kind.bytes_per_block()));
        let begin = usize::try_from(offset)
            .ok()
            .and_then(|offset| start.checked_add(offset));
        let end = begin.zip(size).and_then(|(begin, size)| begin.checked_add(size));
        match begin.zip(end) {
            Some((begin, _)) if !begin.is_multiple_of(alignment) => Err(format!(
                "the tensor {name:?} starts at {offset}, which is not a multiple of {alignment}"
            )),
            Some((begin, end)) if end <= file_size => Ok(TensorInfo {
                name,
                shape,
                kind,
                bytes: begin..end,
            }),
            _ => Err(format!(
                "the tensor {name:?} ({kind}, {shape:?}, offset {offset}) reaches beyond the file's {file_size} bytes"
            )),
        }
    }
}

/// A sentence about two tensors that share bytes, if there are any.
fn overlap(tensors: &[TensorInfo]) -> Option<String> {
    let mut order: Vec<&TensorInfo> = tensors.iter().filter(|tensor| !tensor.bytes.is_empty()).collect();
    order.sort_by_key(|tensor| tensor.bytes.start);
    order.windows(2).find_map(|pair| match pair {
        [one, other] if other.bytes.start < one.bytes.end => {
            Some(format!("the tensors {:?} and {:?} overlap", one.name, other.name))
        }
        _ => None,
    })
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
