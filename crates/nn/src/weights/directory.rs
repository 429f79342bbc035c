//! A directory of safetensors files, one or many.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use ops::MappedFile;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata};
use serde::Deserialize;

use super::{HostTensor, WeightSource, WeightsError};

/// The weights of a model directory in Hugging Face's format: `model.safetensors`, or shards with
/// `model.safetensors.index.json`. The files are mapped, and one tensor at a time is turned into numbers.
#[derive(Debug)]
pub struct SafetensorsDirectory {
    directory: PathBuf,
    files: Vec<MappedTensors>,
    /// Each tensor's file.
    places: BTreeMap<String, usize>,
}

/// One safetensors file.
#[derive(Debug)]
struct MappedTensors {
    path: PathBuf,
    map: MappedFile,
    metadata: Metadata,
    /// Where the tensors' bytes begin.
    start: usize,
}

/// The part of an index that is read.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// An index is a list of names; a hundred times the largest published one.
const LONGEST_INDEX: u64 = 100 << 20;

impl SafetensorsDirectory {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, in `directory`.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] names the file.
    pub fn open(directory: &Path) -> Result<Self, WeightsError> {
        Self::open_named(directory, "model.safetensors")
    }

    /// The same for files of another name, such as `adapter_model.safetensors`.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] names the file.
    pub fn open_named(directory: &Path, name: &str) -> Result<Self, WeightsError> {
        let (single, index) = (directory.join(name), directory.join(format!("{name}.index.json")));
        if single.is_file() {
            let file = MappedTensors::open(single)?;
            let places = file.metadata.tensors().into_keys().map(|name| (name, 0)).collect();
            return Ok(Self {
                directory: directory.to_owned(),
                files: vec![file],
                places,
            });
        }
        if !index.is_file() {
            return Err(WeightsError::NoWeights {
                path: directory.to_owned(),
            });
        }
        Self::sharded(directory, &index)
    }

    fn sharded(directory: &Path, path: &Path) -> Result<Self, WeightsError> {
        let invalid = |reason: String| WeightsError::Invalid {
            path: path.to_owned(),
            reason,
        };
        let length = path.metadata().map_err(WeightsError::file("read", path))?.len();
        if length > LONGEST_INDEX {
            return Err(invalid(format!("an index of {length} bytes is none")));
        }
        let bytes = std::fs::read(path).map_err(WeightsError::file("read", path))?;
        let index: Index =
            serde_json::from_slice(&bytes).map_err(|error| invalid(format!("it is no index of shards ({error})")))?;
        let mut files: Vec<MappedTensors> = Vec::new();
        let mut numbers = BTreeMap::new();
        let mut places = BTreeMap::new();
        for (tensor, shard) in index.weight_map {
            if Path::new(&shard).file_name() != Some(shard.as_ref()) {
                return Err(invalid(format!("it names a shard outside the directory, \"{shard}\"")));
            }
            let number = match numbers.get(&shard) {
                Some(&number) => number,
                None => {
                    files.push(MappedTensors::open(directory.join(&shard))?);
                    numbers.insert(shard.clone(), files.len() - 1);
                    files.len() - 1
                }
            };
            if files[number].metadata.info(&tensor).is_none() {
                return Err(invalid(format!(
                    "it says that \"{tensor}\" is in {shard}, which has no such tensor"
                )));
            }
            places.insert(tensor, number);
        }
        Ok(Self {
            directory: directory.to_owned(),
            files,
            places,
        })
    }
}

impl MappedTensors {
    fn open(path: PathBuf) -> Result<Self, WeightsError> {
        let map = MappedFile::open(&path).map_err(WeightsError::file("open", &path))?;
        let invalid = |reason: String| WeightsError::Invalid {
            path: path.clone(),
            reason,
        };
        let (header, metadata) = SafeTensors::read_metadata(map.as_ref())
            .map_err(|error| invalid(format!("it is no whole safetensors file ({error})")))?;
        Ok(Self {
            // The header's length stands in eight bytes before it.
            start: header + 8,
            path,
            map,
            metadata,
        })
    }

    fn read(&self, name: &str) -> Result<HostTensor, WeightsError> {
        let missing = || WeightsError::Missing {
            path: self.path.clone(),
            name: name.to_owned(),
        };
        let info = self.metadata.info(name).ok_or_else(missing)?;
        let (first, last) = info.data_offsets;
        let bytes = self.map.as_ref().get(self.start + first..self.start + last);
        let bytes = bytes.ok_or_else(|| WeightsError::Invalid {
            path: self.path.clone(),
            reason: format!("\"{name}\" lies outside the file"),
        })?;
        let values = match info.dtype {
            Dtype::F32 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes))
                .collect(),
            Dtype::F16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f16::from_le_bytes(bytes).to_f32())
                .collect(),
            Dtype::BF16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| bf16::from_le_bytes(bytes).to_f32())
                .collect(),
            other => {
                return Err(WeightsError::Kind {
                    path: self.path.clone(),
                    name: name.to_owned(),
                    kind: format!("{other:?}"),
                });
            }
        };
        // One tensor in flight: the file's own copy need not stay beside what was made of it.
        self.map.release(self.start + first..self.start + last);
        Ok(HostTensor {
            shape: info.shape.clone(),
            values,
        })
    }
}

impl WeightSource for SafetensorsDirectory {
    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let file = &self.files[*self.places.get(name)?];
        file.metadata.info(name).map(|info| info.shape.clone())
    }

    fn read(&self, name: &str) -> Result<HostTensor, WeightsError> {
        match self.places.get(name) {
            Some(&file) => self.files[file].read(name),
            None => Err(WeightsError::Missing {
                path: self.directory.clone(),
                name: name.to_owned(),
            }),
        }
    }

    fn origin(&self) -> PathBuf {
        self.directory.clone()
    }
}
