//! Metadata values: numbers, truth values, strings and lists of them.

use super::cursor::{Cursor, Problem};

/// Lists of lists deeper than this are refused; known files have none.
const DEEPEST: usize = 4;

/// A value of the metadata, in the type that the file states.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Type 0.
    U8(u8),
    /// Type 1.
    I8(i8),
    /// Type 2.
    U16(u16),
    /// Type 3.
    I16(i16),
    /// Type 4.
    U32(u32),
    /// Type 5.
    I32(i32),
    /// Type 6.
    F32(f32),
    /// Type 7.
    Bool(bool),
    /// Type 8.
    String(String),
    /// Type 9.
    Array(Array),
    /// Type 10.
    U64(u64),
    /// Type 11.
    I64(i64),
    /// Type 12.
    F64(f64),
}

/// A list of values of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Elements of type 0.
    U8(Vec<u8>),
    /// Elements of type 1.
    I8(Vec<i8>),
    /// Elements of type 2.
    U16(Vec<u16>),
    /// Elements of type 3.
    I16(Vec<i16>),
    /// Elements of type 4.
    U32(Vec<u32>),
    /// Elements of type 5.
    I32(Vec<i32>),
    /// Elements of type 6.
    F32(Vec<f32>),
    /// Elements of type 7.
    Bool(Vec<bool>),
    /// Elements of type 8.
    String(Vec<String>),
    /// Elements of type 9.
    Array(Vec<Self>),
    /// Elements of type 10.
    U64(Vec<u64>),
    /// Elements of type 11.
    I64(Vec<i64>),
    /// Elements of type 12.
    F64(Vec<f64>),
}

impl Value {
    /// The value as a whole number, if it is an integer that is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The value in double precision, if it is a number (integers beyond 2^53 are rounded).
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(value) => Some(value.into()),
            Self::F64(value) => Some(value),
            Self::I8(value) => Some(value.into()),
            Self::I16(value) => Some(value.into()),
            Self::I32(value) => Some(value.into()),
            Self::I64(value) => Some(value as f64),
            _ => self.as_u64().map(|value| value as f64),
        }
    }

    /// The truth value, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The text, if it is a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// The list, if it is one.
    #[must_use]
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }
}

impl Array {
    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::I16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::String(values) => values.len(),
            Self::Array(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One element.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Value> {
        Some(match self {
            Self::U8(values) => Value::U8(*values.get(index)?),
            Self::I8(values) => Value::I8(*values.get(index)?),
            Self::U16(values) => Value::U16(*values.get(index)?),
            Self::I16(values) => Value::I16(*values.get(index)?),
            Self::U32(values) => Value::U32(*values.get(index)?),
            Self::I32(values) => Value::I32(*values.get(index)?),
            Self::F32(values) => Value::F32(*values.get(index)?),
            Self::Bool(values) => Value::Bool(*values.get(index)?),
            Self::String(values) => Value::String(values.get(index)?.clone()),
            Self::Array(values) => Value::Array(values.get(index)?.clone()),
            Self::U64(values) => Value::U64(*values.get(index)?),
            Self::I64(values) => Value::I64(*values.get(index)?),
            Self::F64(values) => Value::F64(*values.get(index)?),
        })
    }

    /// The elements, if they are strings.
    #[must_use]
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Self::String(values) => Some(values),
            _ => None,
        }
    }
}

/// Reads a value of the stated type.
pub(super) fn read_value(cursor: &mut Cursor<'_>, kind: u32) -> Result<Value, Problem> {
    const WHAT: &str = "a metadata value";
    Ok(match kind {
        0 => Value::U8(u8::from_le_bytes(cursor.word(WHAT)?)),
        1 => Value::I8(i8::from_le_bytes(cursor.word(WHAT)?)),
        2 => Value::U16(u16::from_le_bytes(cursor.word(WHAT)?)),
        3 => Value::I16(i16::from_le_bytes(cursor.word(WHAT)?)),
        4 => Value::U32(u32::from_le_bytes(cursor.word(WHAT)?)),
        5 => Value::I32(i32::from_le_bytes(cursor.word(WHAT)?)),
        6 => Value::F32(f32::from_le_bytes(cursor.word(WHAT)?)),
        7 => Value::Bool(read_bool(cursor)?),
        8 => Value::String(cursor.string("a metadata string")?.to_owned()),
        9 => Value::Array(read_array(cursor, 1)?),
        10 => Value::U64(u64::from_le_bytes(cursor.word(WHAT)?)),
        11 => Value::I64(i64::from_le_bytes(cursor.word(WHAT)?)),
        12 => Value::F64(f64::from_le_bytes(cursor.word(WHAT)?)),
        _ => return cursor.problem(format!("{kind} is not the number of a metadata type (0 to 12)")),
    })
}

fn read_bool(cursor: &mut Cursor<'_>) -> Result<bool, Problem> {
    let at = cursor.at();
    match cursor.word::<1>("a truth value")? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err((at, format!("a truth value is {other}, neither 0 nor 1"))),
    }
}

fn read_array(cursor: &mut Cursor<'_>, depth: usize) -> Result<Array, Problem> {
    let at = cursor.at();
    if depth > DEEPEST {
        return Err((at, format!("lists within lists more than {DEEPEST} deep")));
    }
    let kind = cursor.u32("the type of a list's elements")?;
    Ok(match kind {
        0 => Array::U8(numbers(cursor, u8::from_le_bytes)?),
        1 => Array::I8(numbers(cursor, i8::from_le_bytes)?),
        2 => Array::U16(numbers(cursor, u16::from_le_bytes)?),
        3 => Array::I16(numbers(cursor, i16::from_le_bytes)?),
        4 => Array::U32(numbers(cursor, u32::from_le_bytes)?),
        5 => Array::I32(numbers(cursor, i32::from_le_bytes)?),
        6 => Array::F32(numbers(cursor, f32::from_le_bytes)?),
        7 => Array::Bool(elements(cursor, 1, read_bool)?),
        8 => Array::String(elements(cursor, 8, |cursor| {
            cursor.string("a string in a list").map(str::to_owned)
        })?),
        // Four bytes of type and eight of length.
        9 => Array::Array(elements(cursor, 12, |cursor| read_array(cursor, depth + 1))?),
        10 => Array::U64(numbers(cursor, u64::from_le_bytes)?),
        11 => Array::I64(numbers(cursor, i64::from_le_bytes)?),
        12 => Array::F64(numbers(cursor, f64::from_le_bytes)?),
        _ => return Err((at, format!("{kind} is not the number of a metadata type (0 to 12)"))),
    })
}

fn numbers<const SIZE: usize, T>(
    cursor: &mut Cursor<'_>,
    from_bytes: impl Fn([u8; SIZE]) -> T,
) -> Result<Vec<T>, Problem> {
    let count = cursor.count(SIZE, "the length of a list")?;
    let bytes = cursor.take(count * SIZE, "a list")?;
    let (words, _) = bytes.as_chunks::<SIZE>();
    Ok(words.iter().map(|word| from_bytes(*word)).collect())
}

/// Reads a list of things of at least `least` bytes each.
fn elements<'a, T>(
    cursor: &mut Cursor<'a>,
    least: usize,
    mut read: impl FnMut(&mut Cursor<'a>) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let count = cursor.count(least, "the length of a list")?;
    (0..count).map(|_| read(cursor)).collect()
}
