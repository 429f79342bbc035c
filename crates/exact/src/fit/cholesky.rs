//! The diagonal of a large matrix's inverse, for standard errors.
//!
//! A Cholesky factor L in blocks, then the columns of its inverse block by block: entry i of the diagonal is the
//! squared length of column i of L's inverse. Both passes spend their time in one four-by-four kernel.

/// Width of a block of columns.
const BLOCK: usize = 64;

/// A lower triangular factor L with `L Lᵀ` the matrix.
pub(super) struct Cholesky {
    size: usize,
    /// Row-major; above the diagonal is what the caller left there.
    factor: Vec<f64>,
}

impl Cholesky {
    /// Factors the matrix whose lower triangle is given, row-major. None if it is not positive definite to rounding.
    pub fn new(mut matrix: Vec<f64>, size: usize) -> Option<Self> {
        let largest = (0..size).map(|i| matrix[i * size + i]).fold(0.0, f64::max);
        let smallest = largest * f64::EPSILON;
        for start in (0..size).step_by(BLOCK) {
            let end = (start + BLOCK).min(size);
            for row in start..size {
                for column in start..end.min(row + 1) {
                    let done: f64 = (start..column)
                        .map(|k| matrix[row * size + k] * matrix[column * size + k])
                        .sum();
                    let rest = matrix[row * size + column] - done;
                    matrix[row * size + column] = if row > column {
                        rest / matrix[column * size + column]
                    } else if rest > smallest {
                        rest.sqrt()
                    } else {
                        return None;
                    };
                }
            }
            subtract_outer(&mut matrix, size, start, end);
        }
        Some(Self { size, factor: matrix })
    }

    /// The diagonal of the inverse.
    pub fn inverse_diagonal(&self) -> Vec<f64> {
        let mut diagonal = vec![0.0; self.size];
        for start in (0..self.size).step_by(BLOCK) {
            let width = BLOCK.min(self.size - start);
            let columns = self.inverse_columns(start, width);
            for row in columns.chunks_exact(BLOCK) {
                for (sum, entry) in diagonal[start..start + width].iter_mut().zip(row) {
                    *sum += entry * entry;
                }
            }
        }
        diagonal
    }

    /// The solution of `L Lᵀ x = right`.
    pub fn solve(&self, right: &[f64]) -> Vec<f64> {
        let (size, factor) = (self.size, &self.factor);
        let mut solution = right.to_vec();
        for row in 0..size {
            let done: f64 = (0..row).map(|k| factor[row * size + k] * solution[k]).sum();
            solution[row] = (solution[row] - done) / factor[row * size + row];
        }
        for row in (0..size).rev() {
            solution[row] /= factor[row * size + row];
            let value = solution[row];
            for (k, entry) in factor[row * size..row * size + row].iter().enumerate() {
                solution[k] -= entry * value;
            }
        }
        solution
    }

    /// Columns `start..start + width` of L's inverse, from row `start` down, each row padded to a block.
    fn inverse_columns(&self, start: usize, width: usize) -> Vec<f64> {
        let (size, factor) = (self.size, &self.factor);
        let mut columns = vec![0.0; (size - start) * BLOCK];
        for first in (start..size).step_by(4) {
            let rows = 4.min(size - first);
            let (done, current) = columns.split_at_mut((first - start) * BLOCK);
            for column in (0..width).step_by(4) {
                // The part of the dot products over rows that are complete.
                let left: [&[f64]; 4] = std::array::from_fn(|i| {
                    let row = (first + i.min(rows - 1)) * size;
                    &factor[row + start..row + first]
                });
                let sums = tile(left, &done[column.min(done.len())..], BLOCK);
                for i in 0..rows {
                    for j in 0..4 {
                        current[i * BLOCK + column + j] = -sums[i][j];
                    }
                }
            }
            for i in 0..rows {
                let row = first + i;
                if row - start < width {
                    current[i * BLOCK + row - start] += 1.0;
                }
                for earlier in 0..i {
                    let entry = factor[row * size + first + earlier];
                    let (above, below) = current.split_at_mut(i * BLOCK);
                    let above = &above[earlier * BLOCK..(earlier + 1) * BLOCK];
                    below
                        .iter_mut()
                        .zip(above)
                        .for_each(|(below, above)| *below -= entry * above);
                }
                let pivot = factor[row * size + row];
                current[i * BLOCK..(i + 1) * BLOCK]
                    .iter_mut()
                    .for_each(|entry| *entry /= pivot);
            }
        }
        columns
    }
}

/// Takes the finished columns `start..end` out of the rest of the lower triangle.
fn subtract_outer(matrix: &mut [f64], size: usize, start: usize, end: usize) {
    let rest = size - end;
    if rest == 0 {
        return;
    }
    let width = end - start;
    // The panel across and along, padded to whole tiles.
    let padded = rest.next_multiple_of(4);
    let mut panel = vec![0.0; padded * width];
    let mut across = vec![0.0; width * padded];
    for row in 0..rest {
        for k in 0..width {
            let entry = matrix[(end + row) * size + start + k];
            panel[row * width + k] = entry;
            across[k * padded + row] = entry;
        }
    }
    for row in (0..rest).step_by(4) {
        let left: [&[f64]; 4] = std::array::from_fn(|i| &panel[(row + i) * width..(row + i + 1) * width]);
        for column in (0..=row).step_by(4) {
            let sums = tile(left, &across[column..], padded);
            for (i, sums) in sums.iter().enumerate().take(rest - row) {
                let begin = (end + row + i) * size + end + column;
                let length = 4.min(rest - column);
                matrix[begin..begin + length]
                    .iter_mut()
                    .zip(sums)
                    .for_each(|(entry, sum)| *entry -= sum);
            }
        }
    }
}

/// Four rows times four columns: `Σ_k left[i][k] right[k * stride + j]`.
#[inline(always)]
fn tile(left: [&[f64]; 4], right: &[f64], stride: usize) -> [[f64; 4]; 4] {
    let mut sums = [[0.0; 4]; 4];
    let length = left[0].len();
    let [a, b, c, d] = left.map(|row| &row[..length]);
    for (k, row) in right.chunks(stride).take(length).enumerate() {
        let row: &[f64; 4] = match row.first_chunk() {
            Some(row) => row,
            None => break,
        };
        for j in 0..4 {
            sums[0][j] += a[k] * row[j];
            sums[1][j] += b[k] * row[j];
            sums[2][j] += c[k] * row[j];
            sums[3][j] += d[k] * row[j];
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A positive definite matrix with no structure: B Bᵀ + I of a chaotic sequence.
    fn matrix(size: usize, seed: f64) -> Vec<f64> {
        let mut state = seed;
        let b: Vec<f64> = (0..size * size)
            .map(|_| {
                state = 3.99 * state * (1.0 - state);
                state - 0.5
            })
            .collect();
        let mut product = vec![0.0; size * size];
        for i in 0..size {
            for j in 0..size {
                let dot: f64 = (0..size).map(|k| b[i * size + k] * b[j * size + k]).sum();
                product[i * size + j] = dot + f64::from(u8::from(i == j));
            }
        }
        product
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn inverse_times_matrix_is_one(size in 1..150usize, seed in 0.1..0.9f64) {
            let full = matrix(size, seed);
            let factor = Cholesky::new(full.clone(), size).unwrap();
            let diagonal = factor.inverse_diagonal();
            for column in 0..size {
                let mut unit = vec![0.0; size];
                unit[column] = 1.0;
                let solution = factor.solve(&unit);
                for row in 0..size {
                    let product: f64 = (0..size).map(|k| full[row * size + k] * solution[k]).sum();
                    prop_assert!((product - unit[row]).abs() < 1e-10);
                }
                prop_assert!((diagonal[column] - solution[column]).abs() < 1e-11);
            }
        }
    }

    #[test]
    fn a_singular_matrix_has_no_factor() {
        assert!(Cholesky::new(vec![1.0, 1.0, 1.0, 1.0], 2).is_none());
        assert!(Cholesky::new(vec![1.0, 0.0, 2.0, 1.0], 2).is_none());
    }
}
