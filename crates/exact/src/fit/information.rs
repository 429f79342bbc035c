//! The observed information: sparse between items that never met, dense towards the few tie parameters.

/// A symmetric matrix over items and ties, whose rows sum to zero over the items: equal shifts of all log-strengths
/// cost nothing. [`Information::pin_shift`] adds a multiple of 11ᵀ between the items, which makes it invertible and
/// leaves everything else as it was.
pub(super) struct Information {
    items: usize,
    ties: usize,
    /// Where row i's entries begin; only columns above i are stored.
    starts: Vec<usize>,
    columns: Vec<usize>,
    values: Vec<f64>,
    diagonal: Vec<f64>,
    /// Added to every entry between two items.
    shift: f64,
    /// Row-major, item by tie.
    item_and_tie: Vec<f64>,
    /// Row-major, tie by tie.
    tie_and_tie: Vec<f64>,
}

impl Information {
    /// A zero matrix with a place for every pair that stands `together` in some observation.
    pub fn new<'a>(items: usize, ties: usize, together: impl Iterator<Item = &'a [usize]>) -> Self {
        // Long rankings repeat the same pairs; compact before they fill the memory.
        const COMPACT_AT: usize = 1 << 22;
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        let mut limit = COMPACT_AT;
        for members in together {
            for (place, &first) in members.iter().enumerate() {
                pairs.extend(
                    members[place + 1..]
                        .iter()
                        .map(|&second| (first.min(second), first.max(second))),
                );
            }
            if pairs.len() > limit {
                pairs.sort_unstable();
                pairs.dedup();
                limit = 2 * pairs.len() + COMPACT_AT;
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        let mut starts = vec![0; items + 1];
        for &(row, _) in &pairs {
            starts[row + 1] += 1;
        }
        for row in 0..items {
            starts[row + 1] += starts[row];
        }
        Self {
            items,
            ties,
            starts,
            values: vec![0.0; pairs.len()],
            columns: pairs.into_iter().map(|(_, column)| column).collect(),
            diagonal: vec![0.0; items],
            shift: 0.0,
            item_and_tie: vec![0.0; items * ties],
            tie_and_tie: vec![0.0; ties * ties],
        }
    }

    /// Number of rows: items and ties.
    pub fn size(&self) -> usize {
        self.items + self.ties
    }

    /// Back to zero, the places kept.
    pub fn clear(&mut self) {
        for values in [
            &mut self.values,
            &mut self.diagonal,
            &mut self.item_and_tie,
            &mut self.tie_and_tie,
        ] {
            values.fill(0.0);
        }
        self.shift = 0.0;
    }

    /// Makes equal shifts of all items cost as much as an average item's own.
    pub fn pin_shift(&mut self) {
        self.shift = self.diagonal.iter().sum::<f64>() / (self.items * self.items) as f64;
    }

    /// Adds an entry between two items and its negative to both diagonals. Pairs without a place are ignored.
    pub fn add_items(&mut self, first: usize, second: usize, value: f64) {
        let (row, column) = (first.min(second), first.max(second));
        let places = self.starts[row]..self.starts[row + 1];
        if let Ok(place) = self.columns[places.clone()].binary_search(&column) {
            self.values[places.start + place] += value;
            self.diagonal[row] -= value;
            self.diagonal[column] -= value;
        }
    }

    /// Adds an entry between an item and a tie.
    pub fn add_item_and_tie(&mut self, item: usize, tie: usize, value: f64) {
        self.item_and_tie[item * self.ties + tie] += value;
    }

    /// Adds an entry between two ties.
    pub fn add_ties(&mut self, first: usize, second: usize, value: f64) {
        self.tie_and_tie[first * self.ties + second] += value;
        if first != second {
            self.tie_and_tie[second * self.ties + first] += value;
        }
    }

    /// The diagonal, items first.
    pub fn diagonal(&self) -> Vec<f64> {
        let ties = (0..self.ties).map(|tie| self.tie_and_tie[tie * self.ties + tie]);
        self.diagonal
            .iter()
            .map(|entry| entry + self.shift)
            .chain(ties)
            .collect()
    }

    /// The product with a vector.
    pub fn times(&self, vector: &[f64]) -> Vec<f64> {
        let (by_item, by_tie) = vector.split_at(self.items);
        let shifted = self.shift * by_item.iter().sum::<f64>();
        let mut product: Vec<f64> = self
            .diagonal
            .iter()
            .zip(by_item)
            .map(|(entry, x)| entry * x + shifted)
            .collect();
        product.resize(self.size(), 0.0);
        for row in 0..self.items {
            let mut sum = 0.0;
            for place in self.starts[row]..self.starts[row + 1] {
                sum += self.values[place] * by_item[self.columns[place]];
                product[self.columns[place]] += self.values[place] * by_item[row];
            }
            product[row] += sum;
        }
        for item in 0..self.items {
            for tie in 0..self.ties {
                let entry = self.item_and_tie[item * self.ties + tie];
                product[item] += entry * by_tie[tie];
                product[self.items + tie] += entry * by_item[item];
            }
        }
        for (first, row) in self.tie_and_tie.chunks_exact(self.ties.max(1)).enumerate() {
            product[self.items + first] += row.iter().zip(by_tie).map(|(entry, x)| entry * x).sum::<f64>();
        }
        product
    }

    /// The lower triangle in full, row-major.
    pub fn dense_lower(&self) -> Vec<f64> {
        let size = self.size();
        let mut dense = vec![0.0; size * size];
        for row in 0..self.items {
            dense[row * size..row * size + row + 1].fill(self.shift);
        }
        for row in 0..self.items {
            dense[row * size + row] += self.diagonal[row];
            for place in self.starts[row]..self.starts[row + 1] {
                dense[self.columns[place] * size + row] += self.values[place];
            }
        }
        for tie in 0..self.ties {
            let row = (self.items + tie) * size;
            for item in 0..self.items {
                dense[row + item] = self.item_and_tie[item * self.ties + tie];
            }
            let entries = &self.tie_and_tie[tie * self.ties..=tie * self.ties + tie];
            dense[row + self.items..row + self.items + tie + 1].copy_from_slice(entries);
        }
        dense
    }
}
