//! A decoder's gradients, with all activations kept or with one block's at a time.

use std::sync::Arc;

use burn::module::Module as _;
use burn::tensor::{Gradients, Tensor};
use ops::Forest;

use super::model::Decoder;

/// How a training pass runs.
#[derive(Clone, Debug, Default)]
pub struct TrainingPass {
    /// A key for each token, by which the adapters drop some of their inputs; nothing is dropped without.
    pub dropout: Option<Arc<[u64]>>,
    /// Keep only what enters each block, and work the rest out again on the way back (Chen et al. 2016, "Training deep
    /// nets with sublinear memory cost", with a block as the segment). A third more work, and the activations of one
    /// block at a time instead of all.
    pub recompute: bool,
}

impl Decoder {
    /// Differentiates `loss`, a scalar function of what the head sees of each token, `[tokens, width]`: hands the
    /// gradients of the trainable parameters to `collect`, in one piece or several that add up, and returns the loss.
    ///
    /// Recomputing gives the same bits as keeping: it is the same arithmetic in the same order.
    ///
    /// # Panics
    ///
    /// When the weights are not on a device with gradients, or as [`Decoder::hidden`].
    pub fn gradients(
        &self,
        tokens: &[u32],
        forest: &Forest,
        training: &TrainingPass,
        loss: impl FnOnce(Tensor<2>) -> Tensor<1>,
        collect: &mut dyn FnMut(Gradients),
    ) -> f64 {
        let positions = forest.positions();
        let layout = Arc::new(forest.layout());
        let dropout = training.dropout.as_deref();
        let pass = self.pass(&positions, Arc::clone(&layout), dropout);
        if !training.recompute {
            let mut hidden = self.embed(tokens, &positions);
            for layer in 0..self.blocks().len() {
                hidden = self.block(hidden, layer, &pass);
            }
            let loss = loss(self.normalize(hidden));
            collect(loss.backward());
            return scalar(&loss);
        }

        // Forward without a graph; what enters each block is kept.
        let plain = self.valid();
        let mut entering = Vec::with_capacity(self.blocks().len());
        let mut hidden = plain.embed(tokens, &positions);
        {
            let pass = plain.pass(&positions, layout, dropout);
            for layer in 0..plain.blocks().len() {
                entering.push(hidden.clone());
                hidden = plain.block(hidden, layer, &pass);
            }
        }
        // Back, one block's graph at a time. The derivative of Σ y g by y is g, to the bit.
        let leaf = |value: Tensor<2>| Tensor::from_inner(value).require_grad();
        let mut back = |x: &Tensor<2>, mut gradients: Gradients| {
            let gradient = x.grad_remove(&mut gradients);
            collect(gradients);
            gradient.unwrap_or_else(|| x.clone().inner().zeros_like())
        };
        let x = leaf(hidden);
        let loss = loss(self.normalize(x.clone()));
        let mut gradient = back(&x, loss.backward());
        while let Some(value) = entering.pop() {
            let x = leaf(value);
            let y = self.block(x.clone(), entering.len(), &pass);
            gradient = back(&x, (y * Tensor::from_inner(gradient)).sum().backward());
        }
        if self.trains_embeddings() {
            let embedded = self.embed(tokens, &positions);
            collect((embedded * Tensor::from_inner(gradient)).sum().backward());
        }
        scalar(&loss)
    }
}

fn scalar(loss: &Tensor<1>) -> f64 {
    f64::from(loss.clone().into_scalar::<f32>())
}

#[cfg(test)]
#[path = "training_tests.rs"]
mod tests;
