//! Tensors in Hugging Face's names and layouts: what llama.cpp's converter did to them, undone.
//!
//! The converter (`convert_hf_to_gguf.py` of llama.cpp) changes three things besides names:
//!
//! - llama: the rows of the query and key projections are reordered, head by head. Hugging Face rotates row j of a head
//!   with row j + d/2 (d rows a head), llama.cpp row 2j with row 2j + 1; so row j + p·d/2 there is row 2j + p here.
//!   Biases likewise. The other architectures use the halves in both places.
//! - gpt2: Hugging Face's layers multiply from the left and keep their weights as \[in, out\]; GGUF has \[out, in\].
//! - gemma, gemma2: Hugging Face's norms multiply by 1 + w and keep w; GGUF has 1 + w.

use super::names::ARCHITECTURES;
use super::{Gguf, GgufError, TensorInfo, hugging_face_name};
use crate::weights::transposed;

/// A parameter of the model that a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightInfo {
    /// Hugging Face's name.
    pub name: String,
    /// Hugging Face's shape.
    pub shape: Vec<usize>,
}

/// What has to be done to a tensor's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    /// Rows of this many heads go back from pairs of neighbours to halves.
    Rows {
        heads: usize,
    },
    Transpose,
    SubtractOne,
}

impl Gguf {
    /// The model's parameters in Hugging Face's names and shapes, in the order of the file. A file without
    /// `lm_head.weight` has a model whose head is its embedding.
    ///
    /// # Errors
    /// [`GgufError::Unsupported`] for an architecture that is not known here; [`GgufError::Tensor`] for a tensor that
    /// the architecture has no parameter for (nothing is left out silently), or of an impossible shape.
    pub fn weights(&self) -> Result<Vec<WeightInfo>, GgufError> {
        let architecture = self.known_architecture()?;
        self.tensors()
            .iter()
            .filter(|info| !is_configuration(&info.name))
            .map(|info| {
                let Some(name) = hugging_face_name(architecture, &info.name) else {
                    let problem = format!("the architecture \"{architecture}\" has no such parameter here");
                    return Err(self.tensor_error(info, problem, "use a plain model of this architecture"));
                };
                let mut shape = info.shape.clone();
                if self.change(architecture, info)? == Change::Transpose {
                    shape.reverse();
                }
                Ok(WeightInfo { name, shape })
            })
            .collect()
    }

    /// The shape and the values (f32, row-major) of a parameter, by Hugging Face's name and in its layout.
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`] when the file has no such parameter, and all that [`Self::weights`] and
    /// [`Self::read`] report.
    pub fn weight(&self, hugging_face: &str) -> Result<(Vec<usize>, Vec<f32>), GgufError> {
        let architecture = self.known_architecture()?;
        let found = self.tensors().iter().find(|info| {
            // Names are made for the few tensors that can match: the kind at the end is the same in both.
            info.name.rsplit('.').next() == hugging_face.rsplit('.').next()
                && hugging_face_name(architecture, &info.name).as_deref() == Some(hugging_face)
        });
        let Some(info) = found else {
            return Err(GgufError::MissingTensor {
                path: self.path().to_path_buf(),
                name: hugging_face.to_owned(),
            });
        };
        let change = self.change(architecture, info)?;
        let (mut shape, mut values) = self.read(&info.name)?;
        match change {
            Change::None => (),
            Change::Rows { heads } => values = halves(&values, heads, shape.first().copied().unwrap_or(0)),
            Change::Transpose => {
                if let [rows, columns] = shape[..] {
                    values = transposed(&values, [rows, columns]);
                }
                shape.reverse();
            }
            Change::SubtractOne => values.iter_mut().for_each(|value| *value -= 1.0),
        }
        Ok((shape, values))
    }

    /// The architecture, if the names and layouts of its tensors are known.
    pub(super) fn known_architecture(&self) -> Result<&str, GgufError> {
        let architecture = self.architecture()?;
        if ARCHITECTURES.contains(&architecture) {
            return Ok(architecture);
        }
        Err(self.unsupported(
            format!("a model of the architecture \"{architecture}\""),
            format!("the architectures read here are {}", ARCHITECTURES.join(", ")),
        ))
    }

    /// What has to be done to a tensor, once its shape is known to allow it.
    fn change(&self, architecture: &str, info: &TensorInfo) -> Result<Change, GgufError> {
        let Some((stem, kind)) = info.name.rsplit_once('.') else {
            return Ok(Change::None);
        };
        let part = stem.rsplit('.').next().unwrap_or(stem);
        let rotated = matches!(part, "attn_q" | "attn_k");
        Ok(match (architecture, kind) {
            ("llama", _) if rotated => {
                let heads = match part {
                    "attn_q" => self.heads(architecture)?,
                    _ => self.key_value_heads(architecture)?,
                };
                let rows = info.shape.first().copied().unwrap_or(0);
                if heads == 0 || !rows.is_multiple_of(2 * heads) {
                    let problem = format!("its {rows} rows do not divide into {heads} heads of an even size");
                    return Err(self.tensor_error(info, problem, "convert the model again with a current converter"));
                }
                Change::Rows { heads }
            }
            ("gpt2", "weight") if matches!(part, "attn_qkv" | "attn_output" | "ffn_up" | "ffn_down") => {
                if info.shape.len() != 2 {
                    let problem = format!("it has the shape {:?}, where a matrix is needed", info.shape);
                    return Err(self.tensor_error(info, problem, "convert the model again with a current converter"));
                }
                Change::Transpose
            }
            ("gemma" | "gemma2", "weight") if part.ends_with("norm") => Change::SubtractOne,
            _ => Change::None,
        })
    }

    /// The number of query heads.
    pub(super) fn heads(&self, architecture: &str) -> Result<usize, GgufError> {
        let key = format!("{architecture}.attention.head_count");
        self.layer_size(&key)?.ok_or_else(|| self.missing(&key))
    }

    /// The number of key and value heads: that of the queries unless stated.
    pub(super) fn key_value_heads(&self, architecture: &str) -> Result<usize, GgufError> {
        match self.layer_size(&format!("{architecture}.attention.head_count_kv"))? {
            Some(heads) => Ok(heads),
            None => self.heads(architecture),
        }
    }

    /// A size that may be stated once or for each layer; layers that differ are refused.
    pub(super) fn layer_size(&self, key: &str) -> Result<Option<usize>, GgufError> {
        let Some(list) = self.metadata().get(key).and_then(super::Value::as_array) else {
            return self.size(key);
        };
        let sizes: Option<Vec<u64>> = (0..list.len()).map(|i| list.get(i)?.as_u64()).collect();
        match sizes.as_deref() {
            Some([first, rest @ ..]) if rest.iter().all(|size| size == first) => usize::try_from(*first)
                .map(Some)
                .map_err(|_| self.key_error(key, "its values are too large")),
            Some([_, ..]) => Err(self.unsupported(
                format!("the metadata key \"{key}\" differs from layer to layer"),
                "use a model whose layers are alike",
            )),
            _ => Err(self.key_error(key, "its value is not a list of whole numbers")),
        }
    }

    fn tensor_error(&self, info: &TensorInfo, problem: String, remedy: &str) -> GgufError {
        GgufError::Tensor {
            path: self.path().to_path_buf(),
            name: info.name.clone(),
            problem,
            remedy: remedy.to_owned(),
        }
    }
}

/// Whether a tensor is no parameter: the rotary frequencies, which [`Gguf::config`] reads, and old converters' unscaled
/// ones.
fn is_configuration(name: &str) -> bool {
    name == "rope_freqs.weight" || name.ends_with(".attn_rot_embd.weight")
}

/// Rows that llama.cpp has in pairs of neighbours, in halves: of each head's rows, the even ones first.
fn halves(values: &[f32], heads: usize, rows: usize) -> Vec<f32> {
    if rows == 0 || heads == 0 {
        return values.to_vec();
    }
    let (row, head_rows) = (values.len() / rows, rows / heads);
    let half = head_rows / 2;
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for parity in 0..2 {
            for j in 0..half {
                let from = (head * head_rows + 2 * j + parity) * row;
                out.extend_from_slice(&values[from..from + row]);
            }
        }
    }
    out
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
