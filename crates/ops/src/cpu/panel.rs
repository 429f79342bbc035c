//! Products of few rows with weights that lie in panels.
//!
//! A panel holds [`LANES`] columns of a weight, depth after depth, so a product reads it once from front to back, which is
//! all that it can do where each weight meets few rows: decoding is bound by memory. An element is summed up in the order
//! of [`super::product`], so weights in single precision give its very bits.

use std::ops::Range;

use super::product::blocks;
use super::vector::{self, Kernel, LANES, multiply_add};

/// Depths that share a scale.
pub(crate) const SCALED: usize = 32;

/// From so many rows on, what a panel holds is unpacked once and not for each few rows.
const MANY: usize = 13;

/// The numbers of a panel's `depth` rows of [`LANES`], as they are held.
#[derive(Clone, Copy)]
pub(crate) enum Panel<'a> {
    Single(&'a [[f32; LANES]]),
    Bfloat16(&'a [[u16; LANES]]),
    /// With a scale for each [`SCALED`] depths.
    EightBit(&'a [[i8; LANES]], &'a [[u16; LANES]]),
}

/// Numbers that are unpacked as they are read.
trait Numbers: Copy {
    fn part(self, depths: Range<usize>) -> Self;

    /// Those at a depth of the part.
    fn at(&self, depth: usize) -> [f32; LANES];
}

#[derive(Clone, Copy)]
struct Single<'a>(&'a [[f32; LANES]]);

impl Numbers for Single<'_> {
    #[inline(always)]
    fn part(self, depths: Range<usize>) -> Self {
        Self(&self.0[depths])
    }

    #[inline(always)]
    fn at(&self, depth: usize) -> [f32; LANES] {
        self.0[depth]
    }
}

#[derive(Clone, Copy)]
struct Bfloat16<'a>(&'a [[u16; LANES]]);

/// A bfloat16 is the upper half of an f32.
#[inline(always)]
pub(crate) fn widened(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

impl Numbers for Bfloat16<'_> {
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

impl Numbers for EightBit<'_> {
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

/// Writes the products of all rows of `x`, each `depth` long, with the panel's columns to `to`, row after row.
pub(crate) fn multiply(
    x: &[f32],
    depth: usize,
    panel: Panel<'_>,
    to: &mut [[f32; LANES]],
    unpacked: &mut Vec<[f32; LANES]>,
) {
    match panel {
        Panel::Single(values) => vector::run(Product {
            x,
            depth,
            numbers: Single(values),
            to,
        }),
        Panel::Bfloat16(values) if to.len() < MANY => vector::run(Product {
            x,
            depth,
            numbers: Bfloat16(values),
            to,
        }),
        Panel::EightBit(values, scales) if to.len() < MANY => {
            let numbers = EightBit {
                values,
                scales,
                offset: 0,
            };
            vector::run(Product { x, depth, numbers, to });
        }
        Panel::Bfloat16(values) => {
            vector::run(Unpack {
                numbers: Bfloat16(values),
                depth,
                to: unpacked,
            });
            vector::run(Product {
                x,
                depth,
                numbers: Single(unpacked),
                to,
            });
        }
        Panel::EightBit(values, scales) => {
            vector::run(Unpack {
                numbers: EightBit {
                    values,
                    scales,
                    offset: 0,
                },
                depth,
                to: unpacked,
            });
            vector::run(Product {
                x,
                depth,
                numbers: Single(unpacked),
                to,
            });
        }
    }
}

/// A panel's numbers in single precision.
struct Unpack<'a, N> {
    numbers: N,
    depth: usize,
    to: &'a mut Vec<[f32; LANES]>,
}

impl<N: Numbers> Kernel for Unpack<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        self.to.resize(self.depth, [0.0; LANES]);
        for (depth, to) in self.to.iter_mut().enumerate() {
            *to = self.numbers.at(depth);
        }
    }
}

struct Product<'a, N> {
    x: &'a [f32],
    depth: usize,
    numbers: N,
    to: &'a mut [[f32; LANES]],
}

/// The products of as many rows as there are indices, each with running sums in registers of its own: a loop over the
/// rows would keep them in memory, and a function might stay a call and be compiled for the baseline.
macro_rules! rows_times_panel {
    ($product:ident, $x:ident, $numbers:ident, $depths:ident, $to:ident, $count:literal: $($index:literal)*) => {{
        let rows: [&[f32]; $count] = [$(&$x[$index * $product.depth..][$depths.clone()]),*];
        let mut sums = [[0.0_f32; LANES]; $count];
        for depth in 0..$depths.len() {
            let numbers = $numbers.at(depth);
            $(
                let factor = rows[$index][depth];
                for (sum, &number) in sums[$index].iter_mut().zip(&numbers) {
                    *sum = multiply_add::<FUSED>(factor, number, *sum);
                }
            )*
        }
        for (to, sums) in $to.iter_mut().zip(&sums) {
            for (to, &sum) in to.iter_mut().zip(sums) {
                *to = if $depths.start == 0 { sum } else { *to + sum };
            }
        }
    }};
}

impl<N: Numbers> Kernel for Product<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for depths in blocks(self.depth) {
            let numbers = self.numbers.part(depths.clone());
            let (mut x, mut to) = (self.x, &mut *self.to);
            while !to.is_empty() {
                let count = match to.len() {
                    1 => 1,
                    2 | 3 => 2,
                    // Eight are two fours.
                    4 | 5 | 8 => 4,
                    _ => 6,
                };
                let (now, later) = to.split_at_mut(count);
                match count {
                    1 => rows_times_panel!(self, x, numbers, depths, now, 1: 0),
                    2 => rows_times_panel!(self, x, numbers, depths, now, 2: 0 1),
                    4 => rows_times_panel!(self, x, numbers, depths, now, 4: 0 1 2 3),
                    _ => rows_times_panel!(self, x, numbers, depths, now, 6: 0 1 2 3 4 5),
                }
                x = &x[count * self.depth..];
                to = later;
            }
        }
    }
}
