use proptest::prelude::*;

use super::*;

/// One block: bytes i·37 + 11 modulo 256, with the half-precision numbers .5 and -.25 at `halves`.
fn block(kind: TensorKind, halves: &[usize]) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..kind.bytes_per_block())
        .map(|i| ((i * 37 + 11) % 256) as u8)
        .collect();
    for (at, value) in halves.iter().zip([0.5, -0.25]) {
        bytes[*at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
    }
    bytes
}

/// The numbers are from gguf 0.19.0:
///
/// ```python
/// halves = {T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q4_K: [0, 2], T.Q5_K: [0, 2],
///           T.Q6_K: [208]}                                    # T is gguf.GGMLQuantizationType
/// for kind, places in halves.items():
///     n, size = gguf.GGML_QUANT_SIZES[kind]
///     b = np.array([(i * 37 + 11) % 256 for i in range(size)], np.uint8)
///     for at, value in zip(places, [.5, -.25]):
///         b[at:at + 2] = np.array([value], np.float16).view(np.uint8)
///     y = gguf.quants.dequantize(b.reshape(1, -1), kind).ravel()
///     print([y[i] for i in (0, 1, 15, 16, 31, n // 2, n - 1)], (np.arange(1, n + 1) * y.astype(float)).sum(), y.sum())
/// ```
#[test]
fn blocks_have_the_values_of_the_reference() {
    for (kind, halves, values, weighted, sum) in [
        (
            TensorKind::Q8_0,
            &[0][..],
            [42.5, 61.0, -64.0, -45.5, -24.0, -45.5, -24.0],
            -4040.0,
            -88.0,
        ),
        (
            TensorKind::Q4_0,
            &[0],
            [-1.5, 1.0, -4.0, -1.5, 0.0, -1.5, 0.0],
            -259.0,
            -10.5,
        ),
        (
            TensorKind::Q4_1,
            &[0, 2],
            [7.25, 1.75, 4.75, 4.25, 5.75, 4.25, 5.75],
            1859.5,
            114.5,
        ),
        (TensorKind::Q5_0, &[0], [4.5, -1.0, -6.0, 7.0, 0.5, 7.0, 0.5], 56.0, 7.5),
        (
            TensorKind::Q5_1,
            &[0, 2],
            [9.25, 11.75, 14.75, 9.25, 2.25, 9.25, 2.25],
            3818.5,
            244.5,
        ),
        (
            TensorKind::Q4K,
            &[0, 2],
            [183.25, 12.75, 105.75, 183.25, 105.75, 217.5, 41.75],
            4_262_132.0,
            31444.0,
        ),
        (
            TensorKind::Q5K,
            &[0, 2],
            [431.25, 12.75, 105.75, 431.25, 105.75, 529.5, 71.75],
            8_489_436.0,
            62332.0,
        ),
        (
            TensorKind::Q6K,
            &[208],
            [-715.5, 848.0, -159.0, -216.0, -48.0, -175.5, -30.0],
            392_210.0,
            2306.0,
        ),
    ] {
        let found = dequantize(kind, &block(kind, halves)).unwrap();
        let n = kind.values_per_block();
        assert_eq!(found.len(), n);
        let picked = [0, 1, 15, 16, 31, n / 2, n - 1].map(|i| found[i]);
        assert_eq!(picked, values, "{kind}");
        let found_weighted: f64 = found
            .iter()
            .enumerate()
            .map(|(i, y)| (i + 1) as f64 * f64::from(*y))
            .sum();
        assert_eq!(found_weighted, weighted, "{kind}");
        assert_eq!(found.iter().sum::<f32>(), sum, "{kind}");
    }
}

#[test]
fn numbers_of_16_bits_become_the_same_in_32() {
    let halves: Vec<u8> = [0x3c00u16, 0xc000, 0x7bff, 0x0001, 0x8000, 0x7c00]
        .iter()
        .flat_map(|h| h.to_le_bytes())
        .collect();
    let values = dequantize(TensorKind::F16, &halves).unwrap();
    assert_eq!(values, [1.0, -2.0, 65504.0, 2f32.powi(-24), 0.0, f32::INFINITY]);
    let upper: Vec<u8> = [0x3f80u16, 0xc049].iter().flat_map(|h| h.to_le_bytes()).collect();
    assert_eq!(dequantize(TensorKind::BF16, &upper).unwrap(), [1.0, -3.140625]);
}

proptest! {
    /// Pieces of work for threads do not show: a block is the same among many as alone.
    #[test]
    fn a_block_does_not_depend_on_its_neighbours(bytes in proptest::collection::vec(any::<u8>(), 20..20_000)) {
        let kind = TensorKind::Q4_1;
        let bytes = &bytes[..bytes.len() / 20 * 20];
        let together = dequantize(kind, bytes).unwrap();
        for (block, values) in bytes.chunks(20).zip(together.chunks(32)) {
            let alone = dequantize(kind, block).unwrap();
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
            prop_assert_eq!(bits(&alone), bits(values));
        }
    }
}
