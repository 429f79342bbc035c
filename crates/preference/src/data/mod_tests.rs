use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// What a file of this name and content gives: the places and rows, or the first error.
fn read(name: &str, content: &[u8], kind: Kind) -> Result<Vec<(String, Row)>, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    let shown = |place: Place| {
        let text = place.to_string();
        text.rsplit('/').next().unwrap_or_default().to_owned()
    };
    let mut all = Vec::new();
    let mut rows = Rows::open(&path, kind).map_err(|error| error.to_string())?;
    for row in &mut rows {
        match row {
            Ok((place, row)) => all.push((shown(place), row)),
            Err(error) => {
                assert!(rows.next().is_none(), "reading goes on after an error");
                return Err(error.to_string());
            }
        }
    }
    Ok(all)
}

fn prompts(found: &[(String, Row)]) -> Vec<(&str, String)> {
    let text = |row: &Row| match row {
        Row::Prompt {
            prompt: Text::Plain(text),
        }
        | Row::Text { text } => text.clone(),
        other => panic!("{other:?}"),
    };
    found.iter().map(|(place, row)| (place.as_str(), text(row))).collect()
}

#[test]
fn rows_come_with_their_places() {
    let lines = b"\xef\xbb\xbf{\"prompt\": \"a\"}\r\n\n{\"prompt\": \"b\"}";
    for (name, content) in [
        ("x.jsonl", lines.to_vec()),
        ("x.jsonl.gz", gzip(lines)),
        ("x.ndjson", lines.to_vec()),
        ("x.json", lines.to_vec()),
        ("misnamed.jsonl", gzip(lines)),
    ] {
        let found = read(name, &content, Kind::Prompts).unwrap();
        let expected = [1, 3].map(|line| format!("{name}, line {line}"));
        let texts: Vec<_> = prompts(&found);
        assert_eq!(
            texts,
            [(&*expected[0], "a".to_owned()), (&*expected[1], "b".to_owned())]
        );
    }
    let array = b" [{\"prompt\": \"a\"},\n{\"prompt\":\n\"b\"}]";
    for (name, content) in [("x.json", array.to_vec()), ("x.json.gz", gzip(array))] {
        let found = read(name, &content, Kind::Prompts).unwrap();
        assert_eq!(found[1].0, format!("{name}, line 2"));
    }
    let found = read("x.txt", "{\"plain\"}\n\n  two words \u{e9}\n".as_bytes(), Kind::Prompts).unwrap();
    assert_eq!(
        prompts(&found),
        [
            ("x.txt, line 1", "{\"plain\"}".to_owned()),
            ("x.txt, line 3", "  two words é".to_owned())
        ]
    );
    let found = read("x.txt", b"a\nb", Kind::LanguageModelling).unwrap();
    assert!(matches!(&found[0].1, Row::Text { text } if text == "a"));
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (name, content, expected) in [
        (
            "x.jsonl",
            &b"{\"prompt\": \"a\"}\n{\"prompt\": }"[..],
            "x.jsonl, line 2: not valid JSON: expected value (column 12)",
        ),
        (
            "x.jsonl",
            b"{\"prompt\": \"a\", \"prompt\": \"b\"}",
            "line 1: not valid JSON: the key \"prompt\" twice in one object",
        ),
        ("x.jsonl", b"[1]", "line 1: a list, where an object belongs"),
        (
            "x.jsonl",
            b"{\"prompt\": \"\xff\"}",
            "line 1: not valid JSON: invalid unicode",
        ),
        (
            "x.jsonl",
            b"\n{\"prompt\": 5}",
            "line 2, \"prompt\": a number, where text",
        ),
        ("x.txt", b"a\n\xff", "line 2: not UTF-8"),
        (
            "x.json",
            b"[\n{\"prompt\": \"a\"},\n{\"prompt\": NaN}]",
            "line 3: not valid JSON",
        ),
        ("x.csv", b"a,b", "not the name of a data file; give .jsonl"),
        ("x.jsonl", b"\xff\xfe{\0}\0", "this is UTF-16"),
        ("x.parquet", b"nothing of the kind", "no Parquet footer"),
    ] {
        let error = read(name, content, Kind::Prompts).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let packed = gzip(b"{\"prompt\": \"a\"}\n");
    let error = read("x.jsonl.gz", &packed[..packed.len() - 6], Kind::Prompts).unwrap_err();
    assert!(error.contains("the gzip stream ends early"), "{error}");
    let mut damaged = packed.clone();
    damaged[12] ^= 0xff;
    assert!(read("x.jsonl.gz", &damaged, Kind::Prompts).is_err());
}

#[test]
fn nesting_beyond_all_measure_is_an_error() {
    let deep = [&b"{\"prompt\": "[..], &vec![b'['; 1 << 20]].concat();
    for name in ["x.jsonl", "x.json"] {
        let error = read(name, &deep, Kind::Prompts).unwrap_err();
        assert!(error.contains("recursion limit"), "{error}");
    }
    let array = [&b"["[..], &b"{\"a\":".repeat(1 << 18), &vec![b'}'; 1 << 18], b"]"].concat();
    let error = read("x.json", &array, Kind::Prompts).unwrap_err();
    assert!(error.contains("recursion limit"), "{error}");
}

#[test]
fn several_paths_are_read_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    };
    let one = write("z.jsonl", "{\"prompt\": \"1\", \"a\": 0}\n");
    write("part/b.jsonl", "{\"prompt\": \"3\"}");
    write("part/a.jsonl", "{\"prompt\": \"2\", \"b\": 0}");
    let paths = [one, directory.path().join("part")];
    let mut rows = Rows::open_all(&paths, Kind::Prompts).unwrap();
    let found: Vec<(String, Row)> = rows.by_ref().map(|row| (String::new(), row.unwrap().1)).collect();
    assert_eq!(
        prompts(&found).into_iter().map(|(_, text)| text).collect::<Vec<_>>(),
        ["1", "2", "3"]
    );
    assert_eq!(rows.other_columns().iter().collect::<Vec<_>>(), ["a", "b"]);
    assert!(Rows::open_all(&[PathBuf::from("/nowhere")], Kind::Any).is_err());
    assert!(Rows::open(Path::new("/dev/null"), Kind::Any).is_err());
}

#[test]
fn names_kept_aside_are_bounded() {
    let mut text = String::new();
    for line in 0..300 {
        text += &format!("{{\"prompt\": \"p\", \"{}{line}\": 1}}\n", "k".repeat(60));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.jsonl");
    std::fs::write(&path, text).unwrap();
    let mut rows = Rows::open(&path, Kind::Prompts).unwrap();
    assert_eq!(rows.by_ref().count(), 300);
    assert!(rows.other_columns().len() <= 100);
    assert!(rows.other_columns().iter().all(|name| name.chars().count() <= 41));
}

const VALID: &[u8] = b"{\"prompt\": [{\"role\": \"user\", \"content\": \"a\\\"b\"}], \"chosen\": [{\"role\": \"assistant\", \"content\": \"c\"}], \"rejected\": [{\"role\": \"assistant\", \"content\": [{\"type\": \"text\", \"text\": \"d\"}]}]}\n{\"prompt\": \"p\", \"completions\": [{\"rank\": 1, \"completion\": \"x\"}, {\"rank\": 2.5, \"completion\": \"y\"}]}\n";

fn kinds() -> impl Strategy<Value = Kind> {
    proptest::sample::select(vec![
        Kind::LanguageModelling,
        Kind::Preference,
        Kind::Prompts,
        Kind::Score,
        Kind::Any,
    ])
}

#[test]
fn the_file_that_is_mutated_below_is_valid() {
    assert_eq!(read("x.jsonl", VALID, Kind::Preference).unwrap().len(), 2);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in kinds()) {
        for name in ["x.jsonl", "x.json", "x.txt", "x.parquet"] {
            let _ = read(name, &bytes, kind);
            let _ = read(name, &[&[0x1f, 0x8b, 8][..], &bytes].concat(), kind);
        }
    }

    #[test]
    fn mutated_rows_never_panic(
        changes in proptest::collection::vec((0..VALID.len(), prop_oneof![Just(b'"'), Just(b'{'), Just(b']'), Just(b'\n'), any::<u8>()]), 1..5),
        cut in 0..VALID.len(), kind in kinds(),
    ) {
        let mut bytes = VALID.to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let array = [b"[", &VALID[..VALID.len() - 1].split(|byte| *byte == b'\n').collect::<Vec<_>>().join(&b","[..])[..], b"]"].concat();
        let _ = read("x.jsonl", &bytes, kind);
        let _ = read("x.jsonl", &VALID[..cut], kind);
        let _ = read("x.json", &array[..cut], kind);
        let packed = gzip(&bytes);
        let _ = read("x.jsonl.gz", &packed, kind);
        let _ = read("x.jsonl.gz", &packed[..cut % packed.len()], kind);
    }
}
