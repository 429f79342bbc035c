//! Which plan sampling runs: the flags of `audit`, on a model's own process and data.

use std::path::PathBuf;

use diffusion::model::Model;
use exact::recipe::Recipe;
use exact::sampler::Plan;
use exact::scheduler_config::SchedulerConfig;
use exact::spectrum::Spectrum;
use miette::{IntoDiagnostic as _, WrapErr as _};

use crate::commands::audit::choice::{Choice, SamplerName, SpacingName, VarianceName, step_count};
use crate::output::Context;

/// How to get from noise to samples.
#[derive(Clone, Debug, clap::Args)]
pub struct PlanArguments {
    /// The sampler [default: dpmpp-2m for images and points alike].
    #[arg(long, value_enum, help_heading = "Sampler")]
    sampler: Option<SamplerName>,
    /// The noise of --sampler ancestral [default: small].
    #[arg(long, value_enum, help_heading = "Sampler")]
    variance: Option<VarianceName>,
    /// How much noise --sampler ddim adds, from 0 to 1 [default: 0].
    #[arg(long, value_name = "X", help_heading = "Sampler", allow_negative_numbers = true)]
    eta: Option<f64>,
    /// Where the levels go [default: karras; trailing if the schedule ends in pure noise].
    #[arg(long, value_enum, help_heading = "Sampler")]
    spacing: Option<SpacingName>,
    /// How many steps the sampler takes.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = step_count, help_heading = "Sampler")]
    steps: usize,
    /// The lowest level above 0 of karras and optimized spacing.
    #[arg(long, value_name = "SIGMA", help_heading = "Sampler")]
    sigma_min: Option<f64>,
    /// Take sampler and spacing from a diffusers scheduler_config.json.
    #[arg(long, value_name = "FILE", help_heading = "Sampler",
        conflicts_with_all = ["sampler", "variance", "spacing", "sigma_min"])]
    scheduler_config: Option<PathBuf>,
}

impl PlanArguments {
    /// The plan for sampling from `model`, and what it is called.
    pub fn plan(&self, model: &Model, context: &Context) -> miette::Result<(String, Plan)> {
        if let Some(path) = &self.scheduler_config {
            let text = std::fs::read_to_string(path)
                .into_diagnostic()
                .wrap_err_with(|| format!("{} cannot be read", path.display()))?;
            let place = || format!("{} makes no plan", path.display());
            let config = SchedulerConfig::from_json(&text)
                .into_diagnostic()
                .wrap_err_with(place)?;
            let made = config
                .plan(self.steps, self.eta)
                .into_diagnostic()
                .wrap_err_with(place)?;
            for warning in &made.warnings {
                context.say(format_args!("warning: {warning}"));
            }
            return Ok((path.display().to_string(), made.plan));
        }
        let spectrum = spectrum(model)?;
        let noise = model.noise().into_diagnostic()?;
        // Karras's levels begin at a finite one.
        let usual = match noise.sigma_max().is_finite() {
            true => SpacingName::Karras,
            false => SpacingName::Trailing,
        };
        let spacing = self.spacing.unwrap_or(usual);
        let choice = Choice {
            sampler: self.sampler.unwrap_or(SamplerName::Dpmpp2m),
            eta: self.eta,
            variance: self.variance,
            spacing: Some(spacing),
            steps: vec![self.steps],
        }
        .checked("diffusion");
        let recipe = Recipe {
            sigma_min: self.sigma_min,
            ..choice.recipe(&spectrum)
        };
        let plan = recipe
            .plan(&noise, &spectrum)
            .into_diagnostic()
            .wrap_err("these settings make no plan")?;
        Ok((format!("{}, {} steps", choice.name(Some(spacing)), self.steps), plan))
    }
}

/// The spectrum of a model's training data.
pub fn spectrum(model: &Model) -> miette::Result<Spectrum> {
    Spectrum::new(model.config.data.variances.clone())
        .into_diagnostic()
        .wrap_err("the model's data statistics are damaged")
}
