//! Matrix products whose every element depends on its row and its column alone.
//!
//! An element is `((start + s_1) + s_2) + ...`, `s_i` being the running sum over the i-th block of at most [`DEPTH`]
//! products, one (fused, where the processor can) multiply-add after another: in every shape, on every number of threads,
//! and with AVX2 as with AVX-512. So a sample has the same bits alone as in a batch, which libraries that choose their
//! order by the shape do not give.
//!
//! The right factor is packed into panels of [`LANES`] columns, read by all rows; rows of the left one are read where they
//! lie, a few at a time, whose sums stay in registers ([`super::tile`]). Where a row does not lie in one piece, or rows lie
//! so that the first cache cannot hold them together, they are gathered first. Rows are worked on in blocks that fit the
//! second cache, where each panel meets them; a panel streams through the first.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::matrix::{Matrix, MatrixMut};
use super::tile::{
    Gathered, InRows, Line, Packed, PackedPair, Panel, Rows, Tile, Whole, group_size, largest_group, whole_groups,
};
use super::vector::{self, Kernel, LANES, prefetch};

/// Products that are summed up before they are added to an element.
const DEPTH: usize = 1024;

/// Columns of the right factor that are packed at a time: 8 MiB.
const COLUMNS: usize = 2048;

/// Rows of a task: with [`DEPTH`] products each 192 KiB. A multiple of every size of a group.
const ROWS: usize = 48;

/// Up to so many rows a right factor of whole rows is read where it lies: they are one group or two, so packing would be as
/// much work as the product.
const FEW: usize = 6;

/// Groups of so many rows meet two panels at a time: both their sums fit AVX-512's registers.
pub(crate) const PAIRED: usize = 12;

/// Tasks that a product is cut into at least, if it has the columns.
const TASKS: usize = 16;

/// Multiplications from which a product is worth more than one thread.
const PARALLEL: usize = 4 << 20;

/// Panels that are packed together: a cut through as many is read a whole row after another.
const PACKED: usize = 8;

/// Rows ahead that are asked for while a cut through a matrix is copied: each lies on another page.
const AHEAD: usize = 8;

/// Elements of a page. Where rows lie a multiple of it apart, their elements at one depth share a set of the first cache,
/// which has fewer places in a set than a group has rows.
const PAGE: usize = 1024;

/// Columns that a task's rows meet at least, so that gathering them costs less than it saves.
const WORTH_GATHERING: usize = 512;

/// How many threads a product may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Threads {
    /// The calling one: for products inside a task.
    One,
    /// All, if there is enough to do.
    All,
}

/// Writes `left right` to `destination`, or if `add` adds it to what is there.
///
/// # Panics
///
/// When the shapes do not fit, or `add` meets a destination that holds nothing.
pub(crate) fn multiply(destination: MatrixMut<'_>, add: bool, left: Matrix<'_>, right: Matrix<'_>, threads: Threads) {
    multiply_in_groups(destination, add, left, right, threads, largest_group());
}

/// [`multiply`] with groups of at most `group` rows.
fn multiply_in_groups(
    destination: MatrixMut<'_>,
    add: bool,
    left: Matrix<'_>,
    right: Matrix<'_>,
    threads: Threads,
    group: usize,
) {
    let [rows, depth, columns] = [left.rows(), left.columns(), right.columns()];
    assert_eq!(depth, right.rows(), "the factors of a product must fit");
    assert_eq!(
        destination.shape(),
        [rows, columns],
        "a product must fit its destination"
    );
    assert!(!add || destination.is_written(), "only written values can be added to");
    let threads = if rows * columns * depth < PARALLEL {
        Threads::One
    } else {
        threads
    };
    if rows == 0 || columns == 0 {
        return;
    }
    let mut packed = SPARE.take();
    for start in (0..columns).step_by(COLUMNS) {
        let columns = start..columns.min(start + COLUMNS);
        for (index, depths) in blocks(depth).enumerate() {
            // SAFETY: the borrow ends before the next; blocks of the depth after the first add to what the first wrote.
            #[expect(unsafe_code, reason = "blocks are written one after another")]
            let to = unsafe {
                let to = destination.part(0..rows, columns.clone());
                if index > 0 { to.assume_written() } else { to }
            };
            let block = Block {
                to,
                add: add || index > 0,
                left: left.part(0..rows, depths.clone()),
                right: right.part(depths, columns.clone()),
                group,
                threads,
            };
            block.multiply(&mut packed);
        }
    }
    SPARE.set(packed);
}

thread_local! {
    /// Memory for panels that the next product of this thread finds again. Taken while in use: a thread that waits for
    /// others may start another product meanwhile.
    static SPARE: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };

    /// The same for gathered rows.
    static GATHERED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// The blocks in which a sum over `depth` products is taken: at most [`DEPTH`] long, and equal but for one.
pub(crate) fn blocks(depth: usize) -> impl Iterator<Item = Range<usize>> {
    let count = depth.div_ceil(DEPTH).max(1);
    (0..count).map(move |index| index * depth / count..(index + 1) * depth / count)
}

/// Calls `work` for each of `count` tasks.
fn for_each(count: usize, threads: Threads, work: impl Fn(usize) + Send + Sync) {
    match threads {
        Threads::One => (0..count).for_each(work),
        Threads::All => (0..count).into_par_iter().with_max_len(1).for_each(work),
    }
}

/// A part of a product: one block of the depth, and columns that are packed together.
struct Block<'a> {
    to: MatrixMut<'a>,
    add: bool,
    left: Matrix<'a>,
    right: Matrix<'a>,
    group: usize,
    threads: Threads,
}

impl<'a> Block<'a> {
    fn multiply(&self, packed: &mut Vec<Line>) {
        let columns = self.right.columns();
        let panels = columns.div_ceil(LANES);
        // A panel that is not whole is packed in any case.
        let in_place = if self.left.rows() <= FEW && self.right.has_whole_rows() {
            columns / LANES
        } else {
            0
        };
        self.pack(in_place..panels, packed);

        let row_tasks = self.left.rows().div_ceil(ROWS);
        let column_tasks = TASKS.div_ceil(row_tasks).min(panels);
        let rows_collide = self.left.row_stride().is_multiple_of(PAGE) && columns / column_tasks >= WORTH_GATHERING;
        let in_rows = self.left.has_whole_rows() && !rows_collide;
        for_each(row_tasks * column_tasks, self.threads, |task| {
            let (row, column) = (task % row_tasks * ROWS, task / row_tasks);
            let rows = row..self.left.rows().min(row + ROWS);
            let panels = column * panels / column_tasks..(column + 1) * panels / column_tasks;
            if in_rows {
                let left = Whole(self.left.part(rows.clone(), 0..self.left.columns()));
                self.rows(rows, panels, left, in_place, packed);
            } else {
                let mut values = GATHERED.take();
                let depth = self.left.columns();
                self.gather(rows.clone(), &mut values);
                self.rows(rows, panels, Gathered { values: &values, depth }, in_place, packed);
                GATHERED.set(values);
            }
        });
    }

    /// Writes these rows of these panels.
    fn rows(&self, rows: Range<usize>, panels: Range<usize>, left: impl Rows, in_place: usize, packed: &[Line]) {
        let depth = self.left.columns();
        let packed = |panel: usize| Packed(&packed[(panel - in_place) * depth..][..depth]);
        let together = if self.group == PAIRED { 2 } else { 1 };
        let mut panel = panels.start;
        while panel < panels.end {
            let count = if panel < in_place {
                1
            } else {
                together.min(panels.end - panel)
            };
            let columns = panel * LANES..self.right.columns().min((panel + count) * LANES);
            // SAFETY: no other task has these rows and columns.
            #[expect(unsafe_code, reason = "tasks write disjoint parts of one matrix")]
            let to = unsafe { self.to.part(rows.clone(), columns.clone()) };
            if panel < in_place {
                self.tile(to, left, InRows(self.right.part(0..depth, columns)));
            } else if count == 2 {
                self.tile(to, left, PackedPair([packed(panel), packed(panel + 1)]));
            } else {
                self.tile(to, left, packed(panel));
            }
            panel += count;
        }
    }

    fn tile<const WIDTH: usize>(&self, to: MatrixMut<'_>, rows: impl Rows, panel: impl Panel<WIDTH>) {
        vector::run(Tile {
            rows,
            panel,
            depth: self.left.columns(),
            to,
            add: self.add,
            group: self.group,
        });
    }

    /// Packs these panels of the right factor.
    fn pack(&self, panels: Range<usize>, packed: &mut Vec<Line>) {
        let depth = self.right.rows();
        if packed.len() < panels.len() * depth {
            packed.resize(panels.len() * depth, Line::default());
        }
        let pack = |(group, to): (usize, &mut [Line])| {
            let start = (panels.start + group * PACKED) * LANES;
            let columns = start..self.right.columns().min(start + PACKED * LANES);
            let from = self.right.part(0..depth, columns);
            vector::run(Pack { from, to });
        };
        let to = &mut packed[..panels.len() * depth];
        let group = (PACKED * depth).max(1);
        match self.threads {
            Threads::One => to.chunks_mut(group).enumerate().for_each(pack),
            Threads::All => to.par_chunks_mut(group).enumerate().for_each(pack),
        }
    }

    /// Gathers these rows of a left factor whose rows are not whole.
    fn gather(&self, rows: Range<usize>, to: &mut Vec<f32>) {
        let depth = self.left.columns();
        if to.len() < rows.len() * depth {
            to.resize(rows.len() * depth, 0.0);
        }
        let from = self.left.part(rows, 0..depth).transposed();
        match self.group {
            12 => vector::run(Gather::<12> { from, to }),
            _ => vector::run(Gather::<6> { from, to }),
        }
    }
}

/// Copies columns in groups: those of the largest size, and then as [`group_size`] cuts the rest.
struct Gather<'a, const LARGEST: usize> {
    from: Matrix<'a>,
    to: &'a mut [f32],
}

impl<const LARGEST: usize> Kernel for Gather<'_, LARGEST> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let (depth, count) = (self.from.rows(), self.from.columns());
        let largest = whole_groups(count, LARGEST);
        if self.from.has_whole_rows() {
            for row in 0..depth {
                let values = self.from.row(row);
                prefetch(values.as_ptr().wrapping_add(AHEAD * self.from.row_stride()));
                for (group, values) in values.as_chunks::<LARGEST>().0[..largest].iter().enumerate() {
                    let to = &mut self.to[(group * depth + row) * LARGEST..];
                    to[..LARGEST].copy_from_slice(values);
                }
            }
        }
        let rows = self.from.transposed();
        let mut first = 0;
        if self.from.has_whole_rows() {
            first = largest * LARGEST;
        } else if rows.has_whole_rows() {
            for _ in 0..largest {
                let to = self.to[first * depth..][..LARGEST * depth].as_chunks_mut::<LARGEST>().0;
                side_by_side(rows.part(first..first + LARGEST, 0..depth), to, |values| values);
                first += LARGEST;
            }
        }
        while first < count {
            let size = group_size(count - first, LARGEST);
            for (row, to) in self.to[first * depth..].chunks_exact_mut(size).take(depth).enumerate() {
                for (column, to) in to.iter_mut().enumerate() {
                    *to = self.from.get(row, first + column);
                }
            }
            first += size;
        }
    }
}

/// Packs columns into panels of [`LANES`], the last one filled up with zeros.
struct Pack<'a> {
    from: Matrix<'a>,
    to: &'a mut [Line],
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let (depth, count) = (self.from.rows(), self.from.columns());
        let (whole, rest) = (count / LANES, count % LANES);
        let transposed = self.from.transposed();
        if self.from.has_whole_rows() {
            for row in 0..depth {
                let values = self.from.row(row);
                let (panels, _) = values.as_chunks::<LANES>();
                for (panel, values) in panels.iter().enumerate() {
                    prefetch(values.as_ptr().wrapping_add(AHEAD * self.from.row_stride()));
                    self.to[panel * depth + row].0 = *values;
                }
            }
        } else if transposed.has_whole_rows() {
            for (panel, to) in self.to.chunks_exact_mut(depth).take(whole).enumerate() {
                side_by_side(
                    transposed.part(panel * LANES..(panel + 1) * LANES, 0..depth),
                    to,
                    |line| &mut line.0,
                );
            }
        } else {
            for (panel, to) in self.to.chunks_exact_mut(depth).take(whole).enumerate() {
                for (row, to) in to.iter_mut().enumerate() {
                    for (column, to) in to.0.iter_mut().enumerate() {
                        *to = self.from.get(row, panel * LANES + column);
                    }
                }
            }
        }
        if rest > 0 {
            for (row, to) in self.to[whole * depth..].iter_mut().enumerate() {
                *to = Line::default();
                for (column, to) in to.0[..rest].iter_mut().enumerate() {
                    *to = self.from.get(row, whole * LANES + column);
                }
            }
        }
    }
}

/// Copies whole rows, as many as there are `values` in an element, side by side at each depth: a few depths at a time, so
/// that each row is read in pieces.
#[inline(always)]
fn side_by_side<T, const COUNT: usize>(rows: Matrix<'_>, to: &mut [T], values: impl Fn(&mut T) -> &mut [f32; COUNT]) {
    let (pieces, rest) = to.as_chunks_mut::<LANES>();
    let start = pieces.len() * LANES;
    for (index, piece) in pieces.iter_mut().enumerate() {
        for row in 0..COUNT {
            let from = &rows.row(row)[index * LANES..(index + 1) * LANES];
            prefetch(from.as_ptr().wrapping_add(AHEAD * LANES));
            for (to, value) in piece.iter_mut().zip(from) {
                values(to)[row] = *value;
            }
        }
    }
    for (depth, to) in rest.iter_mut().enumerate() {
        for (row, to) in values(to).iter_mut().enumerate() {
            *to = rows.get(row, start + depth);
        }
    }
}

#[cfg(test)]
#[path = "product_tests.rs"]
mod tests;
