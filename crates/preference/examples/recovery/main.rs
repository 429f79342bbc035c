//! How much is learned of a known reward from how many labels: pairs against rankings of four, policies and reward models.
//!
//! ```sh
//! cargo build --release --workspace --example recovery
//! target/release/examples/recovery recovery.svg
//! ```

#![expect(clippy::print_stdout, reason = "the table is what it is for")]

mod picture;
mod world;

use world::{Labels, World};

const WORLDS: u64 = 3;
const COUNTS: [usize; 6] = [125, 250, 500, 1000, 2000, 4000];
const STEPS: u64 = 600;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "{:>7} {:>14} {:>14} {:>14} {:>14}",
        "labels", "DPO, pairs", "DPO, 4", "reward, pairs", "reward, 4"
    );
    let mut rows = Vec::new();
    for count in COUNTS {
        let mut sums = [0.0; 4];
        for seed in 0..WORLDS {
            let directory = std::env::temp_dir().join(format!("posterior-recovery-{}-{seed}", std::process::id()));
            let world = World::new(&directory, seed)?;
            let pairs = Labels { count, responses: 2 };
            let fours = Labels { count, responses: 4 };
            for (sum, value) in sums.iter_mut().zip([
                world.tune_policy(pairs, STEPS)?,
                world.tune_policy(fours, STEPS)?,
                world.train_reward(pairs, STEPS)?,
                world.train_reward(fours, STEPS)?,
            ]) {
                *sum += value / WORLDS as f64;
            }
            std::fs::remove_dir_all(&directory)?;
        }
        let [a, b, c, d] = sums;
        println!("{count:>7} {a:>14.4} {b:>14.4} {c:>14.4} {d:>14.4}");
        rows.push((count, sums));
    }
    if let Some(path) = std::env::args_os().nth(1) {
        std::fs::write(path, picture::draw(&rows)?)?;
    }
    Ok(())
}
