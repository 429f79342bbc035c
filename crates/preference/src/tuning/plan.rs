//! Which examples each optimiser step sees, and in which parts.
//!
//! Nothing is padded, so what a part costs is its number of tokens. A step may be so many examples or so many tokens,
//! and it may be cut into so many parts or into parts of so many tokens. How it is cut does not change what is learned:
//! the loss is normalised over the whole step.

use std::ops::Range;
use std::sync::Arc;

use train::batches::{BatchError, Batches};
use train::random::EpochOrder;

/// How much an optimiser step sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepSize {
    /// So many examples.
    Examples(usize),
    /// As many examples as fit into so many tokens, at least one.
    Tokens(usize),
}

/// How a step is cut into parts that go through the network one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Into so many, or into single examples if there are fewer of them.
    Parts(usize),
    /// Into parts of at most so many tokens, or single examples that have more.
    Tokens(usize),
}

impl Cut {
    /// The parts of examples of these lengths, in their order.
    #[must_use]
    pub fn parts(self, lengths: &[usize]) -> Vec<Range<usize>> {
        match self {
            Self::Parts(parts) => {
                // A step of tokens may have fewer examples than parts.
                let batches = Batches::new(lengths.len(), parts.min(lengths.len()));
                let parts = batches.iter().flat_map(|batches| batches.parts(0));
                parts.map(|part| part.start as usize..part.end as usize).collect()
            }
            Self::Tokens(most) => {
                let mut parts = Vec::new();
                let (mut start, mut tokens) = (0, 0_usize);
                for (at, length) in lengths.iter().enumerate() {
                    tokens = tokens.saturating_add(*length);
                    if at > start && tokens > most {
                        parts.push(start..at);
                        (start, tokens) = (at, *length);
                    }
                }
                if start < lengths.len() {
                    parts.push(start..lengths.len());
                }
                parts
            }
        }
    }
}

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many passes over the data.
    Epochs(u64),
    /// So many optimiser steps.
    Steps(u64),
}

/// An example of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// How many examples were seen before it, over all epochs: the address of its randomness.
    pub position: u64,
    /// Its number in the data.
    pub example: usize,
}

/// The steps of a run.
#[derive(Debug)]
pub struct Plan {
    order: EpochOrder,
    lengths: Arc<[u32]>,
    size: StepSize,
    cut: Cut,
    steps: u64,
    /// Where each step begins, as far as was asked for, under [`StepSize::Tokens`].
    starts: Vec<u64>,
}

impl Plan {
    /// The plan over examples of these lengths in tokens.
    ///
    /// # Errors
    ///
    /// [`BatchError`] for a size of 0, or more parts than a step has examples.
    pub fn new(
        order: EpochOrder,
        lengths: Arc<[u32]>,
        size: StepSize,
        cut: Cut,
        length: Length,
    ) -> Result<Self, BatchError> {
        match (size, cut) {
            (StepSize::Examples(batch), Cut::Parts(parts)) => drop(Batches::new(batch, parts)?),
            (StepSize::Examples(0) | StepSize::Tokens(0), _) | (_, Cut::Tokens(0)) => return Err(BatchError::Empty),
            (_, Cut::Parts(0)) => return Err(BatchError::Parts { batch: 1, parts: 0 }),
            _ => {}
        }
        let mut plan = Self {
            order,
            lengths,
            size,
            cut,
            steps: 0,
            starts: vec![0],
        };
        plan.steps = match length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => plan.steps_of(epochs),
        };
        Ok(plan)
    }

    /// Optimiser steps of the run.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// How many examples are done after `step` steps.
    pub fn seen(&mut self, step: u64) -> u64 {
        match self.size {
            StepSize::Examples(batch) => step * batch as u64,
            StepSize::Tokens(_) => self.start(step),
        }
    }

    /// The examples that the run sees, each once, in the order of the data.
    pub fn examples(&mut self) -> Vec<usize> {
        let (seen, all) = (self.seen(self.steps), self.lengths.len());
        if seen >= all as u64 {
            return (0..all).collect();
        }
        let mut examples: Vec<usize> = (0..seen).map(|position| self.order.index(position)).collect();
        examples.sort_unstable();
        examples
    }

    /// The examples of the step with this number, from 0.
    pub fn places(&mut self, step: u64) -> Vec<Place> {
        let positions = self.seen(step)..self.seen(step + 1);
        let place = |position| Place {
            position,
            example: self.order.index(position),
        };
        positions.map(place).collect()
    }

    /// How a step is cut.
    #[must_use]
    pub fn cut(&self) -> Cut {
        self.cut
    }

    /// Where a batch of at most `most` tokens that begins at `start` ends; it has at least one example.
    fn fill(&mut self, start: u64, most: usize) -> u64 {
        let (mut end, mut tokens) = (start, 0_usize);
        loop {
            let example = self.order.index(end);
            tokens = tokens.saturating_add(self.lengths[example] as usize);
            if end > start && tokens > most {
                return end;
            }
            end += 1;
            if tokens >= most {
                return end;
            }
        }
    }

    fn start(&mut self, step: u64) -> u64 {
        let StepSize::Tokens(most) = self.size else { return 0 };
        while self.starts.len() as u64 <= step {
            let last = self.starts[self.starts.len() - 1];
            let next = self.fill(last, most);
            self.starts.push(next);
        }
        self.starts[step as usize]
    }

    /// The steps that see every example at least `epochs` times.
    fn steps_of(&mut self, epochs: u64) -> u64 {
        let examples = epochs.saturating_mul(self.lengths.len() as u64);
        match self.size {
            StepSize::Examples(batch) => examples.div_ceil(batch as u64),
            StepSize::Tokens(_) => {
                let mut step = 0;
                while self.start(step) < examples {
                    step += 1;
                }
                step
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(lengths: &[u32], size: StepSize, cut: Cut, length: Length) -> Plan {
        let order = EpochOrder::new(3, lengths.len()).unwrap();
        Plan::new(order, lengths.into(), size, cut, length).unwrap()
    }

    fn parts(plan: &mut Plan, step: u64) -> Vec<Vec<Place>> {
        let places = plan.places(step);
        let lengths: Vec<usize> = places
            .iter()
            .map(|place| plan.lengths[place.example] as usize)
            .collect();
        let parts = plan.cut().parts(&lengths).into_iter();
        parts.map(|part| places[part].to_vec()).collect()
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let refused = |size, cut| {
            let order = EpochOrder::new(3, 2).unwrap();
            Plan::new(order, [1, 2].into(), size, cut, Length::Steps(1))
                .map(drop)
                .unwrap_err()
        };
        assert_eq!(refused(StepSize::Examples(0), Cut::Parts(1)), BatchError::Empty);
        assert_eq!(refused(StepSize::Tokens(0), Cut::Parts(1)), BatchError::Empty);
        assert_eq!(refused(StepSize::Examples(2), Cut::Tokens(0)), BatchError::Empty);
        assert!(matches!(
            refused(StepSize::Examples(2), Cut::Parts(3)),
            BatchError::Parts { .. }
        ));
        assert!(matches!(
            refused(StepSize::Tokens(2), Cut::Parts(0)),
            BatchError::Parts { .. }
        ));
    }

    #[test]
    fn an_example_longer_than_the_budget_comes_alone() {
        let order = EpochOrder::sequential(4).unwrap();
        let lengths: Arc<[u32]> = [3, 9, 2, 2].into();
        let mut plan = Plan::new(order, lengths, StepSize::Tokens(5), Cut::Parts(2), Length::Epochs(1)).unwrap();
        assert_eq!(plan.steps(), 3);
        let step = |plan: &mut Plan, step| -> Vec<Vec<usize>> {
            let parts = parts(plan, step).into_iter();
            parts
                .map(|part| part.into_iter().map(|place| place.example).collect())
                .collect()
        };
        assert_eq!(step(&mut plan, 0), [vec![0]]);
        assert_eq!(step(&mut plan, 1), [vec![1]]);
        assert_eq!(step(&mut plan, 2), [vec![2], vec![3]]);
        let order = EpochOrder::sequential(4).unwrap();
        let size = StepSize::Examples(2);
        let mut short = Plan::new(order, [3, 9, 2, 2].into(), size, Cut::Parts(1), Length::Steps(1)).unwrap();
        assert_eq!(short.examples(), [0, 1]);
    }

    proptest! {
        #[test]
        fn every_example_comes_once_an_epoch_whatever_the_cut(
            lengths in proptest::collection::vec(1u32..40, 1..30),
            size in prop_oneof![(1usize..9).prop_map(StepSize::Examples), (1usize..90).prop_map(StepSize::Tokens)],
            tokens in 1usize..90,
            epochs in 1u64..3,
        ) {
            let mut one = plan(&lengths, size, Cut::Parts(1), Length::Epochs(epochs));
            let mut many = plan(&lengths, size, Cut::Tokens(tokens), Length::Epochs(epochs));
            prop_assert_eq!(one.steps(), many.steps());
            let mut seen = Vec::new();
            for step in 0..one.steps() {
                let whole = one.places(step);
                prop_assert_eq!(&whole, &parts(&mut many, step).concat());
                for part in parts(&mut many, step) {
                    let total: u32 = part.iter().map(|place| lengths[place.example]).sum();
                    prop_assert!(part.len() == 1 || total as usize <= tokens);
                }
                if let StepSize::Tokens(most) = size {
                    let total: u32 = whole.iter().map(|place| lengths[place.example]).sum();
                    prop_assert!(whole.len() == 1 || total as usize <= most);
                }
                seen.extend(whole);
            }
            prop_assert!(seen.iter().enumerate().all(|(at, place)| place.position == at as u64));
            prop_assert!(seen.len() as u64 >= epochs * lengths.len() as u64);
            let mut first: Vec<usize> = seen[..lengths.len()].iter().map(|place| place.example).collect();
            first.sort_unstable();
            prop_assert!(first.into_iter().eq(0..lengths.len()));
            let mut all: Vec<usize> = seen.iter().map(|place| place.example).collect();
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(one.examples(), all);
            // Asked for in another order, as after a resume.
            let last = one.steps() - 1;
            let mut fresh = plan(&lengths, size, Cut::Parts(1), Length::Epochs(epochs));
            prop_assert_eq!(fresh.places(last), one.places(last));
        }
    }
}
