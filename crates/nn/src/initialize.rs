//! Initial weights, drawn on the host so that a seed means the same network on every device.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, RngExt as _};
use rand_distr::{Distribution as _, StandardNormal};

/// How a weight matrix starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Initial {
    /// N(0, std²).
    Normal(f64),
    /// U(-a, a) with a = sqrt(6 / (inputs + outputs)) (Glorot & Bengio 2010): variance kept both ways.
    Glorot,
    /// U(-a, a) with a = 1 / sqrt(inputs): PyTorch's default for linear layers, used for their biases too.
    Uniform,
}

impl Initial {
    /// A weight of shape [inputs, outputs].
    pub(crate) fn matrix<R: Rng>(
        self,
        [inputs, outputs]: [usize; 2],
        rng: &mut R,
        device: &Device,
    ) -> Param<Tensor<2>> {
        let values = self.values(inputs * outputs, inputs, outputs, rng);
        Param::from_data(TensorData::new(values, [inputs, outputs]), device)
    }

    fn values<R: Rng>(self, count: usize, inputs: usize, outputs: usize, rng: &mut R) -> Vec<f32> {
        let mut uniform = |limit: f64| {
            (0..count)
                .map(|_| ((rng.random::<f64>() * 2.0 - 1.0) * limit) as f32)
                .collect()
        };
        match self {
            Self::Glorot => uniform((6.0 / (inputs + outputs) as f64).sqrt()),
            Self::Uniform => uniform(1.0 / (inputs as f64).sqrt()),
            Self::Normal(std) => (0..count)
                .map(|_| {
                    let draw: f64 = StandardNormal.sample(rng);
                    (draw * std) as f32
                })
                .collect(),
        }
    }
}

/// A parameter of zeros.
pub(crate) fn zeros<const D: usize>(shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::from_data(TensorData::new(vec![0.0_f32; shape.iter().product()], shape), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn spreads_are_the_stated_ones() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let std =
            |values: &[f32]| (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
        // The standard error of a standard deviation over n draws is about std / sqrt(2 n): 0.4 % here.
        let normal = Initial::Normal(0.02).values(40_000, 100, 400, &mut rng);
        assert!((std(&normal) / 0.02 - 1.0).abs() < 0.02);
        let glorot = Initial::Glorot.values(40_000, 100, 400, &mut rng);
        let limit = (6.0_f64 / 500.0).sqrt();
        assert!((std(&glorot) / (limit / 3.0_f64.sqrt()) - 1.0).abs() < 0.02);
        assert!(glorot.iter().all(|v| f64::from(v.abs()) <= limit));
        let uniform = Initial::Uniform.values(40_000, 100, 400, &mut rng);
        assert!((std(&uniform) / (0.1 / 3.0_f64.sqrt()) - 1.0).abs() < 0.02);
    }

    #[test]
    fn one_seed_one_network() {
        let draw = |seed| Initial::Glorot.values(16, 4, 4, &mut rand_chacha::ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
