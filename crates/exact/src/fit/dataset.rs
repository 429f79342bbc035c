//! What was observed: named items, and how often each comparison or ranking of them came.

use std::collections::{BTreeMap, HashMap};

use crate::ranking::davidson_luce::MAXIMUM_TIE;

/// Why an observation is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ObservationError {
    /// An item stands twice in one ranking.
    #[error("item \"{0}\" appears twice; a ranking places every item once")]
    Repeated(String),
    /// Fewer than two items.
    #[error("it has fewer than two items, so it says nothing; leave it out")]
    TooFew,
    /// A place without items.
    #[error("place {0} has no item; leave no gaps between the places")]
    EmptyPlace(usize),
    /// Nothing is ranked: all items are in the unordered rest.
    #[error("no place is taken; name at least the best item")]
    NoPlace,
    /// More items tie than the tie model takes.
    #[error(
        "{0} items tie, more than the {MAXIMUM_TIE} that the tie model takes; if they were simply not ranked, \
         list them as the others behind the ranked places"
    )]
    TieTooLarge(usize),
    /// A count that is no positive number.
    #[error("its count is {0}; it must be positive and finite")]
    Count(f64),
}

/// A ranking of items by their index: the places, best first, then the items in no known order behind them.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Ranking {
    /// Items in ranking order; those of one place, and the unordered rest, by index.
    pub items: Vec<usize>,
    /// Number of items at each place.
    pub groups: Vec<usize>,
}

/// Comparisons and rankings of named items, equal ones counted together.
///
/// A comparison is a ranking of two items. Items that an observation does not name took no part in it, so partial
/// rankings and incomplete designs need nothing special.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    names: Vec<String>,
    index: HashMap<String, usize>,
    counts: BTreeMap<Ranking, f64>,
    observations: f64,
}

impl Dataset {
    /// Nothing observed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// `winner` was preferred to `loser`, `count` times.
    pub fn add_comparison(&mut self, winner: &str, loser: &str, count: f64) -> Result<(), ObservationError> {
        self.add_ranking(&[[winner], [loser]], &[""; 0], count)
    }

    /// `first` and `second` tied, `count` times.
    pub fn add_tie(&mut self, first: &str, second: &str, count: f64) -> Result<(), ObservationError> {
        self.add_ranking(&[[first, second]], &[""; 0], count)
    }

    /// A ranking was given, `count` times.
    ///
    /// `places` lists the items at each place, best first; several items at one place tie. `others` are items that
    /// were there but are in no known order behind all places: the rest of a top-m list, or all but the winner of a
    /// best-of-K choice. A refused observation changes nothing.
    pub fn add_ranking<P, S, O>(&mut self, places: &[P], others: &[O], count: f64) -> Result<(), ObservationError>
    where
        P: AsRef<[S]>,
        S: AsRef<str>,
        O: AsRef<str>,
    {
        if !(count > 0.0 && count.is_finite()) {
            return Err(ObservationError::Count(count));
        }
        if places.is_empty() {
            return Err(ObservationError::NoPlace);
        }
        let mut names = Vec::new();
        let mut groups = Vec::with_capacity(places.len());
        for (place, tied) in places.iter().map(AsRef::as_ref).enumerate() {
            if tied.is_empty() {
                return Err(ObservationError::EmptyPlace(place + 1));
            }
            if tied.len() > MAXIMUM_TIE {
                return Err(ObservationError::TieTooLarge(tied.len()));
            }
            groups.push(tied.len());
            names.extend(tied.iter().map(AsRef::as_ref));
        }
        names.extend(others.iter().map(AsRef::as_ref));
        if names.len() < 2 {
            return Err(ObservationError::TooFew);
        }
        let mut seen = std::collections::HashSet::new();
        if let Some(repeated) = names.iter().find(|name| !seen.insert(**name)) {
            return Err(ObservationError::Repeated((*repeated).to_owned()));
        }

        let mut items: Vec<usize> = names.iter().map(|name| self.item(name)).collect();
        // One writing for equal rankings: the order inside a place means nothing.
        let mut start = 0;
        for &size in &groups {
            items[start..start + size].sort_unstable();
            start += size;
        }
        items[start..].sort_unstable();
        *self.counts.entry(Ranking { items, groups }).or_default() += count;
        self.observations += count;
        Ok(())
    }

    /// The items' names, by index, in the order of their first appearance.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How many observations there are, counts included.
    pub fn observations(&self) -> f64 {
        self.observations
    }

    /// The different rankings with their counts.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&Ranking, f64)> {
        self.counts.iter().map(|(ranking, &count)| (ranking, count))
    }

    fn item(&mut self, name: &str) -> usize {
        if let Some(&index) = self.index.get(name) {
            return index;
        }
        let index = self.names.len();
        self.names.push(name.to_owned());
        self.index.insert(name.to_owned(), index);
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rankings_are_counted_together() {
        let mut data = Dataset::new();
        data.add_ranking(&[vec!["a"], vec!["b", "c"]], &["e", "d"], 1.0)
            .unwrap();
        data.add_ranking(&[vec!["a"], vec!["c", "b"]], &["d", "e"], 2.0)
            .unwrap();
        data.add_comparison("a", "b", 0.5).unwrap();
        assert_eq!(data.names(), ["a", "b", "c", "e", "d"]);
        assert_eq!(data.observations(), 3.5);
        let counts: Vec<_> = data.counts().collect();
        assert_eq!(counts.len(), 2);
        assert_eq!(
            counts[1],
            (
                &Ranking {
                    items: vec![0, 1, 2, 3, 4],
                    groups: vec![1, 2]
                },
                3.0
            )
        );
    }

    #[test]
    fn refused_observations_are_named_and_change_nothing() {
        let mut data = Dataset::new();
        let none: [&str; 0] = [];
        assert_eq!(
            data.add_comparison("a", "a", 1.0),
            Err(ObservationError::Repeated("a".into()))
        );
        assert_eq!(data.add_comparison("a", "b", 0.0), Err(ObservationError::Count(0.0)));
        assert!(matches!(
            data.add_comparison("a", "b", f64::NAN),
            Err(ObservationError::Count(_))
        ));
        assert_eq!(data.add_ranking(&[["a"]], &none, 1.0), Err(ObservationError::TooFew));
        assert_eq!(
            data.add_ranking(&[vec!["a"], vec![]], &["b"], 1.0),
            Err(ObservationError::EmptyPlace(2))
        );
        let nowhere: [[&str; 1]; 0] = [];
        assert_eq!(
            data.add_ranking(&nowhere, &["a", "b"], 1.0),
            Err(ObservationError::NoPlace)
        );
        let many: Vec<String> = (0..65).map(|i| i.to_string()).collect();
        assert_eq!(
            data.add_ranking(&[many], &none, 1.0),
            Err(ObservationError::TieTooLarge(65))
        );
        assert!(data.names().is_empty() && data.counts().next().is_none());
    }
}
