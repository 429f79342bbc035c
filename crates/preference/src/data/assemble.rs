//! Rows from the columns of a Parquet file: lists and structures put together from repetition and definition levels.
//!
//! The encoding is that of Dremel (Melnik et al. 2010, section 4.1). A value's definition level says how many of the
//! optional and repeated fields on the way to it are there, its repetition level which of the repeated ones goes on.
//! The `parquet` crate has an assembly of its own; this one reads only the columns that are wanted, gives JSON values,
//! returns errors where that one asserts, and has a limit on the size of a row.

use std::ops::Range;

use parquet::basic::{ConvertedType, Repetition, Type as Physical};
use parquet::column::page::PageReader;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use parquet::data_type::{BoolType, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::schema::types::{ColumnDescPtr, Type};
use serde_json::{Map, Number, Value};

use super::lines::LONGEST;

/// Rows that are decoded at a time.
const BATCH: usize = 128;

/// What a value costs at least in memory, in bytes, for the limit on the size of a row.
const VALUE_COST: u64 = 16;

/// Levels of nesting that are read; messages with tool calls have ten.
const DEEPEST: usize = 64;

/// How the columns below a field of the schema make a value. Column numbers count the columns that are read.
pub(super) enum Node {
    /// One column.
    Leaf(usize),
    /// A value if the definition level is `level` at least, else null.
    Optional {
        level: i16,
        columns: Range<usize>,
        inner: Box<Node>,
    },
    /// A list, empty if the definition level is less than `level`, of elements that go on at repetition level
    /// `repetition`.
    List {
        level: i16,
        repetition: i16,
        columns: Range<usize>,
        element: Box<Node>,
    },
    /// An object.
    Struct(Vec<(String, Node)>),
}

impl Node {
    /// The way to read a field of the schema. `next` is the number of its first column.
    pub fn new(field: &Type, next: &mut usize) -> Result<Self, String> {
        Self::field(field, next, 0, 0, 0)
    }

    fn field(field: &Type, next: &mut usize, level: i16, repetition: i16, depth: usize) -> Result<Self, String> {
        if depth > DEEPEST {
            return Err("its fields are nested too deeply".to_owned());
        }
        if !field.get_basic_info().has_repetition() {
            return Err("a field that is neither required nor optional nor repeated".to_owned());
        }
        let first = *next;
        match field.get_basic_info().repetition() {
            Repetition::REQUIRED => Self::content(field, next, level, repetition, depth),
            Repetition::OPTIONAL => {
                let inner = Box::new(Self::content(field, next, level + 1, repetition, depth)?);
                let columns = first..*next;
                Ok(Self::Optional {
                    level: level + 1,
                    columns,
                    inner,
                })
            }
            // A repeated field outside of a list is a list that cannot be null.
            Repetition::REPEATED => {
                let element = Box::new(Self::content(field, next, level + 1, repetition + 1, depth)?);
                let columns = first..*next;
                Ok(Self::List {
                    level: level + 1,
                    repetition: repetition + 1,
                    columns,
                    element,
                })
            }
        }
    }

    fn content(field: &Type, next: &mut usize, level: i16, repetition: i16, depth: usize) -> Result<Self, String> {
        if field.is_primitive() {
            check_type(field)?;
            *next += 1;
            return Ok(Self::Leaf(*next - 1));
        }
        let fields = field.get_fields();
        match field.get_basic_info().converted_type() {
            ConvertedType::LIST => {
                let [repeated] = fields else {
                    return Err("a list that is not made like one".to_owned());
                };
                let info = repeated.get_basic_info();
                if !info.has_repetition() || info.repetition() != Repetition::REPEATED {
                    return Err("a list whose elements are not repeated".to_owned());
                }
                let first = *next;
                let (level, repetition) = (level + 1, repetition + 1);
                // The older forms, by the format's rules for backward compatibility (LogicalTypes.md, "Lists").
                let is_element = repeated.is_primitive()
                    || repeated.get_fields().len() != 1
                    || repeated.name() == "array"
                    || repeated.name() == format!("{}_tuple", field.name());
                let element = if is_element {
                    Self::content(repeated, next, level, repetition, depth + 1)?
                } else {
                    Self::field(&repeated.get_fields()[0], next, level, repetition, depth + 1)?
                };
                let (columns, element) = (first..*next, Box::new(element));
                Ok(Self::List {
                    level,
                    repetition,
                    columns,
                    element,
                })
            }
            ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE => {
                Err("a map; write it as JSON text or as a structure".to_owned())
            }
            _ if fields.is_empty() => Err("a structure without fields".to_owned()),
            _ => fields
                .iter()
                .map(|field| {
                    let node = Self::field(field, next, level, repetition, depth + 1)?;
                    Ok((field.name().to_owned(), node))
                })
                .collect::<Result<_, _>>()
                .map(Self::Struct),
        }
    }

    /// The next value. `budget` is what is left of the row's limit.
    pub fn value(&self, columns: &mut [Column], budget: &mut u64) -> Result<Value, String> {
        *budget = budget.checked_sub(VALUE_COST).ok_or_else(too_long)?;
        match self {
            Self::Leaf(column) => {
                let value = columns.get_mut(*column).ok_or_else(contradiction)?.take()?;
                if let Value::String(text) = &value {
                    *budget = budget.checked_sub(text.len() as u64).ok_or_else(too_long)?;
                }
                Ok(value)
            }
            Self::Optional {
                level,
                columns: below,
                inner,
            } => {
                if columns[below.start].level()? < *level {
                    pass(&mut columns[below.clone()])?;
                    return Ok(Value::Null);
                }
                inner.value(columns, budget)
            }
            Self::List {
                level,
                repetition,
                columns: below,
                element,
            } => {
                let mut values = Vec::new();
                if columns[below.start].level()? < *level {
                    pass(&mut columns[below.clone()])?;
                    return Ok(Value::Array(values));
                }
                loop {
                    values.push(element.value(columns, budget)?);
                    if columns[below.start].repetition() < *repetition {
                        return Ok(Value::Array(values));
                    }
                }
            }
            Self::Struct(fields) => {
                let mut object = Map::new();
                for (name, node) in fields {
                    let value = node.value(columns, budget)?;
                    // Every structure of a column has the same fields; a null is a field that it does not have.
                    if !value.is_null() {
                        object.insert(name.clone(), value);
                    }
                }
                Ok(Value::Object(object))
            }
        }
    }
}

/// Passes over a null or an empty list, which has one entry in each of its columns.
fn pass(columns: &mut [Column]) -> Result<(), String> {
    columns.iter_mut().try_for_each(Column::pass)
}

fn too_long() -> String {
    format!("a row of more than {} MiB, the longest that is read", LONGEST >> 20)
}

fn contradiction() -> String {
    "the columns contradict each other".to_owned()
}

fn check_type(field: &Type) -> Result<(), String> {
    let physical = field.get_physical_type();
    let decimal = field.get_basic_info().converted_type() == ConvertedType::DECIMAL;
    if decimal || matches!(physical, Physical::INT96 | Physical::FIXED_LEN_BYTE_ARRAY) {
        let kind = if decimal {
            "decimal numbers".to_owned()
        } else {
            format!("values of type {physical}")
        };
        return Err(format!(
            "{kind} in {:?}; write it as text or as plain numbers",
            field.name()
        ));
    }
    Ok(())
}

/// One column of a row group, entry by entry.
pub(super) struct Column {
    values: Box<dyn Values>,
    deepest: i16,
    repeated: bool,
    levels: Vec<i16>,
    repetitions: Vec<i16>,
    /// Entries decoded, and the next one.
    entries: usize,
    at: usize,
}

impl Column {
    pub fn new(description: ColumnDescPtr, pages: Box<dyn PageReader>) -> Result<Self, String> {
        let unsigned = matches!(
            description.converted_type(),
            ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64
        );
        let (deepest, repeated) = (description.max_def_level(), description.max_rep_level() > 0);
        let reader = get_column_reader(description, pages);
        let values: Box<dyn Values> = match reader {
            ColumnReader::BoolColumnReader(_) => Typed::<BoolType>::boxed(reader, |value| Ok(Value::Bool(*value))),
            ColumnReader::Int32ColumnReader(_) if unsigned => {
                Typed::<Int32Type>::boxed(reader, |value| Ok((*value as u32).into()))
            }
            ColumnReader::Int32ColumnReader(_) => Typed::<Int32Type>::boxed(reader, |value| Ok((*value).into())),
            ColumnReader::Int64ColumnReader(_) if unsigned => {
                Typed::<Int64Type>::boxed(reader, |value| Ok((*value as u64).into()))
            }
            ColumnReader::Int64ColumnReader(_) => Typed::<Int64Type>::boxed(reader, |value| Ok((*value).into())),
            ColumnReader::FloatColumnReader(_) => {
                Typed::<FloatType>::boxed(reader, |value| Ok(number(f64::from(*value))))
            }
            ColumnReader::DoubleColumnReader(_) => Typed::<DoubleType>::boxed(reader, |value| Ok(number(*value))),
            ColumnReader::ByteArrayColumnReader(_) => Typed::<ByteArrayType>::boxed(reader, |value| {
                let text = std::str::from_utf8(value.data());
                let text = text.map_err(|_| {
                    "bytes that are not UTF-8 text (images and other binary data are not read)".to_owned()
                })?;
                Ok(Value::String(text.to_owned()))
            }),
            _ => return Err("a type that is not read".to_owned()),
        };
        Ok(Self {
            values,
            deepest,
            repeated,
            levels: Vec::new(),
            repetitions: Vec::new(),
            entries: 0,
            at: 0,
        })
    }

    /// Whether there is a row to come; decodes the next ones if none is decoded.
    pub fn has_row(&mut self) -> Result<bool, String> {
        if self.at == self.entries {
            self.levels.clear();
            self.repetitions.clear();
            (self.entries, self.at) = (0, 0);
            let levels = (self.deepest > 0).then_some(&mut self.levels);
            let repetitions = self.repeated.then_some(&mut self.repetitions);
            self.entries = self.values.read(levels, repetitions)?;
        }
        Ok(self.at < self.entries)
    }

    /// Whether the entries of a row have all been taken: the next one, if any, starts another row.
    pub fn at_row_start(&self) -> bool {
        self.repetition() == 0
    }

    /// The definition level of the next entry.
    fn level(&self) -> Result<i16, String> {
        if self.at >= self.entries {
            return Err(contradiction());
        }
        Ok(if self.deepest == 0 {
            0
        } else {
            self.levels.get(self.at).copied().ok_or_else(contradiction)?
        })
    }

    /// The repetition level of the next entry, 0 if there is none.
    fn repetition(&self) -> i16 {
        if self.at < self.entries {
            self.repetitions.get(self.at).copied().unwrap_or(0)
        } else {
            0
        }
    }

    fn pass(&mut self) -> Result<(), String> {
        if self.level()? == self.deepest {
            self.values.take()?;
        }
        self.at += 1;
        Ok(())
    }

    fn take(&mut self) -> Result<Value, String> {
        let there = self.level()? == self.deepest;
        self.at += 1;
        if there {
            self.values.take()
        } else {
            Err(contradiction())
        }
    }
}

fn number(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// The values of a column that are not null.
trait Values: Send {
    /// Decodes the next rows and gives the number of their entries.
    fn read(&mut self, levels: Option<&mut Vec<i16>>, repetitions: Option<&mut Vec<i16>>) -> Result<usize, String>;

    /// The next value.
    fn take(&mut self) -> Result<Value, String>;
}

struct Typed<T: DataType> {
    reader: ColumnReaderImpl<T>,
    values: Vec<T::T>,
    at: usize,
    convert: fn(&T::T) -> Result<Value, String>,
}

impl<T: DataType> Typed<T> {
    fn boxed(reader: ColumnReader, convert: fn(&T::T) -> Result<Value, String>) -> Box<dyn Values> {
        Box::new(Self {
            reader: get_typed_column_reader(reader),
            values: Vec::new(),
            at: 0,
            convert,
        })
    }
}

impl<T: DataType> Values for Typed<T> {
    fn read(&mut self, levels: Option<&mut Vec<i16>>, repetitions: Option<&mut Vec<i16>>) -> Result<usize, String> {
        self.values.clear();
        self.at = 0;
        let read = self.reader.read_records(BATCH, levels, repetitions, &mut self.values);
        read.map(|(_, _, entries)| entries).map_err(|error| error.to_string())
    }

    fn take(&mut self) -> Result<Value, String> {
        let value = self.values.get(self.at).ok_or_else(contradiction)?;
        self.at += 1;
        (self.convert)(value)
    }
}

#[cfg(test)]
mod tests {
    use parquet::schema::parser::parse_message_type;

    use super::*;

    /// The forms of lists that older writers used (LogicalTypes.md of the format, "Backward-compatibility rules").
    #[test]
    fn old_forms_of_lists_are_read() {
        fn node(schema: &str) -> Result<String, String> {
            fn shown(node: &Node) -> String {
                match node {
                    Node::Leaf(column) => column.to_string(),
                    Node::Optional { level, inner, .. } => format!("{}?{level}", shown(inner)),
                    Node::List {
                        level,
                        repetition,
                        element,
                        ..
                    } => format!("[{}]{level},{repetition}", shown(element)),
                    Node::Struct(fields) => {
                        let fields: Vec<_> = fields
                            .iter()
                            .map(|(name, node)| format!("{name}:{}", shown(node)))
                            .collect();
                        format!("{{{}}}", fields.join(" "))
                    }
                }
            }
            let schema = parse_message_type(schema).unwrap();
            Node::new(&schema.get_fields()[0], &mut 0).map(|node| shown(&node))
        }
        for (schema, expected) in [
            (
                "message m { OPTIONAL GROUP l (LIST) { REPEATED GROUP list { OPTIONAL INT32 element; } } }",
                "[0?3]2,1?1",
            ),
            (
                "message m { REQUIRED GROUP l (LIST) { REPEATED GROUP list { REQUIRED INT32 element; } } }",
                "[0]1,1",
            ),
            (
                "message m { OPTIONAL GROUP l (LIST) { REPEATED INT32 element; } }",
                "[0]2,1?1",
            ),
            (
                "message m { OPTIONAL GROUP l (LIST) { REPEATED GROUP e { REQUIRED INT32 a; REQUIRED INT32 b; } } }",
                "[{a:0 b:1}]2,1?1",
            ),
            (
                "message m { OPTIONAL GROUP l (LIST) { REPEATED GROUP array { REQUIRED INT32 a; } } }",
                "[{a:0}]2,1?1",
            ),
            (
                "message m { OPTIONAL GROUP l (LIST) { REPEATED GROUP l_tuple { REQUIRED INT32 a; } } }",
                "[{a:0}]2,1?1",
            ),
            ("message m { REPEATED INT32 l; }", "[0]1,1"),
            (
                "message m { REPEATED GROUP l { REQUIRED INT32 a; OPTIONAL INT32 b; } }",
                "[{a:0 b:1?2}]1,1",
            ),
        ] {
            assert_eq!(node(schema).unwrap(), expected, "{schema}");
        }
        for (schema, expected) in [
            (
                "message m { OPTIONAL GROUP m (MAP) { REPEATED GROUP key_value { REQUIRED INT32 key; REQUIRED INT32 value; } } }",
                "a map",
            ),
            (
                "message m { OPTIONAL GROUP l (LIST) { REQUIRED INT32 a; } }",
                "not repeated",
            ),
            (
                "message m { OPTIONAL GROUP l (LIST) { REPEATED INT32 a; REPEATED INT32 b; } }",
                "not made like one",
            ),
            ("message m { OPTIONAL INT96 t; }", "INT96"),
            ("message m { OPTIONAL INT32 d (DECIMAL(5, 2)); }", "decimal"),
        ] {
            let error = node(schema).unwrap_err();
            assert!(error.contains(expected), "{schema}: {error}");
        }
    }
}
