//! Gaussian data, where the best network is known: what training learns and what sampling makes of it, held against
//! the closed forms.
//!
//! Data of standard deviation s, the variance-exploding process on t in [0, 1], the plain objective: a network that
//! sees nothing but the samples must come to `xhat0 = s² / (s² + t) x`, the conditional mean.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use burn::tensor::Device;
use exact::audit::{Start, audit};
use exact::process::{Process, ideal_gain};
use exact::sampler::{Plan, Sampler, Variance};
use exact::spacing::Levels;
use exact::spectrum::Spectrum;
use posterior_diffusion::config::{LevelsKind, ProcessKind, TrainConfig};
use posterior_diffusion::data::PointScaling;
use posterior_diffusion::network::NetworkDenoiser;
use posterior_diffusion::sample::{Denoise as _, Request, run};
use posterior_diffusion::training::Training;
use train::random::{Purpose, fill_normal_f64, stream};
use train::trainer::Task as _;

const STD: f64 = 0.5;

fn trained(dimensions: usize) -> NetworkDenoiser {
    let config = TrainConfig {
        data: format!("points:gaussian?std={STD}&dimensions={dimensions}&count=100000"),
        scaling: Some(PointScaling::Raw),
        process: ProcessKind::Ve,
        levels: LevelsKind::Uniform,
        hidden_size: Some(64),
        depth: Some(2),
        held_out: Some(0),
        batch_size: 256,
        max_steps: Some(1500),
        learning_rate: 3e-3,
        warmup_steps: 50,
        ..TrainConfig::default()
    };
    let mut training = Training::new(config, &Device::flex()).unwrap();
    for step in 0..training.steps() {
        training.step(step).unwrap();
    }
    training.model().denoiser()
}

/// The slope of the least-squares line through 0 of the estimate on the state, both as the network's data have them.
fn gain(denoiser: &NetworkDenoiser, dimensions: usize, t: f64) -> f64 {
    let mut states = vec![0.0; 4000 * dimensions];
    fill_normal_f64(&mut stream(5, Purpose::EVALUATION, 0, 0), &mut states);
    states.iter_mut().for_each(|state| *state *= (STD * STD + t).sqrt());
    let estimates = denoiser.estimate(&states, t.sqrt(), &[None; 4000]).unwrap();
    let product: f64 = states.iter().zip(&estimates).map(|(x, y)| x * y).sum();
    product / states.iter().map(|x| x * x).sum::<f64>()
}

fn output_std(plan: &Plan, denoiser: &NetworkDenoiser) -> f64 {
    let request = Request {
        seed: 1,
        first: 0,
        classes: vec![None; 5_000],
        batch_size: 5_000,
    };
    let samples = run(plan, denoiser, &request, |_| {}).unwrap();
    (samples.iter().map(|value| value * value).sum::<f64>() / samples.len() as f64).sqrt()
}

fn check(dimensions: usize) {
    let denoiser = trained(dimensions);
    for t in [0.01, 0.03, 0.1, 0.3, 0.6, 1.0] {
        let (found, ideal) = (gain(&denoiser, dimensions, t), ideal_gain(STD * STD, f64::sqrt(t)));
        assert!((found / ideal - 1.0).abs() < 0.02, "t = {t}: gain {found}, not {ideal}");
    }
    let spectrum = Spectrum::new(vec![STD * STD; dimensions]).unwrap();
    let levels = Levels::uniform(0.0, 1.0, 400).unwrap();
    for (sampler, start) in [
        (Sampler::MeanOnly, Start::Prior),
        (Sampler::Ancestral(Variance::Increment), Start::Exact),
        (Sampler::Ddim { eta: 0.0 }, Start::Exact),
    ] {
        let mut plan = sampler.plan(Process::VarianceExploding, &levels).unwrap();
        if start == Start::Exact {
            // The exact law at t = 1 is N(0, s² + 1); the prior N(0, 1) would leave its own error in the result.
            plan.prior_std = STD.hypot(1.0);
        }
        let exact = audit(&plan, &spectrum, Start::Prior).unwrap().output_std[0];
        let found = output_std(&plan, &denoiser);
        assert!(
            (found / exact - 1.0).abs() < 0.03,
            "{sampler:?}: std {found}, not {exact}"
        );
        if sampler == Sampler::MeanOnly {
            // s² / (s² + 1) instead of s: the collapse.
            assert!((exact - 0.2).abs() < 1e-12);
        } else {
            // Repaired by noise, and by the smaller step.
            assert!((found - STD).abs() < 0.03 * STD, "{sampler:?}: {found}");
        }
    }
}

#[test]
fn one_dimension() {
    check(1);
}

#[test]
fn two_dimensions() {
    check(2);
}
