//! The innermost loop of every product: rows times a panel of columns, the sums in registers.

use std::ops::Range;

use super::matrix::{Matrix, MatrixMut};
use super::vector::{InstructionSet, Kernel, LANES, multiply_add, prefetch};

/// [`LANES`] columns of a factor, depth after depth, aligned to the cache's lines.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
pub(crate) struct Line(pub(crate) [f32; LANES]);

/// `WIDTH` columns of a factor.
pub(crate) trait Panel<const WIDTH: usize = LANES>: Copy {
    /// Depths that are read in one way.
    type Piece: Piece<WIDTH>;

    /// Those of some depths.
    fn part(self, depths: Range<usize>) -> Self;

    /// How many depths from `depth` on, of `left` at most, are in one piece.
    #[inline(always)]
    fn piece_length(&self, _depth: usize, left: usize) -> usize {
        left
    }

    /// The piece of these depths.
    fn piece(self, depths: Range<usize>) -> Self::Piece;
}

/// `WIDTH` columns over a few depths.
pub(crate) trait Piece<const WIDTH: usize = LANES> {
    /// Their elements at a depth of the piece.
    fn at(&self, depth: usize) -> [f32; WIDTH];
}

/// A panel that was packed: read from front to back.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a>(pub(crate) &'a [Line]);

/// Lines ahead that are asked for while one is worked with.
const AHEAD: usize = 16;

impl Panel for Packed<'_> {
    type Piece = Self;

    #[inline(always)]
    fn part(self, depths: Range<usize>) -> Self {
        Self(&self.0[depths])
    }

    #[inline(always)]
    fn piece(self, depths: Range<usize>) -> Self {
        self.part(depths)
    }
}

impl Piece for Packed<'_> {
    #[inline(always)]
    fn at(&self, depth: usize) -> [f32; LANES] {
        prefetch(self.0.as_ptr().wrapping_add(depth + AHEAD));
        self.0[depth].0
    }
}

/// Columns of two panels side by side.
pub(crate) const PAIR: usize = 2 * LANES;

/// Two panels that were packed. An element of a row that was read serves both, so that reading keeps up with AVX-512's
/// arithmetic, which has registers for the sums of twelve rows with both.
#[derive(Clone, Copy)]
pub(crate) struct PackedPair<'a>(pub(crate) [Packed<'a>; 2]);

impl Panel<PAIR> for PackedPair<'_> {
    type Piece = Self;

    #[inline(always)]
    fn part(self, depths: Range<usize>) -> Self {
        Self(self.0.map(|panel| panel.part(depths.clone())))
    }

    #[inline(always)]
    fn piece(self, depths: Range<usize>) -> Self {
        self.part(depths)
    }
}

impl Piece<PAIR> for PackedPair<'_> {
    #[inline(always)]
    fn at(&self, depth: usize) -> [f32; PAIR] {
        let mut columns = [0.0; PAIR];
        let (left, right) = columns.split_at_mut(LANES);
        left.copy_from_slice(&self.0[0].at(depth));
        right.copy_from_slice(&self.0[1].at(depth));
        columns
    }
}

/// A panel that lies in the rows of a matrix of whole rows.
#[derive(Clone, Copy)]
pub(crate) struct InRows<'a>(pub(crate) Matrix<'a>);

impl Panel for InRows<'_> {
    type Piece = Self;

    #[inline(always)]
    fn part(self, depths: Range<usize>) -> Self {
        Self(self.0.part(depths, 0..LANES))
    }

    #[inline(always)]
    fn piece(self, depths: Range<usize>) -> Self {
        self.part(depths)
    }
}

impl Piece for InRows<'_> {
    #[inline(always)]
    fn at(&self, depth: usize) -> [f32; LANES] {
        let mut columns = [0.0; LANES];
        columns.copy_from_slice(&self.0.row(depth)[..LANES]);
        columns
    }
}

/// Rows of the other factor.
pub(crate) trait Rows: Copy {
    /// `COUNT` of them.
    type Group<const COUNT: usize>: Group;

    /// Those from row `first` on, as far as the first `depth` depths go.
    fn group<const COUNT: usize>(self, first: usize, depth: usize) -> Self::Group<COUNT>;
}

/// Rows that are worked on together.
pub(crate) trait Group: Copy {
    /// Those at some depths.
    fn part(self, depths: Range<usize>) -> Self;

    /// The element of row `row` of the group at a depth.
    fn at(&self, row: usize, depth: usize) -> f32;
}

/// Whole rows, where they lie.
#[derive(Clone, Copy)]
pub(crate) struct Whole<'a>(pub(crate) Matrix<'a>);

#[derive(Clone, Copy)]
pub(crate) struct WholeGroup<'a, const COUNT: usize>([&'a [f32]; COUNT]);

impl<'a> Rows for Whole<'a> {
    type Group<const COUNT: usize> = WholeGroup<'a, COUNT>;

    #[inline(always)]
    fn group<const COUNT: usize>(self, first: usize, depth: usize) -> WholeGroup<'a, COUNT> {
        let mut rows: [&[f32]; COUNT] = [&[]; COUNT];
        for (index, row) in rows.iter_mut().enumerate() {
            *row = &self.0.row(first + index)[..depth];
        }
        WholeGroup(rows)
    }
}

impl<const COUNT: usize> Group for WholeGroup<'_, COUNT> {
    #[inline(always)]
    fn part(mut self, depths: Range<usize>) -> Self {
        for row in &mut self.0 {
            *row = &row[depths.clone()];
        }
        self
    }

    #[inline(always)]
    fn at(&self, row: usize, depth: usize) -> f32 {
        self.0[row][depth]
    }
}

/// Rows that were gathered: each group depth after depth, one group after another.
#[derive(Clone, Copy)]
pub(crate) struct Gathered<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) depth: usize,
}

#[derive(Clone, Copy)]
pub(crate) struct GatheredGroup<'a, const COUNT: usize>(&'a [[f32; COUNT]]);

impl<'a> Rows for Gathered<'a> {
    type Group<const COUNT: usize> = GatheredGroup<'a, COUNT>;

    #[inline(always)]
    fn group<const COUNT: usize>(self, first: usize, depth: usize) -> GatheredGroup<'a, COUNT> {
        GatheredGroup(&self.values[first * self.depth..].as_chunks().0[..depth])
    }
}

impl<const COUNT: usize> Group for GatheredGroup<'_, COUNT> {
    #[inline(always)]
    fn part(self, depths: Range<usize>) -> Self {
        Self(&self.0[depths])
    }

    #[inline(always)]
    fn at(&self, row: usize, depth: usize) -> f32 {
        self.0[depth][row]
    }
}

/// Rows of a group when `rows` are left and groups have at most `most`: few sizes, because each is code of its own.
#[inline(always)]
pub(crate) fn group_size(rows: usize, most: usize) -> usize {
    match rows {
        0 | 1 => 1,
        2 | 3 => 2,
        // Eight are two fours.
        4 | 5 | 8 => 4,
        12.. if most == 12 => 12,
        _ => 6,
    }
}

/// How many groups of the largest size [`group_size`] cuts from `rows` before any other.
#[inline(always)]
pub(crate) fn whole_groups(rows: usize, most: usize) -> usize {
    let groups = rows / most;
    // The last six of eight rows are not taken together.
    if most == 6 && rows % 6 == 2 && groups > 0 {
        groups - 1
    } else {
        groups
    }
}

/// Rows of the largest group: with the sums of six rows AVX2's registers are full, AVX-512 has twice as many of twice the
/// size.
pub(crate) fn largest_group() -> usize {
    match InstructionSet::best() {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => 12,
        _ => 6,
    }
}

/// Rows times a panel, each sum one (fused, where the processor can) multiply-add after another.
pub(crate) struct Tile<'a, R, P, const WIDTH: usize = LANES> {
    pub(crate) rows: R,
    pub(crate) panel: P,
    pub(crate) depth: usize,
    /// All rows, and at most `WIDTH` columns.
    pub(crate) to: MatrixMut<'a>,
    /// Whether the sums are added to what is there.
    pub(crate) add: bool,
    /// [`largest_group`].
    pub(crate) group: usize,
}

/// As many rows as there are indices, each with running sums in registers of its own: a loop over the rows would keep them
/// in memory, and a function might stay a call and be compiled for the baseline.
macro_rules! rows_times_panel {
    ($tile:ident, $first:ident, $count:literal: $($index:literal)*) => {{
        let depth = $tile.depth;
        let rows = $tile.rows.group::<$count>($first, depth);
        $(prefetch($tile.to.row($first + $index).as_ptr());)*
        let mut sums = [[0.0_f32; WIDTH]; $count];
        let mut start = 0;
        while start < depth {
            let length = $tile.panel.piece_length(start, depth - start);
            // Told how much there is, the compiler checks no index in the loop.
            let (rows, piece) = (rows.part(start..start + length), $tile.panel.piece(start..start + length));
            for depth in 0..length {
                let columns = piece.at(depth);
                $(
                    let factor = rows.at($index, depth);
                    for (sum, &column) in sums[$index].iter_mut().zip(&columns) {
                        *sum = multiply_add::<FUSED>(factor, column, *sum);
                    }
                )*
            }
            start += length;
        }
        $($tile.to.put($first + $index, $tile.add, sums[$index]);)*
    }};
}

impl<R: Rows, P: Panel<WIDTH>, const WIDTH: usize> Kernel for Tile<'_, R, P, WIDTH> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(mut self) {
        let [count, _] = self.to.shape();
        let mut first = 0;
        while first < count {
            let size = group_size(count - first, self.group);
            match size {
                1 => rows_times_panel!(self, first, 1: 0),
                2 => rows_times_panel!(self, first, 2: 0 1),
                4 => rows_times_panel!(self, first, 4: 0 1 2 3),
                6 => rows_times_panel!(self, first, 6: 0 1 2 3 4 5),
                _ => rows_times_panel!(self, first, 12: 0 1 2 3 4 5 6 7 8 9 10 11),
            }
            first += size;
        }
    }
}
