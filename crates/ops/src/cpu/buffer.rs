//! From tensors to slices and back, and work spread over threads in fixed blocks.

use std::mem::MaybeUninit;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Shape, TensorData};
use rayon::prelude::*;

/// Elements of an elementwise pass that one task handles: two 64 KiB streams, some ten microseconds.
pub(crate) const ELEMENT_BLOCK: usize = 16 * 1024;

/// Whether every tensor holds f32, the one type that has fused bodies; any other takes the portable ones.
pub(crate) fn all_f32(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// The same values in row-major order without gaps; no copy when they are so already, and then still the only owner
/// of their storage if they were before.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    tensor.to_contiguous()
}

/// The values of a tensor that [`contiguous`] has seen.
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    let length = tensor.shape().num_elements();
    &tensor.storage::<f32>()[..length]
}

/// A tensor of `values` in row-major order.
pub(crate) fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// A vector that `fill` writes, without zeroing it first: fresh pages cost as much as the arithmetic does.
///
/// # Safety
///
/// `fill` must write every element.
#[expect(unsafe_code, reason = "skips zeroing memory that is written right after")]
pub(crate) unsafe fn written(length: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = Vec::with_capacity(length);
    fill(&mut values.spare_capacity_mut()[..length]);
    // SAFETY: the capacity is at least `length`, and the caller vouches that `fill` wrote that many elements.
    unsafe { values.set_len(length) };
    values
}

/// Calls `work(index, block)` for each block of `block` elements, in parallel when there are several.
///
/// The blocks do not depend on the number of threads.
pub(crate) fn for_each_block<T: Send>(values: &mut [T], block: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    if values.len() <= block {
        if !values.is_empty() {
            work(0, values);
        }
    } else {
        values
            .par_chunks_mut(block)
            .enumerate()
            .for_each(|(index, block)| work(index, block));
    }
}

/// As [`for_each_block`] over two slices in step, each with its own block length.
pub(crate) fn for_each_block_pair<T: Send, U: Send>(
    (first, first_block): (&mut [T], usize),
    (second, second_block): (&mut [U], usize),
    work: impl Fn(usize, &mut [T], &mut [U]) + Sync,
) {
    if first.len() <= first_block {
        if !first.is_empty() {
            work(0, first, second);
        }
    } else {
        first
            .par_chunks_mut(first_block)
            .zip(second.par_chunks_mut(second_block))
            .enumerate()
            .for_each(|(index, (first, second))| work(index, first, second));
    }
}

/// As [`for_each_block`] over three slices in step, each with its own block length.
pub(crate) fn for_each_block_triple<T: Send, U: Send, V: Send>(
    (first, first_block): (&mut [T], usize),
    (second, second_block): (&mut [U], usize),
    (third, third_block): (&mut [V], usize),
    work: impl Fn(usize, &mut [T], &mut [U], &mut [V]) + Sync,
) {
    if first.len() <= first_block {
        if !first.is_empty() {
            work(0, first, second, third);
        }
    } else {
        first
            .par_chunks_mut(first_block)
            .zip(second.par_chunks_mut(second_block))
            .zip(third.par_chunks_mut(third_block))
            .enumerate()
            .for_each(|(index, ((first, second), third))| work(index, first, second, third));
    }
}
