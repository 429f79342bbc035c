//! From what a user names (a path, `digits`, `points:moons`) to a data set.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::content::Content;
use super::npy::{Array, Elements};
use super::points::Points;
use super::{DataError, Dataset, Labels, PointScaling, Shape, ValueRange, Values, csv, folder, idx, npy};

/// Which part of a source that keeps training and test data apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The part to train on.
    Train,
    /// The part to test on.
    Test,
}

/// How to read a source. Everything has a default; what has no effect on the source at hand is an error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// The part of a source that has two (default: the training part).
    pub part: Option<Part>,
    /// The shape of an image whose values stand in one row of a CSV file or a two-dimensional `.npy` array.
    pub image_shape: Option<Shape>,
    /// The range of the values: data outside it are an error, and image values are mapped from it to [-1, 1]. Bytes
    /// have 0 to 255 by default, other images the range that is found in them, points none.
    pub range: Option<ValueRange>,
    /// The label column of a CSV file: its name, or `last` (default: the column named `label`, if there is one).
    pub label_column: Option<String>,
    /// Whether a CSV file starts with a line of names (default: if that line is not all numbers).
    pub header: Option<bool>,
    /// The file of the labels of an IDX or `.npy` file.
    pub labels: Option<PathBuf>,
    /// Resize and centre-crop each image of a folder to this many pixels a side.
    pub image_size: Option<u32>,
    /// How points are scaled (default: standardised).
    pub scaling: Option<PointScaling>,
    /// The seed of procedural points.
    pub seed: u64,
}

/// The kinds of source, which differ in the options they know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Digits,
    Points,
    IdxFile,
    IdxDirectory,
    Csv,
    Npy,
    Folder,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::Digits => "embedded digits",
            Self::Points => "procedural points",
            Self::IdxFile => "an IDX file",
            Self::IdxDirectory => "a directory of IDX files",
            Self::Csv => "a CSV file",
            Self::Npy => "a .npy file",
            Self::Folder => "an image folder",
        }
    }
}

/// Opens a data set.
///
/// `spec` is `digits` (the embedded handwritten digits), `points:NAME?key=value&...` (see [`Points`]), or a path:
///
/// - a directory with MNIST's files (`train-images-idx3-ubyte`, ..., each also `.gz`), or with images, whose class
///   is the sub-folder they are in;
/// - a file, whose kind is found from its content (`.npy`, IDX) or its name (`.csv`), gzipped or not.
///
/// A file that is really called `digits` is reached as `./digits`.
///
/// # Errors
/// [`DataError`], naming the file, the place in it, and the remedy.
pub fn open(spec: &str, options: &Options) -> Result<Dataset, DataError> {
    if spec == "digits" {
        options.check(Kind::Digits, spec)?;
        return Dataset::digits();
    }
    if let Some(points) = spec.strip_prefix("points:") {
        options.check(Kind::Points, spec)?;
        let scaling = options.scaling.unwrap_or(PointScaling::Standardize);
        return points.parse::<Points>()?.dataset(options.seed, scaling);
    }
    let path = Path::new(spec);
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => open_directory(path, options),
        Ok(_) => open_file(Content::read(path)?, options),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(DataError::UnknownSource { spec: spec.to_owned() })
        }
        Err(source) => Err(DataError::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}

fn open_directory(path: &Path, options: &Options) -> Result<Dataset, DataError> {
    let part = options.part.unwrap_or(Part::Train);
    let idx_part = if part == Part::Train { "train" } else { "t10k" };
    if let Some(images) = idx::in_directory(path, idx_part) {
        options.check(Kind::IdxDirectory, &path.display().to_string())?;
        return open_idx(Content::read(&images)?, options);
    }
    options.check(Kind::Folder, &path.display().to_string())?;
    folder::read(path, options)
}

fn open_file(content: Content, options: &Options) -> Result<Dataset, DataError> {
    let origin = content.origin();
    let name = origin.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    if npy::recognises(&content.bytes) {
        options.check(Kind::Npy, &origin)?;
        open_npy(&content, options)
    } else if idx::recognises(&content.bytes) {
        options.check(Kind::IdxFile, &origin)?;
        open_idx(content, options)
    } else if name.ends_with(".csv") {
        options.check(Kind::Csv, &origin)?;
        csv::read(&content, options)
    } else {
        let (found, remedy) = match content.bytes.as_slice() {
            [b'P', b'K', 3, 4, ..] => ("a zip archive or .npz", "unpack it, and give one of its files"),
            [0x89, b'P', b'N', b'G', ..] | [0xff, 0xd8, 0xff, ..] => {
                ("a single image", "give the folder that holds the images")
            }
            [b'P', b'A', b'R', b'1', ..] => ("a Parquet file", "convert it to .npy or .csv"),
            [] => ("an empty file", "check that it was copied or downloaded completely"),
            _ => (
                "a file of unknown kind",
                "give .npy, .csv, IDX (each also gzipped), or a folder of PNG or JPEG images",
            ),
        };
        Err(content.unsupported(found, remedy))
    }
}

fn open_idx(content: Content, options: &Options) -> Result<Dataset, DataError> {
    let origin = content.origin();
    let labels = options.labels.clone().or_else(|| idx::labels_beside(&content.path));
    let (shape, pixels) = idx::images(content)?;
    let range = options.range.unwrap_or(ValueRange::BYTE);
    let dataset = Dataset::images(&origin, shape, Values::Bytes(pixels), Some(range))?;
    match labels {
        Some(path) => {
            let labels = Content::read(&path)?;
            let note = format!("labels from {}", path.display());
            Ok(dataset.with_labels(idx::labels(&labels)?)?.with_notes([note]))
        }
        None => Ok(dataset),
    }
}

fn open_npy(content: &Content, options: &Options) -> Result<Dataset, DataError> {
    let origin = content.origin();
    let array = npy::parse(content)?;
    if array.is_empty() {
        return Err(DataError::Empty { origin });
    }
    let Array { shape: axes, values } = array;
    if axes.len() > 2 && options.image_shape.is_some() {
        return Err(DataError::UnusedOption {
            option: "--image-shape",
            origin,
            kind: "an array that has a shape",
        });
    }
    let image = |channels, height, width| Shape::Image {
        channels,
        height,
        width,
    };
    let mut notes = Vec::new();
    let (shape, values) = match axes[..] {
        [_] => (options.row_shape(&origin, 1)?, values),
        [_, dimensions] => (options.row_shape(&origin, dimensions)?, values),
        [_, height, width] => (image(1, height, width), values),
        [_, height, width, channels] if matches!(channels, 1 | 3) && !matches!(height, 1 | 3) => {
            notes.push(format!("the channels stand last ({height} x {width} x {channels})"));
            (
                image(channels, height, width),
                channels_first(values, channels, height * width),
            )
        }
        [_, channels, height, width] => (image(channels, height, width), values),
        _ => {
            return Err(content.unsupported(
                format!("an array of {} axes", axes.len()),
                "save one of 1 or 2 axes (points), or of 3 or 4 (images)",
            ));
        }
    };
    let (values, natural) = match values {
        Elements::U8(bytes) => (Values::Bytes(bytes), Some(ValueRange::BYTE)),
        Elements::F32(floats) => (Values::Floats(floats), None),
        Elements::F64(floats) => (
            Values::Floats(floats.into_iter().map(|value| value as f32).collect()),
            None,
        ),
        Elements::I64(_) => {
            return Err(content.unsupported("whole numbers of 64 bits, as labels have", "save array.astype('<f4')"));
        }
    };
    let dataset = options.dataset(&origin, shape, values, natural)?.with_notes(notes);
    match &options.labels {
        Some(path) => dataset.with_labels(npy_labels(&Content::read(path)?)?),
        None => Ok(dataset),
    }
}

fn npy_labels(content: &Content) -> Result<Labels, DataError> {
    let Array { shape, values } = npy::parse(content)?;
    let numbers: Vec<i64> = match values {
        _ if shape.len() != 1 => {
            let found = format!("{} axes where labels have one", shape.len());
            return Err(content.unsupported(found, "save labels.reshape(-1)"));
        }
        Elements::U8(labels) => labels.into_iter().map(i64::from).collect(),
        Elements::I64(labels) => labels,
        Elements::F32(_) | Elements::F64(_) => {
            return Err(content.unsupported("labels that are not whole numbers", "save labels.astype('<i8')"));
        }
    };
    Labels::from_numbers(&content.origin(), numbers)
}

/// Samples of `[pixels, channels]` as samples of `[channels, pixels]`.
fn channels_first(values: Elements, channels: usize, pixels: usize) -> Elements {
    fn turn<T: Copy>(values: &[T], channels: usize, pixels: usize) -> Vec<T> {
        values
            .chunks_exact((channels * pixels).max(1))
            .flat_map(|sample| (0..channels).flat_map(move |channel| sample.iter().skip(channel).step_by(channels)))
            .copied()
            .collect()
    }
    match values {
        Elements::U8(values) => Elements::U8(turn(&values, channels, pixels)),
        Elements::F32(values) => Elements::F32(turn(&values, channels, pixels)),
        Elements::F64(values) => Elements::F64(turn(&values, channels, pixels)),
        Elements::I64(values) => Elements::I64(turn(&values, channels, pixels)),
    }
}

impl Options {
    /// The shape of a sample that the file gives as a row of `values` numbers.
    pub(super) fn row_shape(&self, origin: &str, values: usize) -> Result<Shape, DataError> {
        match self.image_shape {
            None => Ok(Shape::Points { dimensions: values }),
            Some(shape) if shape.is_image() && shape.values() == values => Ok(shape),
            Some(shape) => Err(DataError::ImageShape {
                origin: origin.to_owned(),
                values,
                shape,
                remedy: if values == shape.values() + 1 {
                    "if the last column is the label, pass --label-column last".to_owned()
                } else {
                    "give --image-shape CHANNELSxHEIGHTxWIDTH with as many values".to_owned()
                },
            }),
        }
    }

    /// The data set of values that were read, in the range that was declared, else `natural`.
    pub(super) fn dataset(
        &self,
        origin: &str,
        shape: Shape,
        values: Values,
        natural: Option<ValueRange>,
    ) -> Result<Dataset, DataError> {
        if shape.is_image() {
            if self.scaling.is_some() {
                return Err(DataError::UnusedOption {
                    option: "--scaling",
                    origin: origin.to_owned(),
                    kind: "images, which their range scales",
                });
            }
            return Dataset::images(origin, shape, values, self.range.or(natural));
        }
        let values = match values {
            Values::Bytes(bytes) => bytes.into_iter().map(f32::from).collect(),
            Values::Floats(floats) => floats,
        };
        let scaling = self.scaling.unwrap_or(PointScaling::Standardize);
        Dataset::points(origin, shape.values(), values, self.range, scaling)
    }

    /// Refuses an option that this kind of source would ignore.
    fn check(&self, kind: Kind, origin: &str) -> Result<(), DataError> {
        use Kind::{Csv, Folder, IdxDirectory, IdxFile, Npy, Points};
        let uses: [(&'static str, bool, &[Kind]); 8] = [
            ("--part", self.part.is_some(), &[IdxDirectory, Folder]),
            ("--image-shape", self.image_shape.is_some(), &[Csv, Npy]),
            (
                "--range",
                self.range.is_some(),
                &[IdxFile, IdxDirectory, Csv, Npy, Folder],
            ),
            ("--label-column", self.label_column.is_some(), &[Csv]),
            ("--header", self.header.is_some(), &[Csv]),
            ("--labels", self.labels.is_some(), &[IdxFile, Npy]),
            ("--image-size", self.image_size.is_some(), &[Folder]),
            ("--scaling", self.scaling.is_some(), &[Points, Csv, Npy]),
        ];
        match uses.iter().find(|(_, given, kinds)| *given && !kinds.contains(&kind)) {
            Some((option, ..)) => Err(DataError::UnusedOption {
                option,
                origin: origin.to_owned(),
                kind: kind.words(),
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
