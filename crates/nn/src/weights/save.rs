//! From a network to files that transformers opens.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use half::bf16;
use safetensors::tensor::{Dtype, View};

use super::{WeightsError, transposed};
use crate::decoder::Decoder;
use crate::decoder::parameters::{self, Parameter};

/// The type of numbers in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// What training works with.
    #[default]
    F32,
    /// Half the size; rounded to the nearest.
    Bf16,
}

/// Above this many bytes, weights go to several files, as transformers does it.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// Writes a decoder's weights into `directory`: `model.safetensors`, or shards of at most `shard_bytes` and their index.
/// Adapters are not among them. One tensor at a time is copied.
///
/// # Errors
///
/// [`WeightsError`]; the caller is left to remove what was written.
pub fn save(decoder: &Decoder, directory: &Path, precision: Precision, shard_bytes: u64) -> Result<(), WeightsError> {
    let shards = shards(file_tensors(decoder, precision), shard_bytes);
    let count = shards.len();
    let mut weight_map = BTreeMap::new();
    let mut total = 0_u64;
    for (number, shard) in shards.into_iter().enumerate() {
        let name = if count == 1 {
            "model.safetensors".to_owned()
        } else {
            format!("model-{:05}-of-{count:05}.safetensors", number + 1)
        };
        for (tensor, content) in &shard {
            weight_map.insert(tensor.clone(), name.clone());
            total += content.data_len() as u64;
        }
        write(&directory.join(name), shard)?;
    }
    if count > 1 {
        let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        let path = directory.join("model.safetensors.index.json");
        std::fs::write(&path, format!("{index:#}")).map_err(WeightsError::file("write", path))?;
    }
    Ok(())
}

/// The decoder's tensors as files have them, by name. Their values are made when they are asked for.
pub(super) fn file_tensors(decoder: &Decoder, precision: Precision) -> BTreeMap<String, FileTensor> {
    let values = flat_parameters(decoder);
    let mut tensors: BTreeMap<String, FileTensor> = BTreeMap::new();
    for parameter in parameters::of(decoder.config()) {
        let part = Part {
            values: values[&parameter.path].clone(),
            parameter,
        };
        let (name, mut shape) = (part.parameter.place.name.clone(), part.parameter.shape.clone());
        if part.parameter.place.transposed {
            shape.reverse();
        }
        match tensors.entry(name) {
            Entry::Vacant(place) => {
                place.insert(FileTensor {
                    parts: vec![part],
                    shape,
                    precision,
                });
            }
            Entry::Occupied(mut tensor) => {
                let tensor = tensor.get_mut();
                if let (Some(width), Some(more)) = (tensor.shape.last_mut(), shape.last()) {
                    *width += more;
                }
                tensor.parts.push(part);
            }
        }
    }
    tensors
}

/// Writes tensors to one file, with the metadata that transformers asks for.
pub(crate) fn write<V: View>(path: &Path, tensors: impl IntoIterator<Item = (String, V)>) -> Result<(), WeightsError> {
    // The library writes a file that nobody else may read and puts it in the place of this one: the permissions are those
    // that a new file has here.
    let file = std::fs::File::create(path).map_err(WeightsError::file("create", path))?;
    let permissions = file
        .metadata()
        .map_err(WeightsError::file("create", path))?
        .permissions();
    drop(file);
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|error| WeightsError::File {
        action: "write",
        path: path.to_owned(),
        cause: match error {
            safetensors::SafeTensorError::IoError(cause) => cause,
            other => std::io::Error::other(other.to_string()),
        },
    })?;
    std::fs::set_permissions(path, permissions).map_err(WeightsError::file("write", path))
}

/// Groups of tensors, each of at most `most` bytes if its tensors allow it.
fn shards(tensors: BTreeMap<String, FileTensor>, most: u64) -> Vec<Vec<(String, FileTensor)>> {
    let mut shards = vec![Vec::new()];
    let mut size = 0;
    for (name, tensor) in tensors {
        let bytes = tensor.data_len() as u64;
        if size > 0 && size + bytes > most {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push((name, tensor));
        }
    }
    shards
}

/// A tensor as a file has it, made when it is written.
pub(super) struct FileTensor {
    /// Parameters side by side; usually one.
    parts: Vec<Part>,
    shape: Vec<usize>,
    precision: Precision,
}

struct Part {
    parameter: Parameter,
    values: Tensor<1>,
}

impl FileTensor {
    /// Row-major, in the file's orientation.
    pub(super) fn values(&self) -> Vec<f32> {
        let mut parts = self.parts.iter().map(|part| {
            let values = to_host(part.values.clone());
            match (part.parameter.place.transposed, &part.parameter.shape[..]) {
                (true, &[inputs, outputs]) => transposed(&values, [inputs, outputs]),
                _ => values,
            }
        });
        if self.parts.len() == 1 {
            return parts.next().unwrap_or_default();
        }
        let columns = |part: &Part| part.parameter.shape.last().copied().unwrap_or(0);
        let widths: Vec<usize> = self.parts.iter().map(columns).collect();
        let parts: Vec<Vec<f32>> = parts.collect();
        let rows = parts.first().map_or(0, Vec::len) / widths.first().copied().unwrap_or(1).max(1);
        (0..rows)
            .flat_map(|row| {
                parts
                    .iter()
                    .zip(&widths)
                    .flat_map(move |(part, width)| &part[row * width..][..*width])
            })
            .copied()
            .collect()
    }
}

impl View for FileTensor {
    fn dtype(&self) -> Dtype {
        match self.precision {
            Precision::F32 => Dtype::F32,
            Precision::Bf16 => Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.values();
        match self.precision {
            Precision::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Precision::Bf16 => values
                .iter()
                .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
                .collect(),
        }
    }

    fn data_len(&self) -> usize {
        let values: usize = self.parts.iter().map(|part| part.values.dims()[0]).sum();
        values * self.dtype().bitsize() / 8
    }
}

/// A module's float parameters by path, flattened, outside any gradient graph. They share the module's memory.
pub(crate) fn flat_parameters<M: Module>(module: &M) -> HashMap<String, Tensor<1>> {
    struct Visit(Vec<String>, HashMap<String, Tensor<1>>);
    impl ModuleVisitor for Visit {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1
                .insert(self.0.join("."), untracked(param.val()).flatten(0, D - 1));
        }
    }
    let mut visit = Visit(Vec::new(), HashMap::new());
    module.visit(&mut visit);
    visit.1
}

/// The tensor without its gradient graph.
pub(crate) fn untracked<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if tensor.is_autodiff() { tensor.inner() } else { tensor }
}

/// A tensor's values on the host.
pub(crate) fn to_host(tensor: Tensor<1>) -> Vec<f32> {
    // The conversion makes the type right, so taking the vector cannot fail.
    tensor.into_data().convert::<f32>().try_into_vec().unwrap_or_default()
}
