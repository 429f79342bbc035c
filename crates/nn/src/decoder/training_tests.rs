use std::collections::BTreeMap;

use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, TensorData};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::decoder::test_models::{GPT2, LLAMA, QWEN3, random, with_live_adapters};
use crate::decoder::{LoraConfig, Targets};

const TOKENS: &[u32] = &[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5];

fn forest() -> Forest {
    let mut forest = Forest::default();
    let root = forest.push(3, None);
    forest.push(2, Some(root));
    forest.push(3, Some(root));
    forest.push(3, None);
    forest
}

fn adapted(text: &str, dropout: f64) -> Decoder {
    let mut decoder = random(text, &Device::flex().autodiff());
    let config = LoraConfig {
        rank: 2,
        alpha: 4.0,
        dropout,
        rank_stabilized: false,
        targets: Targets::AllLinear,
        modules_to_save: vec![if text == GPT2 { "wte" } else { "embed_tokens" }.to_owned()],
    };
    decoder.adapt(&config, &mut ChaCha8Rng::seed_from_u64(5)).unwrap();
    with_live_adapters(decoder)
}

/// A loss of the log-probabilities of some tokens.
fn loss(decoder: &Decoder, hidden: Tensor<2>) -> Tensor<1> {
    let rows = [2, 3, 2, 5, 6, 8, 9];
    let targets: Arc<[u32]> = [1, 5, 9, 2, 6, 3, 5].into();
    decoder
        .token_log_prob(hidden, &rows, targets, 1.0)
        .log_prob
        .sum()
        .div_scalar(-7.0)
}

type Values = BTreeMap<String, Vec<f32>>;

/// Sums gradients up by path.
struct Gather<'a>(Vec<String>, &'a mut Gradients, &'a mut Values);
impl ModuleVisitor for Gather<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.0.push(name.to_owned());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.0.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param
            .is_require_grad()
            .then(|| param.val().grad_remove(self.1))
            .flatten()
        {
            let values = gradient.into_data().try_into_vec::<f32>().unwrap();
            let sum = self
                .2
                .entry(self.0.join("."))
                .or_insert_with(|| vec![0.0; values.len()]);
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
    }
}

/// The loss, and its gradients by path.
fn gradients(decoder: &Decoder, training: &TrainingPass) -> (f64, Values) {
    let mut found = Values::new();
    let mut collect = |mut gradients: Gradients| decoder.visit(&mut Gather(Vec::new(), &mut gradients, &mut found));
    let value = decoder.gradients(
        TOKENS,
        &forest(),
        training,
        |hidden| loss(decoder, hidden),
        &mut collect,
    );
    (value, found)
}

#[test]
fn recomputing_gives_the_bits_of_keeping() {
    for text in [LLAMA, QWEN3, GPT2] {
        for decoder in [random(text, &Device::flex().autodiff()), adapted(text, 0.5)] {
            let keys: Arc<[u64]> = (0..TOKENS.len() as u64).collect();
            let pass = |recompute| TrainingPass {
                dropout: Some(Arc::clone(&keys)),
                recompute,
            };
            let (kept, recomputed) = (gradients(&decoder, &pass(false)), gradients(&decoder, &pass(true)));
            assert!(kept.1.len() > 10);
            assert_eq!(kept.0, recomputed.0);
            assert_eq!(
                kept.1.keys().collect::<Vec<_>>(),
                recomputed.1.keys().collect::<Vec<_>>()
            );
            for (path, values) in &kept.1 {
                // A tied embedding's gradient is a sum of two parts, which are added in another order.
                if path == "embedding" {
                    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * a.abs().max(1e-2);
                    assert!(values.iter().zip(&recomputed.1[path]).all(close), "{path}");
                } else {
                    assert_eq!(values, &recomputed.1[path], "{path}");
                }
            }
        }
    }
}

#[test]
fn dropout_drops_by_key_and_only_in_training() {
    let decoder = adapted(LLAMA, 0.5);
    let with = |keys: Option<Arc<[u64]>>| {
        gradients(
            &decoder,
            &TrainingPass {
                dropout: keys,
                recompute: false,
            },
        )
        .0
    };
    let keys: Arc<[u64]> = (0..TOKENS.len() as u64).collect();
    let other: Arc<[u64]> = (100..100 + TOKENS.len() as u64).collect();
    assert_eq!(with(Some(Arc::clone(&keys))), with(Some(Arc::clone(&keys))));
    assert_ne!(with(Some(Arc::clone(&keys))), with(Some(other)));
    let evaluated = loss(&decoder, decoder.hidden(TOKENS, &forest())).into_scalar::<f32>();
    assert_eq!(with(None), f64::from(evaluated));
    assert_ne!(with(None), with(Some(keys)));
}

/// Against central differences of the network itself, for a few values of every trained parameter.
#[test]
fn gradients_are_differences_of_the_loss() {
    struct Nudge<'a>(Vec<String>, &'a str, usize, f32);
    impl ModuleMapper for Nudge<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.0.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.0.join(".") != self.1 {
                return param;
            }
            let (shape, device) = (param.val().shape(), param.val().device());
            let mut values = param.val().into_data().try_into_vec::<f32>().unwrap();
            values[self.2] += self.3;
            Param::from_data(TensorData::new(values, shape), &device)
        }
    }
    for text in [LLAMA, QWEN3, GPT2] {
        let decoder = adapted(text, 0.0);
        let (_, found) = gradients(&decoder, &TrainingPass::default());
        let value = |path: &str, at: usize, step: f32| {
            let nudged = decoder.clone().map(&mut Nudge(Vec::new(), path, at, step));
            f64::from(loss(&nudged, nudged.hidden(TOKENS, &forest())).into_scalar::<f32>())
        };
        let largest = found
            .values()
            .flatten()
            .fold(0.0_f32, |largest, value| largest.max(value.abs()));
        for (path, values) in &found {
            for at in [0, values.len() / 2, values.len() - 1] {
                // The loss has seven digits; a wide step and a tolerance to match.
                let step = 2e-2;
                let difference = (value(path, at, step) - value(path, at, -step)) / f64::from(2.0 * step);
                let error = (difference - f64::from(values[at])).abs();
                assert!(
                    error < 2e-2 * f64::from(largest),
                    "{path} {at}: {difference} {}",
                    values[at]
                );
            }
        }
    }
}

/// Rows, and the tokens that they are to foretell.
type Wanted = Vec<(usize, u32)>;

/// The two sequences that a prompt with two responses stands for, and a third, each alone: tokens, and which rows foretell
/// what.
fn unpacked() -> [(Vec<u32>, Wanted); 3] {
    [
        ([&TOKENS[0..3], &TOKENS[3..5]].concat(), vec![(2, 1), (3, 5)]),
        ([&TOKENS[0..3], &TOKENS[5..8]].concat(), vec![(2, 9), (3, 2)]),
        (TOKENS[8..11].to_vec(), vec![(0, 3), (1, 5)]),
    ]
}

/// The rows of [`unpacked`] in the forest, and their targets.
const PACKED: &[(usize, u32)] = &[(2, 1), (3, 5), (2, 9), (5, 2), (8, 3), (9, 5)];

fn log_prob_sum(decoder: &Decoder, hidden: Tensor<2>, wanted: &[(usize, u32)]) -> Tensor<1> {
    log_probs(decoder, hidden, wanted).sum().neg()
}

fn log_probs(decoder: &Decoder, hidden: Tensor<2>, wanted: &[(usize, u32)]) -> Tensor<1> {
    let rows: Vec<usize> = wanted.iter().map(|(row, _)| *row).collect();
    let targets: Arc<[u32]> = wanted.iter().map(|(_, target)| *target).collect();
    decoder.token_log_prob(hidden, &rows, targets, 1.0).log_prob
}

#[test]
fn a_forest_equals_its_sequences() {
    for text in [LLAMA, QWEN3, GPT2] {
        let decoder = adapted(text, 0.0);
        let run = |tokens: &[u32], forest: &Forest, wanted: &[(usize, u32)]| {
            let mut found = Values::new();
            let mut collect =
                |mut gradients: Gradients| decoder.visit(&mut Gather(Vec::new(), &mut gradients, &mut found));
            let loss = |hidden: Tensor<2>| log_prob_sum(&decoder, hidden, wanted);
            let loss = decoder.gradients(tokens, forest, &TrainingPass::default(), loss, &mut collect);
            (loss, found)
        };
        let (packed_loss, packed) = run(TOKENS, &forest(), PACKED);
        let (mut loss, mut sum) = (0.0, Values::new());
        for (tokens, wanted) in unpacked() {
            let (part, gradients) = run(&tokens, &Forest::sequences([tokens.len()]), &wanted);
            loss += part;
            for (path, values) in gradients {
                let total = sum.entry(path).or_insert_with(|| vec![0.0; values.len()]);
                total.iter_mut().zip(values).for_each(|(total, value)| *total += value);
            }
        }
        assert!((loss - packed_loss).abs() < 1e-5 * loss.abs(), "{loss} {packed_loss}");
        for (path, values) in &sum {
            let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            for (alone, packed) in values.iter().zip(&packed[path]) {
                assert!(
                    (alone - packed).abs() <= 1e-4 * largest,
                    "{text} {path}: {alone} {packed}"
                );
            }
        }
    }
}

#[test]
fn a_changed_segment_changes_no_other_tree() {
    let decoder = adapted(LLAMA, 0.0);
    let probabilities = |tokens: &[u32]| -> Vec<f32> {
        let found = log_probs(&decoder, decoder.hidden(tokens, &forest()), PACKED);
        found.into_data().try_into_vec().unwrap()
    };
    let before = probabilities(TOKENS);
    let changed = |at: usize| {
        let mut tokens = TOKENS.to_vec();
        tokens[at] = (tokens[at] + 7) % 50;
        probabilities(&tokens)
    };
    // A response: neither the other response nor the other tree, to the bit.
    let response = changed(3);
    assert_ne!(response[1], before[1]);
    assert_eq!((response[0], &response[2..]), (before[0], &before[2..]));
    // A prompt: its tree, and no other.
    let prompt = changed(1);
    assert!((0..4).all(|at| prompt[at] != before[at]));
    assert_eq!(prompt[4..], before[4..]);
    // The other tree.
    let other = changed(8);
    assert_eq!(other[..4], before[..4]);
    assert_ne!(other[4], before[4]);
}
