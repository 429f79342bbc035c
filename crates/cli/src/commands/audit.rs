//! `posterior audit`: the exact error of a sampler.

pub mod choice;
mod compare;
mod picture;
mod report;

use std::path::PathBuf;

use exact::audit::{Start, audit};
use exact::process::Process;
use exact::recipe::{Noise, Recipe, Rule};
use exact::sampler::Plan;
use exact::scheduler_config::{ConfigError, SchedulerConfig};
use exact::spectrum::Spectrum;
use miette::{IntoDiagnostic as _, WrapErr as _};

use super::diffusion::trained::Trained;
use super::usage_error;
use crate::output::Context;
use crate::plot::{PictureFormat, picture_path};
use crate::spectrum_file;
pub use compare::Comparison;
pub use picture::candidates as draw_candidates;
pub use report::level_table;

use choice::{ProcessName, SamplerName, ScheduleName, SpacingName, StartName, VarianceName};

const EXAMPLES: &str = "\
Examples:
  How far off is DDIM with ten steps, on data of standard deviation 0.5?
      posterior audit --process vp --sampler ddim --steps 10 --data-std 0.5
  The same with its levels placed as well as they can be, and a picture:
      posterior audit --sampler ddim --spacing optimized --steps 10 --data-std 0.5 --plot ddim.svg
  Why sampling needs noise: the mean alone collapses to 0.2.
      posterior audit --process ve --sampler mean-only --steps 1000 --data-std 0.5
  Which sampler, and how many steps, for the variances in a file?
      posterior audit --spectrum variances.npy --compare ddim:10,50 ancestral@optimal:10,50 dpmpp-2m/karras:10,20
  How would these steps do on the data of a trained denoiser, and how much does its network add?
      posterior audit --run runs/fashion --sampler ddim --spacing trailing --steps 20
  What would this diffusers scheduler do, and where would diffusers itself go wrong?
      posterior audit --scheduler-config scheduler_config.json --steps 30 --data-std 0.5";

/// The exact error of a sampler on Gaussian data.
///
/// The sampler's own table of steps is run on data with the given variances and the ideal denoiser, so the law of
/// its output is known exactly: no network, no random numbers. What remains is the sampler's error alone.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The noise process: variance exploding with t from 0 to 1, variance preserving with 1000 training timesteps,
    /// or variance preserving in continuous time [default: vp].
    #[arg(long, value_enum)]
    process: Option<ProcessName>,
    /// The betas of --process vp, with diffusers' defaults [default: linear].
    #[arg(long, value_enum)]
    schedule: Option<ScheduleName>,
    /// The sampler [default: ddim]. Those that start with "time-" integrate in the time of --process vp-sde.
    #[arg(long, value_enum)]
    sampler: Option<SamplerName>,
    /// The noise of --sampler ancestral [default: small].
    #[arg(long, value_enum)]
    variance: Option<VarianceName>,
    /// How much noise --sampler ddim adds: 0, none, to 1, as ancestral sampling [default: 0].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    eta: Option<f64>,
    /// Where the levels go [default: leading for vp, uniform in time otherwise].
    #[arg(long, value_enum)]
    spacing: Option<SpacingName>,
    /// How many steps the sampler takes.
    #[arg(long, value_name = "N", value_parser = choice::step_count, required_unless_present = "compare")]
    steps: Option<usize>,
    /// One axis with this standard deviation.
    #[arg(
        long,
        value_name = "S",
        required_unless_present_any = ["spectrum", "run"],
        conflicts_with_all = ["spectrum", "run"],
        allow_negative_numbers = true
    )]
    data_std: Option<f64>,
    /// A trained denoiser's run: its process and its data's variances, and its network's error at the plan's levels.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["spectrum", "process", "schedule", "scheduler_config"])]
    run: Option<PathBuf>,
    /// The data's variances along its principal axes: a .npy file, or text with commas, blanks or lines between them.
    #[arg(long, value_name = "FILE")]
    spectrum: Option<PathBuf>,
    /// What sampling starts from: N(0, sigma²) (N(0, 1) for vp), or the data's exact law at the first level.
    #[arg(long, value_enum, default_value_t = StartName::Prior)]
    start: StartName,
    /// The lowest level above 0 of karras and optimized spacing, in units of the data. [default: the process's own;
    /// a tenth of it for optimized]
    #[arg(long, value_name = "SIGMA", allow_negative_numbers = true)]
    sigma_min: Option<f64>,
    /// Stop at this time instead of 0, under uniform spacing.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    end_time: Option<f64>,
    /// Take process, sampler and spacing from a diffusers scheduler_config.json.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["process", "schedule", "sampler", "variance", "spacing", "sigma_min", "end_time", "compare"])]
    scheduler_config: Option<PathBuf>,
    /// Several samplers side by side: SAMPLER[@OPTION][/SPACING]:STEPS[,STEPS...], where OPTION is ddim's eta or
    /// ancestral's variance.
    #[arg(long, value_name = "CHOICE", num_args = 1.., conflicts_with_all = ["sampler", "variance", "eta", "spacing", "steps"])]
    compare: Vec<choice::Choice>,
    /// Draw standard deviation against noise level, for the data and the sampler, into a .png or .svg file.
    #[arg(long, value_name = "FILE", value_parser = picture_path)]
    plot: Option<(PathBuf, PictureFormat)>,
}

/// A plan with what people call it.
pub struct Candidate {
    /// Such as `ddim/leading`.
    name: String,
    steps: usize,
    /// Its steps.
    pub plan: Plan,
    process: Process,
    /// What to say about it before the result.
    warnings: Vec<String>,
}

impl Candidate {
    /// The plan that was made of a choice, with the spacing that it has or, by default, got.
    pub fn new(choice: &choice::Choice, spacing: Option<SpacingName>, plan: Plan, process: Process) -> Self {
        let steps = choice.steps.first().copied().unwrap_or(0);
        Self {
            name: choice.name(spacing),
            steps,
            plan,
            process,
            warnings: Vec::new(),
        }
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let trained = arguments
        .run
        .as_deref()
        .map(|path| Trained::open(path, context))
        .transpose()?;
    let spectrum = match (&trained, &arguments.spectrum, arguments.data_std) {
        (Some(trained), _, _) => trained.spectrum()?,
        (None, Some(path), _) => spectrum_file::read(path)?,
        (None, None, Some(std)) => Spectrum::from_std(std)
            .unwrap_or_else(|error| usage_error("audit", format_args!("--data-std {std}: {error}"))),
        (None, None, None) => usage_error("audit", "give the data's --data-std or --spectrum, or a --run"),
    };
    let start = arguments.start.start();
    let noise = match &trained {
        Some(trained) => trained.noise()?,
        None => arguments.noise(),
    };
    if arguments.compare.is_empty() {
        let candidate = match &arguments.scheduler_config {
            Some(path) => configured(arguments, path)?,
            None => chosen(arguments, &arguments.choice(), &noise, &spectrum),
        };
        for warning in &candidate.warnings {
            context.say(format_args!("warning: {warning}"));
        }
        let audit = audit(&candidate.plan, &spectrum, start).into_diagnostic()?;
        if let Some((path, format)) = &arguments.plot {
            picture::axes(path, *format, &candidate, &spectrum, start)?;
        }
        let network = trained
            .map(|trained| trained.level_errors(&network_levels(&candidate.plan)))
            .transpose()?;
        return context.emit(&report::Document::new(&candidate, &audit, network.as_deref()), |_| {
            report::text(&candidate, &audit, network.as_deref(), start, context.verbose > 0)
        });
    }
    let candidates: Vec<Candidate> = arguments
        .compare
        .iter()
        .flat_map(|choice| choice.each_step_count())
        .map(|choice| chosen(arguments, &choice, &noise, &spectrum))
        .collect();
    for warning in candidates.iter().flat_map(|candidate| &candidate.warnings) {
        context.say(format_args!("warning: {warning}"));
    }
    if let Some((path, format)) = &arguments.plot {
        picture::candidates(path, *format, &candidates, &spectrum, start)?;
    }
    let comparison = Comparison::new(&candidates, &spectrum, start)?;
    context.emit(&comparison, Comparison::text)
}

impl Arguments {
    /// The single sampler that the flags name.
    fn choice(&self) -> choice::Choice {
        choice::Choice {
            sampler: self.sampler.unwrap_or(SamplerName::Ddim),
            eta: self.eta,
            variance: self.variance,
            spacing: self.spacing,
            steps: self.steps.into_iter().collect(),
        }
        .checked("audit")
    }

    fn noise(&self) -> Noise {
        let process = self.process.unwrap_or(ProcessName::Vp);
        if self.schedule.is_some() && process != ProcessName::Vp {
            usage_error("audit", "--schedule has an effect with --process vp only");
        }
        process.noise(self.schedule.unwrap_or(ScheduleName::Linear))
    }
}

/// The plan of one choice; wrong combinations of flags end the program.
fn chosen(arguments: &Arguments, choice: &choice::Choice, noise: &Noise, spectrum: &Spectrum) -> Candidate {
    let recipe = Recipe {
        end_time: arguments.end_time,
        sigma_min: arguments.sigma_min,
        start: arguments.start.start(),
        ..choice.recipe(spectrum)
    };
    let plan = recipe
        .plan(noise, spectrum)
        .unwrap_or_else(|error| usage_error("audit", error));
    let lowest = plan
        .levels()
        .into_iter()
        .filter(|&sigma| sigma > 0.0)
        .fold(f64::INFINITY, f64::min);
    let mut warnings = Vec::new();
    if choice.spacing == Some(SpacingName::Optimized) && lowest < 0.999 * noise.sigma_min() {
        warnings.push(format!(
            "the optimised levels go down to {}, below {}, the lowest a network is usually trained for: if yours is \
             not, give --sigma-min {}",
            crate::output::number(lowest),
            crate::output::number(noise.sigma_min()),
            crate::output::number(noise.sigma_min()),
        ));
    }
    let spacing = match (&recipe.rule, recipe.spacing) {
        (Rule::Time(_), _) => None,
        (Rule::Sampler(_), None) if matches!(noise, Noise::Discrete(_)) => Some(SpacingName::Leading),
        (Rule::Sampler(_), None) => Some(SpacingName::Uniform),
        (Rule::Sampler(_), Some(_)) => choice.spacing,
    };
    Candidate {
        warnings,
        ..Candidate::new(choice, spacing, plan, noise.process())
    }
}

/// The levels at which the plan asks the network, at most 20 of them, evenly chosen.
fn network_levels(plan: &Plan) -> Vec<f64> {
    let mut levels: Vec<f64> = plan.steps.iter().map(|step| step.from).collect();
    levels.dedup();
    let count = levels.len().min(20);
    (0..count).map(|i| levels[i * levels.len() / count]).collect()
}

/// The plan of a diffusers configuration.
fn configured(arguments: &Arguments, path: &std::path::Path) -> miette::Result<Candidate> {
    let place = || path.display().to_string();
    let text = std::fs::read_to_string(path).into_diagnostic().wrap_err_with(place)?;
    let config = SchedulerConfig::from_json(&text)
        .into_diagnostic()
        .wrap_err_with(place)?;
    let steps = arguments.steps.unwrap_or(0);
    let made = match config.plan(steps, arguments.eta) {
        Err(error @ ConfigError::EtaWithoutDdim) => usage_error("audit", error),
        made => made.into_diagnostic().wrap_err_with(place)?,
    };
    Ok(Candidate {
        name: place(),
        steps,
        plan: made.plan,
        process: Process::VariancePreserving,
        warnings: made.warnings.iter().map(ToString::to_string).collect(),
    })
}

fn start_words(start: Start) -> &'static str {
    match start {
        Start::Prior => "from the prior",
        Start::Exact => "from the exact start",
    }
}
