//! What the tests of all operations share.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::{Device, Shape, Tensor, TensorData};

/// Numbers between -2 and 2, the same for the same seed.
pub(crate) fn numbers(seed: u64, length: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..length)
        .map(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut bits = state;
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((bits ^ (bits >> 31)) >> 40) as f32 / (1 << 22) as f32 - 2.0
        })
        .collect()
}

/// What `work` returns on a pool of `threads` threads.
pub(crate) fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("a pool of a few threads")
        .install(work)
}

/// A tensor of [`numbers`].
pub(crate) fn random<const D: usize>(seed: u64, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(
        numbers(seed, shape.iter().product()),
        Shape::new(shape),
    ))
}

/// The same tensor with its axes stored in the opposite order.
pub(crate) fn strided(tensor: &FlexTensor) -> FlexTensor {
    let reversed: Vec<usize> = (0..tensor.rank()).rev().collect();
    tensor.permute(&reversed).to_contiguous().permute(&reversed)
}

/// The values in row-major order.
pub(crate) fn values(tensor: &FlexTensor) -> Vec<f32> {
    tensor.clone().into_data().try_to_vec().expect("f32 values")
}

/// Fails unless shapes are equal and values differ by at most `tolerance` times their largest magnitude or 1.
#[track_caller]
pub(crate) fn assert_close(actual: &FlexTensor, expected: &FlexTensor, tolerance: f32) {
    assert_eq!(actual.shape(), expected.shape());
    let (actual, expected) = (values(actual), values(expected));
    let bound = tolerance * expected.iter().fold(1.0, |largest: f32, x| largest.max(x.abs()));
    for (index, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
        assert!(
            (actual - expected).abs() <= bound,
            "element {index}: {actual} instead of {expected}, bound {bound}"
        );
    }
}

/// Holds `operation`, its inputs and output flattened, and its gradients against `reference` in f64.
///
/// The loss is a sum of the outputs with random weights. Its derivatives by central differences of the reference are
/// good to some 1e-9, so what remains is the rounding of the operation.
#[track_caller]
pub(crate) fn check_gradients<const N: usize>(
    inputs: [Vec<f32>; N],
    operation: impl Fn([Tensor<1>; N]) -> Tensor<1>,
    reference: impl Fn(&[Vec<f64>; N]) -> Vec<f64>,
) {
    const TOLERANCE: f64 = 2e-5;
    let device = Device::flex().autodiff();
    let leaves = inputs
        .clone()
        .map(|input| Tensor::<1>::from_floats(input.as_slice(), &device).require_grad());
    let output = operation(leaves.clone());
    let mut inputs = inputs.map(|input| input.into_iter().map(f64::from).collect::<Vec<f64>>());
    let expected = reference(&inputs);
    let weights = numbers(99, expected.len());

    let actual = output.clone().into_data().try_to_vec::<f32>().expect("f32 values");
    assert_eq!(actual.len(), expected.len());
    let largest = expected.iter().fold(1.0, |largest: f64, x| largest.max(x.abs()));
    for (index, (&actual, &expected)) in actual.iter().zip(&expected).enumerate() {
        let error = (f64::from(actual) - expected).abs() / largest;
        assert!(error < TOLERANCE, "output {index}: {actual} instead of {expected}");
    }

    let loss = (output * Tensor::from_floats(weights.as_slice(), &device)).sum();
    let mut gradients = loss.backward();
    let loss = |inputs: &[Vec<f64>; N]| -> f64 {
        reference(inputs)
            .iter()
            .zip(&weights)
            .map(|(y, &weight)| y * f64::from(weight))
            .sum()
    };
    for (number, leaf) in leaves.into_iter().enumerate() {
        let gradient = leaf.grad_remove(&mut gradients).expect("every input has a gradient");
        let gradient = gradient.into_data().try_to_vec::<f32>().expect("f32 values");
        let scale = gradient
            .iter()
            .fold(1.0, |largest: f64, x| largest.max(f64::from(x.abs())));
        for (index, &actual) in gradient.iter().enumerate() {
            const STEP: f64 = 1e-5;
            let x = inputs[number][index];
            inputs[number][index] = x + STEP;
            let above = loss(&inputs);
            inputs[number][index] = x - STEP;
            let below = loss(&inputs);
            inputs[number][index] = x;
            let expected = (above - below) / (2.0 * STEP);
            let error = (f64::from(actual) - expected).abs() / scale;
            assert!(
                error < TOLERANCE,
                "input {number}, element {index}: {actual} instead of {expected}"
            );
        }
    }
}
