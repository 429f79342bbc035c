use burn::tensor::{DType, Device, FloatDType};
use proptest::prelude::*;

use super::*;
use crate::testing::{assert_close, check_gradients, numbers, random, strided, values, with_threads};

const SHAPE: [usize; 2] = [3, 21];
const EPSILON: f64 = 1e-3;

#[test]
fn rms_norm_is_its_formula_with_its_gradients() {
    let [rows, width] = SHAPE;
    check_gradients(
        [numbers(1, rows * width), numbers(2, width)],
        |[x, weight]| rms_norm(x.reshape(SHAPE), weight, EPSILON).reshape([-1]),
        |[x, weight]| {
            let row = |row: &[f64]| {
                let root = (row.iter().map(|x| x * x).sum::<f64>() / width as f64 + EPSILON).sqrt();
                row.iter().zip(weight).map(|(x, w)| x / root * w).collect::<Vec<_>>()
            };
            x.chunks(width).flat_map(row).collect()
        },
    );
}

#[test]
fn layer_norm_is_its_formula_with_its_gradients() {
    let [rows, width] = SHAPE;
    check_gradients(
        [numbers(1, rows * width), numbers(2, width), numbers(3, width)],
        |[x, weight, bias]| layer_norm(x.reshape(SHAPE), weight, bias, EPSILON).reshape([-1]),
        |[x, weight, bias]| {
            let row = |row: &[f64]| {
                let mean = row.iter().sum::<f64>() / width as f64;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                let root = (variance + EPSILON).sqrt();
                let affine = weight.iter().zip(bias);
                row.iter()
                    .zip(affine)
                    .map(|(x, (w, b))| (x - mean) / root * w + b)
                    .collect::<Vec<_>>()
            };
            x.chunks(width).flat_map(row).collect()
        },
    );
}

/// Everything that the RMS norm and then the layer norm provide, by the CPU's bodies.
fn fused(x: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor, gradient: &FlexTensor) -> [FlexTensor; 7] {
    let [x, weight, bias, gradient] = [x, weight, bias, gradient].map(|tensor| move || tensor.clone());
    let (of_weight, of_bias) = Flex::layer_norm_affine_gradients(x(), gradient(), EPSILON);
    [
        Flex::rms_norm(x(), weight(), EPSILON),
        Flex::rms_norm_input_gradient(x(), weight(), gradient(), EPSILON),
        Flex::rms_norm_weight_gradient(x(), gradient(), EPSILON),
        Flex::layer_norm(x(), weight(), bias(), EPSILON),
        Flex::layer_norm_input_gradient(x(), weight(), gradient(), EPSILON),
        of_weight,
        of_bias,
    ]
}

proptest! {
    #[test]
    fn fused_is_portable(rows in 0..200_usize, width in 1..70_usize, plain: [bool; 2]) {
        let stored = |tensor: FlexTensor, plain: bool| if plain { tensor } else { strided(&tensor) };
        let x = stored(random(1, [rows, width]), plain[0]);
        let gradient = stored(random(2, [rows, width]), plain[1]);
        let (weight, bias) = (random(3, [width]), random(4, [width]));
        let fused = fused(&x, &weight, &bias, &gradient);
        let [x, weight, bias, gradient] = [x, weight, bias, gradient].map(|tensor| move || tensor.clone());
        let portable = [
            portable::forward::<Flex, false>(x(), weight(), None, EPSILON),
            portable::input_gradient::<Flex, false>(x(), weight(), gradient(), EPSILON),
            portable::weight_gradient::<Flex, false>(x(), gradient(), EPSILON),
            portable::forward::<Flex, true>(x(), weight(), Some(bias()), EPSILON),
            portable::input_gradient::<Flex, true>(x(), weight(), gradient(), EPSILON),
            portable::weight_gradient::<Flex, true>(x(), gradient(), EPSILON),
            portable::row_sum::<Flex>(gradient()),
        ];
        for (fused, portable) in fused.iter().zip(&portable) {
            assert_close(fused, portable, 1e-5);
        }
    }

    /// Rows and their gradients in a batch have the bits that they have alone.
    #[test]
    fn a_row_does_not_depend_on_the_others(rows in 1..=70_usize, width in 1..900_usize) {
        let (x, gradient) = (random(1, [rows, width]), random(2, [rows, width]));
        let (weight, bias) = (random(3, [width]), random(4, [width]));
        let of_rows = |[y, of_x, _, z, of_z, ..]: [FlexTensor; 7]| [y, of_x, z, of_z].map(|tensor| values(&tensor));
        let batch = of_rows(fused(&x, &weight, &bias, &gradient));
        for row in 0..rows {
            let (x, gradient) = (x.narrow(0, row, 1), gradient.narrow(0, row, 1));
            let alone = of_rows(fused(&x, &weight, &bias, &gradient));
            for (alone, batch) in alone.iter().zip(&batch) {
                prop_assert_eq!(alone, &batch[row * width..][..width]);
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (x, gradient) = (random(1, [700, 90]), random(2, [700, 90]));
    let (weight, bias) = (random(3, [90]), random(4, [90]));
    let run = || fused(&x, &weight, &bias, &gradient).map(|tensor| values(&tensor));
    let expected = with_threads(1, run);
    for threads in 2..=4 {
        assert_eq!(with_threads(threads, run), expected, "{threads} threads");
    }
}

#[test]
fn other_types_take_the_portable_body() {
    let device = Device::flex();
    let tensor = |values: [f32; 2]| Tensor::<1>::from_floats(values, &device).cast(FloatDType::F64);
    let x = tensor([3.0, 4.0]).reshape([1, 2]);
    let y = rms_norm(x.clone(), tensor([1.0, 1.0]), 0.0);
    assert_eq!(y.dtype(), DType::F64);
    assert!((y.sum().into_scalar::<f64>() - 7.0 / 12.5_f64.sqrt()).abs() < 1e-15);
    let y = layer_norm(x, tensor([1.0, 2.0]), tensor([0.0, 5.0]), 0.0);
    assert_eq!(y.into_data().try_to_vec::<f64>().unwrap(), [-1.0, 7.0]);
}

/// As with adapters, where the weights are frozen, and in a first layer, whose input is data.
#[test]
fn only_tracked_inputs_get_gradients() {
    let device = Device::flex().autodiff();
    for tracked in 1..8 {
        let track = |bit: usize| tracked & (1 << bit) != 0;
        let x = Tensor::<2>::ones([2, 4], &device).set_require_grad(track(0));
        let weight = Tensor::<1>::ones([4], &device).set_require_grad(track(1));
        let bias = Tensor::<1>::ones([4], &device).set_require_grad(track(2));
        let gradients = layer_norm(x.clone(), weight.clone(), bias.clone(), EPSILON)
            .sum()
            .backward();
        assert_eq!(x.grad(&gradients).is_some(), track(0));
        assert_eq!(weight.grad(&gradients).is_some(), track(1));
        assert_eq!(bias.grad(&gradients).is_some(), track(2));
        if track(0) || track(1) {
            let gradients = rms_norm(x.clone(), weight.clone(), EPSILON).sum().backward();
            assert_eq!(x.grad(&gradients).is_some(), track(0));
            assert_eq!(weight.grad(&gradients).is_some(), track(1));
        }
    }
}
