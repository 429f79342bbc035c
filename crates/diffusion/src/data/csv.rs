//! Tables: comma-separated numbers, one sample a line, with or without a line of names and a column of labels.

use std::collections::BTreeMap;
use std::str;

use ::csv::{ByteRecord, ReaderBuilder, Trim};

use super::content::Content;
use super::open::Options;
use super::{DataError, Dataset, Labels, Place, Values};

/// Reads a table: each line a sample, its values in the order of the columns.
pub(super) fn read(content: &Content, options: &Options) -> Result<Dataset, DataError> {
    let mut table = Table::new(content);
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(Trim::All)
        .from_reader(content.bytes.as_slice());
    let mut record = ByteRecord::new();
    let mut first = true;
    while reader
        .read_byte_record(&mut record)
        .map_err(|error| content.malformed(Place::Whole, error.to_string(), "write comma-separated values"))?
    {
        if std::mem::take(&mut first) {
            let names = table.has_names(&record, options)?;
            table.choose_label_column(&record, names, options)?;
            if names {
                continue;
            }
        }
        table.add(&record)?;
    }
    table.finish(options)
}

struct Table<'a> {
    content: &'a Content,
    columns: usize,
    label_column: Option<usize>,
    values: Vec<f32>,
    /// The number of each label text in the order of appearance, and that number for each row.
    label_numbers: BTreeMap<String, u32>,
    row_labels: Vec<u32>,
    notes: Vec<String>,
}

impl<'a> Table<'a> {
    fn new(content: &'a Content) -> Self {
        Self {
            content,
            columns: 0,
            label_column: None,
            values: Vec::new(),
            label_numbers: BTreeMap::new(),
            row_labels: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Whether the first line names the columns.
    fn has_names(&mut self, first: &ByteRecord, options: &Options) -> Result<bool, DataError> {
        let label_is_last = options.label_column.as_deref() == Some("last");
        let found = if first.len() >= 3
            && first
                .iter()
                .enumerate()
                .all(|(i, name)| name == i.to_string().as_bytes())
        {
            // The names that pandas gives to columns without names.
            Some("the first line counts 0, 1, 2, ..., so it names the columns")
        } else {
            let values = if label_is_last { first.len() - 1 } else { first.len() };
            let all_numbers = first.iter().take(values).all(|field| number(field).is_some());
            (!all_numbers).then_some("the first line names the columns")
        };
        match (options.header, &options.label_column) {
            (Some(false), Some(name)) if !label_is_last => Err(DataError::InvalidOption {
                option: "--label-column",
                value: name.clone(),
                problem: "a file without a line of names has no column of that name; give `last`".to_owned(),
            }),
            (Some(header), _) => Ok(header),
            (None, _) => {
                self.notes.extend(found.map(str::to_owned));
                Ok(found.is_some())
            }
        }
    }

    fn choose_label_column(&mut self, first: &ByteRecord, names: bool, options: &Options) -> Result<(), DataError> {
        self.columns = first.len();
        let named = |wanted: &str| {
            names
                .then(|| first.iter().position(|name| name == wanted.as_bytes()))
                .flatten()
        };
        self.label_column = match options.label_column.as_deref() {
            Some("last") => Some(first.len() - 1),
            Some(name) => match named(name) {
                Some(at) => Some(at),
                None => {
                    let problem = if names {
                        let names: Vec<_> = first.iter().take(20).map(String::from_utf8_lossy).collect();
                        format!("no column of that name; the first ones are {}", names.join(", "))
                    } else {
                        "the file has no line of names; give `last`, or add one".to_owned()
                    };
                    return Err(DataError::InvalidOption {
                        option: "--label-column",
                        value: name.to_owned(),
                        problem,
                    });
                }
            },
            None => match named("label") {
                Some(at) => {
                    self.notes.push("the column `label` holds the labels".to_owned());
                    Some(at)
                }
                None => None,
            },
        };
        if self.columns == usize::from(self.label_column.is_some()) {
            return Err(self
                .content
                .malformed(Place::Line(1), "no column of values", "give at least one"));
        }
        Ok(())
    }

    fn add(&mut self, record: &ByteRecord) -> Result<(), DataError> {
        // The reader's position is that before any blank lines it passed over.
        let line = Place::Line(record.position().map_or(0, |position| {
            let rest = self.content.bytes.get(position.byte() as usize..).unwrap_or(&[]);
            let blank = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
            position.line() + blank.filter(|byte| **byte == b'\n').count() as u64
        }));
        if record.len() != self.columns {
            let problem = format!("{} columns, where the first line has {}", record.len(), self.columns);
            return Err(self.content.malformed(line, problem, "give every line as many columns"));
        }
        for (column, field) in record.iter().enumerate() {
            if self.label_column == Some(column) {
                let Ok(text) = str::from_utf8(field) else {
                    return Err(self
                        .content
                        .malformed(line, "the label is not UTF-8", "save the file as UTF-8"));
                };
                let next = self.label_numbers.len() as u32;
                let number = match self.label_numbers.get(text) {
                    Some(number) => *number,
                    None => *self.label_numbers.entry(text.to_owned()).or_insert(next),
                };
                self.row_labels.push(number);
                continue;
            }
            let Some(value) = number(field).filter(|value| value.is_finite()) else {
                let text: String = String::from_utf8_lossy(field).chars().take(40).collect();
                return Err(self.content.malformed(
                    line,
                    format!("column {} holds {text:?}, which is not a finite number", column + 1),
                    "separate numbers by commas, fill in missing ones, and pass --label-column NAME or \
                     --label-column last for a column of labels",
                ));
            };
            self.values.push(value);
        }
        Ok(())
    }

    fn finish(self, options: &Options) -> Result<Dataset, DataError> {
        let origin = self.content.origin();
        if self.values.is_empty() {
            return Err(DataError::Empty { origin });
        }
        let labelled = self.label_column.is_some();
        let shape = options.row_shape(&origin, self.columns - usize::from(labelled))?;
        let pixels = shape.is_image()
            && self
                .values
                .iter()
                .all(|value| (0.0..=255.0).contains(value) && value.fract() == 0.0);
        let values = if pixels {
            Values::Bytes(self.values.iter().map(|value| *value as u8).collect())
        } else {
            Values::Floats(self.values)
        };
        let dataset = options.dataset(&origin, shape, values, None)?.with_notes(self.notes);
        if labelled {
            dataset.with_labels(labels(&origin, &self.label_numbers, &self.row_labels)?)
        } else {
            Ok(dataset)
        }
    }
}

/// Labels from their texts: class numbers if all are whole numbers, else classes in the order of their names.
fn labels(origin: &str, numbers: &BTreeMap<String, u32>, rows: &[u32]) -> Result<Labels, DataError> {
    let whole = |text: &String| {
        text.parse::<f64>()
            .ok()
            .filter(|number| number.fract() == 0.0)
            .map(|number| number as i64)
    };
    let parsed: Option<BTreeMap<u32, i64>> = numbers
        .iter()
        .map(|(text, number)| Some((*number, whole(text)?)))
        .collect();
    if let Some(parsed) = parsed {
        return Labels::from_numbers(origin, rows.iter().map(|number| parsed[number]));
    }
    let mut class_of = vec![0; numbers.len()];
    for (class, number) in numbers.values().enumerate() {
        class_of[*number as usize] = class as u32;
    }
    Ok(Labels {
        classes: rows.iter().map(|number| class_of[*number as usize]).collect(),
        names: numbers.keys().cloned().collect(),
    })
}

fn number(field: &[u8]) -> Option<f32> {
    str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::data::{PointScaling, Shape, ValueRange};

    fn table(text: impl Into<Vec<u8>>, options: &Options) -> Result<Dataset, DataError> {
        let content = Content {
            path: PathBuf::from("table.csv"),
            bytes: text.into(),
        };
        read(&content, options)
    }

    fn raw() -> Options {
        Options {
            scaling: Some(PointScaling::Raw),
            ..Options::default()
        }
    }

    #[test]
    fn plain_numbers_are_points() {
        let points = table("1, 2\n3,4\n\n-5e-1,6\n", &raw()).unwrap();
        assert_eq!((points.len(), points.shape()), (3, Shape::Points { dimensions: 2 }));
        assert_eq!(points.batch(&[2, 0]), [-0.5, 6.0, 1.0, 2.0]);
        let standardised = table("1,2\n3,4\n", &Options::default()).unwrap();
        assert_eq!(standardised.batch(&[0, 1]), [-1.0, -1.0, 1.0, 1.0]);
    }

    #[test]
    fn images_come_with_a_range_found_or_declared() {
        let options = Options {
            image_shape: Some("1x1x2".parse().unwrap()),
            label_column: Some("last".to_owned()),
            ..Options::default()
        };
        let images = table("0,16,7\n8,4,2\n", &options).unwrap();
        assert_eq!(images.batch(&[0, 1]), [-1.0, 1.0, 0.0, -0.5]);
        assert_eq!((images.label(0), images.class_names().len()), (Some(7), 8));
        assert!(images.notes()[0].contains("0 to 16"), "{:?}", images.notes());
        let declared = Options {
            range: Some(ValueRange::new(0.0, 15.0).unwrap()),
            ..options
        };
        let error = table("0,8,7\n16,4,2\n", &declared).unwrap_err();
        assert!(
            matches!(
                error,
                DataError::OutOfRange {
                    row: 1,
                    value: 16.0,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn names_are_found_in_the_first_line() {
        let labelled = table("x,label,y\n1,cat,2\n3,ant,4\n", &raw()).unwrap();
        assert_eq!(labelled.batch(&[0, 1]), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(
            (labelled.class_names(), labelled.label(0)),
            (&["ant".to_owned(), "cat".to_owned()][..], Some(1))
        );
        let counted = table("0,1,2\n5,6,7\n", &raw()).unwrap();
        assert_eq!((counted.len(), counted.batch(&[0])), (1, vec![5.0, 6.0, 7.0]));
        let no_header = Options {
            header: Some(false),
            ..raw()
        };
        assert_eq!(table("0,1,2\n5,6,7\n", &no_header).unwrap().len(), 2);
        let named = Options {
            label_column: Some("kind".to_owned()),
            ..raw()
        };
        assert_eq!(table("kind,x\n1.0,5\n0.0,6\n", &named).unwrap().label(0), Some(1));
        let error = table("a,x\n1,5\n", &named).unwrap_err();
        assert!(error.to_string().contains("the first ones are a, x"), "{error}");
    }

    #[test]
    fn a_fault_is_named_with_its_line() {
        for (text, line) in [
            ("1,2\n3,4\n5\n", 3),
            ("1,2\n3,x\n", 2),
            ("1,2\n\n3,\n", 3),
            ("1,2\n3,nan\n", 2),
        ] {
            let error = table(text, &raw()).unwrap_err();
            assert!(
                matches!(&error, DataError::Malformed { place: Place::Line(at), .. } if *at == line),
                "{text:?}: {error}"
            );
        }
        assert!(matches!(table("", &raw()).unwrap_err(), DataError::Empty { .. }));
        assert!(matches!(table("x,y\n", &raw()).unwrap_err(), DataError::Empty { .. }));
        let shaped = Options {
            image_shape: Some("1x1x2".parse().unwrap()),
            ..Options::default()
        };
        let error = table("1,2,3\n", &shaped).unwrap_err();
        assert!(error.to_string().contains("--label-column last"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            rows in (1usize..5).prop_flat_map(|d| proptest::collection::vec(proptest::collection::vec(-1e6f32..1e6, d), 1..8)),
        ) {
            let text: String = rows
                .iter()
                .map(|row| row.iter().map(ToString::to_string).collect::<Vec<_>>().join(",") + "\n")
                .collect();
            let options = Options { header: Some(false), ..raw() };
            let points = table(text, &options).unwrap();
            prop_assert_eq!(points.batch(&(0..rows.len()).collect::<Vec<_>>()), rows.concat());
        }

        #[test]
        fn arbitrary_text_never_panics(
            bytes in proptest::collection::vec(prop_oneof![Just(b','), Just(b'\n'), Just(b'"'), Just(b'1'), any::<u8>()], 0..80),
            last: bool,
        ) {
            let options = Options { label_column: last.then(|| "last".to_owned()), ..Options::default() };
            if let Ok(points) = table(bytes, &options) {
                prop_assert!(points.batch(&[0]).iter().all(|value| value.is_finite()));
            }
        }
    }
}
