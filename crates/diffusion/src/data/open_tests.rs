use proptest::prelude::*;

use super::super::content::tests::gzip;
use super::super::idx::tests::idx;
use super::*;

/// A file of this name and content, and what opening it gives.
fn file(name: &str, content: &[u8], options: &Options) -> Result<Dataset, DataError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    open(path.to_str().unwrap(), options)
}

fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut file = b"\x93NUMPY\x01\0".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

#[test]
fn every_kind_of_source_is_found_by_its_content_or_name() {
    let default = Options::default();
    assert_eq!(open("digits", &default).unwrap().len(), 1797);
    assert_eq!(open("points:moons?count=9", &default).unwrap().len(), 9);
    assert_eq!(file("x", &idx(&[2, 1, 2], &[0, 1, 2, 3]), &default).unwrap().len(), 2);
    assert_eq!(
        file("x", &gzip(&idx(&[2, 1, 2], &[0, 1, 2, 3])), &default)
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        file("x", &npy("|u1", "(3, 2)", &[1, 2, 3, 4, 5, 6]), &default)
            .unwrap()
            .len(),
        3
    );
    assert_eq!(file("X.CSV.GZ", &gzip(b"1,2\n3,4\n"), &default).unwrap().len(), 2);
}

#[test]
fn what_is_not_a_data_set_is_named() {
    for (name, content, words) in [
        ("a.npz", &b"PK\x03\x04"[..], "unpack it"),
        ("a.png", b"\x89PNG\r\n", "give the folder"),
        ("a.parquet", b"PAR1", "Parquet"),
        ("a", b"", "an empty file"),
        ("a.txt", b"1 2 3", "a file of unknown kind"),
    ] {
        let error = file(name, content, &Options::default()).unwrap_err();
        assert!(matches!(error, DataError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let error = open("no/such/file", &Options::default()).unwrap_err();
    assert!(matches!(error, DataError::UnknownSource { .. }), "{error}");
    assert!(
        open("points:sun", &Options::default())
            .unwrap_err()
            .to_string()
            .contains("moons")
    );
}

#[test]
fn a_directory_like_mnists_has_two_labelled_parts() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| fs::write(directory.path().join(name), gzip(content)).unwrap();
    write("train-images-idx3-ubyte.gz", &idx(&[3, 1, 2], &[0, 1, 2, 3, 4, 5]));
    write("train-labels-idx1-ubyte.gz", &idx(&[3], &[1, 0, 1]));
    write("t10k-images-idx3-ubyte.gz", &idx(&[1, 1, 2], &[9, 9]));
    write("t10k-labels-idx1-ubyte.gz", &idx(&[1], &[1]));
    let part = |part| {
        open(
            directory.path().to_str().unwrap(),
            &Options {
                part,
                ..Options::default()
            },
        )
    };
    let (train, test) = (part(None).unwrap(), part(Some(Part::Test)).unwrap());
    assert_eq!(
        (train.len(), train.label(0), test.len(), test.label(0)),
        (3, Some(1), 1, Some(1))
    );
    assert!(
        train.notes()[0].contains("train-labels-idx1-ubyte.gz"),
        "{:?}",
        train.notes()
    );
    write("t10k-labels-idx1-ubyte.gz", &idx(&[2], &[1, 1]));
    let error = part(Some(Part::Test)).unwrap_err();
    assert!(
        matches!(
            error,
            DataError::LabelCount {
                labels: 2,
                samples: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn arrays_are_points_or_images_by_their_axes() {
    let default = Options::default();
    let shape = |axes: &str, values: usize, options: &Options| {
        let values: Vec<u8> = (0..values as u8).collect();
        file("a.npy", &npy("|u1", axes, &values), options).map(|dataset| dataset.shape().to_string())
    };
    assert_eq!(shape("(4,)", 4, &default).unwrap(), "1");
    assert_eq!(shape("(2, 6)", 12, &default).unwrap(), "6");
    assert_eq!(shape("(2, 2, 3)", 12, &default).unwrap(), "1x2x3");
    assert_eq!(shape("(2, 3, 2, 4)", 48, &default).unwrap(), "3x2x4");
    assert_eq!(shape("(2, 2, 4, 3)", 48, &default).unwrap(), "3x2x4");
    assert_eq!(shape("(1, 4, 2, 2)", 16, &default).unwrap(), "4x2x2");
    let shaped = Options {
        image_shape: Some("1x2x3".parse().unwrap()),
        ..Options::default()
    };
    assert_eq!(shape("(2, 6)", 12, &shaped).unwrap(), "1x2x3");
    assert!(matches!(
        shape("(2, 5)", 10, &shaped).unwrap_err(),
        DataError::ImageShape { .. }
    ));
    assert!(matches!(
        shape("(2, 2, 3)", 12, &shaped).unwrap_err(),
        DataError::UnusedOption { .. }
    ));
    assert!(matches!(
        shape("(1, 1, 1, 1, 1)", 1, &default).unwrap_err(),
        DataError::Unsupported { .. }
    ));
    assert!(matches!(
        shape("(0, 5)", 0, &default).unwrap_err(),
        DataError::Empty { .. }
    ));
    assert!(matches!(
        shape("(5, 0)", 0, &default).unwrap_err(),
        DataError::Empty { .. }
    ));
    let endless = "(0, 9223372036854775807, 9223372036854775807, 3)";
    assert!(matches!(
        shape(endless, 0, &default).unwrap_err(),
        DataError::Empty { .. }
    ));
    let last = file("a.npy", &npy("|u1", "(1, 2, 1, 3)", &[1, 2, 3, 4, 5, 6]), &default).unwrap();
    let mut values = last.batch(&[0]);
    last.scaling().restore(&mut values);
    assert_eq!(values, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
}

#[test]
fn labels_of_an_array_come_from_a_second_one() {
    let directory = tempfile::tempdir().unwrap();
    let labels = directory.path().join("labels.npy");
    let options = Options {
        labels: Some(labels.clone()),
        ..Options::default()
    };
    let data = npy("|u1", "(2, 1)", &[1, 2]);
    fs::write(
        &labels,
        npy("<i8", "(2,)", &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    )
    .unwrap();
    assert_eq!(file("a.npy", &data, &options).unwrap().label(0), Some(1));
    for (content, words) in [
        (npy("<f4", "(2,)", &[0; 8]), "astype('<i8')"),
        (npy("|u1", "(2, 1)", &[0; 2]), "reshape(-1)"),
        (npy("|u1", "(3,)", &[0; 3]), "3 labels for 2 samples"),
    ] {
        fs::write(&labels, content).unwrap();
        let error = file("a.npy", &data, &options).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn an_option_without_effect_is_an_error() {
    let part = Options {
        part: Some(Part::Test),
        ..Options::default()
    };
    let scaling = Options {
        scaling: Some(PointScaling::Raw),
        ..Options::default()
    };
    let size = Options {
        image_size: Some(8),
        ..Options::default()
    };
    let image = npy("|u1", "(1, 1, 2)", &[0, 1]);
    for (outcome, option) in [
        (open("digits", &part), "--part"),
        (open("digits", &scaling), "--scaling"),
        (open("points:moons", &size), "--image-size"),
        (file("a.npy", &image, &scaling), "--scaling"),
        (file("a.csv", b"1,2\n", &size), "--image-size"),
    ] {
        match outcome.unwrap_err() {
            DataError::UnusedOption { option: found, .. } => assert_eq!(found, option),
            error => panic!("{error}"),
        }
    }
    assert!(open("points:moons", &scaling).is_ok());
}

#[test]
fn a_declared_range_is_enforced_on_points_too() {
    let options = Options {
        range: Some("0,1".parse().unwrap()),
        ..Options::default()
    };
    let error = file("a.csv", b"0.5,1\n0,1.5\n", &options).unwrap_err();
    assert!(
        matches!(error, DataError::OutOfRange { row: 1, value: 1.5, .. }),
        "{error}"
    );
}

#[test]
fn options_are_written_as_they_are_on_the_command_line() {
    let text = r#"{"part":"test","image-shape":"1x8x8","range":[0.0,16.0],"label-column":"last","scaling":"raw"}"#;
    let options: Options = serde_json::from_str(text).unwrap();
    assert_eq!(
        options.image_shape,
        Some(Shape::Image {
            channels: 1,
            height: 8,
            width: 8
        })
    );
    assert_eq!(
        (options.part, options.scaling),
        (Some(Part::Test), Some(PointScaling::Raw))
    );
    assert_eq!(
        serde_json::from_str::<Options>(&serde_json::to_string(&options).unwrap()).unwrap(),
        options
    );
    for wrong in [r#"{"range":[1,0]}"#, r#"{"image-shape":"8x8"}"#, r#"{"unknown":1}"#] {
        assert!(serde_json::from_str::<Options>(wrong).is_err(), "{wrong}");
    }
}

/// The greatest address space this process has had, in bytes.
#[cfg(target_os = "linux")]
fn peak_address_space() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

/// Each header announces 12 GiB, and no file is larger than a kilobyte. Other tests run at the same time, but none of
/// them needs gigabytes.
#[cfg(target_os = "linux")]
#[test]
fn a_lying_header_allocates_nothing() {
    let before = peak_address_space();
    for (name, content) in [
        ("a", idx(&[3 << 16, 256, 256], &[0; 100])),
        ("a", gzip(&idx(&[3 << 16, 256, 256], &[0; 100]))),
        ("a", npy("|u1", "(12884901888,)", &[0; 100])),
        ("a", npy("<f8", "(1610612736,)", &[0; 100])),
        ("a", gzip(&npy("<f4", "(3, 1073741824)", &[0; 100]))),
    ] {
        let error = file(name, &content, &Options::default()).unwrap_err();
        assert!(matches!(error, DataError::Malformed { .. }), "{error}");
    }
    assert!(peak_address_space() - before < 6 << 30);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn arbitrary_files_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..60),
        start in proptest::sample::select(vec![&b""[..], b"\x93NUMPY\x01\0", b"\0\0\x08\x03", b"\x1f\x8b\x08"]),
        csv: bool,
    ) {
        bytes.splice(0..start.len().min(bytes.len()), start.iter().copied());
        let _ = file(if csv { "a.csv" } else { "a" }, &bytes, &Options::default());
    }

    #[test]
    fn damaged_gzip_never_panics(at in 0usize..60, value: u8) {
        let mut packed = gzip(&idx(&[2, 1, 2], &[0, 1, 2, 3]));
        let at = at % packed.len();
        packed[at] = value;
        let _ = file("a", &packed, &Options::default());
    }
}
