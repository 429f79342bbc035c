//! Training a classifier to judge samples by.

use burn::module::Module as _;
use burn::tensor::{Device, Tensor, TensorData};
use nn::{Classifier, ClassifierConfig};
use train::adamw::{AdamW, AdamWConfig};
use train::gradients::NamedGradients;
use train::random::{Purpose, permutation, stream};
use train::schedule::{Decay, Schedule};

use crate::config::ConfigError;
use crate::error::DiffusionError;

const INITIALIZATION: Purpose = Purpose::named("classifier initialization");
const BATCH: usize = 128;
const LEARNING_RATE: f64 = 1e-3;

/// Labelled images, [count, size] row-major in [-1, 1].
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    /// All values.
    pub values: &'a [f32],
    /// One class per image.
    pub labels: &'a [u32],
}

/// A trained classifier.
#[derive(Debug)]
pub struct Judge {
    network: Classifier,
    inputs: usize,
    features: usize,
    device: Device,
}

impl Judge {
    /// Trains on `data` for `epochs` passes: AdamW at 1e-3 falling along a cosine, batches of 128.
    ///
    /// # Errors
    /// A training configuration that makes no network.
    ///
    /// # Panics
    /// If labels and values do not agree in number, or a label is not below `classes`.
    pub fn train(
        data: Labelled<'_>,
        classes: usize,
        epochs: u64,
        seed: u64,
        device: &Device,
    ) -> Result<Self, DiffusionError> {
        let count = data.labels.len();
        assert!(
            count > 0 && data.values.len().is_multiple_of(count),
            "one label per image"
        );
        let inputs = data.values.len() / count;
        let config = ClassifierConfig {
            inputs,
            hidden_size: 512,
            features: 128,
            classes,
        };
        let tracked = device.clone().autodiff();
        let mut network = Classifier::new(&config, &mut stream(seed, INITIALIZATION, 0, 0), &tracked)
            .map_err(ConfigError::Network)?;
        let mut optimizer = AdamW::new(AdamWConfig::default());
        let per_epoch = count.div_ceil(BATCH) as u64;
        let rate = Schedule::new(LEARNING_RATE, 0, epochs * per_epoch, Decay::Cosine)?;
        let mut step = 0;
        for epoch in 0..epochs {
            for indices in permutation(seed, epoch, count).chunks(BATCH) {
                let values = indices
                    .iter()
                    .flat_map(|i| &data.values[i * inputs..(i + 1) * inputs])
                    .copied()
                    .collect();
                let mut one_hot = vec![0.0_f32; indices.len() * classes];
                for (row, i) in indices.iter().enumerate() {
                    one_hot[row * classes + data.labels[*i] as usize] = 1.0;
                }
                let images = tensor(values, indices.len(), &tracked);
                let one_hot = tensor(one_hot, indices.len(), &tracked);
                let log_probs = burn::tensor::activation::log_softmax(network.forward(images), 1);
                let loss = (log_probs * one_hot).sum().div_scalar(-(indices.len() as f64));
                let mut gradients = NamedGradients::default();
                gradients.add(&network, loss.backward());
                optimizer.step(&mut network, gradients, rate.rate(step));
                step += 1;
            }
        }
        Ok(Self {
            network: network.valid(),
            inputs,
            features: config.features,
            device: device.clone().inner(),
        })
    }

    /// The share of `data` whose class is the one with the greatest logit.
    pub fn accuracy(&self, data: Labelled<'_>) -> f64 {
        let right: usize = data
            .values
            .chunks(self.inputs * 1000)
            .zip(data.labels.chunks(1000))
            .map(|(values, labels)| {
                let logits = self
                    .network
                    .forward(tensor(values.to_vec(), labels.len(), &self.device));
                let logits = logits
                    .into_data()
                    .convert::<f32>()
                    .try_into_vec::<f32>()
                    .unwrap_or_default();
                let classes = logits.len() / labels.len();
                logits
                    .chunks(classes)
                    .zip(labels)
                    .filter(|(row, label)| argmax(row) == **label as usize)
                    .count()
            })
            .sum();
        right as f64 / data.labels.len().max(1) as f64
    }

    /// The activations that images are compared by: [count, [`Self::feature_size`]].
    pub fn features(&self, values: &[f32]) -> Vec<f32> {
        values
            .chunks(self.inputs * 1000)
            .flat_map(|values| {
                let images = tensor(values.to_vec(), values.len() / self.inputs, &self.device);
                self.network
                    .features(images)
                    .into_data()
                    .convert::<f32>()
                    .try_into_vec::<f32>()
                    .unwrap_or_default()
            })
            .collect()
    }

    /// Number of features of an image.
    pub fn feature_size(&self) -> usize {
        self.features
    }
}

fn tensor(values: Vec<f32>, rows: usize, device: &Device) -> Tensor<2> {
    let columns = values.len() / rows.max(1);
    Tensor::from_data(TensorData::new(values, [rows, columns]), device)
}

/// The first position of the greatest value.
fn argmax(row: &[f32]) -> usize {
    row.iter()
        .enumerate()
        .fold(
            (0, f32::NEG_INFINITY),
            |best, (i, &value)| if value > best.1 { (i, value) } else { best },
        )
        .0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;

    #[test]
    fn digits_are_told_apart() {
        let (train, test) = Dataset::digits().unwrap().split(300, 1).unwrap();
        let parts = |data: &Dataset| {
            let all: Vec<usize> = (0..data.len()).collect();
            (
                data.batch(&all),
                all.iter().map(|i| data.label(*i).unwrap()).collect::<Vec<_>>(),
            )
        };
        let (values, labels) = parts(&train);
        let judge = Judge::train(
            Labelled {
                values: &values,
                labels: &labels,
            },
            10,
            20,
            0,
            &Device::flex(),
        )
        .unwrap();
        let (values, labels) = parts(&test);
        let accuracy = judge.accuracy(Labelled {
            values: &values,
            labels: &labels,
        });
        // scikit-learn's MLPClassifier reaches about .97 on such a split.
        assert!(accuracy > 0.94, "{accuracy}");
        assert_eq!(judge.features(&values).len(), 300 * judge.feature_size());
    }
}
