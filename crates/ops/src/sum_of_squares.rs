//! The sum of a tensor's squares, for norms over all parameters.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use crate::cpu::buffer::{self, ELEMENT_BLOCK, all_f32, contiguous};
use crate::cpu::vector::{self, Kernel, LANES};

/// `sum of x_i^2`.
///
/// The square root of the sum over all gradients is the global norm that clipping compares with its bound. On the CPU
/// it is taken in f64, with the same bits on any number of threads.
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> f64 {
    let sum = <Dispatch as SumOfSquaresOps>::sum_of_squares(x.into_dispatch());
    Tensor::<1>::from_dispatch(sum).into_scalar()
}

/// [`sum_of_squares`] as a backend provides it.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait SumOfSquaresOps: Backend {
    /// `sum of x_i^2` as a tensor of one element, of the type of `x` or wider.
    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::<Self>(x)
    }
}

/// The default body that an override falls back to.
fn portable<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_sum(B::float_mul(x.clone(), x))
}

impl SumOfSquaresOps for Flex {
    fn sum_of_squares(x: FlexTensor) -> FlexTensor {
        if !all_f32(&[&x]) {
            return portable::<Self>(x);
        }
        let x = contiguous(x);
        let x = buffer::values(&x);
        let block = |block: &[f32]| vector::run(Squares(block));
        // Sums of fixed blocks, added in order whoever computed them.
        let sum: f64 = if x.len() <= ELEMENT_BLOCK {
            block(x)
        } else {
            x.par_chunks(ELEMENT_BLOCK)
                .map(block)
                .collect::<Vec<f64>>()
                .into_iter()
                .sum()
        };
        FlexTensor::from_data(TensorData::new(vec![sum], [1]))
    }
}

struct Squares<'a>(&'a [f32]);

impl Kernel for Squares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<const FUSED: bool>(self) -> f64 {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let (chunks, rest) = self.0.as_chunks::<LANES>();
        let mut lanes = [0.0; LANES];
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += square(x);
            }
        }
        lanes.into_iter().sum::<f64>() + rest.iter().map(|&x| square(x)).sum::<f64>()
    }
}

impl<B: SumOfSquaresOps, C: CheckpointStrategy> SumOfSquaresOps for Autodiff<B, C> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{numbers, random, strided, with_threads};

    fn sum(x: FlexTensor) -> f64 {
        Flex::sum_of_squares(x).storage::<f64>()[0]
    }

    proptest! {
        #[test]
        fn is_the_sum_in_double_precision(rows in 0..300_usize, columns in 0..300_usize, plain: bool) {
            let x = random(1, [rows, columns]);
            let expected: f64 = numbers(1, rows * columns).into_iter().map(|x| f64::from(x).powi(2)).sum();
            let actual = sum(if plain { x } else { strided(&x) });
            prop_assert!((actual - expected).abs() <= 1e-12 * expected, "{} instead of {}", actual, expected);
        }
    }

    #[test]
    fn any_rank_and_type_will_do() {
        let x = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &burn::tensor::Device::flex());
        assert_eq!(sum_of_squares(x.clone()), 30.0);
        assert_eq!(sum_of_squares(x.cast(burn::tensor::FloatDType::F64)), 30.0);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let x = random(1, [200_003]);
        let expected = with_threads(1, || sum(x.clone()));
        for threads in 2..=4 {
            assert_eq!(with_threads(threads, || sum(x.clone())), expected, "{threads} threads");
        }
    }
}
