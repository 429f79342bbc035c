//! The one face all denoisers show: noisy samples and their conditions in, the raw output out.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::{ConfigError, Dit, DitConfig, Mlp, MlpConfig};

/// What a denoiser knows of each sample of a batch besides its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditions {
    /// The noise coordinate of each sample, ln(sigma) / 4 (Karras et al. 2022, table 1). Length: batch.
    pub noise: Vec<f64>,
    /// The class of each sample; `None` asks for the unconditional output. Length: batch. A denoiser built
    /// without classes ignores it.
    pub classes: Vec<Option<u32>>,
}

/// A denoiser's architecture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DenoiserConfig {
    /// A multi-layer perceptron, for points.
    Mlp(MlpConfig),
    /// A diffusion transformer, for images.
    Dit(DitConfig),
}

impl DenoiserConfig {
    /// Builds the network with fresh weights drawn from `rng`.
    ///
    /// # Errors
    ///
    /// A size of zero, or one that does not divide another as it must.
    pub fn build<R: Rng>(&self, rng: &mut R, device: &Device) -> Result<Denoiser, ConfigError> {
        Ok(match self {
            Self::Mlp(config) => Denoiser::Mlp(Mlp::new(config, rng, device)?),
            Self::Dit(config) => Denoiser::Dit(Dit::new(config, rng, device)?),
        })
    }

    /// Values per sample.
    pub fn sample_size(&self) -> usize {
        match self {
            Self::Mlp(config) => config.dimensions,
            Self::Dit(config) => config.channels * config.height * config.width,
        }
    }

    /// Number of classes; 0 for an unconditional denoiser.
    pub fn classes(&self) -> usize {
        match self {
            Self::Mlp(config) => config.classes,
            Self::Dit(config) => config.classes,
        }
    }
}

/// A denoiser with its weights.
#[derive(Module, Debug)]
pub enum Denoiser {
    /// For points.
    Mlp(Mlp),
    /// For images.
    Dit(Dit),
}

impl Denoiser {
    /// The raw output, [batch, values], for the scaled noisy samples `input`, [batch, values].
    pub fn forward(&self, input: Tensor<2>, conditions: &Conditions) -> Tensor<2> {
        match self {
            Self::Mlp(network) => network.forward(input, conditions),
            Self::Dit(network) => network.forward(input, conditions),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn dit() -> DitConfig {
        DitConfig {
            channels: 1,
            height: 4,
            width: 6,
            patch_size: 2,
            hidden_size: 8,
            depth: 2,
            heads: 2,
            mlp_ratio: 2,
            classes: 3,
        }
    }

    fn mlp() -> MlpConfig {
        MlpConfig {
            dimensions: 24,
            hidden_size: 8,
            depth: 2,
            classes: 3,
        }
    }

    fn conditions(batch: usize) -> Conditions {
        Conditions {
            noise: (0..batch).map(|i| 0.3 * i as f64 - 0.5).collect(),
            classes: (0..batch).map(|i| (i > 0).then_some(i as u32 % 3)).collect(),
        }
    }

    fn input(rows: std::ops::Range<usize>, device: &Device) -> Tensor<2> {
        let values: Vec<f32> = rows
            .clone()
            .flat_map(|row| (0..24).map(move |i| ((row * 24 + i) as f32).sin()))
            .collect();
        Tensor::from_data(TensorData::new(values, [rows.len(), 24]), device)
    }

    fn values(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().try_into_vec().unwrap()
    }

    /// A network all of whose parameters are random, so that nothing is hidden behind a silent layer.
    fn random(config: &DenoiserConfig, device: &Device) -> Denoiser {
        struct Randomize(ChaCha8Rng);
        impl burn::module::ModuleMapper for Randomize {
            fn map_float<const D: usize>(
                &mut self,
                param: burn::module::Param<Tensor<D>>,
            ) -> burn::module::Param<Tensor<D>> {
                use rand::RngExt as _;
                param.map(|tensor| {
                    let shape = tensor.shape();
                    let values: Vec<f32> = (0..shape.num_elements())
                        .map(|_| self.0.random::<f32>() - 0.5)
                        .collect();
                    Tensor::from_data(TensorData::new(values, shape), &tensor.device())
                })
            }
        }
        let network = config.build(&mut ChaCha8Rng::seed_from_u64(1), device).unwrap();
        network.map(&mut Randomize(ChaCha8Rng::seed_from_u64(2)))
    }

    #[test]
    fn a_fresh_network_puts_out_zero() {
        let device = Device::flex();
        for config in [DenoiserConfig::Dit(dit()), DenoiserConfig::Mlp(mlp())] {
            assert_eq!((config.sample_size(), config.classes()), (24, 3));
            let network = config.build(&mut ChaCha8Rng::seed_from_u64(1), &device).unwrap();
            assert!(
                values(network.forward(input(0..2, &device), &conditions(2)))
                    .iter()
                    .all(|value| *value == 0.0)
            );
        }
    }

    #[test]
    fn a_sample_does_not_feel_its_company_but_does_feel_its_conditions() {
        let device = Device::flex();
        for config in [DenoiserConfig::Dit(dit()), DenoiserConfig::Mlp(mlp())] {
            let network = random(&config, &device);
            let together = values(network.forward(input(0..5, &device), &conditions(5)));
            let all = conditions(5);
            for i in 0..5 {
                let own = Conditions {
                    noise: vec![all.noise[i]],
                    classes: vec![all.classes[i]],
                };
                let alone = values(network.forward(input(i..i + 1, &device), &own));
                assert_eq!(alone, together[i * 24..(i + 1) * 24], "sample {i} of {config:?}");
                for other in [
                    Conditions {
                        noise: vec![all.noise[i] + 0.1],
                        ..own.clone()
                    },
                    Conditions {
                        classes: vec![all.classes[i].map_or(Some(1), |_| None)],
                        ..own.clone()
                    },
                ] {
                    assert_ne!(values(network.forward(input(i..i + 1, &device), &other)), alone);
                }
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        let device = Device::flex();
        let build = |config: DitConfig| {
            let built = DenoiserConfig::Dit(config).build(&mut ChaCha8Rng::seed_from_u64(1), &device);
            built.map(drop).unwrap_err().to_string()
        };
        let error = build(DitConfig { patch_size: 3, ..dit() });
        assert_eq!(error, "patch_size (3) does not divide height (4); choose one that does");
        assert!(build(DitConfig { heads: 3, ..dit() }).contains("heads (3) does not divide hidden_size (8)"));
        assert_eq!(
            build(DitConfig { depth: 0, ..dit() }),
            "depth is 0; it must be at least 1"
        );
        let error = DenoiserConfig::Mlp(MlpConfig {
            hidden_size: 0,
            ..mlp()
        })
        .build(&mut ChaCha8Rng::seed_from_u64(1), &device)
        .map(drop);
        assert_eq!(error, Err(ConfigError::Zero { name: "hidden_size" }));
    }
}
