//! Low-rank adapters (Hu et al. 2021, "LoRA"): which layers have one, how it starts, what is trained.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use rand::{Rng, RngExt as _};

use super::model::Decoder;
use super::parameters::{self, Parameter};
use super::projection::{Noise, Rows};
use crate::weights::save::untracked;

/// A low-rank change of a projection: `scale · (dropout(x) A) B`.
#[derive(Module, Debug)]
pub struct Adapter {
    /// [inputs, rank].
    pub(crate) a: Param<Tensor<2>>,
    /// [rank, outputs].
    pub(crate) b: Param<Tensor<2>>,
    #[module(skip)]
    pub(crate) scale: f64,
    #[module(skip)]
    pub(crate) dropout: f64,
}

impl Adapter {
    pub(super) fn forward(&self, x: &Rows, noise: Option<Noise<'_>>) -> Tensor<2> {
        let low = match noise {
            Some(Noise { keys, site }) if self.dropout > 0.0 => {
                let x = ops::dropout(x.values(), keys, site, self.dropout);
                ops::linear(x, self.a.val(), None)
            }
            _ => x.linear(self.a.val(), None),
        };
        // The scale goes to the thin matrix in the middle.
        ops::linear(low.mul_scalar(self.scale), self.b.val(), None)
    }

    /// Width of the low-rank path.
    pub(crate) fn rank(&self) -> usize {
        self.a.val().dims()[1]
    }

    /// What is added to the weight when the adapter is merged into it.
    pub(super) fn change(&self) -> Tensor<2> {
        let (a, b) = (untracked(self.a.val()), untracked(self.b.val()));
        let change = ops::linear(a, b, None).mul_scalar(self.scale);
        if self.a.val().is_autodiff() {
            Tensor::from_inner(change)
        } else {
            change
        }
    }
}

/// Which layers get adapters, and what kind.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Width of the low-rank path; at least 1.
    pub rank: usize,
    /// The change is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Share of a layer's inputs that the low-rank path does not see in training.
    pub dropout: f64,
    /// Scale by `alpha / sqrt(rank)` instead (Kalajdzievski 2023, "rsLoRA").
    pub rank_stabilized: bool,
    /// The layers that are adapted.
    pub targets: Targets,
    /// Layers that are trained whole beside the adapters, by the ends of their names in Hugging Face's files
    /// (`lm_head`, `embed_tokens`, `norm`).
    pub modules_to_save: Vec<String>,
}

/// Which linear layers are adapted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// All of the blocks; not the head.
    AllLinear,
    /// Those whose names in Hugging Face's files end so: `q_proj`, `mlp.down_proj`, `layers.3.self_attn.v_proj`.
    Named(Vec<String>),
}

/// Adapters that cannot be put on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LoraError {
    /// A number that makes no adapter.
    #[error("{key} is {value}; {remedy}")]
    Value {
        /// What.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        remedy: &'static str,
    },
    /// No layer has that name.
    #[error("the model has no layer \"{name}\" {purpose}; there are {}", available.join(", "))]
    NoSuchLayer {
        /// The name.
        name: String,
        /// For what it was named.
        purpose: &'static str,
        /// The names that there are.
        available: Vec<String>,
    },
    /// The head is the embedding.
    #[error(
        "the model has no \"lm_head\" of its own: its head is its embedding, which is trained with \"embed_tokens\""
    )]
    TiedHead,
    /// A layer that is to be adapted and trained whole.
    #[error("\"{0}\" is named as a layer to adapt and as one to train whole; it can be only one of them")]
    Both(String),
}

impl LoraConfig {
    /// The factor on the low-rank path for a rank.
    #[must_use]
    pub fn scale(alpha: f64, rank: usize, rank_stabilized: bool) -> f64 {
        if rank_stabilized {
            alpha / (rank as f64).sqrt()
        } else {
            alpha / rank as f64
        }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    ///
    /// [`LoraError::Value`].
    pub fn check(&self) -> Result<(), LoraError> {
        let wrong = |key, value: String, remedy| Err(LoraError::Value { key, value, remedy });
        if self.rank == 0 {
            return wrong("lora-rank", "0".to_owned(), "it must be at least 1");
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return wrong("lora-alpha", self.alpha.to_string(), "it is a positive number");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong("lora-dropout", self.dropout.to_string(), "it lies in [0, 1)");
        }
        Ok(())
    }
}

/// Whether a name of Hugging Face's is, or ends in, `end`, in whole parts.
pub(crate) fn ends_in(name: &str, end: &str) -> bool {
    name.strip_suffix(end)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The last part of a name.
fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// The layers of these names, each once, as a message lists them.
fn kinds<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let kinds: BTreeSet<&str> = names.map(last).collect();
    kinds.into_iter().map(str::to_owned).collect()
}

impl Decoder {
    /// The weights that can be adapted: those of the blocks' linear layers, in order.
    #[must_use]
    pub fn adaptable(&self) -> Vec<Parameter> {
        let all = parameters::of(self.config()).into_iter();
        all.filter(|parameter| parameter.shape.len() == 2 && parameter.path.starts_with("blocks."))
            .collect()
    }

    /// Puts fresh adapters on and freezes everything but them and `modules_to_save`.
    ///
    /// `A` is drawn from U(-1/sqrt(inputs), 1/sqrt(inputs)) and `B` is 0, as in PEFT, so nothing changes at first.
    ///
    /// # Errors
    ///
    /// [`LoraError`]; the decoder is then as it was.
    pub fn adapt<R: Rng>(&mut self, config: &LoraConfig, rng: &mut R) -> Result<(), LoraError> {
        config.check()?;
        let adaptable = self.adaptable();
        let module = |parameter: &Parameter| parameter.module().to_owned();
        let wanted: Vec<Parameter> = match &config.targets {
            Targets::AllLinear => adaptable,
            Targets::Named(names) => {
                for name in names {
                    if !adaptable.iter().any(|parameter| ends_in(parameter.module(), name)) {
                        return Err(LoraError::NoSuchLayer {
                            name: name.clone(),
                            purpose: "that can be adapted",
                            available: kinds(adaptable.iter().map(Parameter::module)),
                        });
                    }
                }
                let named = |parameter: &Parameter| names.iter().any(|name| ends_in(parameter.module(), name));
                adaptable.into_iter().filter(named).collect()
            }
        };
        let saved = self.saved_modules(&config.modules_to_save)?;
        if let Some(both) = wanted.iter().map(module).find(|name| saved.contains(name)) {
            return Err(LoraError::Both(both));
        }
        let device = self.device();
        let scale = LoraConfig::scale(config.alpha, config.rank, config.rank_stabilized);
        let mut adapters = BTreeMap::new();
        for parameter in wanted {
            let &[inputs, outputs] = &parameter.shape[..] else {
                continue;
            };
            let limit = 1.0 / (inputs as f64).sqrt();
            let a: Vec<f32> = (0..inputs * config.rank)
                .map(|_| ((rng.random::<f64>() * 2.0 - 1.0) * limit) as f32)
                .collect();
            let b = vec![0.0_f32; config.rank * outputs];
            let adapter = Adapter {
                a: Param::from_data(TensorData::new(a, [inputs, config.rank]), &device),
                b: Param::from_data(TensorData::new(b, [config.rank, outputs]), &device),
                scale,
                dropout: config.dropout,
            };
            adapters.insert(parameter.layer_path().to_owned(), adapter);
        }
        self.set_adapters(adapters, config.clone());
        self.train_adapters_only(&saved);
        Ok(())
    }

    /// The modules, by Hugging Face's names, that `names` mean.
    pub(crate) fn saved_modules(&self, names: &[String]) -> Result<BTreeSet<String>, LoraError> {
        let all: BTreeSet<String> = parameters::of(self.config())
            .iter()
            .map(|parameter| parameter.module().to_owned())
            .collect();
        let mut saved = BTreeSet::new();
        for name in names {
            if self.config().tied && ends_in("lm_head", name) {
                return Err(LoraError::TiedHead);
            }
            let mut found = all.iter().filter(|module| ends_in(module, name)).peekable();
            if found.peek().is_none() {
                return Err(LoraError::NoSuchLayer {
                    name: name.clone(),
                    purpose: "to train whole",
                    available: kinds(all.iter().map(String::as_str)),
                });
            }
            saved.extend(found.cloned());
        }
        Ok(saved)
    }

    /// Freezes everything but the adapters and the modules of these names.
    pub(crate) fn train_adapters_only(&mut self, saved: &BTreeSet<String>) {
        let paths: BTreeSet<String> = parameters::of(self.config())
            .into_iter()
            .filter(|parameter| saved.contains(parameter.module()))
            .map(|parameter| parameter.path)
            .collect();
        self.train_only(|path| path.contains(".adapter.") || paths.contains(path));
    }

    /// Leaves only those parameters trainable whose path `is_trained`.
    pub fn train_only(&mut self, is_trained: impl FnMut(&str) -> bool) {
        struct Choose<F>(Vec<String>, F);
        impl<F: FnMut(&str) -> bool> ModuleMapper for Choose<F> {
            fn enter_module(&mut self, name: &str, _container: &str) {
                self.0.push(name.to_owned());
            }
            fn exit_module(&mut self, _name: &str, _container: &str) {
                self.0.pop();
            }
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let is_trained = (self.1)(&self.0.join("."));
                param.set_require_grad(is_trained)
            }
        }
        *self = self.clone().map(&mut Choose(Vec::new(), is_trained));
    }

    /// Adds every adapter to its weight and takes it away; the outputs stay as they are, up to rounding.
    #[must_use]
    pub fn merged(mut self) -> Self {
        self.for_each_projection(|_, projection| -> Result<(), Infallible> {
            projection.merge();
            Ok(())
        })
        .unwrap_or_else(|never| match never {});
        self.forget_adapters();
        self
    }
}

#[cfg(test)]
#[path = "adapter_tests.rs"]
mod tests;
