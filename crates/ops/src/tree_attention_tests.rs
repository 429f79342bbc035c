use burn::backend::ops::FloatTensorOps;
use burn::tensor::{Device, TensorData};
use proptest::prelude::*;

use super::*;
use crate::forest::{Forest, KeySpan, QuerySpan};
use crate::testing::{assert_close, check_gradients, numbers, random, strided, values, with_threads};

const HEADS: Heads = Heads {
    queries: 4,
    keys: 2,
    size: 3,
    scale: 0.4,
    window: None,
};

/// A prompt of three tokens with responses of two and one, and a sequence of two.
fn forest() -> Forest {
    let mut forest = Forest::default();
    let prompt = forest.push(3, None);
    forest.push(2, Some(prompt));
    forest.push(1, Some(prompt));
    forest.push(2, None);
    forest
}

/// The definition, query by query and head by head.
fn reference(q: &[f64], k: &[f64], v: &[f64], layout: &Layout, heads: Heads) -> Vec<f64> {
    let (width, key_width) = (heads.queries * heads.size, heads.keys * heads.size);
    let mut output = Vec::new();
    for span in layout.spans() {
        for (row, query) in span.rows.clone().zip(span.position..) {
            let seen: Vec<usize> = span
                .keys
                .iter()
                .flat_map(|keys| keys.rows.clone().zip(keys.position..))
                .filter(|(_, key)| *key <= query && heads.window.is_none_or(|window| query - key < window))
                .map(|(row, _)| row)
                .collect();
            for head in 0..heads.queries {
                let q = &q[row * width + head * heads.size..][..heads.size];
                let of = |values: &[f64], row: usize| {
                    let start = row * key_width + head / (heads.queries / heads.keys) * heads.size;
                    values[start..start + heads.size].to_vec()
                };
                let dot = |key: Vec<f64>| q.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() * heads.scale;
                let weights: Vec<f64> = seen.iter().map(|&row| dot(of(k, row)).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..heads.size {
                    let mix: f64 = seen
                        .iter()
                        .zip(&weights)
                        .map(|(&row, weight)| weight * of(v, row)[i])
                        .sum();
                    output.push(mix / total);
                }
            }
        }
    }
    output
}

fn check(layout: Layout, heads: Heads) {
    let layout = Arc::new(layout);
    let (queries, keys) = (layout.queries(), layout.keys());
    let (width, key_width) = (heads.queries * heads.size, heads.keys * heads.size);
    check_gradients(
        [
            numbers(1, queries * width),
            numbers(2, keys * key_width),
            numbers(3, keys * key_width),
        ],
        |[q, k, v]| {
            let (k, v) = (k.reshape([keys, key_width]), v.reshape([keys, key_width]));
            tree_attention(q.reshape([queries, width]), k, v, &layout, heads).reshape([queries * width])
        },
        |[q, k, v]| reference(q, k, v, &layout, heads),
    );
}

#[test]
fn a_forest_is_the_definition_with_its_gradients() {
    check(forest().layout(), HEADS);
    check(forest().layout(), Heads { keys: 4, ..HEADS });
    check(forest().layout(), Heads { keys: 1, ..HEADS });
}

#[test]
fn a_window_hides_what_is_too_far_back() {
    for window in [1, 2, 3] {
        check(
            forest().layout(),
            Heads {
                window: Some(window),
                ..HEADS
            },
        );
    }
}

#[test]
fn queries_read_a_cache_of_their_own() {
    // Two texts that share a prompt in rows 4..6 and go on in rows 0..2 and 7..8 of a cache of nine rows.
    let text = |rows: std::ops::Range<usize>, query: usize, position: usize| QuerySpan {
        rows: query..query + 1,
        position,
        keys: vec![
            KeySpan {
                rows: 4..6,
                position: 0,
            },
            KeySpan { rows, position: 2 },
        ],
    };
    check(Layout::new(vec![text(0..2, 0, 3), text(7..8, 1, 2)], 9), HEADS);
}

#[test]
fn another_tree_changes_nothing() {
    let device = Device::flex();
    let tensor = |values: Vec<f32>, width: usize| {
        let rows = values.len() / width;
        Tensor::<2>::from_data(TensorData::new(values, [rows, width]), &device)
    };
    let attend = |changed: bool| -> Vec<f32> {
        let mut k = numbers(2, 8 * 6);
        if changed {
            k[6 * 6..].fill(0.5);
        }
        let layout = Arc::new(forest().layout());
        let output = tree_attention(
            tensor(numbers(1, 8 * 12), 12),
            tensor(k.clone(), 6),
            tensor(k, 6),
            &layout,
            HEADS,
        );
        output.into_data().try_to_vec().expect("f32 values")
    };
    let (before, after) = (attend(false), attend(true));
    assert_eq!(before[..6 * 12], after[..6 * 12]);
    assert_ne!(before[6 * 12..], after[6 * 12..]);
}

/// A layout of `texts` texts of one to `longest` tokens each, every second one hanging under the one before.
fn mixed(texts: usize, longest: usize, seed: u64) -> Layout {
    let mut forest = Forest::default();
    let mut last = None;
    for (index, number) in numbers(seed, texts).into_iter().enumerate() {
        let length = 1 + ((number + 2.0) / 4.0 * longest as f32) as usize;
        let parent = if index % 2 == 1 { last } else { None };
        last = Some(forest.push(length, parent));
    }
    forest.layout()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Texts longer than a block of queries or keys, and blocks that two parts of a text share.
    #[test]
    fn fused_is_portable(
        texts in 0..5_usize,
        longest in 1..400_usize,
        heads in (1..3_usize, 1..4_usize, 1..20_usize),
        window in prop::option::of(1..300_usize),
        plain: [bool; 4],
    ) {
        let heads = Heads { queries: heads.0 * heads.1, keys: heads.0, size: heads.2, scale: 0.4, window };
        let layout = Arc::new(mixed(texts, longest, 7));
        let (queries, keys) = (layout.queries(), layout.keys());
        let stored = |seed: u64, shape: [usize; 2], plain: bool| {
            let tensor = random(seed, shape);
            if plain { tensor } else { strided(&tensor) }
        };
        let q = stored(1, [queries, heads.queries * heads.size], plain[0]);
        let k = stored(2, [keys, heads.keys * heads.size], plain[1]);
        let v = stored(3, [keys, heads.keys * heads.size], plain[2]);
        let gradient = stored(4, [queries, heads.queries * heads.size], plain[3]);
        let fused = Flex::tree_attention_with_sums(q.clone(), k.clone(), v.clone(), layout.clone(), heads);
        let expected = portable::forward::<Flex>(q.clone(), k.clone(), v.clone(), &layout, heads);
        assert_close(&fused.0, &expected.0, 1e-5);
        assert_close(&fused.1, &expected.1, 1e-5);
        let (fused, expected) = (
            Flex::tree_attention_gradients(
                q.clone(), k.clone(), v.clone(), fused.0, fused.1, gradient.clone(), (layout.clone(), heads),
            ),
            portable::gradients::<Flex>(q, k, v, gradient, &layout, heads),
        );
        assert_close(&fused.0, &expected.0, 3e-5);
        assert_close(&fused.1, &expected.1, 3e-5);
        assert_close(&fused.2, &expected.2, 3e-5);
    }
}

/// Scores of thousands, whose exponentials are far out of range.
#[test]
fn large_scores_do_not_overflow() {
    let layout = Arc::new(mixed(3, 300, 1));
    let tensor = |seed, width| Flex::float_mul_scalar(random(seed, [layout.queries(), width]), 1e3.into());
    let output = Flex::tree_attention(tensor(1, 12), tensor(2, 6), tensor(3, 6), layout.clone(), HEADS);
    assert!(values(&output).iter().all(|y| y.is_finite()));
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let layout = Arc::new(mixed(5, 300, 3));
    let tensor = |seed, width| random(seed, [layout.queries(), width]);
    let run = || {
        let (q, k, v) = (tensor(1, 12), tensor(2, 6), tensor(3, 6));
        let passed = Flex::tree_attention_with_sums(q.clone(), k.clone(), v.clone(), layout.clone(), HEADS);
        let (output, gradient) = (values(&passed.0), tensor(4, 12));
        let (q, k, v) = Flex::tree_attention_gradients(q, k, v, passed.0, passed.1, gradient, (layout.clone(), HEADS));
        [output, values(&q), values(&k), values(&v)]
    };
    let expected = with_threads(1, run);
    for threads in 2..=4 {
        assert_eq!(with_threads(threads, run), expected, "{threads} threads");
    }
}

/// A response under its prompt, the two as one sequence, and the two scattered over a cache: the same bits.
#[test]
fn a_text_in_parts_is_a_text_in_one() {
    let (prompt, response, width) = (300, 200, 12);
    let length = prompt + response;
    let (q, k, v) = (
        random(1, [length, width]),
        random(2, [length, 6]),
        random(3, [length, 6]),
    );
    let attend = |q: FlexTensor, k: FlexTensor, v: FlexTensor, layout: Layout| {
        values(&Flex::tree_attention(q, k, v, Arc::new(layout), HEADS))
    };
    let one = attend(q.clone(), k.clone(), v.clone(), Forest::sequences([length]).layout());
    let mut forest = Forest::default();
    let root = forest.push(prompt, None);
    forest.push(response, Some(root));
    assert_eq!(attend(q.clone(), k.clone(), v.clone(), forest.layout()), one);

    // The response's keys before the prompt's.
    let turned = |tensor: &FlexTensor| {
        let parts = [tensor.narrow(0, prompt, response), tensor.narrow(0, 0, prompt)];
        Flex::float_cat(parts.to_vec(), 0)
    };
    let keys = |rows: std::ops::Range<usize>, position: usize| KeySpan { rows, position };
    let span = QuerySpan {
        rows: 0..length,
        position: 0,
        keys: vec![keys(response..length, 0), keys(0..response, prompt)],
    };
    assert_eq!(attend(q, turned(&k), turned(&v), Layout::new(vec![span], length)), one);
}
