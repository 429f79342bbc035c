use std::collections::BTreeMap;

use burn::module::{Module as _, ModuleVisitor, Param};
use burn::tensor::{Device, TensorData};
use rand::RngExt as _;

use super::*;
use crate::data::Text;
use crate::judge::Function;
use crate::ppo::Answer;
use crate::small::{self, SmallModel};
use crate::text::Ranked;
use crate::tuning::objective::Split;

const RESPONSES: [&[u32]; 3] = [&[2, 1, 0], &[3, 3, 2, 0], &[1]];

fn policy(change: impl FnOnce(&mut PpoConfig)) -> Policy {
    let mut config = PpoConfig::default();
    change(&mut config);
    Policy::new(config, Judge::Function(Function::new(|_, _| 0.0)))
}

/// An episode whose numbers are all different, so that some terms are clipped and others are not.
fn episode(seed: u64) -> Episode {
    let mut rng = stream(seed, Purpose::named("test"), 0, 0);
    let mut numbers =
        |count: usize, low: f64, high: f64| -> Vec<f64> { (0..count).map(|_| rng.random_range(low..high)).collect() };
    let answers = RESPONSES.map(|tokens| Answer {
        tokens: tokens.to_vec(),
        log_probs: numbers(tokens.len(), -2.5, -0.8),
        reference: numbers(tokens.len(), -2.0, -1.0),
        values: numbers(tokens.len(), -1.0, 1.0),
        returns: numbers(tokens.len(), -1.0, 1.0),
        advantages: numbers(tokens.len(), -2.0, 2.0),
        ..Answer::default()
    });
    Episode {
        prompt: Text::Plain(String::new()),
        tokens: Ranked {
            prompt: vec![1, 2],
            responses: RESPONSES.map(<[u32]>::to_vec).to_vec(),
        },
        answers: answers.to_vec(),
    }
}

#[test]
fn the_derivatives_of_an_update_are_those_of_finite_differences() {
    let policy = policy(|config| config.value_coefficient = Some(0.7));
    let episode = episode(1);
    let count = RESPONSES.iter().map(|tokens| tokens.len()).sum::<usize>();
    let log_probs: Vec<f64> = (0..count).map(|at| -1.5 + 0.13 * at as f64).collect();
    let values: Vec<f64> = (0..count).map(|at| 0.3 - 0.11 * at as f64).collect();
    let loss =
        |log_probs: &[f64], values: &[f64]| policy.judge_update([&episode].into_iter(), log_probs, values).sums.loss;
    let judged = policy.judge_update([&episode].into_iter(), &log_probs, &values);
    let step = 1e-6;
    for at in 0..count {
        let moved = |numbers: &[f64], by: f64| {
            let mut numbers = numbers.to_vec();
            numbers[at] += by;
            numbers
        };
        let by_log_prob = loss(&moved(&log_probs, step), &values) - loss(&moved(&log_probs, -step), &values);
        let by_value = loss(&log_probs, &moved(&values, step)) - loss(&log_probs, &moved(&values, -step));
        assert!((by_log_prob / (2.0 * step) - judged.by_log_prob[at]).abs() < 1e-7);
        assert!((by_value / (2.0 * step) - judged.by_value[at]).abs() < 1e-7);
    }
    // Both kinds of terms are there.
    let sums = judged.sums;
    assert!(sums.policy_clipped > 0.0 && sums.policy_clipped < sums.tokens);
    assert!(sums.value_clipped > 0.0 && sums.value_clipped < sums.tokens);
}

/// Gradients by path.
struct Gather<'a>(Vec<String>, &'a mut Gradients, &'a mut BTreeMap<String, Vec<f32>>);
impl ModuleVisitor for Gather<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.0.push(name.to_owned());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.0.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad_remove(self.1) {
            let values = gradient.into_data().try_into_vec::<f32>().unwrap();
            self.2.insert(self.0.join("."), values);
        }
    }
}

/// The part of a direction in the space of all weights that is the parameter's at `path`.
fn direction(path: &str, count: usize) -> Vec<f32> {
    let mut rng = stream(path.len() as u64, Purpose::named("direction"), count as u64, 0);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// The decoder, moved so far in that direction.
fn moved(decoder: &Decoder, by: f32) -> Decoder {
    let mut moved = decoder.clone();
    train::parameters::update(&mut moved, |path, _, tensor| {
        let [count] = tensor.dims();
        let data = TensorData::new(direction(path, count), [count]);
        let device = tensor.device();
        tensor + Tensor::<1>::from_data(data, &device).mul_scalar(by)
    });
    moved
}

/// Along a direction drawn at random over all weights, the value head's among them, the whole loss changes as its gradient
/// says.
#[test]
fn the_gradient_of_the_whole_loss_is_its_derivative() {
    for (advantage, temperature) in [
        (Advantage::Gae, 1.0),
        (Advantage::Gae, 0.7),
        (Advantage::LeaveOneOut, 1.3),
    ] {
        let policy = policy(|config| {
            config.advantage = advantage;
            config.temperature = temperature;
        });
        let model = SmallModel::of(&["<end>", "a", "b", "c"]);
        let mut decoder = small::decoder(&model, 5, &Device::flex().autodiff());
        policy.begin(&mut decoder);
        let batch = Batch {
            split: Split::Training,
            examples: vec![
                (0, std::borrow::Cow::Owned(episode(2))),
                (1, std::borrow::Cow::Owned(episode(3))),
            ],
        };
        let total = 16.0;
        // Values that are not all 0.
        let decoder = moved(&decoder, 0.02);
        let mut found = BTreeMap::new();
        let mut collect = |mut gradients: Gradients| decoder.visit(&mut Gather(Vec::new(), &mut gradients, &mut found));
        let pass = TrainingPass::default();
        let sums = policy
            .differentiate(&decoder, &batch, &pass, total, &mut collect)
            .unwrap();
        assert_eq!(found.contains_key("score"), advantage == Advantage::Gae);
        let slope: f64 = found
            .iter()
            .flat_map(|(path, gradient)| direction(path, gradient.len()).into_iter().zip(gradient))
            .map(|(one, other)| f64::from(one) * f64::from(*other))
            .sum();
        let loss = |by: f32| {
            let found = policy
                .differentiate(&moved(&decoder, by), &batch, &pass, total, &mut |_| {})
                .unwrap();
            found.loss / total
        };
        let step = 3e-4;
        let difference = (loss(step) - loss(-step)) / (2.0 * f64::from(step));
        assert!(
            (difference - slope).abs() < 2e-3 * (1.0 + slope.abs()),
            "{advantage:?} at {temperature}: {difference} and {slope}"
        );
        assert!(sums.tokens == total && slope.abs() > 0.01);
    }
}

#[test]
fn every_pass_sees_each_answer_once() {
    let policy = policy(|config| {
        config.ppo_epochs = 3;
        config.minibatches = 4;
    });
    let updates = policy.updates(2, 10);
    assert_eq!(updates.len(), 12);
    for pass in updates.chunks(4) {
        let mut seen = pass.concat();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..10));
    }
    assert_ne!(updates[..4].concat(), updates[4..8].concat());
    assert_ne!(updates, policy.updates(3, 10));
    // No more pieces than there are.
    assert_eq!(policy.updates(0, 2).len(), 6);
}

#[test]
fn the_price_is_part_of_a_checkpoint() {
    let mut one = policy(|config| config.kl_target = Some(6.0));
    one.controller.update(12.0, 64);
    let mut other = policy(|config| config.kl_target = Some(6.0));
    assert_ne!(one.controller, other.controller);
    other.restore(&one.state()).unwrap();
    assert_eq!(one.controller, other.controller);
    assert!(other.restore(&Value::Null).is_err());
}
