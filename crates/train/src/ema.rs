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
        self.average = update(self.average.clone(), |name, average| match parameters.remove(name) {
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
