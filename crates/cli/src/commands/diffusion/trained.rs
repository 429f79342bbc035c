//! A finished run: its model, and the data it was trained on and held against.

use std::path::Path;

use ::train::run::Run;
use diffusion::config::TrainConfig;
use diffusion::data::{self, Dataset};
use diffusion::evaluate::{LevelError, level_errors};
use diffusion::model::Model;
use exact::recipe::Noise;
use exact::spectrum::Spectrum;
use miette::{IntoDiagnostic as _, WrapErr as _};

use super::plan::spectrum;
use crate::output::Context;

/// A trained denoiser with its data.
pub struct Trained {
    /// The denoiser.
    pub model: Model,
    /// The run's settings.
    pub config: TrainConfig,
    /// What it was trained on.
    pub training: Dataset,
    /// What was kept out of training.
    pub held_out: Dataset,
}

impl Trained {
    /// Reads the run's model, settings and data.
    pub fn open(run: &Path, context: &Context) -> miette::Result<Self> {
        let model = Model::open(run, &context.device).into_diagnostic()?;
        let config: TrainConfig = Run::read_config(run)
            .into_diagnostic()
            .wrap_err("the run's settings are needed, to read its data")?;
        let mut dataset = data::open(&config.data, &config.data_options()).into_diagnostic()?;
        if let Some(limit) = config.limit {
            dataset = dataset.limit(limit);
        }
        let held_out = config.held_out_count(dataset.len());
        let (training, held_out) = dataset.split(held_out, config.seed).into_diagnostic()?;
        Ok(Self {
            model,
            config,
            training,
            held_out,
        })
    }

    /// The variances of the training data.
    pub fn spectrum(&self) -> miette::Result<Spectrum> {
        spectrum(&self.model)
    }

    /// The noise process.
    pub fn noise(&self) -> miette::Result<Noise> {
        self.model.noise().into_diagnostic()
    }

    /// The network's error on the held-out samples at each level; empty if none were held out.
    pub fn level_errors(&self, levels: &[f64]) -> miette::Result<Vec<LevelError>> {
        if self.held_out.is_empty() {
            return Ok(Vec::new());
        }
        let spectrum = self.spectrum()?;
        level_errors(
            &self.model.denoiser(),
            &self.held_out,
            &spectrum,
            levels,
            self.config.seed,
        )
        .into_diagnostic()
    }
}
