//! Randomness that is addressed, not consumed: counter-based streams.
//!
//! A random number in this project belongs to a place, not to a moment. [`stream`] turns the address
//! (seed, purpose, sample, step) into the 32-byte key of a ChaCha8 generator, so
//!
//! - sample 17 draws the same noise alone, in a batch of 64, and on any thread;
//! - step 1,000 of a resumed run draws what step 1,000 of an uninterrupted run draws, and a checkpoint needs to hold
//!   no generator state at all;
//! - two purposes (say, the noise and the noise level of one sample) never share numbers by accident.
//!
//! ChaCha8 is a block cipher run on a counter (Bernstein 2008, "ChaCha, a variant of Salsa20"): streams with different
//! keys are unrelated, however similar the keys look. This is what makes consecutive seeds and steps safe as keys,
//! which they are not with generators that expand a seed linearly.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// What a stream of random numbers is for; the part of the address that keeps uses apart.
///
/// A crate names its own purposes as constants:
///
/// ```
/// use posterior_train::random::Purpose;
///
/// const CAPTION_DROPOUT: Purpose = Purpose::named("caption dropout");
/// assert_ne!(CAPTION_DROPOUT, Purpose::DATA_ORDER);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Purpose(u64);

impl Purpose {
    /// The order in which an epoch visits the data.
    pub const DATA_ORDER: Self = Self::named("data order");
    /// Initial weights of a network.
    pub const INITIALIZATION: Self = Self::named("initialization");
    /// The noise of a training example.
    pub const TRAINING_NOISE: Self = Self::named("training noise");
    /// The noise level (or timestep) of a training example.
    pub const TRAINING_LEVEL: Self = Self::named("training level");
    /// Whether a training example's condition is dropped (classifier-free guidance).
    pub const CONDITION_DROPOUT: Self = Self::named("condition dropout");
    /// Dropout inside a network.
    pub const DROPOUT: Self = Self::named("dropout");
    /// The starting point of a sampled item.
    pub const SAMPLE_START: Self = Self::named("sample start");
    /// The noise that a sampler adds along the way.
    pub const SAMPLE_NOISE: Self = Self::named("sample noise");
    /// Anything drawn by an evaluation.
    pub const EVALUATION: Self = Self::named("evaluation");

    /// The purpose with this name: the 64-bit FNV-1a hash of its bytes.
    #[must_use]
    pub const fn named(name: &str) -> Self {
        let bytes = name.as_bytes();
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut at = 0;
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
            at += 1;
        }
        Self(hash)
    }

    /// The number that enters the key.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }
}

impl From<u64> for Purpose {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

/// The generator at the address (`seed`, `purpose`, `sample`, `step`).
///
/// The ChaCha8 key is the four numbers, little endian, one after the other. The same address gives the same numbers on
/// every machine, for every batch size and thread count.
///
/// ```
/// use posterior_train::random::{Purpose, fill_normal_f32, stream};
///
/// let mut together = [0.0f32; 8];
/// for (sample, values) in together.chunks_mut(4).enumerate() {
///     fill_normal_f32(&mut stream(42, Purpose::TRAINING_NOISE, sample as u64, 1_000), values);
/// }
/// let mut alone = [0.0f32; 4];
/// fill_normal_f32(&mut stream(42, Purpose::TRAINING_NOISE, 1, 1_000), &mut alone);
/// assert_eq!(alone, together[4..]);
/// ```
#[must_use]
pub fn stream(seed: u64, purpose: impl Into<Purpose>, sample: u64, step: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (bytes, number) in key
        .chunks_exact_mut(8)
        .zip([seed, purpose.into().value(), sample, step])
    {
        bytes.copy_from_slice(&number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Fills `values` with independent draws from N(0, 1).
pub fn fill_normal_f32(rng: &mut ChaCha8Rng, values: &mut [f32]) {
    for value in values {
        *value = rng.sample(StandardNormal);
    }
}

/// Fills `values` with independent draws from N(0, 1).
pub fn fill_normal_f64(rng: &mut ChaCha8Rng, values: &mut [f64]) {
    for value in values {
        *value = rng.sample(StandardNormal);
    }
}

/// Fills `values` with independent draws from the uniform distribution on \[0, 1).
pub fn fill_uniform_f32(rng: &mut ChaCha8Rng, values: &mut [f32]) {
    for value in values {
        *value = rng.random();
    }
}

/// Fills `values` with independent draws from the uniform distribution on \[0, 1).
pub fn fill_uniform_f64(rng: &mut ChaCha8Rng, values: &mut [f64]) {
    for value in values {
        *value = rng.random();
    }
}

/// A uniformly drawn permutation of `0..n`, the visiting order of one epoch.
#[must_use]
pub fn permutation(seed: u64, epoch: u64, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut stream(seed, Purpose::DATA_ORDER, 0, epoch));
    order
}

/// A data set without examples has no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data set holds no examples, so there is nothing to train on; check the data's path and its filters")]
pub struct EmptyDataSet;

/// The endless sequence of example indices: epoch after epoch, each in its own [`permutation`].
///
/// Addressed by position (the number of examples seen before it), so a run resumes from a step number alone:
/// step `s` with `b` examples a step reads positions `s * b .. (s + 1) * b`.
#[derive(Debug, Clone)]
pub struct EpochOrder {
    /// Without a seed every epoch goes through the data as they are.
    seed: Option<u64>,
    examples: usize,
    epoch: u64,
    order: Vec<usize>,
}

impl EpochOrder {
    /// The order over `examples` examples.
    ///
    /// # Errors
    /// [`EmptyDataSet`] when `examples` is 0.
    pub fn new(seed: u64, examples: usize) -> Result<Self, EmptyDataSet> {
        if examples == 0 {
            return Err(EmptyDataSet);
        }
        Ok(Self {
            seed: Some(seed),
            examples,
            epoch: 0,
            order: permutation(seed, 0, examples),
        })
    }

    /// The order of the data themselves, again in every epoch.
    ///
    /// # Errors
    /// [`EmptyDataSet`] when `examples` is 0.
    pub fn sequential(examples: usize) -> Result<Self, EmptyDataSet> {
        if examples == 0 {
            return Err(EmptyDataSet);
        }
        Ok(Self {
            seed: None,
            examples,
            epoch: 0,
            order: Vec::new(),
        })
    }

    /// The number of examples in an epoch.
    #[must_use]
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// The epoch that holds `position`, from 0.
    #[must_use]
    pub fn epoch(&self, position: u64) -> u64 {
        position / self.examples as u64
    }

    /// The example at `position`. The current epoch's permutation is kept, so walking forward costs one shuffle an
    /// epoch.
    pub fn index(&mut self, position: u64) -> usize {
        let epoch = self.epoch(position);
        let place = (position % self.examples as u64) as usize;
        let Some(seed) = self.seed else { return place };
        if epoch != self.epoch {
            self.order = permutation(seed, epoch, self.examples);
            self.epoch = epoch;
        }
        self.order[place]
    }

    /// The examples at `position .. position + count`; a batch may span two epochs.
    pub fn indices(&mut self, position: u64, count: usize) -> Vec<usize> {
        (0..count as u64).map(|offset| self.index(position + offset)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normals(seed: u64, purpose: Purpose, sample: u64, step: u64) -> [f64; 6] {
        let mut values = [0.0; 6];
        fill_normal_f64(&mut stream(seed, purpose, sample, step), &mut values);
        values
    }

    #[test]
    fn every_part_of_the_address_matters() {
        let base = normals(1, Purpose::TRAINING_NOISE, 2, 3);
        assert_eq!(base, normals(1, Purpose::TRAINING_NOISE, 2, 3));
        for other in [
            normals(0, Purpose::TRAINING_NOISE, 2, 3),
            normals(1, Purpose::TRAINING_LEVEL, 2, 3),
            normals(1, Purpose::TRAINING_NOISE, 0, 3),
            normals(1, Purpose::TRAINING_NOISE, 2, 0),
            normals(1, Purpose::TRAINING_NOISE, 3, 2),
        ] {
            assert!(base.iter().zip(other).all(|(a, b)| *a != b));
        }
    }

    #[test]
    fn the_key_is_the_address_in_little_endian() {
        let mut key = [0u8; 32];
        (key[0], key[1], key[8], key[16], key[24]) = (0x02, 0x01, 7, 9, 11);
        assert_eq!(stream(0x0102, 7, 9, 11), ChaCha8Rng::from_seed(key));
    }

    /// The first 64 bits of the ChaCha8 key stream under the zero key and counter, draft-strombergson-chacha-test-
    /// vectors-01, TC1 (256-bit key, 8 rounds): 3e 00 ef 2f 89 5f 40 d6.
    #[test]
    fn the_generator_is_chacha8() {
        let word: u64 = stream(0, 0, 0, 0).random();
        assert_eq!(word.to_le_bytes(), [0x3e, 0x00, 0xef, 0x2f, 0x89, 0x5f, 0x40, 0xd6]);
    }

    #[test]
    fn normals_and_uniforms_have_their_moments() {
        let n = 200_000;
        let mut normal = vec![0.0f32; n];
        fill_normal_f32(&mut stream(5, 1, 0, 0), &mut normal);
        let moment = |k: i32| normal.iter().map(|v| f64::from(*v).powi(k)).sum::<f64>() / n as f64;
        // Standard errors: sqrt(1/n) = .0022, sqrt(2/n) = .0032, sqrt(96/n) = .022; four of them are allowed.
        assert!(moment(1).abs() < 0.009 && (moment(2) - 1.0).abs() < 0.013 && (moment(4) - 3.0).abs() < 0.09);
        let (mut single, mut double) = (vec![0.0f32; n], vec![0.0f64; n]);
        fill_uniform_f32(&mut stream(5, 2, 0, 0), &mut single);
        fill_uniform_f64(&mut stream(5, 3, 0, 0), &mut double);
        assert!(single.iter().all(|v| (0.0..1.0).contains(v)) && double.iter().all(|v| (0.0..1.0).contains(v)));
        let (single, double) = (
            single.iter().map(|v| f64::from(*v)).sum::<f64>(),
            double.iter().sum::<f64>(),
        );
        // Standard error sqrt(1/12/n) = .00065.
        assert!((single / n as f64 - 0.5).abs() < 0.0026 && (double / n as f64 - 0.5).abs() < 0.0026);
    }

    #[test]
    fn a_permutation_visits_everything_once_and_epochs_differ() {
        let first = permutation(9, 0, 1_000);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1_000).collect::<Vec<_>>());
        assert_eq!(first, permutation(9, 0, 1_000));
        assert_ne!(first, permutation(9, 1, 1_000));
        assert_ne!(first, permutation(10, 0, 1_000));
        assert!(permutation(9, 0, 0).is_empty());
    }

    #[test]
    fn every_permutation_of_three_is_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for epoch in 0..6_000 {
            *counts.entry(permutation(3, epoch, 3)).or_insert(0u32) += 1;
        }
        // 1,000 each, standard deviation 29.
        assert!(
            counts.len() == 6 && counts.values().all(|count| count.abs_diff(1_000) < 120),
            "{counts:?}"
        );
    }

    #[test]
    fn the_order_is_addressed_by_position() {
        let mut walked = EpochOrder::new(4, 7).unwrap();
        let all: Vec<usize> = (0..35).map(|position| walked.index(position)).collect();
        assert_eq!(all[7..14], permutation(4, 1, 7));
        for position in (0..35).rev() {
            assert_eq!(EpochOrder::new(4, 7).unwrap().index(position), all[position as usize]);
        }
        assert_eq!(walked.indices(5, 4), all[5..9]);
        assert_eq!((walked.epoch(6), walked.epoch(7)), (0, 1));
        assert_eq!(EpochOrder::new(4, 0).unwrap_err(), EmptyDataSet);
        assert_eq!(EpochOrder::sequential(3).unwrap().indices(1, 5), [1, 2, 0, 1, 2]);
        assert_eq!(EpochOrder::sequential(0).unwrap_err(), EmptyDataSet);
    }
}
