//! Keys and values of what was read already.

use burn::tensor::{Device, Tensor};

use super::config::DecoderConfig;

/// The keys and values of all layers, `capacity` rows each. Which text a row belongs to is the caller's to know and to
/// say in the layout of each pass, so texts can share rows and rows can be used again.
#[derive(Debug)]
pub struct Cache {
    layers: Vec<[Tensor<2>; 2]>,
    width: usize,
}

impl Cache {
    /// An empty cache.
    #[must_use]
    pub fn new(config: &DecoderConfig, capacity: usize, device: &Device) -> Self {
        let width = config.key_size();
        let rows = || Tensor::zeros([capacity, width], device);
        Self {
            layers: (0..config.layers).map(|_| [rows(), rows()]).collect(),
            width,
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.layers.first().map_or(0, |[keys, _]| keys.dims()[0])
    }

    /// Makes room for `capacity` rows, keeping what is there.
    pub fn grow(&mut self, capacity: usize) {
        let more = capacity.saturating_sub(self.capacity());
        if more == 0 {
            return;
        }
        for rows in self.layers.iter_mut().flatten() {
            let room = Tensor::zeros([more, self.width], &rows.device());
            let old = std::mem::replace(rows, Tensor::empty([0, 0], &room.device()));
            *rows = Tensor::cat(vec![old, room], 0);
        }
    }

    /// Writes a layer's keys and values to `rows` and gives all of that layer's.
    pub(super) fn put(
        &mut self,
        layer: usize,
        rows: &[usize],
        keys: Tensor<2>,
        values: Tensor<2>,
    ) -> (Tensor<2>, Tensor<2>) {
        let [old_keys, old_values] = &mut self.layers[layer];
        for (old, new) in [(old_keys, keys), (old_values, values)] {
            // Taken out, so that it is held once and written in place.
            let held = std::mem::replace(old, Tensor::empty([0, 0], &new.device()));
            *old = ops::put_rows(held, rows, new);
        }
        let [keys, values] = &self.layers[layer];
        (keys.clone(), values.clone())
    }
}
