use burn::backend::ops::FloatTensorOps;
use proptest::prelude::*;

use super::*;
use crate::testing::{assert_close, check_gradients, numbers, random, strided, values, with_threads};

#[test]
fn gradients_are_those_of_the_definition() {
    let [batch, tokens, heads, head_width] = [2, 5, 3, 4];
    let width = heads * head_width;
    check_gradients(
        [numbers(1, batch * tokens * 3 * width)],
        |[qkv]| self_attention(qkv.reshape([batch, tokens, 3 * width]), heads).reshape([-1]),
        |[qkv]| {
            let at = |sample: usize, token: usize, part: usize, head: usize, index: usize| {
                qkv[((sample * tokens + token) * 3 + part) * width + head * head_width + index]
            };
            let mut y = vec![0.0; batch * tokens * width];
            for (index, y) in y.iter_mut().enumerate() {
                let (row, column) = (index / width, index % width);
                let (sample, token) = (row / tokens, row % tokens);
                let (head, column) = (column / head_width, column % head_width);
                let weight = |other: usize| {
                    let product = |i| at(sample, token, 0, head, i) * at(sample, other, 1, head, i);
                    ((0..head_width).map(product).sum::<f64>() / (head_width as f64).sqrt()).exp()
                };
                let total: f64 = (0..tokens).map(weight).sum();
                *y = (0..tokens)
                    .map(|other| weight(other) * at(sample, other, 2, head, column))
                    .sum::<f64>()
                    / total;
            }
            y
        },
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fused_is_portable(batch in 1..4_usize, tokens in 1..400_usize, heads in 1..4_usize, head_width in 1..20_usize, plain: [bool; 2]) {
        let stored = |tensor: FlexTensor, plain: bool| if plain { tensor } else { strided(&tensor) };
        let width = heads * head_width;
        let qkv = stored(random(1, [batch, tokens, 3 * width]), plain[0]);
        let gradient = stored(random(2, [batch, tokens, width]), plain[1]);
        let fused = Flex::self_attention_with_sums(qkv.clone(), heads);
        let expected = portable::forward::<Flex>(qkv.clone(), heads);
        assert_close(&fused.0, &expected.0, 1e-5);
        assert_close(&fused.1, &expected.1, 1e-5);
        let fused = Flex::self_attention_gradient(qkv.clone(), fused.0, fused.1, gradient.clone(), heads);
        assert_close(&fused, &portable::gradient::<Flex>(qkv, gradient, heads), 2e-5);
    }
}

#[test]
fn nothing_is_attended_to_in_an_empty_batch_or_sequence() {
    for shape in [[0, 4, 12], [3, 0, 12]] {
        let (qkv, gradient) = (random(1, shape), random(2, [shape[0], shape[1], 4]));
        let (output, sums) = Flex::self_attention_with_sums(qkv.clone(), 2);
        assert_eq!(output.shape(), Shape::new([shape[0], shape[1], 4]));
        assert_eq!(sums.shape(), Shape::new([2, 0]));
        assert_eq!(
            Flex::self_attention_gradient(qkv, output, sums, gradient, 2).shape(),
            Shape::new(shape)
        );
    }
}

/// Scores of thousands, whose exponentials are far out of range.
#[test]
fn large_scores_do_not_overflow() {
    let qkv = Flex::float_mul_scalar(random(1, [1, 9, 24]), 1e3.into());
    let output = Flex::self_attention(qkv, 2);
    assert!(values(&output).iter().all(|y| y.is_finite()));
}

#[test]
fn neither_threads_nor_other_samples_change_anything() {
    let (qkv, gradient) = (random(1, [9, 49, 96]), random(2, [9, 49, 32]));
    let run = |sample: std::ops::Range<usize>| {
        let part = |tensor: &FlexTensor| tensor.narrow(0, sample.start, sample.len());
        let (output, sums) = Flex::self_attention_with_sums(part(&qkv), 2);
        let qkv_gradient = Flex::self_attention_gradient(part(&qkv), output.clone(), sums, part(&gradient), 2);
        [output, qkv_gradient].map(|tensor| values(&tensor))
    };
    let expected = with_threads(1, || run(0..9));
    for threads in 2..=4 {
        assert_eq!(with_threads(threads, || run(0..9)), expected, "{threads} threads");
    }
    for (alone, batch) in run(4..5).into_iter().zip(expected) {
        assert_eq!(alone, batch[batch.len() / 9 * 4..][..alone.len()]);
    }
}
