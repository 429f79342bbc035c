//! AdamW (Loshchilov & Hutter 2019) over a whole module, with PyTorch's defaults and order of operations.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::gradients::{NamedGradients, clip_factor};
use crate::parameters::{Held, update};
use crate::tensors::{Scalar, TensorError, TensorReader, write_tensors};

/// The optimiser's settings, apart from the learning rate, which a schedule gives at each step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the running mean of gradients.
    pub beta1: f64,
    /// Decay of the running mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Fraction of each weight, times the learning rate, that is taken off at each step.
    pub weight_decay: f64,
    /// Which parameters the decay is for.
    #[serde(default)]
    pub decayed: Decayed,
    /// Longest gradient, as its Euclidean norm over all parameters; longer ones are shortened to it.
    pub max_grad_norm: Option<f64>,
}

/// Which parameters decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decayed {
    /// All of them: PyTorch's default.
    #[default]
    Everything,
    /// Matrices, and not the vectors, which are biases and the weights of normalisations: transformers' `Trainer`.
    Matrices,
}

impl Default for AdamWConfig {
    /// PyTorch's defaults, without clipping.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 1e-2,
            decayed: Decayed::Everything,
            max_grad_norm: None,
        }
    }
}

/// The optimiser with its state: the two moments of every parameter, by name.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    moments: BTreeMap<String, Moments>,
}

/// Running means of a parameter's gradient and of its square, flattened.
#[derive(Debug)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
}

impl AdamW {
    /// A fresh optimiser: all moments zero.
    pub fn new(config: AdamWConfig) -> Self {
        Self {
            config,
            steps: 0,
            moments: BTreeMap::new(),
        }
    }

    /// One step, in place; returns the gradient's norm before clipping.
    ///
    /// Parameters without a gradient stay as they are, and their moments with them.
    pub fn step<M: Module>(&mut self, module: &mut M, mut gradients: NamedGradients, learning_rate: f64) -> f64 {
        let norm = gradients.norm();
        self.steps += 1;
        let step = ops::AdamwStep {
            learning_rate,
            beta_1: self.config.beta1,
            beta_2: self.config.beta2,
            epsilon: self.config.epsilon,
            weight_decay: self.config.weight_decay,
            step: self.steps,
            gradient_scale: clip_factor(norm, self.config.max_grad_norm),
        };
        update(module, |name, dimensions, parameter| {
            let Some(gradient) = gradients.0.remove(name) else {
                return parameter;
            };
            let Moments { first, second } = self.moments.remove(name).unwrap_or_else(|| Moments {
                first: gradient.zeros_like(),
                second: gradient.zeros_like(),
            });
            let mut step = step;
            if self.config.decayed == Decayed::Matrices && dimensions < 2 {
                step.weight_decay = 0.0;
            }
            let (parameter, first, second) = ops::adamw(parameter, gradient, first, second, step);
            self.moments.insert(name.to_owned(), Moments { first, second });
            parameter
        });
        norm
    }

    /// Writes step count and moments to one file.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn save(&self, file: &Path) -> Result<(), TensorError> {
        let mut tensors = BTreeMap::new();
        for (name, Moments { first, second }) in &self.moments {
            tensors.insert(format!("first_moment.{name}"), Held::new(first.clone()));
            tensors.insert(format!("second_moment.{name}"), Held::new(second.clone()));
        }
        write_tensors(
            file,
            &tensors,
            &BTreeMap::from([("steps".to_owned(), Scalar::U64(self.steps))]),
        )
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    ///
    /// A damaged file, or one whose moments do not come in pairs of one shape.
    pub fn load(config: AdamWConfig, file: &Path, device: &Device) -> Result<Self, TensorError> {
        let mut reader = TensorReader::open(file)?;
        let steps = reader.take_u64("steps")?;
        let names: Vec<(String, Vec<usize>)> = reader
            .shapes()
            .into_iter()
            .filter_map(|(name, shape)| name.strip_prefix("first_moment.").map(|name| (name.to_owned(), shape)))
            .collect();
        let mut moments = BTreeMap::new();
        for (name, shape) in names {
            let mut read = |which: &str| {
                let data = reader.take(&format!("{which}.{name}"), &shape)?;
                let length = data.len();
                Ok::<_, TensorError>(Tensor::from_data(TensorData::new(data, [length]), device))
            };
            let (first, second) = (read("first_moment")?, read("second_moment")?);
            moments.insert(name, Moments { first, second });
        }
        reader.finish()?;
        Ok(Self { config, steps, moments })
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;

    use super::*;
    use crate::parameters::collect;

    #[derive(Module, Debug)]
    struct Two {
        a: Param<Tensor<1>>,
        b: Param<Tensor<2>>,
    }

    fn module(device: &Device) -> Two {
        Two {
            a: Param::from_data([1.0_f32, -2.0], device),
            b: Param::from_data([[0.5_f32], [3.0]], device),
        }
    }

    /// The gradients of `2 Σ a + 3 Σ b²`: 2 for a, 6 b for b.
    fn gradients(module: &Two) -> NamedGradients {
        let b = module.b.val();
        let loss = module.a.val().sum().mul_scalar(2.0) + (b.clone() * b).sum().mul_scalar(3.0);
        let mut gradients = NamedGradients::default();
        gradients.add(module, loss.backward());
        gradients
    }

    fn values(module: &Two) -> Vec<f32> {
        collect(module).into_values().flat_map(|tensor| tensor.data).collect()
    }

    #[test]
    fn the_first_step_moves_every_weight_by_the_learning_rate() {
        let device = Device::flex().autodiff();
        let mut module = module(&device);
        let found = gradients(&module);
        let norm = AdamW::new(AdamWConfig::default()).step(&mut module, found, 0.1);
        // |(2, 2, 3, 18)|; after one step both corrected moments are the gradient and its square, so the step is the
        // sign of the gradient, after the decay 1 - 0.1 · 0.01.
        assert!((norm - (4.0 + 4.0 + 9.0 + 324.0_f64).sqrt()).abs() < 1e-5);
        for (found, start) in values(&module).into_iter().zip([1.0_f32, -2.0, 0.5, 3.0]) {
            assert!((found - (start * 0.999 - 0.1)).abs() < 1e-6, "{found} from {start}");
        }
    }

    #[test]
    fn parts_of_a_batch_add_up() {
        let device = Device::flex().autodiff();
        let module = module(&device);
        let mut twice = gradients(&module);
        let b = module.b.val();
        let loss = module.a.val().sum().mul_scalar(2.0) + (b.clone() * b).sum().mul_scalar(3.0);
        twice.add(&module, loss.backward());
        assert!((twice.norm() - 2.0 * gradients(&module).norm()).abs() < 1e-5);
    }

    #[test]
    fn a_saved_optimiser_goes_on_to_the_same_bits() {
        let device = Device::flex().autodiff();
        let config = AdamWConfig {
            max_grad_norm: Some(1.0),
            ..AdamWConfig::default()
        };
        let directory = tempfile::tempdir().unwrap();
        let (weights, state) = (directory.path().join("weights"), directory.path().join("optimizer"));
        let step = |optimizer: &mut AdamW, mut module: Two| {
            let found = gradients(&module);
            optimizer.step(&mut module, found, 0.05);
            module
        };
        let mut optimizer = AdamW::new(config);
        let mut first = step(&mut optimizer, module(&device));
        first = step(&mut optimizer, first);
        crate::parameters::save(&first, &weights).unwrap();
        optimizer.save(&state).unwrap();
        let uninterrupted = step(&mut optimizer, first);

        let again = crate::parameters::load(module(&device), &weights).unwrap();
        let mut optimizer = AdamW::load(config, &state, &device.clone().inner()).unwrap();
        assert_eq!(values(&step(&mut optimizer, again)), values(&uninterrupted));
        assert_ne!(values(&uninterrupted), values(&module(&device)));
    }

    #[test]
    fn weights_of_another_module_are_refused_by_name() {
        let device = Device::flex();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weights");
        #[derive(Module, Debug)]
        struct One {
            a: Param<Tensor<1>>,
        }
        crate::parameters::save(
            &One {
                a: Param::from_data([1.0_f32, -2.0], &device),
            },
            &path,
        )
        .unwrap();
        let error = crate::parameters::load(module(&device), &path)
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(error.contains("\"b\""), "{error}");
        crate::parameters::save(&module(&device), &path).unwrap();
        let one = One {
            a: Param::from_data([1.0_f32, -2.0], &device),
        };
        assert!(matches!(
            crate::parameters::load(one, &path),
            Err(TensorError::Unexpected { .. })
        ));
        let one = One {
            a: Param::from_data([1.0_f32], &device),
        };
        assert!(matches!(
            crate::parameters::load(one, &path),
            Err(TensorError::Shape { .. })
        ));
    }
}
