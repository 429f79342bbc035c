//! The list of a checkpoint's files, with what is needed to tell whether they are still what was written.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{FileError, sync_directory, write_atomic};

/// The manifest's own file.
pub(crate) const NAME: &str = "checkpoint.json";
/// The format version that this program reads and writes.
pub(crate) const VERSION: u32 = 1;
const FORMAT: &str = "posterior-checkpoint";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: String,
    version: u32,
    /// Steps done.
    pub(crate) step: u64,
    /// By what the best checkpoint is found; null where it was not measured or not finite.
    pub(crate) score: Option<f64>,
    pub(crate) files: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Relative to the checkpoint's directory, with `/` between parts.
    pub(crate) path: String,
    bytes: u64,
    /// CRC-32 of the content in eight hexadecimal digits.
    crc32: String,
}

/// Why a manifest cannot be made or trusted; the checkpoint adds its directory.
#[derive(Debug)]
pub(crate) enum ManifestError {
    File(FileError),
    /// Something that cannot be listed: no plain file, no UTF-8 name, or the manifest's own name.
    Unsuitable(PathBuf),
    Version(u32),
    Damaged(String),
}

impl From<FileError> for ManifestError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl Manifest {
    /// Brings everything in `directory` to the disk, lists it, and writes the list beside it.
    pub(crate) fn seal(directory: &Path, step: u64, score: Option<f64>) -> Result<Self, ManifestError> {
        let mut files = Vec::new();
        list(directory, "", &mut files)?;
        let score = score.filter(|score| score.is_finite());
        let manifest = Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            step,
            score,
            files,
        };
        let path = directory.join(NAME);
        let text =
            serde_json::to_vec_pretty(&manifest).map_err(|error| FileError::because("write", &path)(error.into()))?;
        write_atomic(&path, &text)?;
        Ok(manifest)
    }

    /// Reads the manifest of a checkpoint's directory.
    pub(crate) fn read(directory: &Path) -> Result<Self, ManifestError> {
        let path = directory.join(NAME);
        if !path.is_file() {
            return Err(ManifestError::Damaged(format!("its list of files, {NAME}, is missing")));
        }
        Self::parse(&fs::read(&path).map_err(FileError::because("read", path))?)
    }

    fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let damaged = |reason: String| ManifestError::Damaged(format!("its {NAME} {reason}"));
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| damaged(format!("is not readable ({error})")))?;
        if manifest.format != FORMAT {
            return Err(damaged(format!("has the unknown format \"{}\"", manifest.format)));
        }
        if manifest.version != VERSION {
            return Err(ManifestError::Version(manifest.version));
        }
        let inside = |path: &str| {
            !path.is_empty()
                && Path::new(path)
                    .components()
                    .all(|part| matches!(part, Component::Normal(_)))
        };
        match manifest.files.iter().find(|entry| !inside(&entry.path)) {
            Some(entry) => Err(damaged(format!(
                "names a file outside the checkpoint: \"{}\"",
                entry.path
            ))),
            None => Ok(manifest),
        }
    }

    /// Checks that every file is there with the size and the content that were written.
    pub(crate) fn verify(&self, directory: &Path) -> Result<(), ManifestError> {
        for entry in &self.files {
            let (name, path) = (&entry.path, directory.join(&entry.path));
            if !path.is_file() {
                return Err(ManifestError::Damaged(format!("the file {name} is missing")));
            }
            let (bytes, crc32) = measure(&path).map_err(FileError::because("read", &path))?;
            if bytes != entry.bytes {
                let reason = format!("{name} has {bytes} bytes, but {} were written", entry.bytes);
                return Err(ManifestError::Damaged(reason));
            }
            if crc32 != entry.crc32 {
                return Err(ManifestError::Damaged(format!(
                    "the content of {name} changed after it was written"
                )));
            }
        }
        Ok(())
    }
}

/// Brings everything below `directory` to the disk and lists its files, sorted by name.
fn list(directory: &Path, prefix: &str, files: &mut Vec<Entry>) -> Result<(), ManifestError> {
    let entries = fs::read_dir(directory).map_err(FileError::because("read", directory))?;
    let mut entries = entries
        .collect::<Result<Vec<_>, _>>()
        .map_err(FileError::because("read", directory))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let kind = entry.file_type().map_err(FileError::because("read", &path))?;
        let name = entry
            .file_name()
            .into_string()
            .ok()
            .filter(|name| !prefix.is_empty() || name != NAME);
        let Some(name) = name.map(|name| format!("{prefix}{name}")) else {
            return Err(ManifestError::Unsuitable(path));
        };
        if kind.is_dir() {
            list(&path, &format!("{name}/"), files)?;
        } else if kind.is_file() {
            let opened = File::open(&path).map_err(FileError::because("open", &path))?;
            opened
                .sync_all()
                .map_err(FileError::because("bring to the disk", &path))?;
            let (bytes, crc32) = measure(&path).map_err(FileError::because("read", &path))?;
            files.push(Entry {
                path: name,
                bytes,
                crc32,
            });
        } else {
            return Err(ManifestError::Unsuitable(path));
        }
    }
    Ok(sync_directory(directory)?)
}

/// Size and CRC-32 of a file.
fn measure(path: &Path) -> std::io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hasher = crc32fast::Hasher::new();
    let (mut bytes, mut buffer) = (0u64, vec![0u8; 1 << 18]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, format!("{:08x}", hasher.finalize()))),
            count => {
                hasher.update(&buffer[..count]);
                bytes += count as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The customary check value of CRC-32.
    #[test]
    fn the_checksum_is_crc32() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"123456789").unwrap();
        assert_eq!(measure(file.path()).unwrap(), (9, "cbf43926".to_owned()));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_damage(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(matches!(Manifest::parse(&bytes), Err(ManifestError::Damaged(_))));
        }

        #[test]
        fn manifests_round_trip(
            step in any::<u64>(),
            score in prop::option::of(-1e300f64..1e300),
            names in prop::collection::vec("[a-z]{1,8}", 0..4),
        ) {
            let files = names.into_iter().map(|path| Entry { path, bytes: step, crc32: "00000000".to_owned() }).collect();
            let manifest = Manifest { format: FORMAT.to_owned(), version: VERSION, step, score, files };
            prop_assert_eq!(Manifest::parse(&serde_json::to_vec(&manifest).unwrap()).ok(), Some(manifest));
        }
    }
}
