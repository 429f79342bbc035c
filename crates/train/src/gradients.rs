//! Gradients by parameter name: gathered, summed over micro-batches, measured.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};

use crate::parameters::Path;

/// The flattened gradient of each trained parameter, keyed by the parameter's name.
#[derive(Debug, Default)]
pub struct NamedGradients(pub(crate) BTreeMap<String, Tensor<1>>);

impl NamedGradients {
    /// Adds the gradients of `module`'s parameters to what is here.
    ///
    /// Adding those of several micro-batches, each loss normalised over the whole optimiser step, gives the gradient
    /// of the one large batch, up to rounding.
    pub fn add<M: Module>(&mut self, module: &M, mut gradients: Gradients) {
        struct Gather<'a>(Path, &'a mut Gradients, &'a mut BTreeMap<String, Tensor<1>>);
        impl ModuleVisitor for Gather<'_> {
            fn enter_module(&mut self, name: &str, _container: &str) {
                self.0.enter(name);
            }
            fn exit_module(&mut self, _name: &str, _container: &str) {
                self.0.exit();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let value = param.val();
                if !value.is_require_grad() {
                    return;
                }
                if let Some(gradient) = value.grad_remove(self.1) {
                    let gradient = gradient.flatten(0, D - 1);
                    let name = self.0.name();
                    let sum = match self.2.remove(&name) {
                        Some(sum) => sum + gradient,
                        None => gradient,
                    };
                    self.2.insert(name, sum);
                }
            }
        }
        module.visit(&mut Gather(Path::default(), &mut gradients, &mut self.0));
    }

    /// The Euclidean norm over all parameters.
    pub fn norm(&self) -> f64 {
        self.0
            .values()
            .map(|gradient| ops::sum_of_squares(gradient.clone()))
            .sum::<f64>()
            .sqrt()
    }
}

/// The factor that brings a gradient of norm `norm` down to `limit`, and 1 where it is shorter: PyTorch's
/// `clip_grad_norm_`, `limit / (norm + 1e-6)` capped at 1. Without a limit, 1.
pub fn clip_factor(norm: f64, limit: Option<f64>) -> f64 {
    limit.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::clip_factor;

    #[test]
    fn clipping_shortens_only_long_gradients() {
        assert_eq!(clip_factor(0.5, Some(1.0)), 1.0);
        assert_eq!(clip_factor(4.0, Some(1.0)), 1.0 / 4.000001);
        assert_eq!(clip_factor(4.0, None), 1.0);
    }
}
