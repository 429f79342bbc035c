//! Commands that use a language model.

pub mod chat;
pub mod generate;
pub mod inspect;
pub mod score;

use std::collections::BTreeSet;
use std::path::PathBuf;

use burn::tensor::Device;
use clap::ValueEnum;
use miette::{IntoDiagnostic as _, miette};
use nn::hub::{Environment, Watch};
use ops::Precision;
use preference::generate::Choice;
use preference::model::LanguageModel;

use crate::output::Context;

/// Which model, and which adapter on it.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelArguments {
    /// A directory in Hugging Face's format (of a model, or of a PEFT adapter, whose base is opened with it), a .gguf
    /// file, or org/name.
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// A PEFT adapter's directory, to be put on the model.
    #[arg(long, value_name = "DIRECTORY")]
    adapter: Option<PathBuf>,
}

impl ModelArguments {
    /// Opens the model, and says what is worth knowing about it.
    pub fn open(&self, context: &Context) -> miette::Result<LanguageModel> {
        let model = open(&self.model, context)?;
        match &self.adapter {
            Some(adapter) => model.with_adapter(adapter).into_diagnostic(),
            None => Ok(model),
        }
    }
}

/// Says that a file is being downloaded, once for each.
pub fn with_watch<T>(context: &Context, work: impl FnOnce(&mut Watch<'_>) -> T) -> T {
    let mut shown = BTreeSet::new();
    let mut progress = |progress: nn::hub::Progress<'_>| {
        if shown.insert(progress.file.to_owned()) {
            context.say(format_args!(
                "downloading {} ({} of {} bytes so far)",
                progress.file, progress.done, progress.total
            ));
        }
    };
    work(&mut Watch {
        progress: &mut progress,
        cancelled: &|| false,
    })
}

/// Opens the model of this name, and says what is worth knowing about it.
pub fn open(name: &str, context: &Context) -> miette::Result<LanguageModel> {
    let environment = Environment::of_process();
    let open = |watch: &mut Watch<'_>| LanguageModel::open(name, &environment, watch, &context.device);
    let model = with_watch(context, open).into_diagnostic()?;
    for warning in &model.warnings {
        context.say(format_args!("warning: {warning}"));
    }
    Ok(model)
}

/// How a model that is only used holds its weights.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct WeightsArgument {
    /// How the weights are held: less takes less memory and less time a token, and changes the texts a little. On the
    /// CPU only.
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = Weights::F32)]
    weights: Weights,
}

/// A type of numbers.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Weights {
    /// Single precision: exact.
    F32,
    /// Half of that; each weight is within 2^-8 of itself.
    Bf16,
    /// A quarter; each weight is within 1/253 of the largest of 32.
    Int8,
}

impl WeightsArgument {
    /// The precision that a decoder is packed in, if it can be on the run's device.
    pub fn precision(self, context: &Context) -> miette::Result<Precision> {
        let precision = match self.weights {
            Weights::F32 => Precision::Single,
            Weights::Bf16 => Precision::Bfloat16,
            Weights::Int8 => Precision::EightBit,
        };
        if precision != Precision::Single && context.device != Device::flex() {
            return Err(miette!(
                help = "leave --weights out, or use --device cpu",
                "--weights bf16 and int8 are for the CPU"
            ));
        }
        Ok(precision)
    }
}

/// How tokens are drawn.
#[derive(Clone, Debug, clap::Args)]
pub struct ChoiceArguments {
    /// Divides the logits; 0 takes the likeliest token.
    #[arg(
        long,
        value_name = "X",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    temperature: f64,
    /// Keep the K likeliest tokens.
    #[arg(long, value_name = "K", help_heading = "Sampling")]
    top_k: Option<usize>,
    /// Keep the likeliest tokens until their probabilities add up to P.
    #[arg(long, value_name = "P", help_heading = "Sampling")]
    top_p: Option<f64>,
    /// Keep tokens at least P times as likely as the likeliest.
    #[arg(long, value_name = "P", help_heading = "Sampling")]
    min_p: Option<f64>,
    /// Divide positive and multiply negative logits of tokens that the text has already.
    #[arg(long, value_name = "X", default_value_t = 1.0, help_heading = "Sampling")]
    repetition_penalty: f64,
    /// End a text where this string appears; the string is cut off. May be given several times.
    #[arg(long, value_name = "TEXT", help_heading = "Sampling")]
    stop: Vec<String>,
}

impl ChoiceArguments {
    /// The settings, checked.
    pub fn choice(&self) -> miette::Result<Choice> {
        let choice = Choice {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
        };
        choice.check().into_diagnostic()?;
        Ok(choice)
    }

    /// How much of `text` no stop string can begin in: what comes after may be the beginning of one.
    pub fn settled(&self, text: &str) -> usize {
        let open = |stop: &String| {
            let begins = |at: &usize| stop.is_char_boundary(*at) && text.ends_with(&stop[..*at]);
            (1..stop.len()).rev().find(begins).unwrap_or(0)
        };
        let longest = self.stop.iter().map(open).max().unwrap_or(0);
        self.stops_at(text).unwrap_or(text.len() - longest)
    }

    /// Where a stop string begins in `text`.
    pub fn stops_at(&self, text: &str) -> Option<usize> {
        let begins = |stop: &String| text.find(stop.as_str()).filter(|_| !stop.is_empty());
        self.stop.iter().filter_map(begins).min()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        choice: ChoiceArguments,
    }

    #[test]
    fn what_may_begin_a_stop_string_is_held_back() {
        let choice = Line::parse_from(["test", "--stop", "END", "--stop", "\n\n"]).choice;
        for (text, settled) in [
            ("", 0),
            ("fin", 3),
            ("the E", 4),
            ("the EN", 4),
            ("the EN.", 7),
            ("a END b", 2),
            ("a\n", 1),
            ("é\n\nE", 2),
        ] {
            assert_eq!(choice.settled(text), settled, "{text:?}");
        }
        let none = Line::parse_from(["test"]).choice;
        assert_eq!(none.settled("anything"), 8);
    }

    /// Naming a card does not open it.
    #[cfg(feature = "cuda")]
    #[test]
    fn a_card_holds_weights_as_they_are() {
        let context = Context {
            format: crate::output::Format::Text,
            quiet: true,
            verbose: 0,
            seed: None,
            device: Device::cuda(0),
        };
        let precision = |weights| WeightsArgument { weights }.precision(&context);
        assert_eq!(precision(Weights::F32).unwrap(), Precision::Single);
        for weights in [Weights::Bf16, Weights::Int8] {
            let message = precision(weights).unwrap_err().to_string();
            assert!(message.contains("for the CPU"), "{message}");
        }
    }
}
