//! Commands that use a language model.

pub mod chat;
pub mod generate;
pub mod inspect;
pub mod score;

use std::collections::BTreeSet;

use miette::IntoDiagnostic as _;
use nn::hub::{Environment, Watch};
use preference::data::{Conversation, Text};
use preference::generate::Choice;
use preference::model::LanguageModel;
use preference::text::{self, Encoder, Tokenizer};
use serde_json::Value;

use crate::output::Context;

/// Opens the model that `--model` names, and says what is worth knowing about it.
pub fn open(name: &str, context: &Context) -> miette::Result<LanguageModel> {
    let mut shown = BTreeSet::new();
    let mut progress = |progress: nn::hub::Progress<'_>| {
        if shown.insert(progress.file.to_owned()) {
            context.say(format_args!(
                "downloading {} ({} of {} bytes so far)",
                progress.file, progress.done, progress.total
            ));
        }
    };
    let mut watch = Watch {
        progress: &mut progress,
        cancelled: &|| false,
    };
    let environment = Environment::of_process();
    let model = LanguageModel::open(name, &environment, &mut watch, &context.device()).into_diagnostic()?;
    for warning in &model.warnings {
        context.say(format_args!("warning: {warning}"));
    }
    Ok(model)
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

    /// Where a stop string begins in `text`.
    pub fn stops_at(&self, text: &str) -> Option<usize> {
        let begins = |stop: &String| text.find(stop.as_str()).filter(|_| !stop.is_empty());
        self.stop.iter().filter_map(begins).min()
    }
}

/// An encoder with the model's chat template, where it has one.
pub fn encoder(tokenizer: &Tokenizer) -> miette::Result<Encoder<'_>> {
    let encoder = Encoder::new(tokenizer);
    if tokenizer.template_names().next().is_none() {
        return Ok(encoder);
    }
    let template = tokenizer.chat_template(None, false).into_diagnostic()?;
    Ok(encoder.with_template(template))
}

/// The messages of a conversation as templates read them.
pub fn messages(conversation: &Conversation) -> Vec<Value> {
    let messages = conversation.messages.iter();
    messages.map(|message| Value::Object(message.keys().clone())).collect()
}

/// The tokens that generation starts from: plain text as it is, or a conversation up to where the assistant answers.
pub fn prompt_tokens(prompt: &Text, encoder: &Encoder<'_>, tokenizer: &Tokenizer) -> miette::Result<Vec<u32>> {
    match prompt {
        Text::Plain(text) => tokenizer.encode_prompt(text).into_diagnostic(),
        Text::Messages(conversation) => {
            let messages = messages(conversation);
            let given = template_input(conversation, &messages);
            encoder.chat_prompt(&given).into_diagnostic()
        }
    }
}

/// What a template is given of a conversation.
pub fn template_input<'a>(conversation: &'a Conversation, messages: &'a [Value]) -> text::Conversation<'a> {
    text::Conversation {
        tools: Some(&conversation.tools[..]).filter(|tools| !tools.is_empty()),
        variables: Some(&conversation.template_arguments).filter(|variables| !variables.is_empty()),
        ..text::Conversation::new(messages)
    }
}
