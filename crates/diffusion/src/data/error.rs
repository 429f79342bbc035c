//! What can be wrong with data, said so that its owner can put it right.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Shape;

/// Where in a file a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    Whole,
    /// A byte offset from the start of the file (of its unpacked content, if it is gzipped).
    Byte(usize),
    /// A line, counted from 1.
    Line(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Byte(offset) => write!(formatter, ", byte {offset}"),
            Self::Line(line) => write!(formatter, ", line {line}"),
        }
    }
}

/// Why a data set could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file's content contradicts its format, or itself.
    #[error("{}{place}: {problem}; {remedy}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// The file is in order, but holds something that is not understood here.
    #[error("{}: {found}; {remedy}", path.display())]
    Unsupported {
        /// The file or directory.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What to do about it.
        remedy: String,
    },
    /// Two images of a folder differ in size, and no common size was asked for.
    #[error(
        "images of different sizes: {} is {}x{}, {} is {}x{} (width x height); \
         pass --image-size N to resize and centre-crop all of them to N x N",
        first.display(), first_size.0, first_size.1, second.display(), second_size.0, second_size.1
    )]
    MixedSizes {
        /// The first image in the order of names.
        first: PathBuf,
        /// Its width and height in pixels.
        first_size: (u32, u32),
        /// The first image that differs from it.
        second: PathBuf,
        /// Its width and height in pixels.
        second_size: (u32, u32),
    },
    /// A value lies outside the range that was declared for the data.
    #[error(
        "{origin}: row {row} holds {value}, outside the range {low} to {high}; \
         correct the data or declare their true range with --range LOW,HIGH"
    )]
    OutOfRange {
        /// Where the data come from.
        origin: String,
        /// The first such row (sample), counted from 0.
        row: usize,
        /// The value.
        value: f32,
        /// Least value allowed.
        low: f32,
        /// Greatest value allowed.
        high: f32,
    },
    /// A value is infinite or not a number.
    #[error("{origin}: row {row} holds {value}, which is not a finite number; remove the row or fill in the value")]
    NotFinite {
        /// Where the data come from.
        origin: String,
        /// The first such row (sample), counted from 0.
        row: usize,
        /// The value.
        value: f64,
    },
    /// No range was declared and the data have none: every value is the same.
    #[error("{origin}: every value is {value}, so no range can be found; declare one with --range LOW,HIGH")]
    Constant {
        /// Where the data come from.
        origin: String,
        /// The value.
        value: f32,
    },
    /// There is nothing in it.
    #[error("{origin}: no samples; check that this is the file or folder you meant")]
    Empty {
        /// Where the data come from.
        origin: String,
    },
    /// As many labels as samples are needed.
    #[error("{origin}: {labels} labels for {samples} samples; the label file belongs to other data")]
    LabelCount {
        /// Where the data come from.
        origin: String,
        /// The number of labels.
        labels: usize,
        /// The number of samples.
        samples: usize,
    },
    /// A label is not the number of a class.
    #[error(
        "{origin}: row {row} has the label {label}; labels are class numbers from 0 to {greatest} here \
         (fewer classes than samples): number the classes 0, 1, 2, ..."
    )]
    Label {
        /// Where the data come from.
        origin: String,
        /// The first such row (sample), counted from 0.
        row: usize,
        /// The label.
        label: i64,
        /// The greatest class number accepted.
        greatest: i64,
    },
    /// The samples are not of the declared image shape.
    #[error("{origin}: each sample has {values} values, which is not an image of {shape}; {remedy}")]
    ImageShape {
        /// Where the data come from.
        origin: String,
        /// Values of each sample.
        values: usize,
        /// The declared shape.
        shape: Shape,
        /// What to do about it.
        remedy: String,
    },
    /// The values given do not divide into samples of the shape.
    #[error("{values} values do not divide into samples of {shape} ({} values each)", shape.values())]
    Length {
        /// The number of values.
        values: usize,
        /// The shape of a sample.
        shape: Shape,
    },
    /// Neither a path that exists nor the name of built-in data.
    #[error(
        "{spec}: neither a file or directory nor the name of built-in data; \
         give a path, `digits`, or `points:NAME` with NAME one of {}",
        super::points::NAMES.join(", ")
    )]
    UnknownSource {
        /// What was given.
        spec: String,
    },
    /// An option was given in a form that makes no sense.
    #[error("{option} {value}: {problem}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// An option was given that has no effect on this kind of data.
    #[error("{option} has no effect on {origin} ({kind}); leave it out")]
    UnusedOption {
        /// The option.
        option: &'static str,
        /// Where the data come from.
        origin: String,
        /// What kind of source that is.
        kind: &'static str,
    },
    /// More samples were asked for than there are.
    #[error("{origin}: {wanted} samples asked for, of {available}; ask for fewer")]
    TooFew {
        /// Where the data come from.
        origin: String,
        /// How many were asked for.
        wanted: usize,
        /// How many there are.
        available: usize,
    },
}
