//! What one sample is, and the range its values have in the file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::DataError;

/// The shape of one sample; written `2` (a point) or `1x28x28` (an image), in configurations as on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Shape {
    /// A point, a vector without spatial order.
    Points {
        /// The number of coordinates.
        dimensions: usize,
    },
    /// An image, stored channel after channel, each row by row (`[channels, height, width]`).
    Image {
        /// 1 (gray), 3 (red, green, blue), or any number for latents.
        channels: usize,
        /// Rows of pixels.
        height: usize,
        /// Columns of pixels.
        width: usize,
    },
}

impl Shape {
    /// The number of values of one sample.
    #[must_use]
    pub fn values(&self) -> usize {
        match *self {
            Self::Points { dimensions } => dimensions,
            Self::Image {
                channels,
                height,
                width,
            } => channels.saturating_mul(height).saturating_mul(width),
        }
    }

    /// Whether a sample is an image.
    #[must_use]
    pub fn is_image(&self) -> bool {
        matches!(self, Self::Image { .. })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Points { dimensions } => write!(formatter, "{dimensions}"),
            Self::Image {
                channels,
                height,
                width,
            } => write!(formatter, "{channels}x{height}x{width}"),
        }
    }
}

impl From<Shape> for String {
    fn from(shape: Shape) -> Self {
        shape.to_string()
    }
}

impl TryFrom<String> for Shape {
    type Error = DataError;

    fn try_from(text: String) -> Result<Self, DataError> {
        text.parse()
    }
}

impl FromStr for Shape {
    type Err = DataError;

    /// `CHANNELSxHEIGHTxWIDTH`, such as `1x8x8`, is an image; one number is the dimensions of a point.
    fn from_str(text: &str) -> Result<Self, DataError> {
        let sizes: Option<Vec<usize>> = text
            .split('x')
            .map(|size| size.parse().ok().filter(|&size| size > 0))
            .collect();
        let shape = match sizes.as_deref() {
            Some(&[dimensions]) => Some(Self::Points { dimensions }),
            Some(&[channels, height, width]) => Some(Self::Image {
                channels,
                height,
                width,
            }),
            _ => None,
        };
        shape
            .filter(|shape| shape.values() < usize::MAX)
            .ok_or_else(|| DataError::InvalidOption {
                option: "--image-shape",
                value: text.to_owned(),
                problem: "give CHANNELSxHEIGHTxWIDTH, such as 1x28x28 or 3x32x32".to_owned(),
            })
    }
}

/// The interval in which every value of a data set lies, in the data's own units; `[low, high]` in configurations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[f32; 2]", into = "[f32; 2]")]
pub struct ValueRange {
    low: f32,
    high: f32,
}

impl ValueRange {
    /// The values of a byte.
    pub const BYTE: Self = Self { low: 0.0, high: 255.0 };

    /// The interval from `low` to `high`.
    ///
    /// # Errors
    /// [`DataError::InvalidOption`] unless both are finite and `low < high`.
    pub fn new(low: f32, high: f32) -> Result<Self, DataError> {
        if low.is_finite() && high.is_finite() && low < high && (high - low).is_finite() {
            Ok(Self { low, high })
        } else {
            Err(DataError::InvalidOption {
                option: "--range",
                value: format!("{low},{high}"),
                problem: "give two finite numbers LOW,HIGH with LOW below HIGH, such as 0,255".to_owned(),
            })
        }
    }

    /// The least value.
    #[must_use]
    pub fn low(&self) -> f32 {
        self.low
    }

    /// The greatest value.
    #[must_use]
    pub fn high(&self) -> f32 {
        self.high
    }

    /// Whether `value` lies within.
    #[must_use]
    pub fn contains(&self, value: f32) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

impl From<ValueRange> for [f32; 2] {
    fn from(range: ValueRange) -> Self {
        [range.low, range.high]
    }
}

impl TryFrom<[f32; 2]> for ValueRange {
    type Error = DataError;

    fn try_from([low, high]: [f32; 2]) -> Result<Self, DataError> {
        Self::new(low, high)
    }
}

impl FromStr for ValueRange {
    type Err = DataError;

    /// `LOW,HIGH`.
    fn from_str(text: &str) -> Result<Self, DataError> {
        let numbers: Option<Vec<f32>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[low, high]) => Self::new(low, high),
            _ => Err(DataError::InvalidOption {
                option: "--range",
                value: text.to_owned(),
                problem: "give two numbers LOW,HIGH, such as 0,255".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_read_what_they_write() {
        for text in ["1x8x8", "3x32x16", "2"] {
            let shape: Shape = text.parse().unwrap();
            assert_eq!(shape.to_string(), text);
        }
        let shape: Shape = "3x32x16".parse().unwrap();
        assert!(shape.is_image() && shape.values() == 3 * 32 * 16);
        for wrong in ["", "8x8", "0x8x8", "1x-8x8", "1x8x8x8", "99999999999x99999999999x8"] {
            assert!(
                matches!(wrong.parse::<Shape>(), Err(DataError::InvalidOption { .. })),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_range_needs_two_ordered_finite_numbers() {
        let range: ValueRange = "-1, 1".parse().unwrap();
        assert!(range.contains(-1.0) && range.contains(1.0) && !range.contains(1.001) && !range.contains(f32::NAN));
        for wrong in ["", "1", "1,0", "1,1", "0,inf", "nan,1", "0,1,2", "-3e38,3e38"] {
            assert!(
                matches!(wrong.parse::<ValueRange>(), Err(DataError::InvalidOption { .. })),
                "{wrong}"
            );
        }
    }
}
