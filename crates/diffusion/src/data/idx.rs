//! IDX, the format of MNIST and its relatives: a big-endian header, then bytes.
//!
//! The header is two zero bytes, the type of a value (8: unsigned byte), the number of dimensions, and each dimension
//! as a 32-bit number (LeCun, Cortes and Burges, "The MNIST database of handwritten digits"). The size of the file
//! must be exactly what the header says.

use std::path::{Path, PathBuf};

use super::content::{Content, product};
use super::{DataError, Labels, Place, Shape};

const AGAIN: &str = "copy or download the file again";

/// Whether content looks like IDX: two zero bytes, a known value type, one to four dimensions.
pub(super) fn recognises(bytes: &[u8]) -> bool {
    matches!(bytes, [0, 0, 0x08 | 0x09 | 0x0b..=0x0e, 1..=4, ..])
}

/// The images of a file: the shape of one, and the pixels of all.
pub(super) fn images(mut content: Content) -> Result<(Shape, Vec<u8>), DataError> {
    let sizes = header(&content)?;
    let [_, height, width] = sizes[..] else {
        let found = match sizes.len() {
            1 => "a label file (one dimension)".to_owned(),
            other => format!("{other} dimensions, not images x height x width"),
        };
        return Err(content.unsupported(found, "give the file of the images, as in train-images-idx3-ubyte.gz"));
    };
    let shape = Shape::Image {
        channels: 1,
        height,
        width,
    };
    content.bytes.drain(..4 + 4 * sizes.len());
    Ok((shape, content.bytes))
}

/// The labels of a file.
pub(super) fn labels(content: &Content) -> Result<Labels, DataError> {
    let sizes = header(content)?;
    if sizes.len() != 1 {
        let found = format!("{} dimensions where labels have one", sizes.len());
        return Err(content.unsupported(found, "give the file of the labels, as in train-labels-idx1-ubyte.gz"));
    }
    Labels::from_numbers(
        &content.origin(),
        content.bytes[8..].iter().map(|label| i64::from(*label)),
    )
}

/// The dimensions, of which none is 0, once the file's size has borne them out.
fn header(content: &Content) -> Result<Vec<usize>, DataError> {
    let bytes = content.bytes.as_slice();
    let &[first, second, kind, dimensions, ..] = bytes else {
        return Err(content.malformed(Place::Byte(bytes.len()), "the file ends within the header", AGAIN));
    };
    if (first, second) != (0, 0) || dimensions == 0 {
        let problem = "an IDX header starts with two zero bytes, a type and a number of dimensions";
        return Err(content.malformed(Place::Byte(0), problem, "give an IDX file"));
    }
    if kind != 0x08 {
        let found = format!("IDX values of type 0x{kind:02x}, only unsigned bytes (0x08) are read");
        return Err(content.unsupported(found, "convert the data to .npy"));
    }
    let mut sizes = Vec::with_capacity(usize::from(dimensions));
    for dimension in 0..usize::from(dimensions) {
        let at = 4 + 4 * dimension;
        let Some(&[a, b, c, d]) = bytes.get(at..at + 4) else {
            return Err(content.malformed(Place::Byte(bytes.len()), "the file ends within the header", AGAIN));
        };
        sizes.push(u32::from_be_bytes([a, b, c, d]) as usize);
    }
    let held = bytes.len() - 4 - 4 * sizes.len();
    if product(sizes.iter().copied()) != Some(held) {
        let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        let problem = format!("the header announces {} bytes, {held} follow", sizes.join(" x "));
        return Err(content.malformed(Place::Byte(4), problem, AGAIN));
    }
    if held == 0 {
        return Err(DataError::Empty {
            origin: content.origin(),
        });
    }
    Ok(sizes)
}

/// The label file that MNIST's naming puts beside an image file, if it is there: `x-images-idx3-ubyte` has
/// `x-labels-idx1-ubyte`, either of them gzipped or not.
pub(super) fn labels_beside(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    let name = name.strip_suffix(".gz").unwrap_or(name);
    let labels = ["-", "."].into_iter().find_map(|joint| {
        let stem = name.strip_suffix(&format!("-images{joint}idx3-ubyte"))?;
        Some(format!("{stem}-labels{joint}idx1-ubyte"))
    })?;
    either(&images.with_file_name(labels))
}

/// The image file of one part (`train` or `t10k`) in a directory laid out like MNIST's, if it is there.
pub(super) fn in_directory(directory: &Path, part: &str) -> Option<PathBuf> {
    let candidates = ["-", "."].map(|joint| directory.join(format!("{part}-images{joint}idx3-ubyte")));
    candidates.iter().find_map(|path| either(path))
}

/// `path`, or `path.gz`, whichever there is.
fn either(path: &Path) -> Option<PathBuf> {
    let mut packed = path.as_os_str().to_owned();
    packed.push(".gz");
    [path.to_owned(), PathBuf::from(packed)]
        .into_iter()
        .find(|path| path.is_file())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An IDX file of bytes.
    pub(crate) fn idx(sizes: &[u32], values: &[u8]) -> Vec<u8> {
        let mut file = vec![0, 0, 8, sizes.len() as u8];
        file.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
        file.extend(values);
        file
    }

    fn content(bytes: Vec<u8>) -> Content {
        Content {
            path: PathBuf::from("some-images-idx3-ubyte"),
            bytes,
        }
    }

    #[test]
    fn images_and_labels_are_read() {
        let pixels: Vec<u8> = (0..12).collect();
        let (shape, read) = images(content(idx(&[2, 3, 2], &pixels))).unwrap();
        assert_eq!((shape.to_string().as_str(), read), ("1x3x2", pixels));
        let labels = labels(&content(idx(&[4], &[0, 3, 3, 1]))).unwrap();
        assert_eq!((labels.classes, labels.names.len()), (vec![0, 3, 3, 1], 4));
    }

    #[test]
    fn a_header_that_lies_is_caught_before_anything_is_allocated() {
        for (sizes, values) in [
            (&[2, 3, 2][..], 11),
            (&[2, 3, 2], 13),
            (&[u32::MAX, u32::MAX, u32::MAX], 12),
            (&[0, 28, 28], 5),
        ] {
            let error = images(content(idx(sizes, &vec![1; values]))).unwrap_err();
            assert!(
                matches!(
                    error,
                    DataError::Malformed {
                        place: Place::Byte(4),
                        ..
                    }
                ),
                "{error}"
            );
        }
        let error = images(content(idx(&[0, 28, 28], &[]))).unwrap_err();
        assert!(matches!(error, DataError::Empty { .. }), "{error}");
        for cut in 0..16 {
            let error = images(content(idx(&[2, 3, 2], &[])[..cut].to_vec())).unwrap_err();
            assert!(matches!(error, DataError::Malformed { .. }), "{cut}: {error}");
        }
    }

    #[test]
    fn labels_for_images_and_floats_are_named_as_such() {
        let error = images(content(idx(&[3], &[1, 2, 3]))).unwrap_err();
        assert!(error.to_string().contains("a label file"), "{error}");
        let mut floats = idx(&[1, 1, 1], &[0; 4]);
        floats[2] = 0x0d;
        assert!(recognises(&floats));
        let error = images(content(floats)).unwrap_err();
        assert!(error.to_string().contains("0x0d"), "{error}");
    }

    #[test]
    fn the_label_file_is_found_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "train-images-idx3-ubyte.gz",
            "train-labels-idx1-ubyte",
            "t10k-images.idx3-ubyte",
        ] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let train = in_directory(directory.path(), "train").unwrap();
        assert_eq!(
            labels_beside(&train),
            Some(directory.path().join("train-labels-idx1-ubyte"))
        );
        let test = in_directory(directory.path(), "t10k").unwrap();
        assert!(test.ends_with("t10k-images.idx3-ubyte"));
        assert_eq!(labels_beside(&test), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(n in 1u32..5, height in 1u32..6, width in 1u32..6, seed: u8) {
            let pixels: Vec<u8> = (0..n * height * width).map(|i| seed.wrapping_mul(31).wrapping_add(i as u8)).collect();
            let (shape, read) = images(content(idx(&[n, height, width], &pixels))).unwrap();
            prop_assert_eq!(shape, Shape::Image { channels: 1, height: height as usize, width: width as usize });
            prop_assert_eq!(read, pixels);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = labels(&content(bytes.clone()));
            if let Ok((shape, pixels)) = images(content(bytes)) {
                prop_assert_eq!(pixels.len() % shape.values(), 0);
            }
        }

        #[test]
        fn a_changed_header_never_panics(at in 0usize..16, value: u8, cut in 0usize..40) {
            let mut file = idx(&[2, 3, 4], &[9; 24]);
            file[at] = value;
            file.truncate(40 - cut);
            if let Ok((shape, pixels)) = images(content(file)) {
                prop_assert_eq!(pixels.len() % shape.values(), 0);
            }
        }
    }
}
