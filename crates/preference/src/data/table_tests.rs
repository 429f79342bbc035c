use std::path::PathBuf;
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::Type;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A table like those of published preference data: text, messages with tool calls, ranked completions, numbers.
pub(super) const SCHEMA: &str = "
message schema {
  OPTIONAL BYTE_ARRAY prompt (UTF8);
  OPTIONAL GROUP chosen (LIST) {
    REPEATED GROUP list {
      OPTIONAL GROUP element {
        OPTIONAL BYTE_ARRAY role (UTF8);
        OPTIONAL BYTE_ARRAY content (UTF8);
        OPTIONAL GROUP tool_calls (LIST) {
          REPEATED GROUP list {
            OPTIONAL GROUP element {
              REQUIRED BYTE_ARRAY type (UTF8);
              OPTIONAL GROUP function {
                OPTIONAL BYTE_ARRAY name (UTF8);
              }
            }
          }
        }
      }
    }
  }
  OPTIONAL GROUP completions (LIST) {
    REPEATED GROUP list {
      REQUIRED GROUP element {
        REQUIRED INT64 rank;
        REQUIRED BYTE_ARRAY completion (UTF8);
      }
    }
  }
  OPTIONAL DOUBLE margin;
  REQUIRED INT64 id;
}";

/// The entries of one column: values, definition levels, repetition levels.
#[derive(Default)]
struct Entries {
    values: Vec<Value>,
    levels: Vec<i16>,
    repetitions: Vec<i16>,
}

/// Takes a value apart into the columns below a field: the inverse of [`Node::value`], written from the definition of
/// the levels.
fn shred(field: &Type, value: &Value, at: (i16, i16), depth: i16, columns: &mut [Entries]) -> usize {
    let (repetition, mut level) = at;
    // The root has none.
    let info = field.get_basic_info();
    if info.has_repetition() && info.repetition() == Repetition::OPTIONAL {
        if value.is_null() {
            return none(field, at, columns);
        }
        level += 1;
    }
    if field.is_primitive() {
        columns[0].values.push(value.clone());
        columns[0].levels.push(level);
        columns[0].repetitions.push(repetition);
        return 1;
    }
    if field.get_basic_info().converted_type() == ConvertedType::LIST {
        let element = &field.get_fields()[0].get_fields()[0];
        let values = value.as_array().unwrap();
        if values.is_empty() {
            return none(field, (repetition, level), columns);
        }
        let mut width = 0;
        for (number, value) in values.iter().enumerate() {
            let repetition = if number == 0 { repetition } else { depth + 1 };
            width = shred(element, value, (repetition, level + 1), depth + 1, columns);
        }
        return width;
    }
    let mut width = 0;
    for field in field.get_fields() {
        let value = &value[field.name()];
        width += shred(field, value, (repetition, level), depth, &mut columns[width..]);
    }
    width
}

fn none(field: &Type, (repetition, level): (i16, i16), columns: &mut [Entries]) -> usize {
    if field.is_primitive() {
        columns[0].levels.push(level);
        columns[0].repetitions.push(repetition);
        return 1;
    }
    let fields = field.get_fields();
    fields.iter().fold(0, |width, field| {
        width + none(field, (repetition, level), &mut columns[width..])
    })
}

/// A Parquet file of these rows, as many row groups as there are lists of them.
pub(in super::super) fn parquet(schema: &str, groups: &[Vec<Value>], properties: WriterPropertiesBuilder) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::clone(&schema), Arc::new(properties.build())).unwrap();
    for rows in groups {
        let mut columns: Vec<Entries> = (0..64).map(|_| Entries::default()).collect();
        for row in rows {
            shred(&schema, row, (0, 0), 0, &mut columns);
        }
        let mut group = writer.next_row_group().unwrap();
        let mut columns = columns.into_iter();
        while let Some(mut column) = group.next_column().unwrap() {
            let Entries {
                values,
                levels,
                repetitions,
            } = columns.next().unwrap();
            let (levels, repetitions) = (Some(&levels[..]), Some(&repetitions[..]));
            let texts = || {
                values
                    .iter()
                    .map(|value| ByteArray::from(value.as_str().unwrap()))
                    .collect::<Vec<_>>()
            };
            if values.iter().any(Value::is_f64)
                || matches!(
                    column.untyped(),
                    parquet::column::writer::ColumnWriter::DoubleColumnWriter(_)
                )
            {
                let values: Vec<f64> = values.iter().filter_map(Value::as_f64).collect();
                column
                    .typed::<DoubleType>()
                    .write_batch(&values, levels, repetitions)
                    .unwrap();
            } else if matches!(
                column.untyped(),
                parquet::column::writer::ColumnWriter::Int64ColumnWriter(_)
            ) {
                let values: Vec<i64> = values.iter().filter_map(Value::as_i64).collect();
                column
                    .typed::<Int64Type>()
                    .write_batch(&values, levels, repetitions)
                    .unwrap();
            } else {
                column
                    .typed::<ByteArrayType>()
                    .write_batch(&texts(), levels, repetitions)
                    .unwrap();
            }
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

/// The rows of a file, or the first error.
pub(super) fn read(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Vec<Value>, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let path: Arc<Path> = Arc::from(file.path());
    let table = Table::open(&path, wanted).map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    for group in 0..table.group_rows().len() {
        let mut rows = table.group(group).map_err(|error| error.to_string())?;
        while let Some(row) = table.next(&mut rows) {
            all.push(Value::Object(row?));
        }
    }
    Ok(all)
}

fn messages() -> impl Strategy<Value = Value> {
    let call =
        (proptest::option::of("[a-z]{0,3}"), any::<bool>()).prop_map(|(name, function)| match (name, function) {
            (_, false) => json!({"type": "function"}),
            (None, true) => json!({"type": "function", "function": {}}),
            (Some(name), true) => json!({"type": "function", "function": {"name": name}}),
        });
    let calls = proptest::option::of(proptest::collection::vec(call, 0..3));
    let message = ("[ab]{1,2}", proptest::option::of(".{0,8}"), calls).prop_map(|(role, content, calls)| {
        let mut message = json!({ "role": role });
        if let Some(content) = content {
            message["content"] = json!(content);
        }
        if let Some(calls) = calls {
            message["tool_calls"] = json!(calls);
        }
        message
    });
    proptest::collection::vec(message, 0..4).prop_map(Value::from)
}

fn row() -> impl Strategy<Value = Value> {
    let completion = (any::<i64>(), ".{0,5}").prop_map(|(rank, text)| json!({"rank": rank, "completion": text}));
    (
        proptest::option::of(".{0,20}"),
        proptest::option::of(messages()),
        proptest::option::of(proptest::collection::vec(completion, 0..4)),
        proptest::option::of(-1e9..1e9f64),
        any::<i64>(),
    )
        .prop_map(|(prompt, chosen, completions, margin, id)| {
            json!({"prompt": prompt, "chosen": chosen, "completions": completions, "margin": margin, "id": id})
        })
}

pub(super) fn compressions() -> [Compression; 4] {
    [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::ZSTD(ZstdLevel::default()),
    ]
}

pub(super) fn many_rows() -> Vec<Value> {
    let row = |number: usize| {
        let chosen: Vec<Value> = (0..number % 5)
            .map(|turn| json!({"role": if turn % 2 == 0 { "user" } else { "assistant" }, "content": format!("turn {turn} of row {number}")}))
            .collect();
        json!({
            "prompt": if number.is_multiple_of(7) { Value::Null } else { json!("p".repeat(number % 50)) },
            "chosen": chosen,
            "completions": [{"rank": 1, "completion": "x"}, {"rank": number, "completion": ""}],
            "margin": number as f64 / 2.0,
            "id": number,
        })
    };
    (0..700).map(row).collect()
}

#[test]
fn every_codec_page_version_and_encoding_is_read() {
    let rows = many_rows();
    let groups = [rows[..400].to_vec(), rows[400..].to_vec()];
    for compression in compressions() {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for dictionary in [true, false] {
                let properties = WriterProperties::builder()
                    .set_compression(compression)
                    .set_writer_version(version)
                    .set_dictionary_enabled(dictionary)
                    .set_data_page_size_limit(2000)
                    .set_write_batch_size(16);
                let file = parquet(SCHEMA, &groups, properties);
                let found = read(&file, |_| true);
                if version == WriterVersion::PARQUET_2_0 && !dictionary {
                    // This writer then chooses DELTA_BYTE_ARRAY.
                    let error = found.unwrap_err();
                    assert!(error.contains("DELTA_BYTE_ARRAY is not read"), "{error}");
                } else {
                    assert_eq!(found.unwrap(), rows, "{compression:?} {version:?} {dictionary}");
                }
            }
        }
    }
}

#[test]
fn columns_that_are_not_wanted_are_named_but_not_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        parquet(SCHEMA, &[many_rows()], WriterProperties::builder()),
    )
    .unwrap();
    let path: Arc<Path> = Arc::from(file.path());
    let table = Table::open(&path, |name| name == "completions" || name == "id").unwrap();
    assert_eq!(table.unread, ["prompt", "chosen", "margin"]);
    assert_eq!(table.columns, [5, 6, 8]);
    let mut rows = table.group(0).unwrap();
    let row = table.next(&mut rows).unwrap().unwrap();
    assert_eq!(row.keys().collect::<Vec<_>>(), ["completions", "id"]);
}

#[test]
fn a_row_beyond_the_limit_is_refused() {
    // One dictionary entry of 1 MiB, named by 100 elements: a small file, a row of 100 MiB.
    let schema =
        "message m { REQUIRED GROUP l (LIST) { REPEATED GROUP list { REQUIRED BYTE_ARRAY element (UTF8); } } }";
    let text = "x".repeat(1 << 20);
    let rows = |count: usize| vec![json!({"l": vec![text.clone(); count]})];
    let properties = || WriterProperties::builder().set_dictionary_page_size_limit(4 << 20);
    assert_eq!(
        read(&parquet(schema, &[rows(60)], properties()), |_| true)
            .unwrap()
            .len(),
        1
    );
    let file = parquet(schema, &[rows(100)], properties());
    assert!(file.len() < 4 << 20, "{}", file.len());
    let error = read(&file, |_| true).unwrap_err();
    assert!(error.contains("more than 64 MiB"), "{error}");
}

/// Runs of equal levels take no space: 5 million nulls in one row, in a file of some bytes.
#[test]
fn a_run_of_nulls_is_refused() {
    let schema =
        "message m { REQUIRED GROUP l (LIST) { REPEATED GROUP list { OPTIONAL BYTE_ARRAY element (UTF8); } } }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = |entries: usize| {
        let properties = Arc::new(
            WriterProperties::builder()
                .set_data_page_row_count_limit(usize::MAX)
                .build(),
        );
        let mut writer = SerializedFileWriter::new(Vec::new(), Arc::clone(&schema), properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let mut repetitions = vec![1; entries];
        repetitions[0] = 0;
        column
            .typed::<ByteArrayType>()
            .write_batch(&[], Some(&vec![1; entries]), Some(&repetitions))
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.into_inner().unwrap()
    };
    assert_eq!(
        read(&file(1000), |_| true).unwrap()[0]["l"].as_array().unwrap().len(),
        1000
    );
    let many = file(5_000_000);
    assert!(many.len() < 10_000, "{}", many.len());
    let error = read(&many, |_| true).unwrap_err();
    assert!(error.contains("more than 64 MiB"), "{error}");
    let error = read(&file(34_000_000), |_| true).unwrap_err();
    assert!(error.contains("write smaller row groups"), "{error}");
}

/// The numbers that a page announces, changed where they stand, with a footer that stays true.
#[test]
fn a_page_that_lies_is_refused() {
    let rows = vec![json!({"l": "text", "n": 1})];
    let schema = "message m { REQUIRED BYTE_ARRAY l (UTF8); REQUIRED INT64 n; }";
    let properties = || {
        WriterProperties::builder()
            .set_dictionary_enabled(true)
            .set_compression(Compression::SNAPPY)
    };
    let file = parquet(schema, &[rows], properties());
    assert_eq!(read(&file, |_| true).unwrap().len(), 1);
    // The first page header: 15 type 15 unpacked 15 packed; the dictionary of "text" has 8 bytes (zigzag 16).
    assert_eq!(&file[4..8], [0x15, 0x04, 0x15, 0x10]);
    let mut lies = 0;
    for at in 4..40 {
        for value in [0xff, 0xfe, 0x7e, 0x7f, 0x80, 0] {
            let mut file = file.clone();
            file[at] = value;
            lies += usize::from(read(&file, |_| true).is_err());
        }
    }
    assert!(lies > 50, "{lies}");
    // Announced as 2^31 - 1 bytes unpacked, or as many values: five bytes instead of one.
    let most = [0xfe, 0xff, 0xff, 0xff, 0x0f];
    for at in [7, 11] {
        let longer = [&file[..at], &most, &file[at + 1..]].concat();
        assert!(read(&longer, |_| true).is_err(), "{at}");
    }
}

#[test]
fn what_is_not_parquet_is_named() {
    let file = parquet(SCHEMA, &[many_rows()], WriterProperties::builder());
    let mut encrypted = file.clone();
    let end = encrypted.len();
    encrypted[end - 1] = b'E';
    let mut long = file.clone();
    long[end - 8..end - 4].copy_from_slice(&u32::MAX.to_le_bytes());
    for (bytes, expected) in [
        (&b""[..], "too short"),
        (b"PAR1PAR1", "too short"),
        (b"{\"prompt\": \"this is JSON\"}", "no Parquet footer"),
        (&file[..end - 1], "no Parquet footer"),
        (&encrypted, "encrypted"),
        (&long, "a footer of 4294967295 bytes"),
    ] {
        let error = read(bytes, |_| true).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

/// Deep schemas are refused before the crate recurses into them.
#[test]
fn a_schema_of_too_many_elements_is_refused() {
    let nested = |depth: usize| {
        let mut field = Type::primitive_type_builder("x", Physical::INT32)
            .with_repetition(Repetition::REQUIRED)
            .build()
            .unwrap();
        for _ in 0..depth {
            field = Type::group_type_builder("g")
                .with_repetition(Repetition::REQUIRED)
                .with_fields(vec![Arc::new(field)])
                .build()
                .unwrap();
        }
        let schema = Type::group_type_builder("m")
            .with_fields(vec![Arc::new(field)])
            .build()
            .unwrap();
        let mut writer = SerializedFileWriter::new(
            Vec::new(),
            Arc::new(schema),
            Arc::new(WriterProperties::builder().build()),
        )
        .unwrap();
        writer
            .next_row_group()
            .and_then(|mut group| {
                let mut column = group.next_column().unwrap().unwrap();
                column
                    .typed::<parquet::data_type::Int32Type>()
                    .write_batch(&[1], None, None)
                    .unwrap();
                column.close().unwrap();
                group.close()
            })
            .unwrap();
        writer.into_inner().unwrap()
    };
    assert_eq!(read(&nested(20), |_| true).unwrap().len(), 1);
    let error = read(&nested(990), |_| true).unwrap_err();
    assert!(error.contains("nested too deeply"), "{error}");
    assert!(read(&nested(990), |_| false).is_ok());
    let error = read(&nested(1500), |_| true).unwrap_err();
    assert!(error.contains("more than 1,000 elements"), "{error}");
}

proptest! {
    #[test]
    fn what_is_written_is_read(rows in proptest::collection::vec(row(), 0..12), at in 0usize..4, page in 1usize..64) {
        let properties = WriterProperties::builder().set_compression(compressions()[at]).set_data_page_size_limit(page * 8).set_write_batch_size(3);
        let found = read(&parquet(SCHEMA, std::slice::from_ref(&rows), properties), |_| true).unwrap();
        prop_assert_eq!(found, rows.iter().map(without_nulls).collect::<Vec<_>>());
    }

}

/// Null fields of structures are absent; those of the row stay.
fn without_nulls(row: &Value) -> Value {
    fn inner(value: &Value) -> Value {
        match value {
            Value::Array(values) => values.iter().map(inner).collect(),
            Value::Object(keys) => {
                let keys = keys.iter().filter(|(_, value)| !value.is_null());
                Value::Object(keys.map(|(key, value)| (key.clone(), inner(value))).collect())
            }
            other => other.clone(),
        }
    }
    let keys = row.as_object().unwrap().iter();
    Value::Object(keys.map(|(key, value)| (key.clone(), inner(value))).collect())
}

#[test]
fn a_file_that_is_gone_is_an_error() {
    let path: Arc<Path> = Arc::from(PathBuf::from("/nowhere/x.parquet"));
    assert!(matches!(
        Table::open(&path, |_| true),
        Err(DataError::Unreadable { .. })
    ));
}
