//! What a command writes and where: one document on standard output, everything else on standard error.

use std::io::Write as _;
use std::path::Path;

use miette::{IntoDiagnostic as _, WrapErr as _};

/// What standard output carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Format {
    /// Tables and sentences for people.
    Text,
    /// One JSON document, nothing else.
    Json,
}

/// How this run talks to whoever started it.
#[derive(Clone, Debug)]
pub struct Context {
    /// What standard output carries.
    pub format: Format,
    /// Errors only.
    pub quiet: bool,
    /// How many times `-v` was given.
    pub verbose: u8,
    /// The seed, if one was given.
    pub seed: Option<u64>,
    /// Where tensors live.
    pub device: burn::tensor::Device,
}

impl Context {
    /// Writes the command's result: `document` as JSON, or the text that `text` makes of it.
    ///
    /// A reader that closed the pipe (`posterior … | head`) is not an error.
    pub fn emit<T: serde::Serialize>(&self, document: &T, text: impl FnOnce(&T) -> String) -> miette::Result<()> {
        let mut words = match self.format {
            Format::Json => serde_json::to_string(document).into_diagnostic()?,
            Format::Text => text(document),
        };
        if !words.ends_with('\n') {
            words.push('\n');
        }
        match std::io::stdout().lock().write_all(words.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).into_diagnostic(),
            _ => Ok(()),
        }
    }

    /// A line for people on standard error, unless `--quiet`.
    pub fn say(&self, words: impl std::fmt::Display) {
        if !self.quiet {
            eprintln!("{words}");
        }
    }
}

/// Makes `directory` and tries a file in it, before hours of work are spent on what goes there.
pub fn prepare(directory: &Path) -> miette::Result<()> {
    let made = std::fs::create_dir_all(directory);
    made.into_diagnostic()
        .wrap_err_with(|| format!("{} cannot be made", directory.display()))?;
    let trial = directory.join("trial");
    train::files::write_atomic(&trial, b"").into_diagnostic()?;
    std::fs::remove_file(&trial).into_diagnostic()
}

/// An empty table in the program's one style: `headers` above a rule, no frame.
pub fn table<const N: usize>(headers: [&str; N]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(headers);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(comfy_table::CellAlignment::Right);
    }
    table
}

/// A number with four significant digits, in plain notation where that stays short.
pub fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let exponent = value.abs().log10().floor();
    if (-4.0..6.0).contains(&exponent) {
        let decimals = (3.0 - exponent).max(0.0) as usize;
        format!("{value:.decimals$}")
    } else {
        format!("{value:.3e}")
    }
}
