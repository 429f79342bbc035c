use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::table::tests::parquet;
use super::*;

const SCHEMA: &str = "message m { OPTIONAL BYTE_ARRAY prompt (UTF8); OPTIONAL BYTE_ARRAY chosen (UTF8); \
                      OPTIONAL BYTE_ARRAY rejected (UTF8); OPTIONAL INT64 id; }";

fn pairs(count: usize) -> Vec<Value> {
    (0..count)
        .map(|at| json!({"prompt": format!("p{at}"), "chosen": "good\n\u{2028}é", "rejected": "x".repeat(at % 90), "id": at}))
        .collect()
}

/// The same rows in every format, and the files' names.
fn files(directory: &Path, rows: &[Value]) -> Vec<PathBuf> {
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(lines.as_bytes()).unwrap();
    let groups: Vec<Vec<Value>> = rows.chunks(7).map(<[Value]>::to_vec).collect();
    let contents = [
        ("a.jsonl", lines.clone().into_bytes()),
        ("b.jsonl.gz", packed.finish().unwrap()),
        ("c.json", serde_json::to_vec_pretty(rows).unwrap()),
        ("d.json", lines.replace('\n', "\r\n").into_bytes()),
        ("e.parquet", parquet(SCHEMA, &groups, WriterProperties::builder())),
    ];
    let write = |(name, content): (&str, Vec<u8>)| {
        let path = directory.join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    contents.map(write).to_vec()
}

fn all(dataset: &Dataset) -> Vec<Row> {
    (0..dataset.len())
        .map(|row| dataset.get(row).unwrap().into_owned())
        .collect()
}

fn fingerprint(dataset: &Dataset) -> Vec<u8> {
    let mut bytes = Vec::new();
    dataset
        .fingerprint(&mut |piece| bytes.extend_from_slice(piece))
        .unwrap();
    bytes
}

#[test]
fn every_format_gives_the_same_rows_in_memory_or_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut expected = None;
    for path in files(directory.path(), &pairs(40)) {
        for memory in [MEMORY, 0] {
            let packed = path.extension().is_some_and(|extension| extension == "gz");
            let dataset = match Dataset::open(std::slice::from_ref(&path), Kind::Preference, memory) {
                Ok(dataset) => dataset,
                Err(error) => {
                    assert!(packed && memory == 0 && error.to_string().contains("gunzip"), "{error}");
                    continue;
                }
            };
            assert!(dataset.notes()[0].contains("kept aside: id"), "{:?}", dataset.notes());
            let found = (all(&dataset), fingerprint(&dataset));
            assert_eq!(found.0.len(), 40);
            let expected = expected.get_or_insert_with(|| found.clone());
            assert!(found == *expected, "{} {memory}", path.display());
        }
    }
}

#[test]
fn rows_are_read_in_any_order_from_several_files() {
    let directory = tempfile::tempdir().unwrap();
    let mut paths = files(directory.path(), &pairs(30));
    paths.remove(1);
    let memory = Dataset::open(&paths, Kind::Preference, MEMORY).unwrap();
    let files = Dataset::open(&paths, Kind::Preference, 1000).unwrap();
    assert!(matches!(*files.store, Store::Files(_)));
    assert_eq!((memory.len(), files.len()), (120, 120));
    // 77 and 120 have no common divisor, so this meets every row.
    for at in 0..120 {
        let at = at * 77 % 120;
        assert_eq!(files.get(at).unwrap(), memory.get(at).unwrap());
    }
    assert!(matches!(files.get(120), Err(DataError::TooFew { .. })));
    assert!(matches!(memory.get(120), Err(DataError::TooFew { .. })));
}

#[test]
fn an_index_takes_as_much_memory_as_its_documentation_says() {
    assert_eq!(size_of::<(u32, super::super::rows::Spot)>(), 24);
}

#[test]
fn gzip_that_unpacks_beyond_the_memory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = files(directory.path(), &vec![pairs(1)[0].clone(); 5000]).remove(1);
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < 10_000);
    let error = Dataset::open(&[path], Kind::Preference, 10_000).err().unwrap();
    assert!(error.to_string().contains("unpacks to more than"), "{error}");
}

#[test]
fn empty_data_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in [("a.jsonl", "\n \n"), ("b.json", "[]"), ("c.txt", "")] {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        let error = Dataset::open(&[path], Kind::Prompts, MEMORY).err().unwrap();
        assert!(matches!(error, DataError::Empty { .. }), "{error}");
    }
}

#[test]
fn a_file_that_shrinks_under_the_index_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let mut paths = files(directory.path(), &pairs(30));
    paths.remove(1);
    for path in paths {
        let index = Index::build(std::slice::from_ref(&path), Kind::Preference).unwrap();
        let content = std::fs::read(&path).unwrap();
        std::fs::write(&path, &content[..content.len() / 2]).unwrap();
        assert!(index.get(29).is_err());
        assert!(index.get(30).is_err());
    }
}

proptest! {
    #[test]
    fn a_split_is_a_partition(rows in 2usize..20, held_out in 0usize..20, seed: u64) {
        let rows: Vec<Row> = (0..rows).map(|at| Row::Text { text: at.to_string() }).collect();
        let dataset = Dataset::from_rows("rows", rows.clone());
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|at| (*at as u64).wrapping_mul(seed | 1));
        let split = dataset.split(held_out, &order);
        if held_out == 0 || held_out >= rows.len() {
            prop_assert!(split.is_err());
        } else {
            let (rest, held) = split.unwrap();
            prop_assert_eq!((rest.len(), held.len()), (rows.len() - held_out, held_out));
            let numbers = |dataset: &Dataset| -> Vec<usize> {
                all(dataset).iter().map(|row| match row { Row::Text { text } => text.parse().unwrap(), _ => usize::MAX }).collect()
            };
            let mut chosen = order[..held_out].to_vec();
            chosen.sort_unstable();
            prop_assert_eq!(numbers(&held), chosen);
            let mut both = [numbers(&rest), numbers(&held)].concat();
            prop_assert!(numbers(&rest).is_sorted());
            both.sort_unstable();
            prop_assert_eq!(both, (0..rows.len()).collect::<Vec<_>>());
            // A part of a part counts in its own numbers.
            if rest.len() > 1 {
                let order: Vec<usize> = (0..rest.len()).collect();
                let (tail, head) = rest.split(1, &order).unwrap();
                prop_assert_eq!([numbers(&head), numbers(&tail)].concat(), numbers(&rest));
            }
        }
    }
}
