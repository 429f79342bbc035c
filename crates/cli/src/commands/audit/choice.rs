//! The names that the flags take, and what they stand for.

use std::str::FromStr;

use clap::ValueEnum;
use exact::audit::Start;
use exact::linear_beta::LinearBeta;
use exact::recipe::{Noise, Recipe, Rule, Spacing};
use exact::sampler::{Sampler, TimeIntegrator, Variance};
use exact::schedule::{BetaShape, Schedule};
use exact::spectrum::Spectrum;

use crate::commands::usage_error;

/// `--process`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ProcessName {
    /// Variance exploding, t = sigma² from 0 to 1.
    Ve,
    /// Variance preserving, 1000 training timesteps.
    Vp,
    /// Variance preserving in continuous time, beta from 0.1 to 20 (Song et al. 2021).
    VpSde,
}

/// `--schedule`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ScheduleName {
    /// Betas from 0.0001 to 0.02.
    Linear,
    /// Their square roots equally spaced.
    ScaledLinear,
    /// Nichol & Dhariwal's cosine (diffusers: squaredcos_cap_v2).
    Cosine,
}

/// `--sampler`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum SamplerName {
    /// The reverse process's mean, without its noise.
    MeanOnly,
    /// Ancestral sampling (DDPM).
    Ancestral,
    /// DDIM.
    Ddim,
    /// Euler's method in sigma: the rows of DDIM with eta 0.
    Euler,
    /// Heun's method in sigma (EDM).
    Heun,
    /// DPM-Solver++(2M).
    #[value(name = "dpmpp-2m")]
    Dpmpp2m,
    /// Euler-Maruyama in time.
    TimeEulerMaruyama,
    /// The exponential integrator in time.
    TimeExponential,
    /// DDPM's step in time.
    TimeDdpm,
    /// Euler's method in time.
    TimeEuler,
    /// Heun's method in time.
    TimeHeun,
}

/// `--variance`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum VarianceName {
    /// The posterior's, given the clean data.
    Small,
    /// The forward process's.
    Large,
    /// The best for this data (Analytic-DPM).
    Optimal,
    /// sigma² - sigma'², at the last step too.
    Increment,
}

/// `--spacing`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum SpacingName {
    /// Timesteps 0, r, 2r, ... (vp).
    Leading,
    /// Timesteps from the last one down (vp).
    Trailing,
    /// Timesteps from the last one to 0 (vp).
    Linspace,
    /// Equal steps in time (ve, vp-sde).
    Uniform,
    /// Karras et al. 2022, rho = 7.
    Karras,
    /// Equal angles arctan(sigma / std).
    Tangent,
    /// Levels searched for the smallest error on this data.
    Optimized,
}

/// `--start`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum StartName {
    /// N(0, sigma²), or N(0, 1) for vp.
    Prior,
    /// The data's law at the first level.
    Exact,
}

impl ProcessName {
    /// The process; `schedule` is read by `vp` alone.
    pub fn noise(self, schedule: ScheduleName) -> Noise {
        match self {
            Self::Ve => Noise::VarianceExploding { sigma_max: 1.0 },
            Self::VpSde => Noise::Continuous(LinearBeta::default()),
            Self::Vp => {
                let shape = match schedule {
                    ScheduleName::Linear => BetaShape::LINEAR,
                    ScheduleName::ScaledLinear => BetaShape::SCALED_LINEAR,
                    ScheduleName::Cosine => BetaShape::Cosine,
                };
                match Schedule::new(&shape, 1000) {
                    Ok(schedule) => Noise::Discrete(schedule),
                    Err(error) => usage_error("audit", error),
                }
            }
        }
    }
}

impl SpacingName {
    /// What the name stands for.
    pub fn spacing(self) -> Spacing {
        match self {
            Self::Leading => Spacing::Leading,
            Self::Trailing => Spacing::Trailing,
            Self::Linspace => Spacing::Linspace,
            Self::Uniform => Spacing::Uniform,
            Self::Karras => Spacing::Karras,
            Self::Tangent => Spacing::Tangent,
            Self::Optimized => Spacing::Optimized,
        }
    }
}

impl StartName {
    /// What the name stands for.
    pub fn start(self) -> Start {
        match self {
            Self::Prior => Start::Prior,
            Self::Exact => Start::Exact,
        }
    }
}

/// A sampler with its options, a spacing, and one or several step counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The sampler.
    pub sampler: SamplerName,
    /// DDIM's eta.
    pub eta: Option<f64>,
    /// Ancestral sampling's variance.
    pub variance: Option<VarianceName>,
    /// The spacing.
    pub spacing: Option<SpacingName>,
    /// The step counts.
    pub steps: Vec<usize>,
}

impl Choice {
    /// Ends the program as `command` does when flags are wrong, if the sampler does not read an option that is given.
    pub fn checked(self, command: &str) -> Self {
        if self.eta.is_some() && self.sampler != SamplerName::Ddim {
            usage_error(command, "--eta has an effect with --sampler ddim only");
        }
        if self.variance.is_some() && self.sampler != SamplerName::Ancestral {
            usage_error(command, "--variance has an effect with --sampler ancestral only");
        }
        self
    }

    /// The rule that makes the rows.
    pub fn rule(&self, spectrum: &Spectrum) -> Rule {
        let sampler = match self.sampler {
            SamplerName::MeanOnly => Sampler::MeanOnly,
            SamplerName::Ancestral => Sampler::Ancestral(match self.variance.unwrap_or(VarianceName::Small) {
                VarianceName::Small => Variance::Small,
                VarianceName::Large => Variance::Large,
                VarianceName::Optimal => Variance::Optimal(spectrum.clone()),
                VarianceName::Increment => Variance::Increment,
            }),
            SamplerName::Ddim => Sampler::Ddim {
                eta: self.eta.unwrap_or(0.0),
            },
            SamplerName::Euler => Sampler::Euler,
            SamplerName::Heun => Sampler::Heun,
            SamplerName::Dpmpp2m => Sampler::DpmSolverPlusPlus2M,
            SamplerName::TimeEulerMaruyama => return Rule::Time(TimeIntegrator::EulerMaruyama),
            SamplerName::TimeExponential => return Rule::Time(TimeIntegrator::Exponential),
            SamplerName::TimeDdpm => return Rule::Time(TimeIntegrator::Ddpm),
            SamplerName::TimeEuler => return Rule::Time(TimeIntegrator::Euler),
            SamplerName::TimeHeun => return Rule::Time(TimeIntegrator::Heun),
        };
        Rule::Sampler(sampler)
    }

    /// What to make a plan of: the first of the step counts, from the prior.
    pub fn recipe(&self, spectrum: &Spectrum) -> Recipe {
        Recipe {
            rule: self.rule(spectrum),
            spacing: self.spacing.map(SpacingName::spacing),
            steps: self.steps.first().copied().unwrap_or(0),
            end_time: None,
            sigma_min: None,
            start: Start::Prior,
        }
    }

    /// The same choice once for each of its step counts.
    pub fn each_step_count(&self) -> impl Iterator<Item = Self> + '_ {
        self.steps.iter().map(|&steps| Self {
            steps: vec![steps],
            ..self.clone()
        })
    }

    /// What the choice is called, as it would be written after `--compare`.
    pub fn name(&self, spacing: Option<SpacingName>) -> String {
        let mut name = value_name(self.sampler);
        if let Some(eta) = self.eta {
            name += &format!("@{eta}");
        }
        if let Some(variance) = self.variance {
            name += &format!("@{}", value_name(variance));
        }
        if let Some(spacing) = spacing {
            name += &format!("/{}", value_name(spacing));
        }
        name
    }
}

fn value_name(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

/// A number of steps that a plan can have.
pub fn step_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(steps @ 1..=1_000_000) => Ok(steps),
        _ => Err("the number of steps is a whole number from 1 to 1000000".to_owned()),
    }
}

impl FromStr for Choice {
    type Err = String;

    /// Reads `SAMPLER[@OPTION][/SPACING]:STEPS[,STEPS...]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (head, steps) = text
            .rsplit_once(':')
            .ok_or("it needs step counts after a colon, as in ddim:10,50")?;
        let (head, spacing) = head
            .split_once('/')
            .map_or((head, None), |(head, spacing)| (head, Some(spacing)));
        let (sampler, option) = head
            .split_once('@')
            .map_or((head, None), |(head, option)| (head, Some(option)));
        let sampler = parse_name::<SamplerName>("sampler", sampler)?;
        let (mut eta, mut variance) = (None, None);
        match (sampler, option) {
            (_, None) => {}
            (SamplerName::Ddim, Some(option)) => {
                let number = option.parse().ok().filter(|eta| (0.0..=1.0).contains(eta));
                eta = Some(number.ok_or_else(|| format!("ddim's option is eta, from 0 to 1, not {option:?}"))?);
            }
            (SamplerName::Ancestral, Some(option)) => variance = Some(parse_name("variance", option)?),
            (_, Some(_)) => return Err(format!("{} has no options", value_name(sampler))),
        }
        let spacing = spacing.map(|spacing| parse_name("spacing", spacing)).transpose()?;
        let steps = steps.split(',').map(step_count).collect::<Result<_, _>>()?;
        Ok(Self {
            sampler,
            eta,
            variance,
            spacing,
            steps,
        })
    }
}

fn parse_name<T: ValueEnum>(what: &str, text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let names: Vec<String> = T::value_variants().iter().cloned().map(value_name).collect();
        format!("{text:?} is no {what}: use {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_and_named_alike() {
        let choice: Choice = "ddim@0.5/karras:10,50".parse().unwrap();
        assert_eq!((choice.eta, choice.spacing), (Some(0.5), Some(SpacingName::Karras)));
        assert_eq!(choice.steps, [10, 50]);
        assert_eq!(choice.name(choice.spacing), "ddim@0.5/karras");
        let choice: Choice = "ancestral@optimal:7".parse().unwrap();
        assert_eq!(choice.name(Some(SpacingName::Leading)), "ancestral@optimal/leading");
    }

    #[test]
    fn wrong_choices_say_what_is_wrong() {
        for (text, part) in [
            ("ddim", "colon"),
            ("ddmi:10", "\"ddmi\" is no sampler"),
            ("ddim@2:10", "from 0 to 1"),
            ("ddim:ten", "whole number"),
            ("ddim:0", "whole number"),
            ("heun@small:10", "heun has no options"),
            ("ddim/kerras:10", "\"kerras\" is no spacing"),
        ] {
            let error = text.parse::<Choice>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
