use burn::tensor::{Device, TensorData};

use super::*;
use crate::forest::{Forest, KeySpan, QuerySpan};
use crate::testing::{check_gradients, numbers};

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
