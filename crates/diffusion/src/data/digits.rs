//! The handwritten digits that come with the crate: 1,797 images of 8 x 8 pixels.
//!
//! Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998, its test
//! part, licensed CC BY 4.0; `assets/README.md` says how the files were made.

use std::path::Path;

use super::content::Content;
use super::{DataError, Dataset, ValueRange, Values, idx};

const IMAGES: &[u8] = include_bytes!("../../assets/digits-images-idx3-ubyte.gz");
const LABELS: &[u8] = include_bytes!("../../assets/digits-labels-idx1-ubyte.gz");

impl Dataset {
    /// The embedded digits: 1,797 labelled images of 1x8x8, values 0 to 16 mapped to [-1, 1].
    ///
    /// # Errors
    /// None in a sound build: they are read by the parser that reads any IDX file.
    pub fn digits() -> Result<Self, DataError> {
        let (shape, pixels) = idx::images(Content::unpack(Path::new("digits"), IMAGES.to_vec())?)?;
        let labels = idx::labels(&Content::unpack(Path::new("digits (labels)"), LABELS.to_vec())?)?;
        let range = ValueRange::new(0.0, 16.0)?;
        Self::images("digits", shape, Values::Bytes(pixels), Some(range))?.with_labels(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Shape;

    /// Expected: `d = sklearn.datasets.load_digits(); len(d.data), numpy.bincount(d.target), d.data.sum(),
    /// d.data[0][:8], d.target[-1]` of scikit-learn 1.9.
    #[test]
    fn the_digits_are_scikit_learns() {
        let digits = Dataset::digits().unwrap();
        assert_eq!((digits.len(), digits.shape().to_string().as_str()), (1797, "1x8x8"));
        let counts: Vec<usize> = digits.class_indices().iter().map(Vec::len).collect();
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        assert_eq!(
            digits.shape(),
            Shape::Image {
                channels: 1,
                height: 8,
                width: 8
            }
        );
        let mut all = digits.batch(&(0..digits.len()).collect::<Vec<_>>());
        assert!(all.iter().all(|value| (-1.0..=1.0).contains(value)));
        digits.scaling().restore(&mut all);
        assert_eq!(all[..8], [0.0, 0.0, 5.0, 13.0, 9.0, 1.0, 0.0, 0.0]);
        assert_eq!(all.iter().map(|value| f64::from(*value)).sum::<f64>(), 561_718.0);
        assert_eq!(digits.label(1796), Some(8));
    }
}
