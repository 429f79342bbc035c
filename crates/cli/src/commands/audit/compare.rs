//! Several samplers side by side.

use exact::audit::{ErrorSplit, Start, audit};
use exact::spectrum::Spectrum;
use miette::IntoDiagnostic as _;
use serde::Serialize;

use super::Candidate;
use super::report::number_or_inf;
use crate::output::{number, table};

/// The samplers, the best first.
#[derive(Serialize)]
pub struct Comparison {
    compare: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    sampler: String,
    steps: usize,
    network_evaluations: usize,
    w2: f64,
    #[serde(serialize_with = "number_or_inf")]
    kl: f64,
    error: ErrorSplit,
}

impl Comparison {
    /// Audits the candidates and sorts them by distance; equals by cost.
    pub fn new(candidates: &[Candidate], spectrum: &Spectrum, start: Start) -> miette::Result<Self> {
        let mut compare = candidates
            .iter()
            .map(|candidate| {
                let audit = audit(&candidate.plan, spectrum, start).into_diagnostic()?;
                Ok(Entry {
                    sampler: candidate.name.clone(),
                    steps: candidate.steps,
                    network_evaluations: audit.network_evaluations,
                    w2: audit.w2,
                    kl: audit.kl,
                    error: audit.error,
                })
            })
            .collect::<miette::Result<Vec<Entry>>>()?;
        compare.sort_by(|a, b| {
            a.w2.total_cmp(&b.w2)
                .then(a.network_evaluations.cmp(&b.network_evaluations))
        });
        Ok(Self { compare })
    }

    /// The table.
    pub fn text(&self) -> String {
        let mut listed = table([
            "sampler",
            "steps",
            "evaluations",
            "W2",
            "initialization",
            "truncation",
            "discretization",
            "KL",
        ]);
        for entry in &self.compare {
            listed.add_row([
                entry.sampler.clone(),
                entry.steps.to_string(),
                entry.network_evaluations.to_string(),
                number(entry.w2),
                number(entry.error.initialization),
                number(entry.error.truncation),
                number(entry.error.discretization),
                number(entry.kl),
            ]);
        }
        listed.to_string()
    }
}
