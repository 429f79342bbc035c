//! A writer of small GGUF files, for tests.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Array, Gguf, GgufError, Value};

/// What a test wants in a file.
#[derive(Clone, Default)]
pub(super) struct TestFile {
    pub(super) version: Option<u32>,
    pub(super) metadata: Vec<(String, Value)>,
    /// Name, row-major shape, ggml's number of the kind, bytes.
    pub(super) tensors: Vec<(String, Vec<usize>, u32, Vec<u8>)>,
    pub(super) alignment: Option<usize>,
}

impl TestFile {
    /// A file that names its architecture.
    pub(super) fn of(architecture: &str) -> Self {
        Self::default().with("general.architecture", Value::String(architecture.to_owned()))
    }

    pub(super) fn with(mut self, key: &str, value: Value) -> Self {
        self.metadata.push((key.to_owned(), value));
        self
    }

    pub(super) fn size(self, key: &str, value: u32) -> Self {
        self.with(key, Value::U32(value))
    }

    pub(super) fn text(self, key: &str, value: &str) -> Self {
        self.with(key, Value::String(value.to_owned()))
    }

    pub(super) fn strings(self, key: &str, values: &[&str]) -> Self {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        self.with(key, Value::Array(Array::String(values)))
    }

    pub(super) fn tensor(mut self, name: &str, shape: &[usize], kind: u32, bytes: Vec<u8>) -> Self {
        self.tensors.push((name.to_owned(), shape.to_vec(), kind, bytes));
        self
    }

    pub(super) fn floats(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        self.tensor(
            name,
            shape,
            0,
            values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        )
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let alignment = self.alignment.unwrap_or(32);
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.unwrap_or(3).to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut out, key);
            put_value(&mut out, value);
        }
        let mut offset = 0u64;
        for (name, shape, kind, bytes) in &self.tensors {
            put_string(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            out.extend(shape.iter().rev().flat_map(|size| (*size as u64).to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = (offset + bytes.len() as u64).next_multiple_of(alignment as u64);
        }
        for (_, _, _, bytes) in &self.tensors {
            out.resize(out.len().next_multiple_of(alignment), 0);
            out.extend(bytes);
        }
        out
    }

    pub(super) fn parse(&self) -> Result<Gguf, GgufError> {
        parse(self.bytes())
    }
}

pub(super) fn parse(bytes: Vec<u8>) -> Result<Gguf, GgufError> {
    Gguf::parse(PathBuf::from("model.gguf"), Arc::new(bytes))
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |kind: u32, bytes: &[u8]| {
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::U8(value) => put(0, &value.to_le_bytes()),
        Value::I8(value) => put(1, &value.to_le_bytes()),
        Value::U16(value) => put(2, &value.to_le_bytes()),
        Value::I16(value) => put(3, &value.to_le_bytes()),
        Value::U32(value) => put(4, &value.to_le_bytes()),
        Value::I32(value) => put(5, &value.to_le_bytes()),
        Value::F32(value) => put(6, &value.to_le_bytes()),
        Value::Bool(value) => put(7, &[u8::from(*value)]),
        Value::String(text) => {
            put(8, &[]);
            put_string(out, text);
        }
        Value::Array(values) => {
            put(9, &[]);
            put_array(out, values);
        }
        Value::U64(value) => put(10, &value.to_le_bytes()),
        Value::I64(value) => put(11, &value.to_le_bytes()),
        Value::F64(value) => put(12, &value.to_le_bytes()),
    }
}

pub(super) fn put_array(out: &mut Vec<u8>, array: &Array) {
    let kind: u32 = match array {
        Array::U8(_) => 0,
        Array::I8(_) => 1,
        Array::U16(_) => 2,
        Array::I16(_) => 3,
        Array::U32(_) => 4,
        Array::I32(_) => 5,
        Array::F32(_) => 6,
        Array::Bool(_) => 7,
        Array::String(_) => 8,
        Array::Array(_) => 9,
        Array::U64(_) => 10,
        Array::I64(_) => 11,
        Array::F64(_) => 12,
    };
    out.extend(kind.to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    for value in (0..array.len()).filter_map(|i| array.get(i)) {
        let mut one = Vec::new();
        put_value(&mut one, &value);
        // An element is a value without the number of its type.
        out.extend(&one[4..]);
    }
}
