//! `posterior rank`: strengths of items from comparisons and rankings.

use std::fmt::Write as _;
use std::path::PathBuf;

use exact::fit::{Fit, FitError, FitOptions, ItemStrength, fit};
use miette::miette;
use serde::Serialize;

use super::usage_error;
use crate::output::{Context, number, table};
use crate::plot::{PictureFormat, picture_path};
use crate::{input, plot};

mod observations;

use observations::Layout;

const EXAMPLES: &str = r#"Observations, in one of these forms; the header says which, and nothing is guessed:

  comparisons (CSV, TSV)         count and tie are optional; a tie makes both equal
    winner,loser,count,tie
    Lyon,Paris,3,false
    Paris,Nice,1,true

  rankings, one a row (CSV, TSV) best first, "=" ties, "others" came behind in no known order ("|" between them)
    1,2,3,others,count
    Lyon,Paris=Nice,Lille,,2
    Nice,,,Lyon|Paris,1

  rankings, one item a row (CSV, TSV)    lower rank is better, equal ranks tie, only their order counts
    ranking,item,rank
    judge-1,Lyon,1
    judge-1,Paris,2

  JSON lines                     either shape on any line
    {"winner": "Lyon", "loser": "Paris", "count": 3, "tie": false}
    {"ranking": ["Lyon", ["Paris", "Nice"]], "others": ["Lille"], "count": 2}

Items that a row does not name took no part in it. All but the winner under "others" is a best-of-K choice.

Examples:
  posterior rank games.csv
  posterior rank rankings.jsonl --prior 0.5 --plot strengths.svg
  sort -u games.tsv | posterior rank - --layout tsv --format json

The JSON answer, strongest first (log_strength sums to 0; std_error is against the average item; nats):
  {"items": [{"item": .., "log_strength": x, "std_error": x, "rank": n, "probability": x}, ..],
   "tie_parameters": [{"size": k, "log_prevalence": x, "std_error": x, "probability_if_equal": x}, ..],
   "log_likelihood": x, "observations": x, "iterations": n, "prior": x}"#;

/// Estimate the strengths of items from comparisons or rankings.
///
/// Fits Bradley-Terry to comparisons and Plackett-Luce to rankings by maximum likelihood, with Davidson's tie
/// parameters where there are ties, and gives standard errors. Where no finite estimate exists it says which items
/// are to blame.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// File of comparisons or rankings (.csv, .tsv, .jsonl); `-` reads standard input, which needs --layout.
    file: PathBuf,
    /// How the file is laid out, where its name does not say.
    #[arg(long, value_enum)]
    layout: Option<Layout>,
    /// Pseudo-comparisons: this many wins and losses of every item against an imagined one. 0 is plain maximum
    /// likelihood; 0.5 keeps every strength finite and moves well-observed ones little.
    #[arg(long, value_name = "COUNT", default_value_t = 0.0, value_parser = pseudo_count)]
    prior: f64,
    /// Leave the items' standard errors out; with many thousands of items they take nearly all of the time.
    #[arg(long)]
    no_std_errors: bool,
    /// Draw the strengths with 95 % intervals into a .png or .svg file (.png has Latin and Greek letters only).
    #[arg(long, value_name = "FILE", value_parser = picture_path, conflicts_with = "no_std_errors")]
    plot: Option<(PathBuf, PictureFormat)>,
}

fn pseudo_count(text: &str) -> Result<f64, String> {
    let count: f64 = text.parse().map_err(|_| "a prior is a number")?;
    if count >= 0.0 && count.is_finite() {
        Ok(count)
    } else {
        Err("a prior is 0 or a positive number".to_owned())
    }
}

/// The answer.
#[derive(Debug, Serialize)]
struct Document {
    #[serde(flatten)]
    fit: Fit,
    prior: f64,
}

/// Reads, fits and reports.
pub fn run(arguments: &Arguments, context: &Context) -> miette::Result<()> {
    let name = input::name(&arguments.file);
    let layout = arguments
        .layout
        .or_else(|| Layout::of(&arguments.file))
        .unwrap_or_else(|| {
            usage_error(
                "rank",
                format_args!("the name of {name} does not say how it is laid out; give its --layout"),
            )
        });
    let data =
        observations::parse(&input::read(&arguments.file)?, layout).map_err(|error| miette!("{name}, {error}"))?;
    let options = FitOptions {
        prior: arguments.prior,
        standard_errors: !arguments.no_std_errors,
    };
    let mut fit = fit(&data, options).map_err(|error| match &error {
        FitError::Separate(_) | FitError::Unbeaten(_) | FitError::Winless(_) | FitError::Flat(_) => {
            miette!(help = "for example --prior 0.5", "{error}")
        }
        FitError::TooManyItems(_) => miette!(help = "--no-std-errors", "{error}"),
        _ => miette!("{error}"),
    })?;
    fit.items
        .sort_by(|a, b| a.rank.cmp(&b.rank).then_with(|| a.item.cmp(&b.item)));
    if let Some((path, format)) = &arguments.plot {
        plot::strengths(path, *format, &fit.items)?;
    }
    context.emit(
        &Document {
            fit,
            prior: arguments.prior,
        },
        describe,
    )
}

fn describe(document: &Document) -> String {
    let fit = &document.fit;
    let mut rows = table(["item", "rank", "log-strength", "std error", "probability"]);
    for ItemStrength {
        item,
        log_strength,
        std_error,
        rank,
        probability,
    } in &fit.items
    {
        let std_error = std_error.map_or_else(|| "-".to_owned(), number);
        rows.add_row([
            item.clone(),
            rank.to_string(),
            number(*log_strength),
            std_error,
            number(*probability),
        ]);
    }
    let mut text = format!("{rows}\n\n");
    for tie in &fit.tie_parameters {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "ties of {}: log-prevalence {} (std error {}); {} equal items tie with probability {}",
            tie.size,
            number(tie.log_prevalence),
            number(tie.std_error),
            tie.size,
            number(tie.probability_if_equal)
        );
    }
    let _ = writeln!(
        text,
        "{} observations, log-likelihood {:.4}, prior {}, {} Newton steps",
        fit.observations, fit.log_likelihood, document.prior, fit.iterations
    );
    text.push_str("log-strengths sum to 0; probability: coming first among all items\n");
    text
}
