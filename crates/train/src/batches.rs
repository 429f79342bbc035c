//! Which examples a step sees, and in how many pieces.
//!
//! Gradient accumulation cuts the batch of an optimiser step into micro-batches that fit into memory. The batch is what
//! defines the step; the cut must not change the result beyond rounding, so a loss is normalised over the whole batch.

use std::ops::Range;

/// The batch and its cut do not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Nothing to train on.
    #[error("the batch size is 0; it must be at least 1")]
    Empty,
    /// Not a number of pieces.
    #[error("a batch of {batch} examples cannot be accumulated in {parts} parts; choose 1 to {batch} parts")]
    Parts {
        /// Examples in an optimiser step.
        batch: usize,
        /// Pieces asked for.
        parts: usize,
    },
}

/// The examples of each step as positions in the [epoch order](crate::random::EpochOrder), cut into micro-batches.
///
/// ```
/// use posterior_train::batches::Batches;
///
/// let batches = Batches::new(10, 3)?;
/// let parts: Vec<_> = batches.parts(2).collect();
/// assert_eq!(parts, [20..24, 24..27, 27..30]);
/// # Ok::<(), posterior_train::batches::BatchError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batches {
    batch: u64,
    parts: u64,
}

impl Batches {
    /// Batches of `batch` examples an optimiser step, accumulated in `parts` micro-batches whose sizes differ by at
    /// most one.
    ///
    /// # Errors
    /// [`BatchError`] when the batch is empty or `parts` is not in 1..=`batch`.
    pub fn new(batch: usize, parts: usize) -> Result<Self, BatchError> {
        match (batch, parts) {
            (0, _) => Err(BatchError::Empty),
            (_, 0) => Err(BatchError::Parts { batch, parts }),
            _ if parts > batch => Err(BatchError::Parts { batch, parts }),
            _ => Ok(Self {
                batch: batch as u64,
                parts: parts as u64,
            }),
        }
    }

    /// The number of examples in an optimiser step.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.batch as usize
    }

    /// The positions of the examples of the step with this number, from 0.
    #[must_use]
    pub fn positions(&self, step: u64) -> Range<u64> {
        step * self.batch..(step + 1) * self.batch
    }

    /// The same positions, cut into micro-batches; larger ones first.
    pub fn parts(&self, step: u64) -> impl Iterator<Item = Range<u64>> + use<> {
        let (start, size, larger) = (step * self.batch, self.batch / self.parts, self.batch % self.parts);
        let begin = move |part: u64| start + part * size + part.min(larger);
        (0..self.parts).map(move |part| begin(part)..begin(part + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn impossible_cuts_are_refused() {
        assert_eq!(Batches::new(0, 1), Err(BatchError::Empty));
        for parts in [0, 5] {
            assert_eq!(Batches::new(4, parts), Err(BatchError::Parts { batch: 4, parts }));
        }
    }

    proptest! {
        #[test]
        fn parts_tile_the_step(batch in 1usize..50, parts in 1usize..50, step in 0u64..1_000) {
            prop_assume!(parts <= batch);
            let batches = Batches::new(batch, parts).unwrap();
            let ranges: Vec<_> = batches.parts(step).collect();
            prop_assert_eq!(ranges.len(), parts);
            prop_assert_eq!(ranges[0].start..ranges[parts - 1].end, batches.positions(step));
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            let sizes = || ranges.iter().map(|range| range.end - range.start);
            prop_assert!(sizes().max().unwrap() - sizes().min().unwrap() <= 1);
            prop_assert_eq!(batches.positions(step).end, batches.positions(step + 1).start);
        }
    }
}
