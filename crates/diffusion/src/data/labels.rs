//! The classes of samples.

use super::DataError;

/// The class of each sample, and what the classes are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// The class of each sample, an index into `names`.
    pub classes: Vec<u32>,
    /// The name of each class.
    pub names: Vec<String>,
}

impl Labels {
    /// Labels that are class numbers already. The classes are 0 up to the greatest number, so that the training and
    /// the test part of a data set agree even where one of them misses a class.
    ///
    /// # Errors
    /// [`DataError::Label`] for a negative number, or one that is neither below 256 nor below the number of samples.
    pub fn from_numbers(origin: &str, numbers: impl IntoIterator<Item = i64>) -> Result<Self, DataError> {
        let numbers: Vec<i64> = numbers.into_iter().collect();
        let greatest = numbers.len().max(256) as i64 - 1;
        let mut classes = Vec::with_capacity(numbers.len());
        for (row, &label) in numbers.iter().enumerate() {
            match u32::try_from(label) {
                Ok(class) if label <= greatest => classes.push(class),
                _ => {
                    return Err(DataError::Label {
                        origin: origin.to_owned(),
                        row,
                        label,
                        greatest,
                    });
                }
            }
        }
        let count = classes.iter().max().map_or(0, |greatest| *greatest as usize + 1);
        Ok(Self {
            classes,
            names: (0..count).map(|class| class.to_string()).collect(),
        })
    }
}
