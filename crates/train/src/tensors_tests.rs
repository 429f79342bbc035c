use super::*;
use proptest::prelude::*;

fn sample() -> (BTreeMap<String, HostTensor>, BTreeMap<String, Scalar>) {
    let weight = HostTensor {
        shape: vec![2, 3],
        data: vec![1.0, -0.0, f32::MIN_POSITIVE / 2.0, f32::NAN, 5.5, 6.0],
    };
    let large = HostTensor {
        shape: vec![PIECE + 3],
        data: (0..PIECE + 3).map(|at| at as f32 * 0.1).collect(),
    };
    let empty = HostTensor {
        shape: vec![0, 4],
        data: vec![],
    };
    let tensors = [("weight", weight), ("large", large), ("empty", empty)];
    let scalars = [("steps", Scalar::U64(u64::MAX)), ("decay", Scalar::F64(0.1))];
    let own = |name: &str| name.to_owned();
    (
        tensors.into_iter().map(|(name, tensor)| (own(name), tensor)).collect(),
        scalars.into_iter().map(|(name, scalar)| (own(name), scalar)).collect(),
    )
}

fn written() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights.safetensors");
    let (tensors, scalars) = sample();
    write_tensors(&path, &tensors, &scalars).unwrap();
    (directory, path)
}

#[test]
fn every_bit_returns() {
    let (_directory, path) = written();
    let (tensors, _) = sample();
    let mut reader = TensorReader::open(&path).unwrap();
    for (name, tensor) in &tensors {
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&reader.take(name, &tensor.shape).unwrap()), bits(&tensor.data));
        assert_eq!(reader.take_any(name).unwrap().shape, tensor.shape);
    }
    assert_eq!(reader.take_u64("steps").unwrap(), u64::MAX);
    assert_eq!(reader.take_f64("decay").unwrap().to_bits(), 0.1f64.to_bits());
    reader.finish().unwrap();
}

#[test]
fn the_reference_implementation_reads_the_file() {
    let (_directory, path) = written();
    let bytes = std::fs::read(&path).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header % 8, 0);
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let weight = file.tensor("weight").unwrap();
    assert_eq!((weight.dtype(), weight.shape()), (Dtype::F32, &[2, 3][..]));
    assert_eq!(weight.data()[..4], 1.0f32.to_le_bytes());
    assert_eq!(file.len(), 5);
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    let ((_one, first), (_two, second)) = (written(), written());
    assert_eq!(std::fs::read(first).unwrap(), std::fs::read(second).unwrap());
}

#[test]
fn mismatches_name_file_and_tensor() {
    let (_directory, path) = written();
    let mut reader = TensorReader::open(&path).unwrap();
    for (error, words) in [
        (reader.take("bias", &[3]).unwrap_err(), "no tensor \"bias\""),
        (
            reader.take("weight", &[3, 2]).unwrap_err(),
            "has shape [2, 3], but [3, 2] is needed",
        ),
        (
            reader.take("steps", &[]).unwrap_err(),
            "has type U64, but F32 is needed",
        ),
        (reader.take_f64("steps").unwrap_err(), "has type U64, but F64 is needed"),
        (
            reader.take_u64("weight").unwrap_err(),
            "has type F32, but U64 is needed",
        ),
        (
            reader.finish().unwrap_err(),
            "no place for: decay, empty, large, steps, weight",
        ),
    ] {
        let message = error.to_string();
        assert!(
            message.contains(words) && message.contains("weights.safetensors"),
            "{message}"
        );
    }
}

#[test]
fn inconsistent_content_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.safetensors");
    let tensor = |shape: &[usize]| {
        BTreeMap::from([(
            "w".to_owned(),
            HostTensor {
                shape: shape.to_vec(),
                data: vec![1.0; 2],
            },
        )])
    };
    let none = BTreeMap::new();
    let scalar = |name: &str| BTreeMap::from([(name.to_owned(), Scalar::U64(1))]);
    for (tensors, scalars) in [
        (tensor(&[3]), none.clone()),
        (tensor(&[usize::MAX, 2]), none.clone()),
        (tensor(&[2]), scalar("w")),
        (tensor(&[2]), scalar("__metadata__")),
    ] {
        assert!(write_tensors(&path, &tensors, &scalars).is_err());
        assert!(!path.exists());
    }
}

#[test]
fn a_file_cut_anywhere_or_extended_is_refused() {
    let (_directory, path) = written();
    let whole = std::fs::read(&path).unwrap();
    for length in (0..2_000).chain([whole.len() - 1]) {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(
            matches!(TensorReader::open(&path), Err(TensorError::Invalid { .. })),
            "{length}"
        );
    }
    std::fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    assert!(matches!(TensorReader::open(&path), Err(TensorError::Invalid { .. })));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_nor_yield_tensors(mut bytes in prop::collection::vec(any::<u8>(), 0..200), honest in any::<bool>()) {
        if honest && bytes.len() > 8 {
            let header = (bytes.len() as u64 - 8).to_le_bytes();
            bytes[..8].copy_from_slice(&header);
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        prop_assert!(TensorReader::open(&path).map_or(true, |reader| reader.shapes().is_empty()));
    }

    #[test]
    fn a_lying_header_never_panics(
        shape in prop::collection::vec(any::<usize>(), 0..3), start in 0usize..20, end in any::<usize>(), data in 0usize..40,
    ) {
        let header = serde_json::json!({"w": {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}}).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(mut reader) = TensorReader::open(&path) {
            let tensor = reader.take_any("w").unwrap();
            prop_assert_eq!(tensor.data.len() * 4, data);
            prop_assert_eq!(tensor.shape.iter().product::<usize>(), tensor.data.len());
        }
    }
}
