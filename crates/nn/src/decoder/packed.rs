//! A decoder that is only used, with its weights laid out for decoding.

use std::convert::Infallible;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use ops::{Layout, PackedWeight, Precision};

use super::cache::Cache;
use super::config::DecoderConfig;
use super::model::Decoder;

/// A decoder that reads and goes on, but is neither trained nor saved.
///
/// Decoding meets each weight with a row or a few, so it is as fast as the weights can be read. On the CPU they lie in
/// the order in which they are read ([`PackedWeight`]), and in lower precision there is less of them. Other devices read
/// the weights as they are.
#[derive(Clone, Debug)]
pub struct PackedDecoder(Decoder);

/// The embeddings and the head, which are often the same.
#[derive(Clone, Debug)]
pub(super) struct PackedEnds {
    pub embedding: Arc<PackedWeight>,
    pub head: Arc<PackedWeight>,
}

impl Decoder {
    /// Lays the weights out for decoding, one after another, so that they are there twice only one at a time. `precision`
    /// is that of the blocks' matrices, of the embedding and of the head; single precision changes no bit of what the
    /// network computes.
    ///
    /// # Panics
    ///
    /// When the weights are on a device with gradients, or in lower precision on another device than the CPU.
    #[must_use]
    pub fn packed(mut self, precision: Precision) -> PackedDecoder {
        if self.device() != Device::flex() {
            assert_eq!(precision, Precision::Single, "lower precision is for the CPU");
            return PackedDecoder(self);
        }
        self.for_each_projection(|_, projection| -> Result<(), Infallible> {
            projection.pack(precision);
            Ok(())
        })
        .unwrap_or_else(|never| match never {});
        self.pack_ends(precision);
        PackedDecoder(self)
    }
}

impl PackedDecoder {
    /// The architecture.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        self.0.config()
    }

    /// The device that the weights are on.
    #[must_use]
    pub fn device(&self) -> Device {
        self.0.device()
    }

    /// As [`Decoder::extend`].
    ///
    /// # Panics
    ///
    /// As [`Decoder::extend`].
    pub fn extend(
        &self,
        tokens: &[u32],
        positions: &[usize],
        rows: &[usize],
        layout: Layout,
        cache: &mut Cache,
    ) -> Tensor<2> {
        self.0.extend(tokens, positions, rows, layout, cache)
    }

    /// As [`Decoder::logits`].
    #[must_use]
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.0.logits(hidden)
    }
}

#[cfg(test)]
mod tests {
    use ops::Forest;

    use super::super::test_models::*;
    use super::*;

    /// Logits after each of some tokens.
    fn logits(decoder: &PackedDecoder) -> Vec<f32> {
        let tokens = [1, 5, 3, 2, 7, 7, 0];
        let forest = Forest::sequences([tokens.len()]);
        let rows: Vec<usize> = (0..tokens.len()).collect();
        let mut cache = Cache::new(decoder.config(), tokens.len(), &decoder.device());
        let hidden = decoder.extend(&tokens, &forest.positions(), &rows, forest.layout(), &mut cache);
        decoder.logits(hidden).into_data().try_into_vec().unwrap()
    }

    #[test]
    fn single_precision_changes_no_bit_and_less_changes_little() {
        // Biases, normalised heads, learned positions; tied heads and one of its own.
        for text in [LLAMA, QWEN3, GPT2] {
            let decoder = random(text, &Device::flex());
            let plain = logits(&PackedDecoder(decoder.clone()));
            assert_eq!(logits(&decoder.clone().packed(Precision::Single)), plain);
            let largest = plain.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            for (precision, bound) in [(Precision::Bfloat16, 0.02), (Precision::EightBit, 0.03)] {
                let found = logits(&decoder.clone().packed(precision));
                assert_ne!(found, plain);
                for (found, plain) in found.iter().zip(&plain) {
                    assert!(
                        (found - plain).abs() < bound * largest,
                        "{precision:?}: {found} for {plain}"
                    );
                }
            }
        }
    }
}
