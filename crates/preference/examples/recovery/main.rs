//! How much is learned of a known reward from how many labels: pairs against rankings of four, policies and reward models.
//!
//! ```sh
//! cargo run --release --example recovery
//! ```

#![expect(clippy::print_stdout, reason = "the table is what it is for")]

mod world;

use world::{Labels, World};

const WORLDS: u64 = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "{:>7} {:>14} {:>14} {:>14} {:>14}",
        "labels", "DPO, pairs", "DPO, 4", "reward, pairs", "reward, 4"
    );
    for count in [125, 250, 500, 1000, 2000, 4000] {
        let mut sums = [0.0; 4];
        for seed in 0..WORLDS {
            let directory = std::env::temp_dir().join(format!("posterior-recovery-{}-{seed}", std::process::id()));
            let world = World::new(&directory, seed)?;
            let pairs = Labels { count, responses: 2 };
            let fours = Labels { count, responses: 4 };
            let steps = 600;
            for (sum, value) in sums.iter_mut().zip([
                world.tune_policy(pairs, steps)?,
                world.tune_policy(fours, steps)?,
                world.train_reward(pairs, steps)?,
                world.train_reward(fours, steps)?,
            ]) {
                *sum += value / WORLDS as f64;
            }
            std::fs::remove_dir_all(&directory)?;
        }
        let [a, b, c, d] = sums;
        println!("{count:>7} {a:>14.4} {b:>14.4} {c:>14.4} {d:>14.4}");
    }
    Ok(())
}
