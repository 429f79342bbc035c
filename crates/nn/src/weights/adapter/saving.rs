//! The writing half: a decoder's adapters as PEFT's files.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::Tensor;
use safetensors::tensor::{Dtype, View};
use serde_json::Value;

use super::super::save::{file_tensors, to_host, untracked, write};
use super::super::{Precision, WeightsError, transposed};
use super::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, FileConfig, PREFIX, SCORER, none, yes};
use crate::decoder::parameters::Parameter;
use crate::decoder::{Adapter, Decoder, Targets};

/// Writes the decoder's adapters, and the layers that were trained whole with them, into `directory` as PEFT does.
/// `base` is the name or path of the model that they belong to.
///
/// # Errors
///
/// [`WeightsError`]; the caller is left to remove what was written.
///
/// # Panics
///
/// When the decoder has no adapters.
pub fn save_adapter(decoder: &Decoder, directory: &Path, base: &str) -> Result<(), WeightsError> {
    let lora = decoder.lora().unwrap_or_else(|| panic!("the decoder has adapters"));
    let layers = decoder.adapters();
    let mut tensors = BTreeMap::new();
    let (mut rank_pattern, mut alpha_pattern) = (BTreeMap::new(), BTreeMap::new());
    let mut modules: BTreeMap<String, Vec<Parameter>> = BTreeMap::new();
    for parameter in decoder.adaptable() {
        if layers.contains_key(parameter.layer_path()) {
            modules
                .entry(parameter.module().to_owned())
                .or_default()
                .push(parameter);
        }
    }
    for (module, parts) in &modules {
        let joined = join(parts, &layers);
        let alpha = if lora.rank_stabilized {
            joined.scale * (joined.rank as f64).sqrt()
        } else {
            joined.scale * joined.rank as f64
        };
        if joined.rank != lora.rank {
            rank_pattern.insert(module.clone(), joined.rank);
        }
        if (alpha - lora.alpha).abs() > 1e-9 * lora.alpha {
            alpha_pattern.insert(module.clone(), alpha);
        }
        let (rank, inputs, outputs) = (joined.rank, joined.inputs, joined.outputs);
        tensors.insert(
            format!("{PREFIX}{module}.lora_A.weight"),
            FileTensor([rank, inputs].to_vec(), transposed(&joined.a, [inputs, rank])),
        );
        tensors.insert(
            format!("{PREFIX}{module}.lora_B.weight"),
            FileTensor([outputs, rank].to_vec(), transposed(&joined.b, [rank, outputs])),
        );
    }

    let saved = decoder.saved_modules(&lora.modules_to_save).unwrap_or_default();
    // Whole names: PEFT takes any name that ends in what stands here, even in the middle of a word.
    let mut modules_to_save: Vec<String> = saved.iter().cloned().collect();
    if !saved.is_empty() {
        for (name, tensor) in file_tensors(decoder, Precision::F32) {
            if name.rsplit_once('.').is_some_and(|(module, _)| saved.contains(module)) {
                let content = FileTensor(tensor.shape().to_vec(), tensor.values());
                tensors.insert(format!("{PREFIX}{name}"), content);
            }
        }
        // Without it, PEFT would leave the old embedding in the head's place.
        let embedding = tensors
            .iter()
            .find(|(name, _)| name.ends_with("embed_tokens.weight") || name.ends_with("wte.weight"));
        let tied = decoder.config().tied && !decoder.config().scores;
        if let (true, Some((_, tensor))) = (tied, embedding) {
            let copy = FileTensor(tensor.0.clone(), tensor.1.clone());
            tensors.insert(format!("{PREFIX}lm_head.weight"), copy);
            modules_to_save.push("lm_head".to_owned());
        }
    }

    let target_modules = match &lora.targets {
        Targets::Named(names) => names.clone(),
        Targets::AllLinear => {
            let last = |module: &String| module.rsplit('.').next().unwrap_or(module).to_owned();
            modules.keys().map(last).collect::<BTreeSet<_>>().into_iter().collect()
        }
    };
    let config = FileConfig {
        peft_type: "LORA".to_owned(),
        task_type: Some(if decoder.config().scores { SCORER } else { "CAUSAL_LM" }.to_owned()),
        base_model_name_or_path: Some(base.to_owned()),
        revision: None,
        r: lora.rank,
        lora_alpha: lora.alpha,
        lora_dropout: lora.dropout,
        use_rslora: lora.rank_stabilized,
        bias: none(),
        // Training goes on with one weight, in PEFT too.
        ensure_weight_tying: decoder.config().tied && modules_to_save.iter().any(|name| name == "lm_head"),
        fan_in_fan_out: modules.values().flatten().all(|parameter| !parameter.place.transposed),
        target_modules: target_modules.into(),
        modules_to_save: Some(modules_to_save).filter(|names| !names.is_empty()),
        rank_pattern,
        alpha_pattern,
        layers_to_transform: Value::Null,
        inference_mode: true,
        init_lora_weights: yes(),
    };
    write(&directory.join(ADAPTER_WEIGHTS), tensors)?;
    let path = directory.join(ADAPTER_CONFIG);
    // Numbers, texts and lists of them are always writable.
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    std::fs::write(&path, text).map_err(WeightsError::file("write", path))
}

/// The adapter of one matrix of a file.
struct Joined {
    /// [inputs, rank].
    a: Vec<f32>,
    /// [rank, outputs].
    b: Vec<f32>,
    rank: usize,
    inputs: usize,
    outputs: usize,
    scale: f64,
}

/// Adapters of layers that share a matrix, side by side; usually there is one, which stays as it is.
fn join(parts: &[Parameter], layers: &BTreeMap<String, Adapter>) -> Joined {
    let &[inputs, width] = &parts[0].shape[..] else {
        unreachable!("adapted weights are matrices")
    };
    let outputs = if parts[0].place.columns.is_some() {
        3 * width
    } else {
        width
    };
    let host = |tensor: Tensor<2>| to_host(untracked(tensor).flatten(0, 1));
    let rank: usize = parts.iter().map(|part| layers[part.layer_path()].rank()).sum();
    let mut joined = Joined {
        a: vec![0.0; inputs * rank],
        b: vec![0.0; rank * outputs],
        rank,
        inputs,
        outputs,
        scale: layers[parts[0].layer_path()].scale,
    };
    let mut first = 0;
    for part in parts {
        let adapter = &layers[part.layer_path()];
        let own = adapter.rank();
        let column = part.place.columns.as_ref().map_or(0, |columns| columns.start);
        for (row, values) in host(adapter.a.val()).chunks_exact(own).enumerate() {
            joined.a[row * rank + first..][..own].copy_from_slice(values);
        }
        for (row, values) in host(adapter.b.val()).chunks_exact(width).enumerate() {
            joined.b[(first + row) * outputs + column..][..width].copy_from_slice(values);
        }
        first += own;
    }
    joined
}

/// A tensor to be written: its shape and its values.
pub(super) struct FileTensor(pub(super) Vec<usize>, pub(super) Vec<f32>);

impl View for FileTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.0
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.1.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        4 * self.1.len()
    }
}
