//! How good a denoiser and its samples are, in numbers that compare.

use burn::tensor::Device;
use exact::process::ideal_gain;
use exact::spectrum::Spectrum;
use serde::{Deserialize, Serialize};
use train::random::{Purpose, fill_normal_f64, stream};

use crate::classify::{Judge, Labelled};
use crate::data::Dataset;
use crate::error::DiffusionError;
use crate::gaussian::GaussianFit;
use crate::sample::Denoise;

/// The error of a denoiser at one level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LevelError {
    /// The level.
    pub sigma: f64,
    /// Mean over samples and values of (xhat0 - x0)².
    pub network: f64,
    /// The same for the best linear denoiser of data with this mean and spectrum, `lambda sigma² / (lambda + sigma²)`
    /// averaged over the axes: what a perfect network reaches on Gaussian data and beats on all others.
    pub best_linear: f64,
}

/// The error of `denoiser` on `data` (in the network's units) at each of `levels`; the noise is the same whatever
/// the denoiser.
///
/// # Errors
/// The denoiser's.
pub fn level_errors<D: Denoise>(
    denoiser: &D,
    data: &Dataset,
    spectrum: &Spectrum,
    levels: &[f64],
    seed: u64,
) -> Result<Vec<LevelError>, D::Error> {
    let size = denoiser.sample_size();
    let indices: Vec<usize> = (0..data.len()).collect();
    let mut errors = Vec::with_capacity(levels.len());
    for (number, &sigma) in levels.iter().enumerate() {
        let mut total = 0.0;
        for chunk in indices.chunks(64) {
            let clean = data.batch(chunk);
            let mut noise = vec![0.0; size];
            let mut states = Vec::with_capacity(clean.len());
            for (index, clean) in chunk.iter().zip(clean.chunks_exact(size)) {
                fill_normal_f64(
                    &mut stream(seed, Purpose::EVALUATION, *index as u64, number as u64),
                    &mut noise,
                );
                states.extend(
                    clean
                        .iter()
                        .zip(&noise)
                        .map(|(clean, noise)| match sigma.is_infinite() {
                            true => *noise,
                            false => f64::from(*clean) + sigma * noise,
                        }),
                );
            }
            let classes: Vec<Option<u32>> = chunk.iter().map(|index| data.label(*index)).collect();
            let estimates = denoiser.estimate(&states, sigma, &classes)?;
            total += estimates
                .iter()
                .zip(&clean)
                .map(|(a, b)| (a - f64::from(*b)).powi(2))
                .sum::<f64>();
        }
        let variances = spectrum.variances();
        // lambda (1 - lambda / (lambda + sigma²)): the posterior variance along an axis.
        let linear = variances.iter().map(|v| v * (1.0 - ideal_gain(*v, sigma))).sum::<f64>() / variances.len() as f64;
        errors.push(LevelError {
            sigma,
            network: total / (data.len() * size) as f64,
            best_linear: linear,
        });
    }
    Ok(errors)
}

/// The distance between samples and data as the Gaussians that fit them see it.
///
/// # Errors
/// [`DiffusionError::TooFew`].
pub fn gaussian_distance(samples: &[f32], data: &[f32], size: usize) -> Result<f64, DiffusionError> {
    Ok(GaussianFit::new(samples, size)?.wasserstein(&GaussianFit::new(data, size)?))
}

/// Samples as a classifier sees them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Frechet distance between samples and training data in the features of a classifier trained on real data.
    pub frechet_distance: f64,
    /// The same between the real test data and the training data: what even perfect samples do not go below by much.
    pub frechet_distance_of_real_data: f64,
    /// Accuracy on the real test data of a classifier trained on the samples alone; `None` for samples without
    /// classes.
    pub accuracy_trained_on_samples: Option<f64>,
    /// Accuracy on the real test data of the same classifier trained on as many real examples.
    pub accuracy_trained_on_as_many_real: f64,
    /// Accuracy on the real test data of the same classifier trained on all real training examples.
    pub accuracy_trained_on_real: f64,
}

/// Labelled images in memory.
#[derive(Clone, Debug)]
pub struct Images {
    /// [count, size], in the network's units.
    pub values: Vec<f32>,
    /// One class per image.
    pub labels: Vec<u32>,
}

impl Images {
    /// All of a data set.
    ///
    /// # Errors
    /// [`DiffusionError::NoLabels`].
    pub fn of(data: &Dataset) -> Result<Self, DiffusionError> {
        let indices: Vec<usize> = (0..data.len()).collect();
        let labels: Option<Vec<u32>> = indices.iter().map(|index| data.label(*index)).collect();
        let labels = labels.ok_or_else(|| DiffusionError::NoLabels {
            what: "judging by a classifier",
            origin: data.origin().to_owned(),
        })?;
        Ok(Self {
            values: data.batch(&indices),
            labels,
        })
    }

    fn labelled(&self) -> Labelled<'_> {
        Labelled {
            values: &self.values,
            labels: &self.labels,
        }
    }
}

/// Judges samples (with the class that each was asked to be, if they have classes) against real data.
///
/// # Errors
/// Too few samples for a fit.
pub fn judge(
    samples: &[f32],
    sample_labels: Option<&[u32]>,
    real: &Images,
    test: &Images,
    epochs: u64,
    seed: u64,
    device: &Device,
) -> Result<Judgement, DiffusionError> {
    let size = real.values.len() / real.labels.len().max(1);
    let count = samples.len() / size;
    let classes = real
        .labels
        .iter()
        .chain(&test.labels)
        .max()
        .map_or(0, |class| *class as usize + 1);
    let on_real = Judge::train(real.labelled(), classes, epochs, seed, device)?;
    let fit = |values: &[f32]| GaussianFit::new(&on_real.features(values), on_real.feature_size());
    let real_fit = fit(&real.values)?;
    let as_many = count.min(real.labels.len());
    let few = Labelled {
        values: &real.values[..as_many * size],
        labels: &real.labels[..as_many],
    };
    Ok(Judgement {
        frechet_distance: fit(samples)?.wasserstein(&real_fit).powi(2),
        frechet_distance_of_real_data: fit(&test.values)?.wasserstein(&real_fit).powi(2),
        accuracy_trained_on_samples: sample_labels
            .map(|labels| {
                let judge = Judge::train(
                    Labelled {
                        values: samples,
                        labels,
                    },
                    classes,
                    epochs,
                    seed,
                    device,
                )?;
                Ok::<_, DiffusionError>(judge.accuracy(test.labelled()))
            })
            .transpose()?,
        accuracy_trained_on_as_many_real: Judge::train(few, classes, epochs, seed, device)?.accuracy(test.labelled()),
        accuracy_trained_on_real: on_real.accuracy(test.labelled()),
    })
}
