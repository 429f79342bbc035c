//! Running a plan: the very table that the audit analyses, with a denoiser in the place of the ideal one.
//!
//! The state lives on the host in f64 and only the network's input and output are single precision. Every random
//! number is addressed by (seed, sample, row), and a denoiser treats the samples of a batch independently, so sample
//! 17 is the same alone or among 64, and whatever the number of threads.

use exact::denoiser::{DenoiserError, IdealDenoiser};
use exact::sampler::{Plan, Step};
use train::random::{Purpose, fill_normal_f64, stream};

/// An estimate of the clean data from noisy states.
pub trait Denoise {
    /// Why an estimate can fail.
    type Error;

    /// Values per sample.
    fn sample_size(&self) -> usize;

    /// How many times the network runs for one estimate: 2 under classifier-free guidance, otherwise 1.
    fn evaluations(&self) -> usize {
        1
    }

    /// E[x0 | x] for each state of `states`, [batch, sample_size] row-major, at level `sigma`. `classes` has one
    /// entry per state.
    ///
    /// # Errors
    /// Whatever the denoiser cannot do at this level.
    fn estimate(&self, states: &[f64], sigma: f64, classes: &[Option<u32>]) -> Result<Vec<f64>, Self::Error>;
}

/// Which samples to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Seed of all randomness.
    pub seed: u64,
    /// Number of the first sample: with the same seed, samples 10..20 are the same drawn apart or as part of 0..100.
    pub first: u64,
    /// The class of each sample; its length is the number of samples.
    pub classes: Vec<Option<u32>>,
    /// Most samples that go through the network at once. Affects memory and speed, never the samples.
    pub batch_size: usize,
}

/// Where a run is: after each row of each batch.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// Position of the batch's first sample among those requested.
    pub offset: usize,
    /// Number of the row in the plan, from 0.
    pub row: usize,
    /// The row.
    pub step: &'a Step,
    /// The states after the row, [batch, sample_size].
    pub states: &'a [f64],
    /// The denoiser's estimates in this row, clipped if the plan clips, [batch, sample_size].
    pub estimates: &'a [f64],
}

/// Draws samples: [count, sample_size], row-major, in the units that the denoiser works in.
///
/// # Errors
/// The denoiser's.
pub fn run<D: Denoise>(
    plan: &Plan,
    denoiser: &D,
    request: &Request,
    mut watch: impl FnMut(Moment<'_>),
) -> Result<Vec<f64>, D::Error> {
    let size = denoiser.sample_size();
    let mut samples = Vec::with_capacity(request.classes.len() * size);
    for (batch, classes) in request.classes.chunks(request.batch_size.max(1)).enumerate() {
        let offset = batch * request.batch_size.max(1);
        let number = |i: usize| request.first + (offset + i) as u64;
        let mut states = vec![0.0; classes.len() * size];
        for (i, state) in states.chunks_exact_mut(size).enumerate() {
            fill_normal_f64(&mut stream(request.seed, Purpose::SAMPLE_START, number(i), 0), state);
            state.iter_mut().for_each(|value| *value *= plan.prior_std);
        }
        let mut previous = Vec::new();
        let mut noise = vec![0.0; size];
        for (row, step) in plan.steps.iter().enumerate() {
            let mut estimates = denoiser.estimate(&states, step.from, classes)?;
            if let Some(limit) = plan.clip {
                estimates
                    .iter_mut()
                    .for_each(|value| *value = value.clamp(-limit, limit));
            }
            for (i, state) in states.chunks_exact_mut(size).enumerate() {
                let range = i * size..(i + 1) * size;
                for (value, estimate) in state.iter_mut().zip(&estimates[range.clone()]) {
                    *value = step.state * *value + step.denoised * estimate;
                }
                if step.previous_denoised != 0.0 && row > 0 {
                    for (value, estimate) in state.iter_mut().zip(&previous[range]) {
                        *value += step.previous_denoised * estimate;
                    }
                }
                if step.noise != 0.0 {
                    fill_normal_f64(
                        &mut stream(request.seed, Purpose::SAMPLE_NOISE, number(i), row as u64),
                        &mut noise,
                    );
                    for (value, noise) in state.iter_mut().zip(&noise) {
                        *value += step.noise * noise;
                    }
                }
            }
            watch(Moment {
                offset,
                row,
                step,
                states: &states,
                estimates: &estimates,
            });
            previous = estimates;
        }
        samples.extend(states.iter().map(|value| value * plan.output_scale));
    }
    Ok(samples)
}

impl Denoise for IdealDenoiser {
    type Error = DenoiserError;

    fn sample_size(&self) -> usize {
        self.dimension()
    }

    fn estimate(&self, states: &[f64], sigma: f64, _classes: &[Option<u32>]) -> Result<Vec<f64>, Self::Error> {
        let mut estimates = Vec::with_capacity(states.len());
        for state in states.chunks_exact(self.sample_size()) {
            estimates.extend(self.denoise(state, sigma)?);
        }
        Ok(estimates)
    }
}
