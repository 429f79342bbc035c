//! Samples, their labels and their scaling, in memory.

use std::fmt;
use std::sync::Arc;

use rand::seq::SliceRandom as _;
use train::fingerprint::Fingerprint;
use train::random::{Purpose, stream};

use super::{DataError, Labels, PointScaling, Scaling, Shape, ValueRange};

/// The draw of the held-out samples.
const HELD_OUT: Purpose = Purpose::named("held-out samples");

/// Values as the file has them: pixels stay bytes, a quarter of the memory of floats.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// One byte a value.
    Bytes(Vec<u8>),
    /// Single precision.
    Floats(Vec<f32>),
}

impl Values {
    /// The number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Floats(floats) => floats.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn copy_into(&self, start: usize, out: &mut [f32]) {
        let range = start..start + out.len();
        match self {
            Self::Bytes(bytes) => {
                for (out, byte) in out.iter_mut().zip(&bytes[range]) {
                    *out = f32::from(*byte);
                }
            }
            Self::Floats(floats) => out.copy_from_slice(&floats[range]),
        }
    }
}

/// A data set in memory: samples of one shape, with or without labels.
///
/// A clone, a split or a selection shares the values with the original, so all of these are cheap.
#[derive(Clone)]
pub struct Dataset {
    origin: String,
    notes: Vec<String>,
    shape: Shape,
    values: Arc<Values>,
    labels: Option<Arc<Labels>>,
    scaling: Scaling,
    /// The rows of `values` that belong to this set; all of them if absent.
    rows: Option<Arc<[usize]>>,
}

impl fmt::Debug for Dataset {
    /// A summary; the values would fill screens.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Dataset")
            .field("origin", &self.origin)
            .field("samples", &self.len())
            .field("shape", &self.shape)
            .field("classes", &self.class_names().len())
            .finish_non_exhaustive()
    }
}

impl Dataset {
    /// The data set of these values, sample after sample. `origin` names it in messages.
    ///
    /// # Errors
    /// [`DataError::Length`] if the values do not divide into samples, or `scaling` has coefficients for another
    /// number of axes; [`DataError::Empty`] without a sample; [`DataError::NotFinite`].
    pub fn new(origin: impl Into<String>, shape: Shape, values: Values, scaling: Scaling) -> Result<Self, DataError> {
        let (origin, size) = (origin.into(), shape.values());
        if values.is_empty() {
            return Err(DataError::Empty { origin });
        }
        if size == 0 || !values.len().is_multiple_of(size) || ![1, size].contains(&scaling.shift().len()) {
            return Err(DataError::Length {
                values: values.len(),
                shape,
            });
        }
        if let Values::Floats(floats) = &values
            && let Some(at) = floats.iter().position(|value| !value.is_finite())
        {
            return Err(DataError::NotFinite {
                origin,
                row: at / size,
                value: f64::from(floats[at]),
            });
        }
        Ok(Self {
            origin,
            notes: Vec::new(),
            shape,
            values: Arc::new(values),
            labels: None,
            scaling,
            rows: None,
        })
    }

    /// Images whose values lie in `range` (found in the data if not given), which maps to [-1, 1].
    ///
    /// # Errors
    /// Those of [`Dataset::new`]; [`DataError::OutOfRange`] naming the first row with a value outside;
    /// [`DataError::Constant`] if no range can be found.
    pub fn images(
        origin: impl Into<String>,
        shape: Shape,
        values: Values,
        range: Option<ValueRange>,
    ) -> Result<Self, DataError> {
        let mut dataset = Self::new(origin, shape, values, Scaling::identity())?;
        let range = match range {
            Some(range) => range,
            None => {
                let (low, high) = dataset.extremes();
                if low == high {
                    return Err(DataError::Constant {
                        origin: dataset.origin,
                        value: low,
                    });
                }
                dataset
                    .notes
                    .push(format!("values range from {low} to {high}, mapped to -1 and 1"));
                ValueRange::new(low, high)?
            }
        };
        dataset.check_range(range)?;
        dataset.scaling = Scaling::from_range(range);
        Ok(dataset)
    }

    /// Points, scaled as asked.
    ///
    /// # Errors
    /// Those of [`Dataset::new`]; [`DataError::OutOfRange`] naming the first row with a value outside `range`.
    pub fn points(
        origin: impl Into<String>,
        dimensions: usize,
        values: Vec<f32>,
        range: Option<ValueRange>,
        scaling: PointScaling,
    ) -> Result<Self, DataError> {
        let shape = Shape::Points { dimensions };
        let mut dataset = Self::new(origin, shape, Values::Floats(values), Scaling::identity())?;
        if let Some(range) = range {
            dataset.check_range(range)?;
        }
        if let (PointScaling::Standardize, Values::Floats(values)) = (scaling, &*dataset.values) {
            dataset.scaling = Scaling::standardizing(values, dimensions);
        }
        Ok(dataset)
    }

    /// The same samples with labels.
    ///
    /// # Errors
    /// [`DataError::LabelCount`] unless there is one per sample; [`DataError::Label`] if a class has no name.
    pub fn with_labels(mut self, labels: Labels) -> Result<Self, DataError> {
        if self.len() != labels.classes.len() || self.rows.is_some() {
            return Err(DataError::LabelCount {
                origin: self.origin,
                labels: labels.classes.len(),
                samples: self.values.len() / self.shape.values(),
            });
        }
        if let Some(row) = labels
            .classes
            .iter()
            .position(|class| *class as usize >= labels.names.len())
        {
            return Err(DataError::Label {
                origin: self.origin,
                row,
                label: i64::from(labels.classes[row]),
                greatest: labels.names.len() as i64 - 1,
            });
        }
        self.labels = Some(Arc::new(labels));
        Ok(self)
    }

    /// The same samples with remarks for people, added to those there are.
    #[must_use]
    pub fn with_notes(mut self, notes: impl IntoIterator<Item = String>) -> Self {
        self.notes.extend(notes);
        self
    }

    /// The number of samples; never 0 for a set as it was read.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.rows {
            Some(rows) => rows.len(),
            None => self.values.len() / self.shape.values(),
        }
    }

    /// Whether there are no samples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape of a sample.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Where the data come from, for messages.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// What was decided while reading and is worth telling people: a range found, alpha removed, files passed over.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The map from the data's units to those of [`Dataset::sample_into`].
    #[must_use]
    pub fn scaling(&self) -> &Scaling {
        &self.scaling
    }

    /// The names of the classes; none without labels.
    #[must_use]
    pub fn class_names(&self) -> &[String] {
        self.labels.as_ref().map_or(&[], |labels| &labels.names)
    }

    /// The class of a sample, if the data are labelled. Panics, like a slice, if there is no such sample.
    #[must_use]
    pub fn label(&self, index: usize) -> Option<u32> {
        let row = self.row(index);
        self.labels.as_ref().map(|labels| labels.classes[row])
    }

    /// The samples of each class, in the order of [`Dataset::class_names`]; none without labels.
    #[must_use]
    pub fn class_indices(&self) -> Vec<Vec<usize>> {
        let mut indices = vec![Vec::new(); self.class_names().len()];
        for index in 0..self.len() {
            if let Some(class) = self.label(index) {
                indices[class as usize].push(index);
            }
        }
        indices
    }

    /// Writes a sample, scaled for a network. Panics, like a slice, if there is no such sample or `out` does not hold
    /// exactly [`Shape::values`] numbers.
    pub fn sample_into(&self, index: usize, out: &mut [f32]) {
        let size = self.shape.values();
        assert_eq!(out.len(), size, "the buffer holds one sample");
        self.values.copy_into(self.row(index) * size, out);
        self.scaling.apply(out);
    }

    /// The samples at `indices`, scaled for a network, one after another: `[indices.len(), values]`. Panics, like a
    /// slice, if there is no such sample.
    #[must_use]
    pub fn batch(&self, indices: &[usize]) -> Vec<f32> {
        let size = self.shape.values();
        let mut out = vec![0.0; indices.len() * size];
        for (index, sample) in indices.iter().zip(out.chunks_exact_mut(size)) {
            self.sample_into(*index, sample);
        }
        out
    }

    /// The samples at `indices`, in that order. Panics, like a slice, if there is no such sample.
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        Self {
            rows: Some(indices.iter().map(|index| self.row(*index)).collect()),
            ..self.clone()
        }
    }

    /// `count` samples spread evenly over the set, in its order (all of them if there are no more): a file sorted by
    /// class still gives samples of every class.
    #[must_use]
    pub fn limit(&self, count: usize) -> Self {
        let (len, count) = (self.len() as u128, count.min(self.len()) as u128);
        let indices: Vec<usize> = (0..count).map(|i| (i * len / count) as usize).collect();
        self.select(&indices)
    }

    /// Two sets: the samples to train on, and `held_out` samples drawn with `seed`, each in the order of the original.
    ///
    /// # Errors
    /// [`DataError::TooFew`] if nothing would remain to train on.
    pub fn split(&self, held_out: usize, seed: u64) -> Result<(Self, Self), DataError> {
        if held_out >= self.len() {
            return Err(DataError::TooFew {
                origin: self.origin.clone(),
                wanted: held_out.saturating_add(1),
                available: self.len(),
            });
        }
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.shuffle(&mut stream(seed, HELD_OUT, 0, 0));
        let (held_out, train) = order.split_at_mut(held_out);
        held_out.sort_unstable();
        train.sort_unstable();
        Ok((self.select(train), self.select(held_out)))
    }

    /// A checksum of everything that a network could learn from the set: its samples in their order, their shape and
    /// scaling, their labels.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut fingerprint = Fingerprint::default();
        fingerprint.bytes(self.shape.to_string().as_bytes());
        fingerprint.numbers(self.scaling.shift());
        fingerprint.numbers(self.scaling.scale());
        let size = self.shape.values();
        match (&*self.values, &self.rows) {
            (Values::Bytes(bytes), None) => fingerprint.bytes(bytes),
            (Values::Floats(floats), None) => fingerprint.numbers(floats),
            (Values::Bytes(bytes), Some(rows)) => {
                rows.iter()
                    .for_each(|row| fingerprint.bytes(&bytes[row * size..][..size]));
            }
            (Values::Floats(floats), Some(rows)) => {
                rows.iter()
                    .for_each(|row| fingerprint.numbers(&floats[row * size..][..size]));
            }
        }
        if let Some(labels) = &self.labels {
            labels.names.iter().for_each(|name| fingerprint.bytes(name.as_bytes()));
            let classes: Vec<u8> = (0..self.len())
                .flat_map(|index| labels.classes[self.row(index)].to_le_bytes())
                .collect();
            fingerprint.bytes(&classes);
        }
        fingerprint.finish()
    }

    fn row(&self, index: usize) -> usize {
        match &self.rows {
            Some(rows) => rows[index],
            None => index,
        }
    }

    /// The least and the greatest value, unscaled.
    fn extremes(&self) -> (f32, f32) {
        match &*self.values {
            Values::Bytes(bytes) => bytes
                .iter()
                .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), byte| {
                    (low.min(f32::from(*byte)), high.max(f32::from(*byte)))
                }),
            Values::Floats(floats) => floats
                .iter()
                .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| {
                    (low.min(*value), high.max(*value))
                }),
        }
    }

    fn check_range(&self, range: ValueRange) -> Result<(), DataError> {
        let outside = match &*self.values {
            Values::Bytes(bytes) => bytes.iter().position(|byte| !range.contains(f32::from(*byte))),
            Values::Floats(floats) => floats.iter().position(|value| !range.contains(*value)),
        };
        let Some(at) = outside else { return Ok(()) };
        let mut value = [0.0];
        self.values.copy_into(at, &mut value);
        Err(DataError::OutOfRange {
            origin: self.origin.clone(),
            row: at / self.shape.values(),
            value: value[0],
            low: range.low(),
            high: range.high(),
        })
    }
}

#[cfg(test)]
#[path = "dataset_tests.rs"]
mod tests;
