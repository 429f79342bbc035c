//! Products of few rows with weights that lie in panels.
//!
//! A panel holds [`LANES`] columns of a weight, depth after depth, so a product reads it once from front to back, which is
//! all that it can do where each weight meets few rows: decoding is bound by memory. An element is summed up in the order
//! of [`super::product`], so weights in single precision give its very bits.

use std::ops::Range;

use super::matrix::{Matrix, MatrixMut};
use super::product::{PAIRED, blocks};
use super::tile::{self, Line, Packed, PackedPair, Piece, Tile, Whole, largest_group};
use super::vector::{self, Kernel, LANES};

/// Depths that share a scale.
pub(crate) const SCALED: usize = 32;

/// From so many rows on, what a panel holds is unpacked once and not for each few rows.
const MANY: usize = 13;

/// The numbers of a panel's `depth` rows of [`LANES`], as they are held.
#[derive(Clone, Copy)]
pub(crate) enum Panel<'a> {
    Single(&'a [Line]),
    Bfloat16(&'a [[u16; LANES]]),
    /// With a scale for each [`SCALED`] depths.
    EightBit(&'a [[i8; LANES]], &'a [[u16; LANES]]),
}

#[derive(Clone, Copy)]
struct Bfloat16<'a>(&'a [[u16; LANES]]);

/// A bfloat16 is the upper half of an f32.
#[inline(always)]
pub(crate) fn widened(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

impl tile::Panel for Bfloat16<'_> {
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

impl Piece for Bfloat16<'_> {
    #[inline(always)]
    fn at(&self, depth: usize) -> [f32; LANES] {
        self.0[depth].map(widened)
    }
}

#[derive(Clone, Copy)]
struct EightBit<'a> {
    values: &'a [[i8; LANES]],
    scales: &'a [[u16; LANES]],
    /// How many depths into a block of [`SCALED`] the part starts.
    offset: usize,
}

/// Depths that share their scales.
struct Scaled<'a> {
    values: &'a [[i8; LANES]],
    scales: [f32; LANES],
}

impl<'a> tile::Panel for EightBit<'a> {
    type Piece = Scaled<'a>;

    #[inline(always)]
    fn part(self, depths: Range<usize>) -> Self {
        let start = self.offset + depths.start;
        Self {
            scales: &self.scales[start / SCALED..],
            offset: start % SCALED,
            values: &self.values[depths],
        }
    }

    #[inline(always)]
    fn piece_length(&self, depth: usize, left: usize) -> usize {
        left.min(SCALED - (self.offset + depth) % SCALED)
    }

    #[inline(always)]
    fn piece(self, depths: Range<usize>) -> Scaled<'a> {
        Scaled {
            scales: self.scales[(self.offset + depths.start) / SCALED].map(widened),
            values: &self.values[depths],
        }
    }
}

impl Piece for Scaled<'_> {
    #[inline(always)]
    fn at(&self, depth: usize) -> [f32; LANES] {
        let mut numbers = [0.0; LANES];
        for ((number, &value), scale) in numbers.iter_mut().zip(&self.values[depth]).zip(self.scales) {
            *number = f32::from(value) * scale;
        }
        numbers
    }
}

/// Writes the products of all rows of `x` with the panel's columns.
pub(crate) fn multiply(x: Matrix<'_>, panel: Panel<'_>, to: MatrixMut<'_>, unpacked: &mut Vec<Line>) {
    match panel {
        Panel::Single(lines) => product(x, Packed(lines), to),
        Panel::Bfloat16(values) => lower(x, Bfloat16(values), to, unpacked),
        Panel::EightBit(values, scales) => {
            let offset = 0;
            lower(x, EightBit { values, scales, offset }, to, unpacked);
        }
    }
}

/// Two panels side by side, if the processor has registers for the sums of both.
pub(crate) fn pair<'a>(panels: [Panel<'a>; 2]) -> Option<[&'a [Line]; 2]> {
    match panels {
        [Panel::Single(left), Panel::Single(right)] if largest_group() == PAIRED => Some([left, right]),
        _ => None,
    }
}

/// Writes the products of all rows of `x` with the columns of a [`pair`]: the bits that [`multiply`] gives one by one.
pub(crate) fn multiply_pair(x: Matrix<'_>, panels: [&[Line]; 2], to: MatrixMut<'_>) {
    product(x, PackedPair(panels.map(Packed)), to);
}

/// The same with numbers of less than single precision.
fn lower(x: Matrix<'_>, numbers: impl tile::Panel, to: MatrixMut<'_>, unpacked: &mut Vec<Line>) {
    if x.rows() < MANY {
        product(x, numbers, to);
    } else {
        unpacked.resize(x.columns(), Line::default());
        vector::run(Unpack { numbers, to: unpacked });
        product(x, Packed(unpacked), to);
    }
}

fn product<const WIDTH: usize>(x: Matrix<'_>, panel: impl tile::Panel<WIDTH>, mut to: MatrixMut<'_>) {
    for depths in blocks(x.columns()) {
        let add = depths.start > 0;
        let to = to.reborrow();
        // SAFETY: what is added to was written by the block before.
        #[expect(unsafe_code, reason = "blocks of the depth one after another")]
        let to = if add { unsafe { to.assume_written() } } else { to };
        vector::run(Tile {
            rows: Whole(x.part(0..x.rows(), depths.clone())),
            depth: depths.len(),
            panel: panel.part(depths),
            to,
            add,
            group: largest_group(),
        });
    }
}

/// A panel's numbers in single precision.
struct Unpack<'a, N> {
    numbers: N,
    to: &'a mut [Line],
}

impl<N: tile::Panel> Kernel for Unpack<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let mut start = 0;
        while start < self.to.len() {
            let length = self.numbers.piece_length(start, self.to.len() - start);
            let piece = self.numbers.piece(start..start + length);
            for (depth, to) in self.to[start..start + length].iter_mut().enumerate() {
                to.0 = piece.at(depth);
            }
            start += length;
        }
    }
}
