//! `posterior inspect`.

use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic as _, WrapErr as _};
use nn::weights::ADAPTER_CONFIG;
use preference::data::{Kind, Lengths, Row, Rows, Summary, Text};
use preference::encode::{RowEncoder, SftExample};
use preference::model::LanguageModel;
use preference::text::{Example, Trace, Trained};
use serde::Serialize;

use super::open;
use crate::output::{Context, table};

const EXAMPLES: &str = "\
Examples:
  What is in a file of preferences?
      posterior inspect prefs.jsonl
  What will a model see of its first row: which tokens, and which of them are learned?
      posterior inspect prefs.jsonl --model SmolLM2-135M-Instruct.Q4_1.gguf
  What kind of model is this? (-v shows its chat template, too.)
      posterior inspect SmolLM2-135M-Instruct.Q4_1.gguf";

/// Look at a data set or a model as the program sees it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A data file or folder (JSON Lines, JSON, Parquet, text), or a model's directory or .gguf file.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Count the data in this model's tokens, and show the first row in them.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
}

/// What a model is.
#[derive(Serialize)]
struct ModelDocument {
    family: String,
    parameters: u64,
    vocabulary_size: usize,
    hidden_size: usize,
    layers: usize,
    heads: usize,
    key_value_heads: usize,
    head_size: usize,
    max_positions: usize,
    tied_head: bool,
    tokens: usize,
    end_tokens: Vec<String>,
    chat_template: bool,
    /// The template's text.
    template: Option<String>,
}

/// What a data set is.
#[derive(Serialize)]
struct DataDocument {
    #[serde(flatten)]
    summary: Summary,
    /// With a model: lengths of prompts with their responses, or of whole texts, in tokens.
    sequence_tokens: Option<Lengths>,
    /// With a model: how many tokens of each are learned.
    learned_tokens: Option<Lengths>,
    first_row_tokens: Vec<Sequence>,
}

/// One text of a row in tokens.
#[derive(Serialize)]
struct Sequence {
    token_ids: Vec<u32>,
    tokens: Vec<String>,
    learned: Vec<bool>,
}

/// Runs the command.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let path = &arguments.path;
    if path.join("config.json").is_file()
        || path.join(ADAPTER_CONFIG).is_file()
        || path.extension().is_some_and(|end| end == "gguf")
    {
        if arguments.model.is_some() {
            super::super::usage_error("inspect", "--model has an effect with data only");
        }
        return inspect_model(path, context);
    }
    let mut rows = Rows::open(path, Kind::Any).into_diagnostic()?;
    let summary = Summary::of(&mut rows).into_diagnostic()?;
    let mut document = DataDocument {
        summary,
        sequence_tokens: None,
        learned_tokens: None,
        first_row_tokens: Vec::new(),
    };
    if let Some(model) = &arguments.model {
        let model = open(model, context)?;
        let encoder = RowEncoder::new(&model.tokenizer).into_diagnostic()?;
        let (mut lengths, mut learned) = (Vec::new(), Vec::new());
        for row in Rows::open(path, Kind::Any).into_diagnostic()? {
            let (place, row) = row.into_diagnostic()?;
            let traces = traces(&row, &encoder).wrap_err_with(|| format!("{place} makes no tokens"))?;
            lengths.extend(traces.iter().map(|trace| trace.ids.len()));
            learned.extend(
                traces
                    .iter()
                    .map(|trace| SftExample::Trace(trace.clone()).learned_tokens()),
            );
            if document.first_row_tokens.is_empty() {
                document.first_row_tokens = traces.into_iter().map(|trace| sequence(trace, &model)).collect();
            }
        }
        document.sequence_tokens = Lengths::of(lengths);
        document.learned_tokens = Lengths::of(learned);
    }
    context.emit(&document, data_text)
}

fn inspect_model(path: &Path, context: &Context) -> miette::Result<()> {
    let model = open(&path.display().to_string(), context)?;
    let (config, tokenizer) = (model.decoder.config(), &model.tokenizer);
    let document = ModelDocument {
        family: format!("{:?}", config.family).to_lowercase(),
        parameters: config.parameters(),
        vocabulary_size: config.vocabulary_size,
        hidden_size: config.hidden_size,
        layers: config.layers,
        heads: config.heads,
        key_value_heads: config.key_value_heads,
        head_size: config.head_size,
        max_positions: config.max_positions,
        tied_head: config.tied,
        tokens: tokenizer.vocabulary_size(),
        end_tokens: tokenizer
            .end_ids()
            .iter()
            .filter_map(|&id| tokenizer.token(id))
            .collect(),
        chat_template: tokenizer.template_names().next().is_some(),
        template: tokenizer
            .chat_template(None, false)
            .ok()
            .map(|template| template.source().to_owned()),
    };
    let verbose = context.verbose > 0;
    context.emit(&document, |document| {
        let mut rows = table(["", path.display().to_string().as_str()]);
        for (name, value) in [
            ("family", document.family.clone()),
            ("parameters", document.parameters.to_string()),
            ("vocabulary", document.vocabulary_size.to_string()),
            ("width", document.hidden_size.to_string()),
            ("layers", document.layers.to_string()),
            (
                "heads",
                format!(
                    "{} of {}, {} for keys and values",
                    document.heads, document.head_size, document.key_value_heads
                ),
            ),
            ("positions", document.max_positions.to_string()),
            (
                "head",
                if document.tied_head {
                    "the embedding's weights"
                } else {
                    "its own weights"
                }
                .to_owned(),
            ),
            ("tokens of the tokenizer", document.tokens.to_string()),
            ("end of text", document.end_tokens.join(" ")),
            (
                "chat template",
                if document.chat_template { "yes" } else { "no" }.to_owned(),
            ),
        ] {
            rows.add_row([name.to_owned(), value]);
        }
        match document.template.as_ref().filter(|_| verbose) {
            Some(template) => format!("{rows}\n\n{template}"),
            None => rows.to_string(),
        }
    })
}

/// The row's texts in tokens, as tuning would be given them.
fn traces(row: &Row, encoder: &RowEncoder<'_>) -> miette::Result<Vec<Trace>> {
    if let Row::Text { .. } | Row::Conversation(_) | Row::Completion { .. } = row {
        return Ok(vec![encoder.example(row, Trained::Assistant).into_diagnostic()?.into()]);
    }
    let prompt = row.prompt().cloned().unwrap_or_else(|| Text::Plain(String::new()));
    let responses = row.responses();
    if responses.is_empty() {
        let ids = encoder.prompt(&prompt).into_diagnostic()?;
        let learned = vec![false; ids.len()];
        return Ok(vec![Trace { ids, learned }]);
    }
    let ranked = encoder.responses(&prompt, &responses).into_diagnostic()?;
    let trace = |response: Vec<u32>| {
        Trace::from(Example {
            prompt: ranked.prompt.clone(),
            response,
        })
    };
    Ok(ranked.responses.into_iter().map(trace).collect())
}

fn sequence(trace: Trace, model: &LanguageModel) -> Sequence {
    let token = |id: &u32| model.tokenizer.token(*id).unwrap_or_default();
    Sequence {
        tokens: trace.ids.iter().map(token).collect(),
        token_ids: trace.ids,
        learned: trace.learned,
    }
}

fn data_text(document: &DataDocument) -> String {
    let summary = &document.summary;
    let mut rows = table(["", "number"]);
    let mut add = |name: String, value: String| {
        rows.add_row([name, value]);
    };
    add("rows".to_owned(), summary.rows.to_string());
    for (shape, count) in &summary.shapes {
        add(format!("of the shape {shape}"), count.to_string());
    }
    for (name, count) in [
        ("as messages", summary.conversational),
        ("with tools", summary.with_tools),
        ("with a margin", summary.margins),
        ("pairs ranked alike", summary.ties),
        ("pairs of the same text", summary.same),
    ] {
        if count > 0 {
            add(name.to_owned(), count.to_string());
        }
    }
    for (responses, count) in summary.responses.iter().filter(|(responses, _)| **responses > 0) {
        add(format!("with {responses} responses"), count.to_string());
    }
    let mut lengths = table(["characters", "shortest", "median", "longest"]);
    let mut spread = |name: &str, spread: Option<Lengths>| {
        if let Some(Lengths { min, median, max, .. }) = spread {
            lengths.add_row([name.to_owned(), min.to_string(), median.to_string(), max.to_string()]);
        }
    };
    spread("prompts", summary.prompt_length);
    spread("responses", summary.response_length);
    spread("texts", summary.text_length);
    let mut text = format!("{rows}\n\n{lengths}");
    if let Some(all) = document.sequence_tokens {
        let mut lengths = table(["tokens", "shortest", "median", "longest"]);
        for (name, spread) in [("sequences", Some(all)), ("learned of them", document.learned_tokens)] {
            if let Some(Lengths { min, median, max, .. }) = spread {
                lengths.add_row([name.to_owned(), min.to_string(), median.to_string(), max.to_string()]);
            }
        }
        text += &format!("\n\n{lengths}");
    }
    if !summary.other_columns.is_empty() {
        text += &format!("\n\nother columns, kept aside: {}", summary.other_columns.join(", "));
    }
    for (number, sequence) in document.first_row_tokens.iter().enumerate() {
        let learned = sequence.learned.iter().filter(|learned| **learned).count();
        text += &format!(
            "\n\nfirst row, text {}: {} tokens, {learned} learned (in brackets)\n",
            number + 1,
            sequence.token_ids.len()
        );
        let show = |(token, learned): (&String, &bool)| if *learned { format!("[{token}]") } else { token.clone() };
        let shown: Vec<String> = sequence.tokens.iter().zip(&sequence.learned).map(show).collect();
        text += &shown.join(" ");
    }
    text
}
