//! From blocks of quantised values to f32.
//!
//! The layouts are ggml's (`ggml-common.h`, `block_q4_0` and its relatives); the arithmetic is that of
//! `gguf.quants.dequantize` of the PyPI package `gguf` 0.19.0, operation by operation in f32, so that the results agree
//! bit for bit. In short:
//!
//! | kind | values a block | value |
//! | --- | --- | --- |
//! | Q8_0 | 32 | q·d, q signed 8 bits |
//! | Q4_0, Q5_0 | 32 | d·(q - 8), d·(q - 16) |
//! | Q4_1, Q5_1 | 32 | d·q + m |
//! | Q4_K, Q5_K | 256 | (d·s)·q - (e·m), 6-bit s and m for each 32 values |
//! | Q6_K | 256 | (d·s)·(q - 32), signed 8-bit s for each 16 values |
//!
//! with d, m and e in half precision. The 32-value kinds keep value i in the low half of byte i and value i + 16 in the
//! high half.

use half::{bf16, f16};
use rayon::prelude::*;

use super::TensorKind;

/// Blocks per piece of work for a thread.
const PIECE: usize = 256;

/// The values of `bytes`, which are whole blocks of `kind`; `None` for a kind that is not converted here.
pub(super) fn dequantize(kind: TensorKind, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match kind {
        TensorKind::F32 => blocks(bytes, |word, out: &mut [f32; 1]| *out = [f32::from_le_bytes(*word)]),
        TensorKind::F16 => blocks(bytes, |word, out: &mut [f32; 1]| *out = [half_precision(*word)]),
        TensorKind::BF16 => blocks(bytes, |word, out: &mut [f32; 1]| {
            *out = [bf16::from_le_bytes(*word).to_f32()];
        }),
        TensorKind::Q8_0 => blocks(bytes, q8_0),
        TensorKind::Q4_0 => blocks(bytes, q4_0),
        TensorKind::Q4_1 => blocks(bytes, q4_1),
        TensorKind::Q5_0 => blocks(bytes, q5_0),
        TensorKind::Q5_1 => blocks(bytes, q5_1),
        TensorKind::Q4K => blocks(bytes, q4_k),
        TensorKind::Q5K => blocks(bytes, q5_k),
        TensorKind::Q6K => blocks(bytes, q6_k),
        _ => return None,
    })
}

/// Converts block by block, pieces of blocks in parallel.
fn blocks<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    convert: impl Fn(&[u8; BYTES], &mut [f32; VALUES]) + Sync,
) -> Vec<f32> {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let mut values = vec![0.0; blocks.len() * VALUES];
    let (rows, _) = values.as_chunks_mut::<VALUES>();
    // Single numbers are blocks of one value: pieces hold as many values whatever the kind.
    let piece = PIECE * (256 / VALUES);
    rows.par_chunks_mut(piece)
        .zip(blocks.par_chunks(piece))
        .for_each(|(rows, blocks)| {
            for (row, block) in rows.iter_mut().zip(blocks) {
                convert(block, row);
            }
        });
    values
}

fn half_precision(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// Calls `put(i, q)` for the 32 values of 16 bytes of 4 bits each.
fn nibbles(bytes: &[u8], mut put: impl FnMut(usize, u8)) {
    for (i, byte) in bytes.iter().enumerate() {
        put(i, byte & 0x0f);
        put(i + 16, byte >> 4);
    }
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let [a, b, values @ ..] = block;
    let d = half_precision([*a, *b]);
    for (out, value) in out.iter_mut().zip(values) {
        *out = f32::from(value.cast_signed()) * d;
    }
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let [a, b, values @ ..] = block;
    let d = half_precision([*a, *b]);
    nibbles(values, |i, q| out[i] = d * (f32::from(q) - 8.0));
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let [a, b, c, e, values @ ..] = block;
    let (d, m) = (half_precision([*a, *b]), half_precision([*c, *e]));
    nibbles(values, |i, q| out[i] = d * f32::from(q) + m);
}

/// The fifth bit of value i, in its place.
fn fifth_bit(high: u32, i: usize) -> u8 {
    ((high >> i & 1) << 4) as u8
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let [a, b, h0, h1, h2, h3, values @ ..] = block;
    let d = half_precision([*a, *b]);
    let high = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
    nibbles(values, |i, q| out[i] = d * (f32::from(q | fifth_bit(high, i)) - 16.0));
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let [a, b, c, e, h0, h1, h2, h3, values @ ..] = block;
    let (d, m) = (half_precision([*a, *b]), half_precision([*c, *e]));
    let high = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
    nibbles(values, |i, q| out[i] = d * f32::from(q | fifth_bit(high, i)) + m);
}

/// The eight 6-bit scales and the eight 6-bit minima of the 4- and 5-bit K kinds: the first four of each lie in the
/// low six bits of bytes 0..4 and 4..8; of the others, the low four bits lie in bytes 8..12 (scales in the low half,
/// minima in the high) and the top two in the top two bits of bytes 0..4 and 4..8.
fn scales_and_minima(bytes: &[u8; 12]) -> [(f32, f32); 8] {
    std::array::from_fn(|j| {
        let (scale, minimum) = if j < 4 {
            (bytes[j] & 0x3f, bytes[j + 4] & 0x3f)
        } else {
            (
                bytes[j + 4] & 0x0f | bytes[j - 4] >> 2 & 0x30,
                bytes[j + 4] >> 4 | bytes[j] >> 2 & 0x30,
            )
        };
        (f32::from(scale), f32::from(minimum))
    })
}

/// The 4- and 5-bit K kinds: in each 64 values, the first 32 are the low halves of 32 bytes, the rest the high halves.
/// `high(i, group)` is the fifth bit of value i of a group of 32, in its place.
fn q45_k(d: f32, e: f32, scales: &[u8; 12], values: &[u8], out: &mut [f32; 256], high: impl Fn(usize, usize) -> u8) {
    let scales = scales_and_minima(scales);
    let (groups, _) = out.as_chunks_mut::<32>();
    for (group, (out, (scale, minimum))) in groups.iter_mut().zip(scales).enumerate() {
        let (d, m) = (d * scale, e * minimum);
        let bytes = &values[group / 2 * 32..][..32];
        for (i, (out, byte)) in out.iter_mut().zip(bytes).enumerate() {
            let q = if group % 2 == 0 { byte & 0x0f } else { byte >> 4 };
            *out = d * f32::from(q | high(i, group)) - m;
        }
    }
}

/// The two half-precision numbers and the packed scales that the 4- and 5-bit K kinds start with.
fn q45_k_head(block: &[u8]) -> (f32, f32, [u8; 12]) {
    let mut scales = [0; 12];
    scales.copy_from_slice(&block[4..16]);
    let d = half_precision([block[0], block[1]]);
    (d, half_precision([block[2], block[3]]), scales)
}

fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, e, scales) = q45_k_head(block);
    q45_k(d, e, &scales, &block[16..], out, |_, _| 0);
}

fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, e, scales) = q45_k_head(block);
    let (high, values) = block[16..].split_at(32);
    q45_k(d, e, &scales, values, out, |i, group| (high[i] >> group & 1) << 4);
}

/// 128 bytes of low four bits, 64 of high two bits, 16 signed scales, then d. In each 128 values, four runs of 32 take
/// the low halves of bytes 0..32 and 32..64, then their high halves; run r has its high bits at 2r of 32 bytes.
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_precision([block[208], block[209]]);
    let (runs, _) = out.as_chunks_mut::<32>();
    for (run, out) in runs.iter_mut().enumerate() {
        let (half, r) = (run / 4, run % 4);
        let low = &block[64 * half + 32 * (r % 2)..][..32];
        let high = &block[128 + 32 * half..][..32];
        for (i, out) in out.iter_mut().enumerate() {
            let low = if r < 2 { low[i] & 0x0f } else { low[i] >> 4 };
            let q = low | (high[i] >> (2 * r) & 3) << 4;
            let scale = block[192 + 2 * run + i / 16].cast_signed();
            *out = d * f32::from(scale) * (f32::from(q) - 32.0);
        }
    }
}

#[cfg(test)]
#[path = "dequantize_tests.rs"]
mod tests;
