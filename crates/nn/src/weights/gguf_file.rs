//! Weights of a GGUF file by Hugging Face's names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{HostTensor, WeightSource, WeightsError};
use crate::gguf::{Gguf, GgufError};

/// A GGUF file's weights, in Hugging Face's names and layout.
#[derive(Debug)]
pub struct GgufWeights {
    file: Gguf,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl GgufWeights {
    /// The weights of an open file.
    ///
    /// # Errors
    ///
    /// [`GgufError`] for an architecture that is not known here, or a tensor without a place in it.
    pub fn new(file: Gguf) -> Result<Self, GgufError> {
        let weights = file.weights()?.into_iter();
        Ok(Self {
            shapes: weights.map(|weight| (weight.name, weight.shape)).collect(),
            file,
        })
    }
}

impl WeightSource for GgufWeights {
    fn names(&self) -> Vec<String> {
        self.shapes.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.shapes.get(name).cloned()
    }

    fn read(&self, name: &str) -> Result<HostTensor, WeightsError> {
        let (shape, values) = self
            .file
            .weight(name)
            .map_err(|error| WeightsError::Source(error.into()))?;
        Ok(HostTensor { shape, values })
    }

    fn origin(&self) -> PathBuf {
        self.file.path().to_owned()
    }
}
