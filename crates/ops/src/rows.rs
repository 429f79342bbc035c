//! Writing rows of a tensor in place, as a cache of keys and values needs it.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Slice, Tensor};

use crate::cpu::buffer::{self, all_f32, contiguous};

/// `buffer` with its rows `rows` replaced by those of `values`, in place when nobody else holds it.
///
/// Not differentiable: pass tensors without automatic differentiation.
///
/// # Shapes
///
/// - `buffer` and result: `[capacity, width]`
/// - `rows`: as many as `values` has, each below `capacity`
/// - `values`: `[rows, width]`
///
/// # Panics
///
/// When the shapes do not fit.
pub fn put_rows(buffer: Tensor<2>, rows: &[usize], values: Tensor<2>) -> Tensor<2> {
    let [capacity, width] = buffer.dims();
    assert_eq!(
        values.dims(),
        [rows.len(), width],
        "put_rows: a row of values for each row"
    );
    assert!(
        rows.iter().all(|&row| row < capacity),
        "put_rows: rows lie within the {capacity} of the buffer"
    );
    Tensor::from_dispatch(<Dispatch as RowOps>::put_rows(
        buffer.into_dispatch(),
        rows.to_vec(),
        values.into_dispatch(),
    ))
}

/// [`put_rows`] as a backend provides it.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait RowOps: Backend {
    /// Replaces rows.
    fn put_rows(buffer: FloatTensor<Self>, rows: Vec<usize>, values: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::<Self>(buffer, &rows, values)
    }
}

/// The default body: runs of consecutive rows are assigned as slices.
fn portable<B: Backend>(mut buffer: FloatTensor<B>, rows: &[usize], values: FloatTensor<B>) -> FloatTensor<B> {
    let mut start = 0;
    for run in rows.chunk_by(|a, b| a + 1 == *b) {
        let from = [Slice::from(start..start + run.len()), Slice::full()];
        let to = [Slice::from(run[0]..run[0] + run.len()), Slice::full()];
        buffer = B::float_slice_assign(buffer, &to, B::float_slice(values.clone(), &from));
        start += run.len();
    }
    buffer
}

impl RowOps for Flex {
    fn put_rows(buffer: FlexTensor, rows: Vec<usize>, values: FlexTensor) -> FlexTensor {
        if !all_f32(&[&buffer, &values]) {
            return portable::<Self>(buffer, &rows, values);
        }
        let width = buffer.shape()[1];
        let (mut buffer, values) = (contiguous(buffer), contiguous(values));
        // `storage_mut` copies what somebody else holds too.
        let to = buffer.storage_mut::<f32>();
        for (row, values) in rows.iter().zip(buffer::values(&values).chunks_exact(width.max(1))) {
            to[row * width..][..width].copy_from_slice(values);
        }
        buffer
    }
}

impl<B: RowOps, C: CheckpointStrategy> RowOps for Autodiff<B, C> {}

#[cfg(test)]
mod tests {
    use burn::backend::flex::FlexTensor;

    use super::*;
    use crate::testing::{random, values};

    #[test]
    fn rows_are_replaced_and_others_stay() {
        let (buffer, new) = (random(1, [6, 3]), random(2, [4, 3]));
        let rows = vec![4, 1, 2, 0];
        let mut expected = values(&buffer);
        for (row, new) in rows.iter().zip(values(&new).chunks(3)) {
            expected[row * 3..row * 3 + 3].copy_from_slice(new);
        }
        let results: [FlexTensor; 2] = [
            <Flex as RowOps>::put_rows(buffer.clone(), rows.clone(), new.clone()),
            portable::<Flex>(buffer.clone(), &rows, new.clone()),
        ];
        for result in &results {
            assert_eq!(values(result), expected);
        }
        // The original, which somebody still holds, is untouched.
        assert_eq!(values(&buffer), values(&random(1, [6, 3])));
    }
}
