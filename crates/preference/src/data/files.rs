//! Which files are read, and in which format.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DataError, Kind};

/// How the rows of a file are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `.jsonl`: an object on each line.
    Lines,
    /// `.json`: an array of objects, or an object on each line after all.
    Json,
    /// `.txt`: a text or a prompt on each line.
    Plain,
    /// `.parquet`.
    Table,
}

/// A file to be read.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub path: Arc<Path>,
    pub format: Format,
    /// Whether it is gzipped, by its first bytes.
    pub packed: bool,
}

const FORMATS: &str = "give .jsonl, .json, .parquet or .txt (all but .parquet may be gzipped: .jsonl.gz)";

/// The files that paths stand for: files themselves, and directories with what is in them in the order of names.
pub(super) fn find(paths: &[PathBuf], kind: Kind) -> Result<Vec<Source>, DataError> {
    let mut sources = Vec::new();
    for path in paths {
        let metadata = fs::metadata(path).map_err(DataError::unreadable(path))?;
        if metadata.is_dir() {
            for path in in_directory(path)? {
                sources.push(source(&path, kind)?);
            }
        } else if metadata.is_file() {
            sources.push(source(path, kind)?);
        } else {
            let found = "neither a file nor a directory";
            return Err(DataError::unsupported(path, found, "write the data to a file first"));
        }
    }
    Ok(sources)
}

fn source(path: &Path, kind: Kind) -> Result<Source, DataError> {
    let format = format(path).ok_or_else(|| DataError::unsupported(path, "not the name of a data file", FORMATS))?;
    if format == Format::Plain && matches!(kind, Kind::Preference | Kind::Score) {
        let found = "plain text, which has no responses to prompts";
        return Err(DataError::unsupported(path, found, "give .jsonl, .json or .parquet"));
    }
    let mut magic = Vec::new();
    let read = File::open(path).and_then(|file| file.take(2).read_to_end(&mut magic));
    read.map_err(DataError::unreadable(path))?;
    let packed = magic == [0x1f, 0x8b];
    if packed && format == Format::Table {
        return Err(DataError::unsupported(
            path,
            "a gzipped Parquet file",
            "unpack it with gunzip",
        ));
    }
    Ok(Source {
        path: Arc::from(path),
        format,
        packed,
    })
}

/// The format that a file's name says.
fn format(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "jsonl" | "ndjson" => Some(Format::Lines),
        "json" => Some(Format::Json),
        "txt" => Some(Format::Plain),
        "parquet" => Some(Format::Table),
        _ => None,
    }
}

fn in_directory(directory: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(DataError::unreadable(directory))? {
        let path = entry.map_err(DataError::unreadable(directory))?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.is_file() && format(&path).is_some() {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(DataError::unsupported(
            directory,
            "no data files in this directory",
            FORMATS,
        ));
    }
    let formats = paths.iter().map(|path| format(path));
    if formats.clone().any(|format| Some(format) != formats.clone().next()) {
        let found = "data files of several formats, which may hold the same rows twice";
        return Err(DataError::unsupported(
            directory,
            found,
            "give the files that are meant",
        ));
    }
    // The names that data sets with parts have on the Hub: train-00000-of-00002.parquet.
    let part = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let word = name.split(|letter: char| !letter.is_ascii_alphabetic()).next()?;
        ["train", "test", "validation", "valid", "dev", "eval"]
            .contains(&word)
            .then(|| word.to_owned())
    };
    let parts: Vec<_> = paths.iter().map(part).collect();
    if let Some(other) = parts.iter().position(|part| *part != parts[0]) {
        let name = |at: usize| paths[at].file_name().unwrap_or_default().to_string_lossy();
        let found = format!("files of several parts, as {} and {}", name(0), name(other));
        return Err(DataError::unsupported(
            directory,
            found,
            "give the files of one part, in order",
        ));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str], kind: Kind) -> Result<Vec<(String, Format, bool)>, String> {
        let directory = tempfile::tempdir().unwrap();
        for name in names {
            let content: &[u8] = if name.contains("gz") { &[0x1f, 0x8b, 8] } else { b"{}" };
            fs::write(directory.path().join(name), content).unwrap();
        }
        fs::create_dir(directory.path().join("nested.jsonl")).unwrap();
        let sources = find(&[directory.path().to_owned()], kind).map_err(|error| error.to_string())?;
        let name = |source: &Source| source.path.file_name().unwrap().to_string_lossy().into_owned();
        Ok(sources
            .iter()
            .map(|source| (name(source), source.format, source.packed))
            .collect())
    }

    #[test]
    fn a_directory_is_its_data_files_in_order() {
        let names = ["b.jsonl", "a.JSONL.gz", "README.md", ".c.jsonl", "d.ndjson"];
        let expected = [("a.JSONL.gz", true), ("b.jsonl", false), ("d.ndjson", false)];
        let expected = expected.map(|(name, packed)| (name.to_owned(), Format::Lines, packed));
        assert_eq!(found(&names, Kind::Preference).unwrap(), expected);
    }

    #[test]
    fn what_is_ambiguous_or_unknown_is_refused() {
        for (names, expected) in [
            (&["README.md"][..], "no data files"),
            (&["a.jsonl", "a.parquet"], "several formats"),
            (
                &["train-0.parquet", "test-0.parquet"],
                "several parts, as test-0.parquet and train-0.parquet",
            ),
            (&["a.txt"], "plain text, which has no responses"),
            (&["a.gz.parquet"], "a gzipped Parquet file"),
        ] {
            let error = found(names, Kind::Preference).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(
            found(&["train-0.parquet", "train-1.parquet"], Kind::Preference)
                .unwrap()
                .len(),
            2
        );
        let error = find(&[PathBuf::from("/nowhere/x.jsonl")], Kind::Any).unwrap_err();
        assert!(matches!(error, DataError::Unreadable { .. }), "{error}");
    }
}
