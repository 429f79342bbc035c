//! A trained denoiser as a directory: weights, and everything needed to sample from them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use exact::recipe::Noise;
use nn::DenoiserConfig;
use serde::{Deserialize, Serialize};
use train::files::{FileError, write_atomic};
use train::random::{Purpose, stream};

use crate::config::{ConfigError, ProcessKind, ScheduleKind, TrainConfig};
use crate::data::{Dataset, Scaling, Shape};
use crate::error::DiffusionError;
use crate::network::NetworkDenoiser;
use crate::objective::Parameterization;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// What `config.json` of a model holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The network's sizes.
    pub network: DenoiserConfig,
    /// What the network puts out.
    pub prediction: Parameterization,
    /// The noise process it was trained for.
    pub process: ProcessKind,
    /// The betas of a variance-preserving process.
    pub schedule: Option<ScheduleKind>,
    /// Whether they were rescaled to end in pure noise.
    pub zero_terminal_snr: bool,
    /// Shape of a sample.
    pub shape: Shape,
    /// The way between a sample's own units and the network's.
    pub scaling: Scaling,
    /// Names of the classes; empty without.
    pub class_names: Vec<String>,
    /// The Gaussian that fits the training data, in the network's units.
    pub data: Statistics,
}

/// The Gaussian that fits a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// Standard deviation over all values of all samples, around 0 (the root mean square): what preconditioning
    /// scales by.
    pub root_mean_square: f64,
    /// Mean of each value.
    pub mean: Vec<f64>,
    /// Variances along the principal axes, greatest first.
    pub variances: Vec<f64>,
}

impl Statistics {
    /// Of a data set, scaled as a network sees it.
    pub fn of(dataset: &Dataset) -> Self {
        let spectrum = dataset.spectrum();
        let power: f64 =
            spectrum.variances.iter().sum::<f64>() + spectrum.mean.iter().map(|mean| mean * mean).sum::<f64>();
        Self {
            root_mean_square: (power / spectrum.mean.len() as f64).sqrt().max(f64::MIN_POSITIVE),
            mean: spectrum.mean,
            variances: spectrum.variances,
        }
    }
}

/// A trained denoiser.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it is.
    pub config: ModelConfig,
    network: nn::Denoiser,
    device: Device,
}

impl Model {
    /// The model that a run trains, around a network with its averaged weights.
    pub fn new(config: ModelConfig, network: nn::Denoiser, device: &Device) -> Self {
        Self {
            config,
            network,
            device: device.clone(),
        }
    }

    /// Reads a model's directory, or a run's, whose model it then is.
    ///
    /// # Errors
    /// [`DiffusionError::Model`] naming the file that is missing or damaged.
    pub fn open(directory: &Path, device: &Device) -> Result<Self, DiffusionError> {
        let directory = Self::directory(directory);
        let path = directory.join(CONFIG);
        let bad = |reason: String| DiffusionError::Model {
            path: path.clone(),
            reason,
        };
        let text = fs::read_to_string(&path).map_err(|error| bad(error.to_string()))?;
        let config: ModelConfig = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        let size = config.shape.values();
        if config.network.sample_size() != size
            || config.data.mean.len() != size
            || config.data.variances.len() != size
            || config.data.root_mean_square.is_nan()
            || config.data.root_mean_square <= 0.0
        {
            return Err(bad(format!(
                "its sizes do not agree with samples of shape {}",
                config.shape
            )));
        }
        let fresh = config
            .network
            .build(&mut stream(0, Purpose::INITIALIZATION, 0, 0), device);
        let network = fresh.map_err(ConfigError::Network)?;
        let network = train::parameters::load(network, &directory.join(WEIGHTS))?;
        Ok(Self {
            config,
            network,
            device: device.clone(),
        })
    }

    /// The model's directory, given it or the run's.
    pub fn directory(directory: &Path) -> PathBuf {
        let inside = directory.join("model");
        if inside.join(CONFIG).is_file() {
            inside
        } else {
            directory.to_owned()
        }
    }

    /// Writes the model's directory; each file appears whole or not at all.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, directory: &Path) -> Result<(), DiffusionError> {
        fs::create_dir_all(directory).map_err(FileError::because("create the directory", directory))?;
        let weights = directory.join(WEIGHTS);
        let unfinished = directory.join(format!(".{WEIGHTS}.unfinished"));
        train::parameters::save(&self.network, &unfinished)?;
        fs::rename(&unfinished, &weights).map_err(FileError::because("rename", &unfinished))?;
        let path = directory.join(CONFIG);
        let text = serde_json::to_vec_pretty(&self.config).map_err(|error| DiffusionError::Model {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        Ok(write_atomic(&path, &text)?)
    }

    /// The noise process that sampling reverses.
    ///
    /// # Errors
    /// [`ConfigError::Schedule`].
    pub fn noise(&self) -> Result<Noise, ConfigError> {
        TrainConfig {
            process: self.config.process,
            schedule: self.config.schedule,
            zero_terminal_snr: self.config.zero_terminal_snr,
            ..TrainConfig::default()
        }
        .noise()
    }

    /// The network as a denoiser.
    pub fn denoiser(&self) -> NetworkDenoiser {
        NetworkDenoiser::new(
            &self.network,
            self.config.prediction,
            self.config.data.root_mean_square,
            self.config.shape.values(),
            &self.device,
        )
    }

    /// The classes of the `count` samples from number `first` on: those given, by name or number, in turn; all classes
    /// in turn if none is given; none for a model without classes. The class goes by the sample's number, so that a
    /// sample keeps its class in any company.
    ///
    /// # Errors
    /// [`DiffusionError::Class`] for a class that the model does not know.
    pub fn classes(&self, asked: &[String], first: u64, count: usize) -> Result<Vec<Option<u32>>, DiffusionError> {
        let names = if self.config.network.classes() == 0 {
            &[]
        } else {
            self.config.class_names.as_slice()
        };
        let numbers: BTreeMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
        let number = |class: &String| {
            numbers
                .get(class.as_str())
                .copied()
                .or_else(|| class.parse().ok().filter(|number| (*number as usize) < names.len()))
                .ok_or_else(|| DiffusionError::Class {
                    class: class.clone(),
                    names: names.to_vec(),
                })
        };
        let mut classes = asked.iter().map(number).collect::<Result<Vec<u32>, _>>()?;
        if classes.is_empty() {
            classes = (0..names.len() as u32).collect();
        }
        if classes.is_empty() {
            return Ok(vec![None; count]);
        }
        let class = |i: usize| classes[((first + i as u64) % classes.len() as u64) as usize];
        Ok((0..count).map(|i| Some(class(i))).collect())
    }
}
