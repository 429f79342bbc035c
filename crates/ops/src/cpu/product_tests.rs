use super::*;
use crate::testing::{numbers, with_threads};

/// The product by its definition, with sums in the order that this file promises.
fn reference(start: Option<&[f32]>, left: Matrix<'_>, right: Matrix<'_>) -> Vec<f32> {
    let fused = vector::InstructionSet::best().is_fused();
    let mut product = Vec::new();
    for row in 0..left.rows() {
        for column in 0..right.columns() {
            let mut total = start.map(|start| start[product.len()]);
            for block in blocks(left.columns()) {
                let sum = block.fold(0.0, |sum: f32, depth| {
                    let (a, b) = (left.get(row, depth), right.get(depth, column));
                    if fused { a.mul_add(b, sum) } else { a * b + sum }
                });
                total = Some(total.map_or(sum, |total| total + sum));
            }
            product.push(total.unwrap_or_default());
        }
    }
    product
}

fn product(start: Option<&[f32]>, left: Matrix<'_>, right: Matrix<'_>, threads: Threads) -> Vec<f32> {
    product_in_groups(start, left, right, threads, largest_group())
}

fn product_in_groups(
    start: Option<&[f32]>,
    left: Matrix<'_>,
    right: Matrix<'_>,
    threads: Threads,
    group: usize,
) -> Vec<f32> {
    let mut values = start.map_or_else(|| vec![f32::NAN; left.rows() * right.columns()], <[f32]>::to_vec);
    let destination = MatrixMut::written(&mut values, [left.rows(), right.columns()], right.columns());
    multiply_in_groups(destination, start.is_some(), left, right, threads, group);
    values
}

/// Every shape that meets a special case, on both sides of each bound, plain and transposed factors.
#[test]
fn sums_are_taken_in_the_promised_order() {
    for depth in [0, 1, 2, 3, 16, 511, DEPTH, DEPTH + 1] {
        for rows in [1, 2, 3, 5, 6, 7, 8, 14, 20, 70] {
            for columns in [1, 2, 15, 16, 17, 65] {
                let (a, b) = (numbers(1, rows * depth), numbers(2, depth * columns));
                let start = numbers(3, rows * columns);
                for left in [
                    Matrix::new(&a, [rows, depth], [depth, 1]),
                    Matrix::new(&a, [rows, depth], [1, rows]),
                ] {
                    for right in [
                        Matrix::new(&b, [depth, columns], [columns, 1]),
                        Matrix::new(&b, [depth, columns], [1, depth]),
                    ] {
                        for start in [None, Some(start.as_slice())] {
                            let expected = reference(start, left, right);
                            // The groups of AVX-512 are right on any processor.
                            for group in [6, 12] {
                                let actual = product_in_groups(start, left, right, Threads::One, group);
                                assert_eq!(actual, expected, "{rows} x {depth} x {columns}");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for [rows, depth, columns] in [
        [70, 700, 130],
        [1, 3000, 2000],
        [3000, 2, 900],
        [5000, 1100, 1],
        [3, 700, COLUMNS + 9],
    ] {
        let (a, b) = (numbers(1, rows * depth), numbers(2, depth * columns));
        let left = Matrix::new(&a, [rows, depth], [depth, 1]);
        let right = Matrix::new(&b, [depth, columns], [columns, 1]);
        let expected = product(None, left, right, Threads::One);
        for threads in 1..=4 {
            let actual = with_threads(threads, || product(None, left, right, Threads::All));
            assert_eq!(actual, expected, "{rows} x {depth} x {columns} on {threads} threads");
        }
    }
}

/// Rows that are gathered because they lie pages apart, between rows that are read where they lie: of columns too few for
/// it, and of a stride beside it.
#[test]
fn rows_pages_apart_have_the_same_bits() {
    let (rows, depth) = (400, 37);
    for columns in [1030, 200] {
        let b = numbers(2, depth * columns);
        let right = Matrix::new(&b, [depth, columns], [columns, 1]);
        for stride in [PAGE, PAGE + 1] {
            let a = numbers(1, rows * stride);
            let left = Matrix::new(&a, [rows, depth], [stride, 1]);
            let expected = reference(None, left, right);
            for group in [6, 12] {
                let actual = product_in_groups(None, left, right, Threads::One, group);
                assert_eq!(actual, expected, "{columns} columns, {stride} apart, groups of {group}");
            }
        }
    }
}
