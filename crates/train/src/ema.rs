//! The exponential moving average of a module's parameters, which is what gets sampled from.

use std::collections::HashMap;

use burn::module::Module;
use burn::tensor::Tensor;

use crate::parameters::{update, visit};

/// A running average of a module's parameters.
///
/// After the n-th update the average is `d · average + (1 - d) · parameter` with
/// `d = min(decay, (1 + n) / (10 + n))`, n counted from 0 and the first update copying: diffusers' `EMAModel`. The
/// ramp forgets the random start at once.
#[derive(Clone, Debug)]
pub struct Ema<M> {
    average: M,
    decay: f64,
    updates: u64,
}

impl<M: Module> Ema<M> {
    /// An average that starts as a copy of `module`.
    pub fn new(module: &M, decay: f64) -> Self {
        Self::resume(module.valid(), decay, 0)
    }

    /// The average as it was after `updates` updates.
    pub fn resume(average: M, decay: f64, updates: u64) -> Self {
        Self {
            average,
            decay,
            updates,
        }
    }

    /// Takes the module's present parameters into the average.
    pub fn update(&mut self, module: &M) {
        let decay = if self.updates == 0 {
            0.0
        } else {
            let n = self.updates as f64;
            self.decay.min((1.0 + n) / (10.0 + n))
        };
        self.updates += 1;
        let mut parameters: HashMap<String, Tensor<1>> = HashMap::new();
        visit(module, |name, parameter| {
            parameters.insert(name, parameter);
        });
        update(&mut self.average, |name, _, average| match parameters.remove(name) {
            Some(parameter) => ops::ema(average, parameter, decay),
            None => average,
        });
    }

    /// How many updates the average has seen.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The averaged module, ready to be used without gradients.
    pub fn average(&self) -> &M {
        &self.average
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::Device;

    use super::*;
    use crate::parameters::collect;

    #[derive(Module, Debug)]
    struct One {
        a: Param<Tensor<1>>,
    }

    #[test]
    fn the_average_copies_first_and_forgets_slowly() {
        let device = Device::flex().autodiff();
        let at = |value: f32| One {
            a: Param::from_data([value], &device),
        };
        let mut average = Ema::new(&at(-7.0), 0.3);
        let mut expected = Vec::new();
        let mut found = Vec::new();
        let mut value = 0.0_f64;
        for (n, parameter) in [4.0_f32, 8.0, 2.0, 6.0].into_iter().enumerate() {
            average.update(&at(parameter));
            // diffusers' EMAModel: 0 at first, then min(decay, (1 + n) / (10 + n)).
            let decay = [0.0, 2.0 / 11.0, 3.0 / 12.0, 0.3][n];
            value = decay * value + (1.0 - decay) * f64::from(parameter);
            expected.push(value);
            found.push(f64::from(collect(average.average())["a"].data[0]));
        }
        assert_eq!(average.updates(), 4);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
        }
        assert!(!average.average().a.val().is_require_grad());
    }
}
