//! Matrices over slices: to read at any strides, to write row by row.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use burn::backend::flex::FlexTensor;

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

    pub(crate) fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Whether the elements of a row lie side by side.
    pub(crate) fn has_whole_rows(&self) -> bool {
        self.column_stride == 1 || self.columns < 2
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
        assert!(self.has_whole_rows(), "a row's elements must lie side by side");
        // Rows of nothing lie nowhere.
        let start = if self.columns == 0 { 0 } else { row * self.row_stride };
        &self.values[start..][..self.columns]
    }

    /// An element.
    ///
    /// # Panics
    ///
    /// When there is no such element.
    #[inline(always)]
    pub(crate) fn get(&self, row: usize, column: usize) -> f32 {
        self.values[row * self.row_stride + column * self.column_stride]
    }
}

/// A matrix to write, each element at its own place.
pub(crate) struct MatrixMut<'a> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    row_stride: usize,
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

    /// The same matrix for as long as this one is left alone.
    pub(crate) fn reborrow(&mut self) -> MatrixMut<'_> {
        MatrixMut {
            values: PhantomData,
            ..*self
        }
    }

    /// Whether the elements hold values that can be added to.
    pub(crate) fn is_written(&self) -> bool {
        self.written
    }

    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// A second view of some of the elements.
    ///
    /// # Panics
    ///
    /// When the matrix does not have these rows and columns.
    ///
    /// # Safety
    ///
    /// No element may be written through both at once.
    #[expect(unsafe_code, reason = "tasks write disjoint parts of one matrix")]
    pub(crate) unsafe fn part(&self, rows: Range<usize>, columns: Range<usize>) -> Self {
        let fits = rows.start <= rows.end && rows.end <= self.rows;
        assert!(fits && columns.start <= columns.end && columns.end <= self.columns);
        Self {
            start: self.start.wrapping_add(rows.start * self.row_stride + columns.start),
            rows: rows.len(),
            columns: columns.len(),
            ..*self
        }
    }

    /// A row.
    ///
    /// # Panics
    ///
    /// When there is no such row.
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [MaybeUninit<f32>] {
        assert!(row < self.rows, "a row of the matrix");
        // SAFETY: the constructor checked that rows lie within the values and do not overlap; the elements are this
        // matrix's own while it is borrowed.
        #[expect(unsafe_code, reason = "reads through the pointer")]
        unsafe {
            std::slice::from_raw_parts_mut(self.start.add(row * self.row_stride).cast(), self.columns)
        }
    }

    /// Stores the first of `sums` as a row, or if `add` adds them to it.
    ///
    /// # Panics
    ///
    /// When there is no such row, or there are fewer sums than columns.
    #[inline(always)]
    pub(crate) fn put<const N: usize>(&mut self, row: usize, add: bool, mut sums: [f32; N]) {
        assert!(!add || self.written, "only written values can be added to");
        let row = self.row(row);
        if let Ok(row) = <&mut [MaybeUninit<f32>; N]>::try_from(&mut *row) {
            if add {
                for (sum, element) in sums.iter_mut().zip(&*row) {
                    // SAFETY: the elements were written.
                    #[expect(unsafe_code, reason = "reads what was written")]
                    let element = unsafe { element.assume_init() };
                    *sum += element;
                }
            }
            *row = sums.map(MaybeUninit::new);
            return;
        }
        for (element, sum) in row.iter_mut().zip(sums) {
            // SAFETY: as above.
            #[expect(unsafe_code, reason = "reads what was written")]
            let before = if add { unsafe { element.assume_init() } } else { -0.0 };
            element.write(before + sum);
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
            written: self.written,
            values: PhantomData,
        }
    }
}
