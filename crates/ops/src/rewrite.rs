//! Tensors whose values are replaced block by block: in place where nobody else holds them.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

use crate::cpu::buffer::{self, ELEMENT_BLOCK, contiguous, for_each_block_pair};

/// The elements of whole rows that one task handles: as many as make up about [`ELEMENT_BLOCK`].
pub(crate) fn row_block(width: usize) -> usize {
    let width = width.max(1);
    (ELEMENT_BLOCK / width).max(1) * width
}

/// The tensor after `work(index, block)` has replaced the values of each block of `block` elements.
///
/// When somebody else holds the tensor, each block is copied to a new one right before the work on it, which finds it
/// in the cache. Either way there is one pass over memory.
pub(crate) fn rewrite(tensor: FlexTensor, block: usize, work: impl Fn(usize, &mut [f32]) + Sync) -> FlexTensor {
    // Nothing, for each block.
    let mut nothing = vec![(); tensor.shape().num_elements().div_ceil(block)];
    rewrite_pair(tensor, block, (&mut nothing, 1), |index, values, _| work(index, values))
}

/// As [`rewrite`], with a second slice in step that has its own block length.
pub(crate) fn rewrite_pair<T: Send>(
    tensor: FlexTensor,
    block: usize,
    second: (&mut [T], usize),
    work: impl Fn(usize, &mut [f32], &mut [T]) + Sync,
) -> FlexTensor {
    let mut tensor = contiguous(tensor);
    if tensor.is_unique() {
        for_each_block_pair((tensor.storage_mut::<f32>(), block), second, work);
        return tensor;
    }
    let values = buffer::values(&tensor);
    // SAFETY: every block is copied in full.
    #[expect(unsafe_code, reason = "skips zeroing")]
    let rewritten = unsafe {
        buffer::written(values.len(), |rewritten| {
            for_each_block_pair((rewritten, block), second, |index, rewritten, second| {
                let values = &values[index * block..][..rewritten.len()];
                work(index, rewritten.write_copy_of_slice(values), second);
            });
        })
    };
    buffer::tensor(rewritten, tensor.shape())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{random, strided, values};

    #[test]
    fn values_are_replaced_in_place_unless_somebody_holds_them() {
        let expected: Vec<f32> = values(&random(1, [7, 3]))
            .iter()
            .enumerate()
            .map(|(index, x)| x + (index / 6) as f32)
            .collect();
        let add = |tensor| {
            rewrite(tensor, 6, |index, values| {
                for value in values {
                    *value += index as f32;
                }
            })
        };
        let alone = random(1, [7, 3]);
        let address = alone.storage::<f32>().as_ptr();
        let rewritten = add(alone);
        assert_eq!(values(&rewritten), expected);
        assert_eq!(rewritten.storage::<f32>().as_ptr(), address);

        let held = random(1, [7, 3]);
        assert_eq!(values(&add(held.clone())), expected);
        assert_eq!(values(&held), values(&random(1, [7, 3])));
        assert_eq!(values(&add(strided(&held))), expected);
        assert!(values(&add(random(1, [0, 3]))).is_empty());
    }
}
