use burn::tensor::{DType, Device, FloatDType};
use proptest::prelude::*;

use super::*;
use crate::testing::{assert_close, check_gradients, numbers, random, strided, values, with_threads};

#[test]
fn gradients_are_those_of_the_definition() {
    let [rows, inputs, outputs] = [5, 7, 3];
    let reference = |x: &[f64], weight: &[f64], bias: Option<&[f64]>| {
        let mut y = Vec::new();
        for row in x.chunks_exact(inputs) {
            for output in 0..outputs {
                let product: f64 = (0..inputs)
                    .map(|input| row[input] * weight[input * outputs + output])
                    .sum();
                y.push(product + bias.map_or(0.0, |bias| bias[output]));
            }
        }
        y
    };
    let (x, weight, bias) = (
        numbers(1, rows * inputs),
        numbers(2, inputs * outputs),
        numbers(3, outputs),
    );
    check_gradients(
        [x.clone(), weight.clone(), bias],
        |[x, weight, bias]| {
            linear(x.reshape([rows, inputs]), weight.reshape([inputs, outputs]), Some(bias)).reshape([-1])
        },
        |[x, weight, bias]| reference(x, weight, Some(bias)),
    );
    check_gradients(
        [x, weight],
        |[x, weight]| linear(x.reshape([rows, inputs]), weight.reshape([inputs, outputs]), None).reshape([-1]),
        |[x, weight]| reference(x, weight, None),
    );
}

proptest! {
    #[test]
    fn fused_is_portable(rows in 0..70_usize, inputs in 1..40_usize, outputs in 1..80_usize, plain: [bool; 3]) {
        let stored = |tensor: FlexTensor, plain: bool| if plain { tensor } else { strided(&tensor) };
        let x = stored(random(1, [rows, inputs]), plain[0]);
        let weight = stored(random(2, [inputs, outputs]), plain[1]);
        let gradient = stored(random(3, [rows, outputs]), plain[2]);
        let bias = random(4, [outputs]);
        let (fused, expected) = (
            <Flex as LinearOps>::linear_with_bias(x.clone(), weight.clone(), bias.clone()),
            portable::with_bias::<Flex>(x.clone(), weight.clone(), bias),
        );
        assert_close(&fused, &expected, 1e-5);
        let (fused, expected) = (
            <Flex as LinearOps>::linear_without_bias(x.clone(), weight.clone()),
            portable::without_bias::<Flex>(x.clone(), weight.clone()),
        );
        assert_close(&fused, &expected, 1e-5);
        let (fused, expected) = (
            <Flex as LinearOps>::linear_input_gradient(gradient.clone(), weight.clone()),
            portable::input_gradient::<Flex>(gradient.clone(), weight),
        );
        assert_close(&fused, &expected, 1e-5);
        let (fused, expected) = (
            <Flex as LinearOps>::linear_weight_gradient(x.clone(), gradient.clone()),
            portable::weight_gradient::<Flex>(x, gradient.clone()),
        );
        assert_close(&fused, &expected, 1e-5);
        let (fused, expected) = (
            <Flex as LinearOps>::linear_bias_gradient(gradient.clone()),
            portable::bias_gradient::<Flex>(gradient),
        );
        assert_close(&fused, &expected, 1e-5);
    }

    /// Rows and their gradients in a batch have the bits that they have alone.
    #[test]
    fn a_row_does_not_depend_on_the_others(rows in 1..=70_usize, inputs in 1..700_usize, outputs in 1..100_usize) {
        let (x, weight) = (random(1, [rows, inputs]), random(2, [inputs, outputs]));
        let (bias, gradient) = (random(3, [outputs]), random(4, [rows, outputs]));
        let y = values(&<Flex as LinearOps>::linear_with_bias(x.clone(), weight.clone(), bias.clone()));
        let x_gradient = values(&<Flex as LinearOps>::linear_input_gradient(gradient.clone(), weight.clone()));
        for row in 0..rows {
            let (x, gradient) = (x.narrow(0, row, 1), gradient.narrow(0, row, 1));
            let alone = values(&<Flex as LinearOps>::linear_with_bias(x, weight.clone(), bias.clone()));
            prop_assert_eq!(&alone, &y[row * outputs..(row + 1) * outputs]);
            let alone = values(&<Flex as LinearOps>::linear_input_gradient(gradient, weight.clone()));
            prop_assert_eq!(&alone, &x_gradient[row * inputs..(row + 1) * inputs]);
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (x, weight, bias) = (random(1, [700, 90]), random(2, [90, 310]), random(3, [310]));
    let gradient = random(4, [700, 310]);
    let run = || {
        let (x, weight, gradient) = (x.clone(), weight.clone(), gradient.clone());
        [
            values(&<Flex as LinearOps>::linear_with_bias(
                x.clone(),
                weight.clone(),
                bias.clone(),
            )),
            values(&<Flex as LinearOps>::linear_input_gradient(gradient.clone(), weight)),
            values(&<Flex as LinearOps>::linear_weight_gradient(x, gradient.clone())),
            values(&<Flex as LinearOps>::linear_bias_gradient(gradient)),
        ]
    };
    let expected = with_threads(1, run);
    for threads in 2..=4 {
        assert_eq!(with_threads(threads, run), expected, "{threads} threads");
    }
}

#[test]
fn other_types_take_the_portable_body() {
    let device = Device::flex();
    let x = Tensor::<2>::from_floats([[1.0, 2.0]], &device).cast(FloatDType::F64);
    let weight = Tensor::<2>::from_floats([[3.0], [4.0]], &device).cast(FloatDType::F64);
    let y = linear(x, weight, None);
    assert_eq!(y.dtype(), DType::F64);
    assert_eq!(y.into_scalar::<f64>(), 11.0);
}

/// Data on its way into the first layer, and frozen weights.
#[test]
fn only_tracked_inputs_get_gradients() {
    let device = Device::flex().autodiff();
    let tensor = |seed, shape: [usize; 2]| {
        Tensor::<1>::from_floats(numbers(seed, shape[0] * shape[1]).as_slice(), &device)
            .reshape(shape)
            .detach()
    };
    let (x, weight, bias) = (
        tensor(1, [4, 3]),
        tensor(2, [3, 5]),
        tensor(3, [1, 5]).reshape([5]).detach(),
    );
    for tracked in 0..8 {
        let track = |bit: usize| tracked & (1 << bit) != 0;
        let x = x.clone().set_require_grad(track(0));
        let weight = weight.clone().set_require_grad(track(1));
        let bias = bias.clone().set_require_grad(track(2));
        let y = linear(x.clone(), weight.clone(), Some(bias.clone()));
        if tracked == 0 {
            assert!(!y.is_require_grad());
            continue;
        }
        let gradients = y.sum().backward();
        assert_eq!(x.grad(&gradients).is_some(), track(0));
        assert_eq!(weight.grad(&gradients).is_some(), track(1));
        assert_eq!(bias.grad(&gradients).is_some(), track(2));
    }
}
