use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

fn content(bytes: Vec<u8>) -> Content {
    Content {
        path: PathBuf::from("array.npy"),
        bytes,
    }
}

/// A file of version 1 with this header and these data.
fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = b"\x93NUMPY\x01\0".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

fn header(descr: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n")
}

/// The bytes of `io.BytesIO` after `numpy.save(file, numpy.arange(3, dtype='<f4').reshape(3, 1))`, NumPy 2.4.
#[test]
fn numpys_own_bytes_are_read_and_written() {
    let mut expected = b"\x93NUMPY\x01\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1), }".to_vec();
    expected.resize(127, b' ');
    expected.push(b'\n');
    expected.extend([0, 0, 0, 0, 0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.npy");
    write_f32(&path, &[3, 1], &[0.0, 1.0, 2.0]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), expected);
    let array = read(&path).unwrap();
    assert_eq!(
        (array.shape, array.values),
        (vec![3, 1], Elements::F32(vec![0.0, 1.0, 2.0]))
    );
}

#[test]
fn every_type_is_read() {
    let values = [1i64, -2]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect::<Vec<_>>();
    let array = parse(&content(npy(&header("<i8", "(2,)"), &values))).unwrap();
    assert_eq!(array.values, Elements::I64(vec![1, -2]));
    assert_eq!(array.into_f64(), [1.0, -2.0]);
    let values = [0.1f64, 1e300]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect::<Vec<_>>();
    let array = parse(&content(npy(&header("<f8", "(1, 2)"), &values))).unwrap();
    assert_eq!(array.into_f64(), [0.1, 1e300]);
    let array = parse(&content(npy(&header("|u1", "(1, 3)"), &[1, 2, 255]))).unwrap();
    assert_eq!((array.shape.len(), array.into_f64()), (2, vec![1.0, 2.0, 255.0]));
    let array = parse(&content(npy(&header("<f4", "()"), &[0; 4]))).unwrap();
    assert_eq!((array.shape.len(), array.into_f64()), (0, vec![0.0]));
    // Keys in another order, other quotes, version 2.
    let text = r#"{"shape":(1,),"fortran_order":True,"descr":"|u1"}"#;
    let mut file = npy(text, &[7]);
    file.splice(6..10, [2, 0, text.len() as u8, 0, 0, 0]);
    assert_eq!(parse(&content(file)).unwrap().into_f64(), [7.0]);
}

#[test]
fn what_is_not_read_is_refused_with_the_remedy() {
    for (file, words) in [
        (npy(&header(">f4", "(1,)"), &[0; 4]), "astype"),
        (
            npy(&header("|O", "(1,)"), &[0; 4]),
            "'|u1', '<f4', '<f8' and '<i8' are read",
        ),
        (
            npy("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1)}", &[0; 4]),
            "ascontiguousarray",
        ),
        (b"\x93NUMPY\x09\0\0\0".to_vec(), "version 9"),
    ] {
        let error = parse(&content(file)).unwrap_err();
        assert!(matches!(error, DataError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_header_that_lies_or_is_damaged_is_refused() {
    let f4 = |shape: &str, bytes: usize| npy(&header("<f4", shape), &vec![0; bytes]);
    for (file, words) in [
        (f4("(3,)", 8), "8 bytes follow"),
        (f4("(1,)", 8), "8 bytes follow"),
        (f4("(18446744073709551615, 18446744073709551615)", 4), "4 bytes follow"),
        (f4("(18446744073709551616,)", 4), "a size expected"),
        (f4("(-1,)", 4), "a size expected"),
        (f4("(1, 2", 8), "a size expected"),
        (f4("(1 2)", 8), "')' expected"),
        (
            npy(
                "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
                &[0; 4],
            ),
            "structured type",
        ),
        (npy("{'descr': '<f4', 'shape': (1,)}", &[0; 4]), "lacks one of"),
        (
            npy(
                "{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (1,)}",
                &[0; 4],
            ),
            "twice",
        ),
        (npy("{'descr': '<f4', 'evil': 1}", &[0; 4]), "unknown key"),
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x", &[0; 4]),
            "after the header's",
        ),
        (npy("{'descr: 1}", &[0; 4]), "without an end"),
        (b"\x93NUMPY\x01\0\xff\xff{}".to_vec(), "ends within the header"),
        (b"\x93NUMPY\x02\0\xff\xff\xff\xff{}".to_vec(), "ends within the header"),
        (b"\x93NUMPY".to_vec(), "ends within the header"),
        (b"NUMPY".to_vec(), "not a .npy file"),
    ] {
        let error = parse(&content(file)).unwrap_err();
        assert!(matches!(error, DataError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error} lacks {words}");
    }
}

#[test]
fn what_cannot_be_written_is_an_error_with_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.npy");
    assert!(
        write_f32(&path, &[2, 2], &[0.0; 3])
            .unwrap_err()
            .to_string()
            .contains("[2, 2]")
    );
    assert!(write_f32(&path, &[usize::MAX, 4], &[0.0; 3]).is_err());
    assert!(!path.exists());
    let missing = directory.path().join("missing").join("a.npy");
    assert!(
        write_f32(&missing, &[1], &[0.0])
            .unwrap_err()
            .to_string()
            .contains("missing")
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        shape in proptest::collection::vec(0usize..5, 0..5),
        seed: u32,
    ) {
        let count: usize = shape.iter().product();
        let bits = |i: usize| f32::from_bits(seed.wrapping_mul(2_654_435_761).wrapping_add(i as u32) & 0x7f7f_ffff);
        let values: Vec<f32> = (0..count).map(bits).collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.npy");
        write_f32(&path, &shape, &values).unwrap();
        prop_assert_eq!(read(&path).unwrap(), Array { shape, values: Elements::F32(values) });
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), magic: bool) {
        if magic {
            bytes.splice(0..bytes.len().min(8), *b"\x93NUMPY\x01\0");
        }
        let _ = parse(&content(bytes));
    }

    #[test]
    fn a_changed_file_is_read_as_what_it_holds_or_refused(
        changes in proptest::collection::vec((0usize..90, any::<u8>()), 1..4),
        cut in 0usize..90,
    ) {
        let mut file = npy(&header("<f4", "(2, 3)"), &[1; 24]);
        for (at, value) in changes {
            let at = at % file.len();
            file[at] = value;
        }
        file.truncate(file.len() - cut.saturating_sub(60));
        let size = file.len();
        if let Ok(array) = parse(&content(file)) {
            prop_assert_eq!(array.shape.iter().product::<usize>(), array.clone().into_f64().len());
            prop_assert!(array.into_f64().len() <= size);
        }
    }
}
