//! Strengths of items from comparisons and rankings, by maximum likelihood, with standard errors.
//!
//! The model is Plackett-Luce, which for two items is Bradley-Terry; when the data hold ties it is Davidson-Luce
//! ([`crate::ranking`] has the likelihoods). Log-strengths are known up to a common shift; they are reported with
//! **sum zero**, and their standard errors are those of an item against the average of all items, from the inverse
//! of the observed information under that constraint. They are no quasi-standard errors: the variance of a
//! difference of two items also needs their covariance.
//!
//! A tie parameter is estimated for every size of tie in the data, as a logarithm with its own standard error.
//!
//! The maximum is finite only if the data cannot be split in two groups of which one never lost to the other
//! (Hunter 2004). Otherwise [`fit`] says which group it is. A `prior` mends it: pseudo-comparisons of every item
//! with an imagined one, as the R package PlackettLuce has them (Turner et al. 2020). Standard errors then count the
//! prior as the observations it stands for, where R leaves it out of them (and so may find them infinite).

use serde::Serialize;

mod cholesky;
mod connectivity;
mod dataset;
mod information;
mod likelihood;
mod newton;

pub use dataset::{Dataset, ObservationError};

use cholesky::Cholesky;
use connectivity::Finding;
use information::Information;
use likelihood::Likelihood;

/// The most items whose standard errors are computed: the dense matrix behind them takes 8 bytes per pair of items.
pub const MAXIMUM_ITEMS_WITH_ERRORS: usize = 20_000;

/// Above this variance a log-prevalence counts as having no finite maximum; n informative observations leave about
/// 1/n.
const DIVERGED_VARIANCE: f64 = 1e8;

/// How to fit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitOptions {
    /// Pseudo-comparisons: every item gets this many wins and as many losses against an imagined item. 0
    /// is plain maximum likelihood; 0.5 is the default of R's PlackettLuce. Need not be whole.
    pub prior: f64,
    /// Whether to compute the items' standard errors, whose cost grows with the cube of the number of items.
    pub standard_errors: bool,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self {
            prior: 0.0,
            standard_errors: true,
        }
    }
}

/// One item's estimate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ItemStrength {
    /// The item.
    pub item: String,
    /// Log-strength in nats; all of them sum to zero.
    pub log_strength: f64,
    /// Standard error of the log-strength, in nats, under the sum-zero constraint.
    pub std_error: Option<f64>,
    /// Place by strength: 1 for the strongest, the same for equal ones.
    pub rank: usize,
    /// Probability that the item comes first among all items, given that nothing ties with it.
    pub probability: f64,
}

/// How common ties of one size are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TieParameter {
    /// Number of items that tie.
    pub size: usize,
    /// `ln delta`, in nats.
    pub log_prevalence: f64,
    /// Standard error of `ln delta`.
    pub std_error: f64,
    /// Probability that two equal items tie, `delta / (2 + delta)`, if the size is 2; that `size` equal items tie
    /// all together, when no smaller set may, in general: `delta / (size + delta)`.
    pub probability_if_equal: f64,
}

/// The estimates from a data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// The items, in the order of [`Dataset::names`].
    pub items: Vec<ItemStrength>,
    /// One entry per size of tie in the data, ascending; empty without ties.
    pub tie_parameters: Vec<TieParameter>,
    /// Log-likelihood of the data at the estimates, in nats, without the prior's share.
    pub log_likelihood: f64,
    /// Number of observations, counts included.
    pub observations: f64,
    /// Newton steps taken.
    pub iterations: usize,
}

/// Why there is no estimate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FitError {
    /// No data, or a single item.
    #[error("there is nothing to compare: the data name {0} items; at least two are needed")]
    TooFewItems(usize),
    /// The prior is negative or not a number.
    #[error("the prior is {0}; it must be 0 (none) or a positive number of pseudo-comparisons")]
    Prior(f64),
    /// Some items have nothing to do with the others.
    #[error(
        "{} and the others share no observation, so nothing tells how strong they are beside each other; fit them \
         apart, collect comparisons across, or use a prior", group(.0)
    )]
    Separate(Vec<String>),
    /// Some items' strengths grow for ever.
    #[error(
        "{} never lost to any other item, so their strength has no finite estimate; drop them, collect more \
         comparisons, or use a prior", group(.0)
    )]
    Unbeaten(Vec<String>),
    /// Some items' strengths fall for ever.
    #[error(
        "{} never beat any other item, so their strength has no finite estimate; drop them, collect more \
         comparisons, or use a prior", group(.0)
    )]
    Winless(Vec<String>),
    /// A tie parameter grows for ever.
    #[error(
        "the prevalence of ties of {0} items has no finite estimate: the data never contradict it growing for ever, \
         as when everything that could tie did; collect more data or leave the ties out"
    )]
    Ties(usize),
    /// More items than fit in memory squared.
    #[error(
        "standard errors of {0} items need too much memory (the limit is {MAXIMUM_ITEMS_WITH_ERRORS} items); \
             fit without them"
    )]
    TooManyItems(usize),
    /// The steps ran out, or the information is singular to rounding.
    #[error(
        "the likelihood is too flat to find its maximum ({0} steps): some groups of items are almost one-sided; \
         collect more comparisons between them or use a prior"
    )]
    Flat(usize),
}

/// `the item "a"` or `the items {"a", "b"}`, at most eight by name.
fn group(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let quoted: Vec<String> = names.iter().take(SHOWN).map(|name| format!("\"{name}\"")).collect();
    match names.len() {
        1 => format!("the item {}", quoted[0]),
        count if count > SHOWN => format!("the items {{{}, and {} more}}", quoted.join(", "), count - SHOWN),
        _ => format!("the items {{{}}}", quoted.join(", ")),
    }
}

/// Fits log-strengths and tie parameters to the data.
pub fn fit(data: &Dataset, options: FitOptions) -> Result<Fit, FitError> {
    let items = data.names().len();
    if items < 2 {
        return Err(FitError::TooFewItems(items));
    }
    if !(options.prior >= 0.0 && options.prior.is_finite()) {
        return Err(FitError::Prior(options.prior));
    }
    if options.standard_errors && items > MAXIMUM_ITEMS_WITH_ERRORS {
        return Err(FitError::TooManyItems(items));
    }
    if options.prior == 0.0 {
        let named = |group: Vec<usize>| group.into_iter().map(|item| data.names()[item].clone()).collect();
        match connectivity::examine(data) {
            Finding::Connected => {}
            Finding::Separate(group) => return Err(FitError::Separate(named(group))),
            Finding::Unbeaten(group) => return Err(FitError::Unbeaten(named(group))),
            Finding::Winless(group) => return Err(FitError::Winless(named(group))),
        }
    }

    let likelihood = Likelihood::new(data, options.prior);
    let maximum = newton::maximise(&likelihood);
    let tie_parameters = tie_parameters(&likelihood, &maximum)?;
    if !maximum.converged {
        return Err(FitError::Flat(maximum.iterations));
    }
    let std_errors = match options.standard_errors {
        true => standard_errors(&maximum.information, items)
            .ok_or(FitError::Flat(maximum.iterations))?
            .into_iter()
            .map(Some)
            .collect(),
        false => vec![None; items],
    };
    let scores = &maximum.parameters[..items];
    let mean = scores.iter().sum::<f64>() / items as f64;
    let log_total = crate::log_space::log_sum_exp(scores);
    let ranks = ranks(scores);
    let strength = |((index, name), std_error): ((usize, &String), Option<f64>)| ItemStrength {
        item: name.clone(),
        log_strength: scores[index] - mean,
        std_error,
        rank: ranks[index],
        probability: (scores[index] - log_total).exp(),
    };
    Ok(Fit {
        items: data.names().iter().enumerate().zip(std_errors).map(strength).collect(),
        tie_parameters,
        log_likelihood: likelihood.log_likelihood(&maximum.parameters),
        observations: data.observations(),
        iterations: maximum.iterations,
    })
}

/// The tie parameters with their standard errors, if all are finite.
fn tie_parameters(likelihood: &Likelihood, maximum: &newton::Maximum) -> Result<Vec<TieParameter>, FitError> {
    let items = likelihood.items();
    let parameter = |(tie, &size): (usize, &usize)| {
        let mut unit = vec![0.0; maximum.parameters.len()];
        unit[items + tie] = 1.0;
        let variance = newton::solve(&maximum.information, &unit)[items + tie];
        if !(variance > 0.0 && variance < DIVERGED_VARIANCE) {
            return Err(FitError::Ties(size));
        }
        let log_prevalence = maximum.parameters[items + tie];
        let prevalence = log_prevalence.exp();
        Ok(TieParameter {
            size,
            log_prevalence,
            std_error: variance.sqrt(),
            probability_if_equal: prevalence / (size as f64 + prevalence),
        })
    };
    likelihood.tie_sizes().iter().enumerate().map(parameter).collect()
}

/// Standard errors of the items under the sum-zero constraint; none if the information is singular to rounding.
///
/// With C = I - 11ᵀ/N, over the N real items, the covariance of the centred log-strengths is `C S Cᵀ`, S the inverse
/// of the information; what pins the shift drops out.
fn standard_errors(information: &Information, items: usize) -> Option<Vec<f64>> {
    let size = information.size();
    let factor = Cholesky::new(information.dense_lower(), size)?;
    let mut ones = vec![0.0; size];
    ones[..items].fill(1.0);
    let row_sums = factor.solve(&ones);
    let mean_of_all = row_sums[..items].iter().sum::<f64>() / (items * items) as f64;
    let variance = factor.inverse_diagonal();
    let centred = |(variance, row_sum): (&f64, &f64)| variance - 2.0 / items as f64 * row_sum + mean_of_all;
    Some(
        variance[..items]
            .iter()
            .zip(&row_sums)
            .map(centred)
            .map(|variance| variance.max(0.0).sqrt())
            .collect(),
    )
}

/// 1 for the largest, equal numbers for equal scores, as in a sports table.
fn ranks(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut ranks = vec![1; scores.len()];
    for (place, pair) in order.windows(2).enumerate() {
        ranks[pair[1]] = if scores[pair[0]] == scores[pair[1]] {
            ranks[pair[0]]
        } else {
            place + 2
        };
    }
    ranks
}

#[cfg(test)]
mod tests;
