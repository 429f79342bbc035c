//! Matrix products whose every element depends on its row and its column alone.
//!
//! The `gemm` crate does the work. Its results are the same on any number of threads, but as it comes not for any
//! number of rows: how it cuts the depth of a product into partial sums follows from the sizes, and so does the choice
//! between its main kernel and several special ones. A sample would have other bits alone than in a batch. Two rules
//! take that away:
//!
//! - The depth is cut here, every [`DEPTH`] products, into calls that `gemm` does not cut any further.
//! - Shapes for which `gemm` has special kernels are computed in [`small`], in the very order of its main kernel: one
//!   (fused, where the processor can) multiply-add after another.
//!
//! So an element is `((start + s_1) + s_2) + ...`, `s_i` being the running sum over the i-th [`DEPTH`] products, in
//! every shape, on every number of threads, and with AVX2 as with AVX-512.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::vector::{self, Kernel, multiply_add};

/// Products that are summed up before they are added to an element: a depth that `gemm` never cuts.
const DEPTH: usize = 512;

/// `gemm` has special kernels for vectors, for products of at most this many elements,
const FEW_ELEMENTS: usize = 256;

/// and for sums of at most this many products.
const FEW_PRODUCTS: usize = 2;

/// Multiplications from which a product is worth more than one thread.
const PARALLEL: usize = 4 << 20;

/// Rows and columns of one task in [`small`].
const TILE: usize = 64;

/// How many threads a product may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Threads {
    /// The calling one: for products inside a task.
    One,
    /// All, if there is enough to do.
    All,
}

/// A matrix to read, at any strides.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Reads `values` with element (i, j) at `i row_stride + j column_stride`.
    ///
    /// # Panics
    ///
    /// When `values` ends before the last element.
    pub(crate) fn new(values: &'a [f32], [rows, columns]: [usize; 2], [row_stride, column_stride]: [usize; 2]) -> Self {
        assert!(
            rows == 0 || columns == 0 || (rows - 1) * row_stride + (columns - 1) * column_stride < values.len(),
            "a matrix must lie within its values"
        );
        Self {
            values,
            rows,
            columns,
            row_stride,
            column_stride,
        }
    }

    /// The values of a tensor of two axes whose strides are not negative, without a copy.
    pub(crate) fn of(tensor: &'a FlexTensor) -> Self {
        let layout = tensor.layout();
        let (shape, strides) = (layout.shape(), layout.strides());
        let strides = [strides[0].cast_unsigned(), strides[1].cast_unsigned()];
        Self::new(
            &tensor.storage::<f32>()[layout.start_offset()..],
            [shape[0], shape[1]],
            strides,
        )
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// The rows and columns of these ranges.
    pub(crate) fn part(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        let start = rows.start * self.row_stride + columns.start * self.column_stride;
        let shape = [rows.len(), columns.len()];
        Self::new(
            self.values.get(start..).unwrap_or_default(),
            shape,
            [self.row_stride, self.column_stride],
        )
    }

    /// A row whose elements lie side by side.
    ///
    /// # Panics
    ///
    /// When they do not.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &'a [f32] {
        assert!(
            self.column_stride == 1 || self.columns < 2,
            "a row's elements must lie side by side"
        );
        &self.values[row * self.row_stride..][..self.columns]
    }

    #[inline(always)]
    fn get(&self, row: usize, column: usize) -> f32 {
        self.values[row * self.row_stride + column * self.column_stride]
    }
}

/// A matrix to write, each element at its own place.
pub(crate) struct MatrixMut<'a> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
    /// Whether the elements hold values that can be added to.
    written: bool,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for an exclusive borrow of its elements.
#[expect(unsafe_code, reason = "an exclusive borrow behind a pointer")]
unsafe impl Send for MatrixMut<'_> {}
// SAFETY: shared references give access to sizes alone.
#[expect(unsafe_code, reason = "an exclusive borrow behind a pointer")]
unsafe impl Sync for MatrixMut<'_> {}

impl<'a> MatrixMut<'a> {
    /// Rows of `columns` elements, `row_stride` apart, that hold nothing yet.
    ///
    /// # Panics
    ///
    /// When `values` ends before the last element or the rows overlap.
    pub(crate) fn unwritten(values: &'a mut [MaybeUninit<f32>], shape: [usize; 2], row_stride: usize) -> Self {
        check_bounds(shape, row_stride, values.len());
        let (start, [rows, columns]) = (values.as_mut_ptr().cast(), shape);
        Self {
            start,
            rows,
            columns,
            row_stride,
            column_stride: 1,
            written: false,
            values: PhantomData,
        }
    }

    /// As [`MatrixMut::unwritten`] over values that can be added to.
    pub(crate) fn written(values: &'a mut [f32], shape: [usize; 2], row_stride: usize) -> Self {
        // SAFETY: initialised values are possibly uninitialised ones, and nothing here takes their values away.
        #[expect(unsafe_code, reason = "one constructor checks the bounds for both")]
        let values = unsafe { &mut *(std::ptr::from_mut(values) as *mut [MaybeUninit<f32>]) };
        Self {
            written: true,
            ..Self::unwritten(values, shape, row_stride)
        }
    }

    /// The same matrix, whose elements can be added to.
    ///
    /// # Safety
    ///
    /// The elements must hold values.
    #[expect(unsafe_code, reason = "what a task wrote in one step it adds to in the next")]
    pub(crate) unsafe fn assume_written(self) -> Self {
        Self { written: true, ..self }
    }

    /// A second view of the same elements.
    ///
    /// # Safety
    ///
    /// No element may be written through both at once.
    #[expect(unsafe_code, reason = "tasks write disjoint parts of one matrix")]
    unsafe fn alias(&self) -> Self {
        Self {
            values: PhantomData,
            ..*self
        }
    }

    /// A row whose elements lie side by side.
    ///
    /// # Panics
    ///
    /// When they do not, or there is no such row.
    pub(crate) fn row(&mut self, row: usize) -> &mut [MaybeUninit<f32>] {
        assert!(row < self.rows && self.column_stride == 1, "a row of the matrix");
        // SAFETY: the constructor checked that rows lie within the values and do not overlap; the elements are this
        // matrix's own while it is borrowed.
        #[expect(unsafe_code, reason = "reads through the pointer")]
        unsafe {
            std::slice::from_raw_parts_mut(self.start.add(row * self.row_stride).cast(), self.columns)
        }
    }

    /// As [`MatrixMut::row`], of elements that hold values.
    ///
    /// # Panics
    ///
    /// As [`MatrixMut::row`], or when they hold none.
    pub(crate) fn written_row(&mut self, row: usize) -> &mut [f32] {
        assert!(self.written, "only written values can be read");
        // SAFETY: they hold values.
        #[expect(unsafe_code, reason = "the elements were written")]
        unsafe {
            self.row(row).assume_init_mut()
        }
    }

    fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Stores `sum` at, or if `add` adds it to, element (i, j).
    #[inline(always)]
    fn put(&mut self, row: usize, column: usize, add: bool, sum: f32) {
        assert!(row < self.rows && column < self.columns);
        // SAFETY: the element is within the rows and columns that the constructor checked, and it is read only if it
        // was written: [`multiply`] checks that before it asks for an addition.
        #[expect(unsafe_code, reason = "writes through the pointer")]
        unsafe {
            let element = self.start.add(row * self.row_stride + column * self.column_stride);
            *element = if add { *element + sum } else { sum };
        }
    }
}

/// Panics when rows of a matrix to be written overlap or end after `length` elements.
fn check_bounds([rows, columns]: [usize; 2], row_stride: usize, length: usize) {
    assert!(columns <= row_stride || rows <= 1, "rows must not overlap");
    let fits = rows == 0 || columns == 0 || (rows - 1) * row_stride + columns <= length;
    assert!(fits, "a matrix must lie within its values");
}

/// Memory whose rows several tasks write, each its own columns.
pub(crate) struct Interleaved<'a> {
    start: *mut f32,
    length: usize,
    /// Whether the elements hold values that can be added to.
    written: bool,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for an exclusive borrow, which only the unsafe `matrix` gives parts of.
#[expect(unsafe_code, reason = "an exclusive borrow behind a pointer")]
unsafe impl Sync for Interleaved<'_> {}

impl<'a> Interleaved<'a> {
    pub(crate) fn new(values: &'a mut [MaybeUninit<f32>]) -> Self {
        Self {
            start: values.as_mut_ptr().cast(),
            length: values.len(),
            written: false,
            values: PhantomData,
        }
    }

    /// As [`Interleaved::new`] over values that can be added to.
    pub(crate) fn written(values: &'a mut [f32]) -> Self {
        Self {
            start: values.as_mut_ptr(),
            length: values.len(),
            written: true,
            values: PhantomData,
        }
    }

    /// Rows of `columns` elements, `row_stride` apart, from element `start` on.
    ///
    /// # Panics
    ///
    /// As [`MatrixMut::unwritten`].
    ///
    /// # Safety
    ///
    /// While it lives, no other matrix may have any of these elements.
    #[expect(unsafe_code, reason = "tasks write side by side")]
    pub(crate) unsafe fn matrix(&self, start: usize, [rows, columns]: [usize; 2], row_stride: usize) -> MatrixMut<'a> {
        check_bounds([rows, columns], row_stride, self.length.saturating_sub(start));
        let start = self.start.wrapping_add(start);
        MatrixMut {
            start,
            rows,
            columns,
            row_stride,
            column_stride: 1,
            written: self.written,
            values: PhantomData,
        }
    }
}

/// Writes `left right` to `destination`, or if `add` adds it to what is there.
///
/// # Panics
///
/// When the shapes do not fit, or `add` meets a destination that holds nothing.
pub(crate) fn multiply(destination: MatrixMut<'_>, add: bool, left: Matrix<'_>, right: Matrix<'_>, threads: Threads) {
    let [rows, depth, columns] = [left.rows, left.columns, right.columns];
    assert_eq!(depth, right.rows, "the factors of a product must fit");
    assert_eq!(
        [destination.rows, destination.columns],
        [rows, columns],
        "a product must fit its destination"
    );
    assert!(!add || destination.written, "only written values can be added to");

    let threads = if rows * columns * depth < PARALLEL {
        Threads::One
    } else {
        threads
    };
    if rows < 2 || columns < 2 || rows * columns <= FEW_ELEMENTS || depth <= FEW_PRODUCTS {
        small(destination, add, left, right, threads);
    } else {
        for (index, block) in blocks(depth).enumerate() {
            let (left, right) = (left.part(0..rows, block.clone()), right.part(block, 0..columns));
            main_kernel(&destination, add || index > 0, left, right, threads);
        }
    }
}

/// The blocks in which a sum over `depth` products is taken: at most [`DEPTH`] long, and equal but for one, so that
/// none is so short that `gemm` treats it specially.
pub(crate) fn blocks(depth: usize) -> impl Iterator<Item = Range<usize>> {
    let count = depth.div_ceil(DEPTH).max(1);
    (0..count).map(move |index| index * depth / count..(index + 1) * depth / count)
}

/// One block of the depth in the main kernel of `gemm`.
fn main_kernel(destination: &MatrixMut<'_>, add: bool, left: Matrix<'_>, right: Matrix<'_>, threads: Threads) {
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::All => gemm::Parallelism::Rayon(0),
    };
    // SAFETY: the constructors of the matrices checked that their elements lie within exclusively (destination) and
    // shared (factors) borrowed values, `multiply` that the shapes fit and that an addition meets written values.
    // Matrices come from slices, whose lengths fit an `isize`.
    #[expect(unsafe_code, reason = "gemm takes pointers")]
    unsafe {
        gemm::gemm(
            left.rows,
            right.columns,
            left.columns,
            destination.start,
            destination.column_stride.cast_signed(),
            destination.row_stride.cast_signed(),
            add,
            left.values.as_ptr(),
            left.column_stride.cast_signed(),
            left.row_stride.cast_signed(),
            right.values.as_ptr(),
            right.column_stride.cast_signed(),
            right.row_stride.cast_signed(),
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Products of odd shapes: vectors, few elements, little depth.
fn small(destination: MatrixMut<'_>, add: bool, left: Matrix<'_>, right: Matrix<'_>, threads: Threads) {
    // Vector lanes run along columns, so there should be some.
    if right.columns < TILE && right.columns < left.rows {
        let (destination, left, right) = (destination.transposed(), right.transposed(), left.transposed());
        return small(destination, add, left, right, threads);
    }
    let row_tiles = left.rows.div_ceil(TILE);
    let tiles = row_tiles * right.columns.div_ceil(TILE);
    let tile = |index: usize| {
        let start = |position: usize| position * TILE;
        let [row, column] = [start(index % row_tiles), start(index / row_tiles)];
        // SAFETY: the tiles of different indices have no element in common.
        #[expect(unsafe_code, reason = "tasks write disjoint parts of one matrix")]
        let destination = unsafe { destination.alias() };
        small_tile(
            destination,
            add,
            left,
            right,
            [row..left.rows.min(row + TILE), column..right.columns.min(column + TILE)],
        );
    };
    match threads {
        Threads::One => (0..tiles).for_each(tile),
        Threads::All => (0..tiles).into_par_iter().for_each(tile),
    }
}

/// The elements in these ranges of rows and columns, at most [`TILE`] each.
fn small_tile(
    mut destination: MatrixMut<'_>,
    add: bool,
    left: Matrix<'_>,
    right: Matrix<'_>,
    [rows, columns]: [Range<usize>; 2],
) {
    let mut packed = Vec::new();
    for (index, block) in blocks(left.columns).enumerate() {
        let right = right.part(block.clone(), columns.clone());
        let direct = right.column_stride == 1 && columns.len() == TILE;
        let (right, stride) = if direct {
            (right.values, right.row_stride)
        } else {
            packed.clear();
            packed.resize(block.len() * TILE, 0.0);
            for (depth, row) in packed.chunks_exact_mut(TILE).enumerate() {
                for (column, value) in row[..columns.len()].iter_mut().enumerate() {
                    *value = right.get(depth, column);
                }
            }
            (packed.as_slice(), TILE)
        };
        for row in rows.clone() {
            let left = left.part(row..row + 1, block.clone());
            let sums = vector::run(RowTimesTile { left, right, stride });
            for (sum, column) in sums.into_iter().zip(columns.clone()) {
                destination.put(row, column, add || index > 0, sum);
            }
        }
    }
}

/// A row of at most [`DEPTH`] values times [`TILE`] columns, each sum in order.
struct RowTimesTile<'a> {
    left: Matrix<'a>,
    right: &'a [f32],
    stride: usize,
}

impl Kernel for RowTimesTile<'_> {
    type Output = [f32; TILE];

    #[inline(always)]
    fn run<const FUSED: bool>(self) -> [f32; TILE] {
        let mut sums = [0.0; TILE];
        for depth in 0..self.left.columns {
            let factor = self.left.get(0, depth);
            let start = depth * self.stride;
            for (sum, &value) in sums.iter_mut().zip(&self.right[start..start + TILE]) {
                *sum = multiply_add::<FUSED>(factor, value, *sum);
            }
        }
        sums
    }
}

#[cfg(test)]
#[path = "product_tests.rs"]
mod tests;
