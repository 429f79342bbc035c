//! From a source of tensors to a network.

use std::collections::BTreeSet;

use burn::tensor::Device;

use super::{WeightSource, WeightsError, transposed};
use crate::decoder::parameters::{self, Parameter};
use crate::decoder::{Decoder, DecoderConfig};

/// A decoder with its weights.
#[derive(Debug)]
pub struct Loaded {
    /// The network.
    pub decoder: Decoder,
    /// Tensors of the source that the network has no place for; worth a word to the user.
    pub unused: Vec<String>,
}

/// Builds a decoder with the weights of `source`, one tensor after another.
///
/// # Errors
///
/// [`WeightsError`] for a tensor that is missing or has another shape than the configuration asks for; before anything
/// large is allocated.
pub fn load(config: &DecoderConfig, source: &dyn WeightSource, device: &Device) -> Result<Loaded, WeightsError> {
    let mut used = BTreeSet::new();
    // All shapes first: the configuration may lie, and what it says is not allocated before the file bears it out.
    for parameter in parameters::of(config) {
        let name = find(source, &parameter.place.name)?;
        check(source, &name, &parameter)?;
        used.insert(name);
    }
    let decoder = Decoder::build(config, device, &mut |parameter| read(source, parameter))?;
    let known = |name: &String| {
        used.contains(name)
            // Buffers of older files, worked out anew by everybody.
            || [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"].iter().any(|end| name.ends_with(end))
            // A copy of the embedding.
            || config.tied && name == "lm_head.weight"
    };
    Ok(Loaded {
        decoder,
        unused: source.names().into_iter().filter(|name| !known(name)).collect(),
    })
}

/// The source's spelling: files of a model without its head leave the first part of names out.
fn find(source: &dyn WeightSource, name: &str) -> Result<String, WeightsError> {
    let short = name.split_once('.').map(|(_, rest)| rest.to_owned());
    [Some(name.to_owned()), short]
        .into_iter()
        .flatten()
        .find(|name| source.shape(name).is_some())
        .ok_or_else(|| WeightsError::Missing {
            path: source.origin(),
            name: name.to_owned(),
        })
}

pub(super) fn check(source: &dyn WeightSource, name: &str, parameter: &Parameter) -> Result<(), WeightsError> {
    let mut expected = parameter.shape.clone();
    if parameter.place.transposed {
        expected.reverse();
    }
    let found = source.shape(name).unwrap_or_default();
    if let (Some(columns), Some(last)) = (&parameter.place.columns, expected.last_mut()) {
        // Queries, keys and values side by side; each asks for its third.
        *last *= 3;
        debug_assert!(columns.end <= *last);
    }
    if found == expected {
        return Ok(());
    }
    Err(WeightsError::Shape {
        path: source.origin(),
        name: name.to_owned(),
        found,
        expected,
    })
}

pub(super) fn read(source: &dyn WeightSource, parameter: &Parameter) -> Result<Vec<f32>, WeightsError> {
    let tensor = source.read(&find(source, &parameter.place.name)?)?;
    let mut values = tensor.values;
    if let (Some(columns), Some(&total)) = (&parameter.place.columns, tensor.shape.last()) {
        let rows = values.chunks_exact(total).flat_map(|row| &row[columns.clone()]);
        values = rows.copied().collect();
    }
    if let (true, &[inputs, outputs]) = (parameter.place.transposed, &parameter.shape[..]) {
        values = transposed(&values, [outputs, inputs]);
    }
    Ok(values)
}
