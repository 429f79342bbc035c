//! Proximal policy optimisation of a language model: it answers prompts, its answers are judged, and what earned more than
//! expected becomes likelier, at a price for every nat of divergence from a reference.
//!
//! Schulman et al. 2017, "Proximal Policy Optimization Algorithms", as Ziegler et al. 2019 have it for language models,
//! details included that their paper leaves to their code (Huang et al. 2024, "The N+ Implementation Details of RLHF with
//! PPO"). The numbers of an update are functions of [`exact::policy`].

mod answers;
mod config;
mod episode;
mod measure;
mod policy;
mod samples;

pub use config::{Advantage, PpoConfig};
pub use episode::{Answer, Episode};
pub use measure::{Measured, measure};
pub use policy::{Policy, Ppo, prepare};
pub use samples::Sample;
