//! The log-likelihood of a data set as a function of all parameters, with its first two derivatives.
//!
//! Parameters are one list: the items' log-strengths by index (with a prior, the imagined item's last), then the
//! ties' log-prevalences by size.

use super::dataset::{Dataset, Ranking};
use super::information::Information;
use crate::ranking::davidson_luce::{self, Entry, TiePrevalence};
use crate::ranking::plackett_luce;

/// The function that the fit maximises.
pub(super) struct Likelihood {
    /// Rankings with their counts: the data's, then the prior's.
    counts: Vec<(Ranking, f64)>,
    /// How many of them are data.
    observed: usize,
    items: usize,
    tie_sizes: Vec<usize>,
}

impl Likelihood {
    /// The likelihood of `data`, and of `prior` wins and as many losses of every item against an imagined one.
    ///
    /// The tie sizes are those observed: the prevalence of any other is zero at the maximum. The imagined item's
    /// strength is a parameter like any other, for fixing it would only fix the common shift.
    pub fn new(data: &Dataset, prior: f64) -> Self {
        let mut counts: Vec<(Ranking, f64)> = data.counts().map(|(ranking, count)| (ranking.clone(), count)).collect();
        let mut tie_sizes: Vec<usize> = counts
            .iter()
            .flat_map(|(ranking, _)| &ranking.groups)
            .copied()
            .filter(|&size| size > 1)
            .collect();
        tie_sizes.sort_unstable();
        tie_sizes.dedup();
        let observed = counts.len();
        let mut items = data.names().len();
        if prior > 0.0 {
            let imagined = items;
            let pair = |winner, loser| {
                (
                    Ranking {
                        items: vec![winner, loser],
                        groups: vec![1, 1],
                    },
                    prior,
                )
            };
            counts.extend((0..imagined).flat_map(|item| [pair(item, imagined), pair(imagined, item)]));
            items += 1;
        }
        Self {
            counts,
            observed,
            items,
            tie_sizes,
        }
    }

    /// Number of items, the imagined one included.
    pub fn items(&self) -> usize {
        self.items
    }

    /// Sizes of the ties that were observed, ascending.
    pub fn tie_sizes(&self) -> &[usize] {
        &self.tie_sizes
    }

    /// What is maximised, in nats: the log-likelihood of the data and the prior.
    pub fn objective(&self, parameters: &[f64]) -> f64 {
        self.log_likelihood_of(&self.counts, parameters)
    }

    /// Log-likelihood of the data alone, in nats.
    pub fn log_likelihood(&self, parameters: &[f64]) -> f64 {
        self.log_likelihood_of(&self.counts[..self.observed], parameters)
    }

    fn log_likelihood_of(&self, counts: &[(Ranking, f64)], parameters: &[f64]) -> f64 {
        let ties = self.ties(parameters);
        let term = |(ranking, count): &(Ranking, f64)| {
            let scores = scores(ranking, parameters);
            let log_likelihood = match ties.is_empty() {
                true => plackett_luce::log_likelihood(&scores, ranking.groups.len()),
                false => davidson_luce::log_likelihood(&scores, &ranking.groups, &ties),
            };
            count * log_likelihood
        };
        counts.iter().map(term).sum()
    }

    /// Derivatives of the objective.
    pub fn gradient(&self, parameters: &[f64]) -> Vec<f64> {
        let ties = self.ties(parameters);
        let mut total = vec![0.0; parameters.len()];
        for (ranking, count) in &self.counts {
            let scores = scores(ranking, parameters);
            let by_score = if ties.is_empty() {
                plackett_luce::gradient(&scores, ranking.groups.len())
            } else {
                let gradient = davidson_luce::gradient(&scores, &ranking.groups, &ties);
                for (sum, derivative) in total[self.items..].iter_mut().zip(&gradient.log_prevalence) {
                    *sum += count * derivative;
                }
                gradient.scores
            };
            for (&item, derivative) in ranking.items.iter().zip(&by_score) {
                total[item] += count * derivative;
            }
        }
        total
    }

    /// The pairs of items that share an observation, as an empty information matrix.
    pub fn empty_information(&self) -> Information {
        let together = self.counts.iter().map(|(ranking, _)| ranking.items.as_slice());
        Information::new(self.items, self.tie_sizes.len(), together)
    }

    /// The negative second derivatives of the objective, the common shift of all strengths pinned.
    pub fn fill_information(&self, parameters: &[f64], information: &mut Information) {
        let ties = self.ties(parameters);
        information.clear();
        for (ranking, count) in &self.counts {
            let scores = scores(ranking, parameters);
            let items = &ranking.items;
            if ties.is_empty() {
                plackett_luce::information(&scores, ranking.groups.len(), |i, j, weight| {
                    information.add_items(items[i], items[j], -count * weight);
                });
            } else {
                davidson_luce::information(&scores, &ranking.groups, &ties, |entry, value| match entry {
                    Entry::Scores(i, j) => information.add_items(items[i], items[j], count * value),
                    Entry::ScoreAndTie(i, tie) => information.add_item_and_tie(items[i], tie, count * value),
                    Entry::Ties(first, second) => information.add_ties(first, second, count * value),
                });
            }
        }
        information.pin_shift();
    }

    fn ties(&self, parameters: &[f64]) -> Vec<TiePrevalence> {
        let prevalence = |(&size, &log_prevalence)| TiePrevalence { size, log_prevalence };
        self.tie_sizes
            .iter()
            .zip(&parameters[self.items..])
            .map(prevalence)
            .collect()
    }
}

fn scores(ranking: &Ranking, parameters: &[f64]) -> Vec<f64> {
    ranking.items.iter().map(|&item| parameters[item]).collect()
}
