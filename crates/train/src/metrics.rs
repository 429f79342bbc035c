//! Named numbers of a run, under the names that TRL and transformers use (`loss`, `grad_norm`, `learning_rate`,
//! `eval_loss`, `rewards/margins`, ...).
//!
//! Between two lines of [`metrics.jsonl`](crate::metrics_log) a [`Window`] averages what every step reports; its state
//! belongs to the checkpoint, so a run that was killed in the middle of an interval still writes the same averages.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A metric's name.
pub type Name = Cow<'static, str>;

/// How a metric is summarised over the steps between two lines of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Summary {
    /// The weighted mean over the steps that reported it: losses, accuracies.
    Mean,
    /// The newest value: the learning rate, the epoch, a running count.
    Last,
}

/// Named numbers in the order in which they were given.
///
/// ```
/// use posterior_train::metrics::Metrics;
///
/// let metrics = Metrics::new().mean("loss", 0.7).last("learning_rate", 1e-3);
/// assert_eq!(metrics.get("loss"), Some(0.7));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    entries: Vec<(Name, f64, Summary)>,
}

impl Metrics {
    /// No metrics.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a metric that is averaged between two lines.
    #[must_use]
    pub fn mean(self, name: impl Into<Name>, value: f64) -> Self {
        self.with(name.into(), value, Summary::Mean)
    }

    /// With a metric whose newest value counts.
    #[must_use]
    pub fn last(self, name: impl Into<Name>, value: f64) -> Self {
        self.with(name.into(), value, Summary::Last)
    }

    /// With a metric; one that has this name already is replaced.
    #[must_use]
    pub fn with(mut self, name: Name, value: f64, summary: Summary) -> Self {
        match self.entries.iter_mut().find(|entry| entry.0 == name) {
            Some(entry) => (entry.1, entry.2) = (value, summary),
            None => self.entries.push((name, value, summary)),
        }
        self
    }

    /// The value of a metric.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.iter().find(|(entry, _)| *entry == name).map(|(_, value)| value)
    }

    /// Takes a metric out.
    pub fn remove(&mut self, name: &str) -> Option<f64> {
        let at = self.entries.iter().position(|entry| entry.0 == name)?;
        Some(self.entries.remove(at).1)
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.entries.iter().map(|(name, value, _)| (name.as_ref(), *value))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Averages over several [`Metrics`]: the steps between two lines, or the micro-batches of a step.
///
/// Serialised exactly (sums as the bits of their f64), because it is part of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    entries: Vec<WindowEntry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct WindowEntry {
    name: Name,
    summary: Summary,
    #[serde(with = "bits")]
    sum: f64,
    #[serde(with = "bits")]
    weight: f64,
}

/// JSON has no NaN and no infinities; a sum may be either.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

impl Window {
    /// Adds metrics with a weight: 1 for a step, its share of the examples for a micro-batch.
    pub fn add(&mut self, metrics: &Metrics, weight: f64) {
        for (name, value, summary) in &metrics.entries {
            let (sum, weight) = match summary {
                Summary::Mean => (value * weight, weight),
                Summary::Last => (*value, 1.0),
            };
            match self.entries.iter_mut().find(|entry| entry.name == *name) {
                Some(entry) if *summary == Summary::Mean => {
                    entry.sum += sum;
                    entry.weight += weight;
                }
                Some(entry) => entry.sum = sum,
                None => self.entries.push(WindowEntry {
                    name: name.clone(),
                    summary: *summary,
                    sum,
                    weight,
                }),
            }
        }
    }

    /// The summary of what was added, which then starts anew.
    pub fn take(&mut self) -> Metrics {
        let entries = std::mem::take(&mut self.entries);
        Metrics {
            entries: entries
                .into_iter()
                .map(|it| (it.name, it.sum / it.weight, it.summary))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_averages_and_survives_a_checkpoint_exactly() {
        let step = |at: f64| Metrics::new().mean("loss", 0.1 * at).last("learning_rate", at);
        let mut straight = Window::default();
        let mut resumed = Window::default();
        for at in [1.0, 2.0, 3.0] {
            straight.add(&step(at), 1.0);
            resumed.add(&step(at), 1.0);
            resumed = serde_json::from_str(&serde_json::to_string(&resumed).unwrap()).unwrap();
        }
        assert_eq!(straight, resumed);
        let metrics = straight.take();
        assert!((metrics.get("loss").unwrap() - 0.2).abs() < 1e-15);
        assert_eq!(metrics.get("learning_rate"), Some(3.0));
        assert!(straight.take().is_empty());
        resumed.add(&Metrics::new().mean("loss", f64::NAN), 1.0);
        let copy: Window = serde_json::from_str(&serde_json::to_string(&resumed).unwrap()).unwrap();
        assert!(copy.clone().take().get("loss").unwrap().is_nan());
    }

    #[test]
    fn weights_count_and_absent_steps_do_not() {
        let mut window = Window::default();
        window.add(&Metrics::new().mean("loss", 1.0).last("epoch", 1.0), 3.0);
        window.add(
            &Metrics::new().mean("loss", 5.0).mean("rare", 7.0).last("epoch", 2.0),
            1.0,
        );
        let metrics = window.take();
        assert_eq!(
            metrics.iter().collect::<Vec<_>>(),
            [("loss", 2.0), ("epoch", 2.0), ("rare", 7.0)]
        );
    }
}
