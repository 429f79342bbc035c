//! Named tensors on the host, to and from safetensors files, strictly.
//!
//! A checkpoint's tensor parts are files of this kind. Loading asks for every tensor by name and shape and ends with
//! [`TensorReader::finish`], which refuses leftovers; so a file that holds more, less or other than the program expects
//! is an error that names the file and the tensor, never a silent partial load. Tensors are read one at a time: the
//! file is never in memory as a whole.
//!
//! Format: 8 bytes header length (little endian), a JSON header with type, shape and byte range of each tensor, the
//! data; `__metadata__` is `{"format": "pt"}`, which the Python libraries ask for. The same content gives the same
//! bytes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::files::FileError;

/// The longest header that is read, in bytes; the limit of the reference implementation.
const LONGEST_HEADER: u64 = 100_000_000;

/// Values per piece when converting between numbers and bytes.
const PIECE: usize = 16 * 1024;

/// A tensor in host memory: values in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Sizes of the dimensions; empty for a single number.
    pub shape: Vec<usize>,
    /// As many values as the product of the shape.
    pub data: Vec<f32>,
}

/// A tensor to be written: on the host, or somewhere that it is fetched from when its turn comes.
pub trait WritableTensor {
    /// Sizes of the dimensions.
    fn shape(&self) -> &[usize];

    /// How many values [`values`](Self::values) will give.
    fn count(&self) -> usize;

    /// The values, row-major.
    fn values(&self) -> Cow<'_, [f32]>;
}

impl WritableTensor for HostTensor {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn count(&self) -> usize {
        self.data.len()
    }

    fn values(&self) -> Cow<'_, [f32]> {
        Cow::Borrowed(&self.data)
    }
}

/// A single exact number beside the tensors: an optimiser's step count, a running average's decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar {
    /// A count.
    U64(u64),
    /// A real number in double precision.
    F64(f64),
}

/// A tensor file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not a whole safetensors file.
    #[error("{} is not a valid safetensors file: {reason}; it was cut short or changed after it was written", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that the program needs is not in the file.
    #[error("{} has no tensor \"{name}\"; it was written for another configuration or program version", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// The file has tensors that the program has no place for.
    #[error(
        "{} has tensors that this configuration has no place for: {}; it was written for another configuration \
         or program version", path.display(), names.join(", ")
    )]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// The tensors.
        names: Vec<String>,
    },
    /// A tensor has another shape than the program needs.
    #[error(
        "tensor \"{name}\" in {} has shape {found:?}, but {expected:?} is needed; the file was written for another \
         configuration", path.display()
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape asked for.
        expected: Vec<usize>,
    },
    /// A tensor has another number type than the program needs.
    #[error("tensor \"{name}\" in {} has type {found}, but {expected} is needed; convert the file first", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The type in the file.
        found: String,
        /// The type asked for.
        expected: &'static str,
    },
    /// A tensor given for writing does not hold as many values as its shape says.
    #[error("tensor \"{name}\" has {values} values, but its shape {shape:?} asks for another number")]
    Length {
        /// The tensor.
        name: String,
        /// The values it holds.
        values: usize,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor and a scalar given for writing share a name, or a name is the format's own.
    #[error(
        "the name \"{name}\" is used twice or is reserved by the safetensors format; give each tensor its own name"
    )]
    Name {
        /// The name.
        name: String,
    },
}

/// Writes tensors and scalars to `path`, in place (checkpoints call this inside a directory that is renamed as a
/// whole). Scalars are stored as tensors without dimensions, of type U64 or F64.
///
/// # Errors
/// [`TensorError::Length`] or [`TensorError::Name`] for inconsistent content, before anything is written;
/// [`TensorError::File`] when the system refuses.
pub fn write_tensors<T: WritableTensor>(
    path: &Path,
    tensors: &BTreeMap<String, T>,
    scalars: &BTreeMap<String, Scalar>,
) -> Result<(), TensorError> {
    let mut entries = Vec::with_capacity(tensors.len() + scalars.len());
    let mut end = 0usize;
    let mut place = |name: &String, dtype: Dtype, shape: &[usize], bytes: usize| {
        entries.push((
            name.clone(),
            TensorInfo {
                dtype,
                shape: shape.to_vec(),
                data_offsets: (end, end + bytes),
            },
        ));
        end += bytes;
    };
    // Scalars first: all 8-byte values then stay aligned whatever tensors follow.
    for (name, scalar) in scalars {
        if name == "__metadata__" || tensors.contains_key(name) {
            return Err(TensorError::Name { name: name.clone() });
        }
        let dtype = match scalar {
            Scalar::U64(_) => Dtype::U64,
            Scalar::F64(_) => Dtype::F64,
        };
        place(name, dtype, &[], 8);
    }
    for (name, tensor) in tensors {
        if name == "__metadata__" {
            return Err(TensorError::Name { name: name.clone() });
        }
        let asked = tensor
            .shape()
            .iter()
            .try_fold(1usize, |product, size| product.checked_mul(*size));
        if asked != Some(tensor.count()) {
            let (values, shape) = (tensor.count(), tensor.shape().to_vec());
            return Err(TensorError::Length {
                name: name.clone(),
                values,
                shape,
            });
        }
        place(name, Dtype::F32, tensor.shape(), tensor.count() * 4);
    }
    let invalid = |reason: String| TensorError::Invalid {
        path: path.to_path_buf(),
        reason,
    };
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), entries).map_err(|error| invalid(error.to_string()))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|error| invalid(error.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut file = BufWriter::new(File::create(path).map_err(FileError::because("create", path))?);
    let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(FileError::because("write", path));
    write(&(header.len() as u64).to_le_bytes())?;
    write(&header)?;
    for scalar in scalars.values() {
        write(&match scalar {
            Scalar::U64(value) => value.to_le_bytes(),
            Scalar::F64(value) => value.to_le_bytes(),
        })?;
    }
    let mut bytes = Vec::with_capacity(PIECE * 4);
    for tensor in tensors.values() {
        for piece in tensor.values().chunks(PIECE) {
            bytes.clear();
            bytes.extend(piece.iter().flat_map(|value| value.to_le_bytes()));
            write(&bytes)?;
        }
    }
    file.into_inner()
        .map_err(|error| FileError::because("write", path)(error.into_error()))?;
    Ok(())
}

/// A safetensors file opened for strict reading.
///
/// ```
/// # use std::collections::BTreeMap;
/// # use posterior_train::tensors::*;
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("weights.safetensors");
/// let weight = HostTensor { shape: vec![2, 1], data: vec![0.5, -1.0] };
/// let steps = BTreeMap::from([("steps".to_owned(), Scalar::U64(7))]);
/// write_tensors(&path, &BTreeMap::from([("weight".to_owned(), weight)]), &steps)?;
///
/// let mut reader = TensorReader::open(&path)?;
/// assert_eq!(reader.take("weight", &[2, 1])?, [0.5, -1.0]);
/// assert_eq!(reader.take_u64("steps")?, 7);
/// reader.finish()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TensorReader {
    path: PathBuf,
    file: File,
    data_start: u64,
    metadata: Metadata,
    untaken: BTreeSet<String>,
}

impl TensorReader {
    /// Opens a file and checks that its header is consistent and its size is exactly what the header promises.
    ///
    /// # Errors
    /// [`TensorError::File`] when it cannot be read, [`TensorError::Invalid`] when it is not a whole safetensors file.
    pub fn open(path: &Path) -> Result<Self, TensorError> {
        let invalid = |reason: String| TensorError::Invalid {
            path: path.to_path_buf(),
            reason,
        };
        let mut file = File::open(path).map_err(FileError::because("open", path))?;
        let size = file.metadata().map_err(FileError::because("read", path))?.len();
        if size < 8 {
            return Err(invalid(format!(
                "it has {size} bytes, fewer than the 8 of the header's length"
            )));
        }
        let mut length = [0u8; 8];
        file.read_exact(&mut length).map_err(FileError::because("read", path))?;
        let length = u64::from_le_bytes(length);
        if length > LONGEST_HEADER || length > size - 8 {
            return Err(invalid(format!(
                "it states a header of {length} bytes, but has {size} bytes in all"
            )));
        }
        let mut header = vec![0u8; length as usize];
        file.read_exact(&mut header).map_err(FileError::because("read", path))?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| invalid(format!("header: {error}")))?;
        let (stated, present) = (metadata.data_len() as u64, size - 8 - length);
        if stated != present {
            return Err(invalid(format!(
                "the header describes {stated} bytes of tensors, but {present} follow"
            )));
        }
        let untaken = metadata.offset_keys().into_iter().collect();
        Ok(Self {
            path: path.to_path_buf(),
            file,
            data_start: 8 + length,
            metadata,
            untaken,
        })
    }

    /// Names and shapes of all tensors (scalars have an empty shape), by name.
    #[must_use]
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, info.shape.clone()))
            .collect()
    }

    /// Reads the values of an f32 tensor that must have this shape.
    ///
    /// # Errors
    /// [`TensorError`] naming the file and the tensor.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
        let (values, from) = self.locate(name, Dtype::F32, "F32", Some(shape))?;
        self.read_values(values, from)
    }

    /// Reads an f32 tensor of any shape.
    ///
    /// # Errors
    /// [`TensorError`] naming the file and the tensor.
    pub fn take_any(&mut self, name: &str) -> Result<HostTensor, TensorError> {
        let (values, from) = self.locate(name, Dtype::F32, "F32", None)?;
        let shape = self
            .metadata
            .info(name)
            .map(|info| info.shape.clone())
            .unwrap_or_default();
        Ok(HostTensor {
            shape,
            data: self.read_values(values, from)?,
        })
    }

    /// Reads an exact count.
    ///
    /// # Errors
    /// [`TensorError`] naming the file and the scalar.
    pub fn take_u64(&mut self, name: &str) -> Result<u64, TensorError> {
        let (_, from) = self.locate(name, Dtype::U64, "U64", Some(&[]))?;
        Ok(u64::from_le_bytes(self.read_eight(from)?))
    }

    /// Reads an exact number in double precision.
    ///
    /// # Errors
    /// [`TensorError`] naming the file and the scalar.
    pub fn take_f64(&mut self, name: &str) -> Result<f64, TensorError> {
        let (_, from) = self.locate(name, Dtype::F64, "F64", Some(&[]))?;
        Ok(f64::from_le_bytes(self.read_eight(from)?))
    }

    /// Ends strict reading.
    ///
    /// # Errors
    /// [`TensorError::Unexpected`] when the file holds tensors that were never taken.
    pub fn finish(self) -> Result<(), TensorError> {
        if self.untaken.is_empty() {
            return Ok(());
        }
        Err(TensorError::Unexpected {
            path: self.path,
            names: self.untaken.into_iter().collect(),
        })
    }

    /// Checks an entry, marks it taken, and gives its number of values and where they start.
    fn locate(
        &mut self,
        name: &str,
        dtype: Dtype,
        expected_type: &'static str,
        expected_shape: Option<&[usize]>,
    ) -> Result<(usize, u64), TensorError> {
        let (path, name) = (self.path.clone(), name.to_owned());
        let Some(info) = self.metadata.info(&name) else {
            return Err(TensorError::Missing { path, name });
        };
        if info.dtype != dtype {
            return Err(TensorError::Type {
                path,
                name,
                found: format!("{:?}", info.dtype),
                expected: expected_type,
            });
        }
        if let Some(expected) = expected_shape.filter(|expected| *expected != info.shape) {
            return Err(TensorError::Shape {
                path,
                name,
                found: info.shape.clone(),
                expected: expected.to_vec(),
            });
        }
        self.untaken.remove(&name);
        let (start, end) = info.data_offsets;
        Ok(((end - start) * 8 / dtype.bitsize(), self.data_start + start as u64))
    }

    fn read_values(&mut self, values: usize, from: u64) -> Result<Vec<f32>, TensorError> {
        self.file
            .seek(SeekFrom::Start(from))
            .map_err(FileError::because("read", &self.path))?;
        // The opening check bounds `values` by the file's size, so a lying header cannot ask for endless memory.
        let mut data = Vec::with_capacity(values);
        let mut bytes = vec![0u8; values.min(PIECE) * 4];
        while data.len() < values {
            let piece = &mut bytes[..(values - data.len()).min(PIECE) * 4];
            self.file
                .read_exact(piece)
                .map_err(FileError::because("read", &self.path))?;
            data.extend(
                piece
                    .chunks_exact(4)
                    .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])),
            );
        }
        Ok(data)
    }

    fn read_eight(&mut self, from: u64) -> Result<[u8; 8], TensorError> {
        let mut bytes = [0u8; 8];
        self.file
            .seek(SeekFrom::Start(from))
            .map_err(FileError::because("read", &self.path))?;
        self.file
            .read_exact(&mut bytes)
            .map_err(FileError::because("read", &self.path))?;
        Ok(bytes)
    }
}

#[cfg(test)]
#[path = "tensors_tests.rs"]
mod tests;
