//! Preferences drawn from a known reward lead back to it.

#[path = "../examples/recovery/world.rs"]
mod world;

use world::{Labels, World};

#[test]
fn policies_and_reward_models_recover_the_reward() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(directory.path(), 0).unwrap();
    let labels = |count, responses| Labels { count, responses };
    let policy = |count, responses| world.tune_policy(labels(count, responses), 600).unwrap();
    // Sixteen times the labels, a quarter of the distance: 1/sqrt(n). Between what chance allows.
    let (few, many) = (policy(250, 2), policy(4000, 2));
    // Chance allows more with few labels than the rule does, because what never lost is unbounded.
    assert!(many < 0.08 && few < 0.5, "{few} {many}");
    assert!((2.0..12.0).contains(&(few / many)), "{few} {many}");
    // A ranking of four says more than a pair.
    let (few_fours, many_fours) = (policy(250, 4), policy(4000, 4));
    assert!(few_fours < few && many_fours < many, "{few_fours} {many_fours}");
    let reward = |count, responses| world.train_reward(labels(count, responses), 600).unwrap();
    let (pairs, fours) = (reward(4000, 2), reward(4000, 4));
    assert!(pairs < 0.3 && fours < pairs, "{pairs} {fours}");
}
