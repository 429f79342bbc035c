//! The exponential moving average of parameters.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

use crate::cpu::buffer::{self, ELEMENT_BLOCK, all_f32, contiguous, for_each_block};
use crate::cpu::vector::{self, Kernel, multiply_add};

/// `average + (1 - decay) (parameter - average)`.
///
/// Works in place when nobody else holds the average's storage. Not meant to be differentiated: pass tensors without
/// automatic differentiation.
///
/// # Panics
///
/// When the shapes differ.
pub fn ema<const D: usize>(average: Tensor<D>, parameter: Tensor<D>, decay: f64) -> Tensor<D> {
    assert_eq!(
        average.dims(),
        parameter.dims(),
        "ema: the average must have the parameter's shape"
    );
    Tensor::from_dispatch(<Dispatch as EmaOps>::ema(
        average.into_dispatch(),
        parameter.into_dispatch(),
        decay,
    ))
}

/// [`ema`] as a backend provides it.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait EmaOps: Backend {
    /// `average + (1 - decay) (parameter - average)`.
    fn ema(average: FloatTensor<Self>, parameter: FloatTensor<Self>, decay: f64) -> FloatTensor<Self> {
        portable::<Self>(average, parameter, decay)
    }
}

/// The default body that an override falls back to.
fn portable<B: Backend>(average: FloatTensor<B>, parameter: FloatTensor<B>, decay: f64) -> FloatTensor<B> {
    let toward = B::float_sub(parameter, average.clone());
    B::float_add(average, B::float_mul_scalar(toward, (1.0 - decay).into()))
}

impl EmaOps for Flex {
    fn ema(average: FlexTensor, parameter: FlexTensor, decay: f64) -> FlexTensor {
        if !all_f32(&[&average, &parameter]) {
            return portable::<Self>(average, parameter, decay);
        }
        let (mut average, parameter) = (contiguous(average), contiguous(parameter));
        let parameter = buffer::values(&parameter);
        let weight = (1.0 - decay) as f32;
        // `storage_mut` copies an average that somebody else holds too.
        for_each_block(average.storage_mut::<f32>(), ELEMENT_BLOCK, |index, average| {
            let parameter = &parameter[index * ELEMENT_BLOCK..][..average.len()];
            vector::run(Update {
                average,
                parameter,
                weight,
            });
        });
        average
    }
}

/// One block of the average.
struct Update<'a> {
    average: &'a mut [f32],
    parameter: &'a [f32],
    weight: f32,
}

impl Kernel for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for (average, &parameter) in self.average.iter_mut().zip(self.parameter) {
            *average = multiply_add::<FUSED>(self.weight, parameter - *average, *average);
        }
    }
}

impl<B: EmaOps, C: CheckpointStrategy> EmaOps for Autodiff<B, C> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{assert_close, random, strided, values, with_threads};

    #[test]
    fn moves_by_one_minus_the_decay() {
        let device = burn::tensor::Device::flex();
        let average = Tensor::<1>::from_floats([1.0, -2.0], &device);
        let parameter = Tensor::<1>::from_floats([2.0, 2.0], &device);
        let average = ema(average, parameter, 0.75).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(average, [1.25, -1.0]);
    }

    proptest! {
        #[test]
        fn fused_is_portable(rows in 0..9_usize, columns in 0..9_usize, decay in 0.0..1.0_f64, plain: bool) {
            let (average, parameter) = (random(1, [rows, columns]), random(2, [rows, columns]));
            let parameter = if plain { parameter } else { strided(&parameter) };
            let fused = Flex::ema(average.clone(), parameter.clone(), decay);
            assert_close(&fused, &portable::<Flex>(average, parameter, decay), 1e-6);
        }
    }

    #[test]
    fn works_in_place_on_what_nobody_else_holds() {
        let (average, parameter) = (random(1, [300]), random(2, [300]));
        let before = average.storage::<f32>().as_ptr();
        let average = Flex::ema(average, parameter.clone(), 0.9);
        assert_eq!(average.storage::<f32>().as_ptr(), before);
        let kept = average.clone();
        let kept_values = values(&kept);
        let average = Flex::ema(average, parameter, 0.9);
        assert_ne!(average.storage::<f32>().as_ptr(), before);
        assert_eq!(values(&kept), kept_values);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let run = || values(&Flex::ema(random(1, [70_001]), random(2, [70_001]), 0.999));
        let expected = with_threads(1, run);
        for threads in 2..=4 {
            assert_eq!(with_threads(threads, run), expected, "{threads} threads");
        }
    }
}
