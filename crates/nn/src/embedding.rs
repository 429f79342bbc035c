//! What a denoiser is told besides the sample: how noisy it is, and which class it should be.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use rand::Rng;

use crate::denoiser::Conditions;
use crate::initialize::Initial;
use crate::layer::Linear;

/// Number of sines and of cosines that describe a noise level.
const FREQUENCIES: usize = 32;
/// Slowest and fastest angular frequency, in radians per unit of the noise coordinate.
///
/// The coordinate is ln(sigma) / 4, about -1.6 to 1.1 over the levels in use, so the slowest wave is nearly
/// linear across the range and the fastest turns some twenty times: enough to tell levels 5 % apart.
const SLOWEST: f64 = 0.5;
const FASTEST: f64 = 50.0;

/// Noise level (and class, if there are any) to one vector per sample.
///
/// `Linear(silu(Linear(waves(noise)))) + class_table[class]`, as in Peebles & Xie 2023. Row `classes` of the table
/// stands for "no class": the unconditional half of classifier-free guidance (Ho & Salimans 2022).
#[derive(Module, Debug)]
pub(crate) struct ConditionEmbedding {
    noise_in: Linear,
    noise_out: Linear,
    /// [classes + 1, width], absent for a denoiser without classes.
    class_table: Option<Param<Tensor<2>>>,
}

impl ConditionEmbedding {
    pub(crate) fn new<R: Rng>(width: usize, classes: usize, rng: &mut R, device: &Device) -> Self {
        Self {
            noise_in: Linear::new([2 * FREQUENCIES, width], Initial::Normal(0.02), rng, device),
            noise_out: Linear::new([width, width], Initial::Normal(0.02), rng, device),
            class_table: (classes > 0).then(|| Initial::Normal(0.02).matrix([classes + 1, width], rng, device)),
        }
    }

    /// One row of [batch, width] per sample.
    pub(crate) fn forward(&self, conditions: &Conditions, device: &Device) -> Tensor<2> {
        let batch = conditions.noise.len();
        let waves = Tensor::<2>::from_data(
            TensorData::new(waves(&conditions.noise), [batch, 2 * FREQUENCIES]),
            device,
        );
        let noise = self.noise_out.forward(ops::silu(self.noise_in.forward(waves)));
        match &self.class_table {
            None => noise,
            Some(table) => {
                let rows = table.lazy_shape()[0];
                // A product with a one-hot matrix: exact, differentiable, and free beside the network's own.
                let one_hot = TensorData::new(one_hot(&conditions.classes, batch, rows), [batch, rows]);
                noise + ops::linear(Tensor::from_data(one_hot, device), table.val(), None)
            }
        }
    }
}

/// sin and cos of each noise coordinate at geometrically spaced frequencies: [batch, 2 · FREQUENCIES], row-major.
fn waves(noise: &[f64]) -> Vec<f32> {
    let ratio = FASTEST / SLOWEST;
    let frequency = |i: usize| SLOWEST * ratio.powf(i as f64 / (FREQUENCIES - 1) as f64);
    let mut values = Vec::with_capacity(noise.len() * 2 * FREQUENCIES);
    for &level in noise {
        values.extend((0..FREQUENCIES).map(|i| (level * frequency(i)).sin() as f32));
        values.extend((0..FREQUENCIES).map(|i| (level * frequency(i)).cos() as f32));
    }
    values
}

/// One 1 per row, in the class's column; in the last column where a sample has no class.
fn one_hot(classes: &[Option<u32>], batch: usize, columns: usize) -> Vec<f32> {
    let mut values = vec![0.0; batch * columns];
    for (row, class) in values.chunks_exact_mut(columns).zip(classes) {
        row[class.map_or(columns - 1, |class| (class as usize).min(columns - 1))] = 1.0;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_levels_have_different_waves() {
        let apart = |sigma: f64| {
            let row = waves(&[sigma.ln() / 4.0, (1.05 * sigma).ln() / 4.0]);
            let (a, b) = row.split_at(2 * FREQUENCIES);
            a.iter()
                .zip(b)
                .map(|(a, b)| f64::from(a - b).powi(2))
                .sum::<f64>()
                .sqrt()
        };
        assert!([0.002, 0.1, 1.0, 80.0].into_iter().all(|sigma| apart(sigma) > 0.5));
    }

    #[test]
    fn no_class_is_the_last_row() {
        assert_eq!(one_hot(&[Some(1), None], 2, 3), [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    }
}
