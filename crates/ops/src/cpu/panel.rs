//! Products of few rows with weights that lie in panels.
//!
//! A panel holds [`LANES`] columns of a weight, depth after depth, so a product reads it once from front to back, which is
//! all that it can do where each weight meets few rows: decoding is bound by memory. An element is summed up in the order
//! of [`super::product`], so weights in single precision give its very bits.

use std::ops::Range;

use super::matrix::{Matrix, MatrixMut};
use super::product::blocks;
use super::tile::{self, Line, Packed, Tile, Whole, largest_group};
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
    #[inline(always)]
    fn part(self, depths: Range<usize>) -> Self {
        Self(&self.0[depths])
    }

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

impl tile::Panel for EightBit<'_> {
    #[inline(always)]
    fn part(self, depths: Range<usize>) -> Self {
        Self {
            scales: &self.scales[depths.start / SCALED..],
            offset: depths.start % SCALED,
            values: &self.values[depths],
        }
    }

    #[inline(always)]
    fn at(&self, depth: usize) -> [f32; LANES] {
        let (values, scales) = (&self.values[depth], &self.scales[(self.offset + depth) / SCALED]);
        let mut numbers = [0.0; LANES];
        for (lane, number) in numbers.iter_mut().enumerate() {
            *number = f32::from(values[lane]) * widened(scales[lane]);
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

fn product(x: Matrix<'_>, panel: impl tile::Panel, mut to: MatrixMut<'_>) {
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
        for (depth, to) in self.to.iter_mut().enumerate() {
            to.0 = self.numbers.at(depth);
        }
    }
}
