//! A file's content, unpacked if it is gzipped, and the errors that its parsers share.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{DataError, Place};

/// What gzip may expand to: this much anyhow, and this many times the packed size. Deflate reaches 1,032 to 1 on
/// nothing but zeros; images and tables stay under 100.
const UNPACKED_ANYHOW: u64 = 1 << 20;
const UNPACKED_RATIO: u64 = 256;

/// A file in memory.
pub(super) struct Content {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

impl Content {
    /// Reads a regular file, and unpacks it if its first bytes say gzip.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let unreadable = |source| DataError::Unreadable {
            path: path.to_owned(),
            source,
        };
        if !fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(DataError::Unsupported {
                path: path.to_owned(),
                found: "not a regular file, so its size cannot be checked".to_owned(),
                remedy: "write the data to a file first".to_owned(),
            });
        }
        Self::unpack(path, fs::read(path).map_err(unreadable)?)
    }

    /// The content of `packed`, which stands in the file at `path`.
    pub fn unpack(path: &Path, packed: Vec<u8>) -> Result<Self, DataError> {
        let path = path.to_owned();
        if !packed.starts_with(&[0x1f, 0x8b]) {
            return Ok(Self { path, bytes: packed });
        }
        let most = UNPACKED_ANYHOW + UNPACKED_RATIO * packed.len() as u64;
        let mut bytes = Vec::new();
        let outcome = MultiGzDecoder::new(packed.as_slice())
            .take(most + 1)
            .read_to_end(&mut bytes);
        match outcome {
            Err(error) => Err(DataError::Malformed {
                path,
                place: Place::Whole,
                problem: match error.kind() {
                    io::ErrorKind::UnexpectedEof => "the gzip stream ends early".to_owned(),
                    _ => format!("the gzip stream is damaged ({error})"),
                },
                remedy: "copy or download the file again".to_owned(),
            }),
            Ok(_) if bytes.len() as u64 > most => Err(DataError::Unsupported {
                path,
                found: format!("gzip that unpacks to more than {UNPACKED_RATIO} times its size"),
                remedy: "if the file is sound, unpack it with gunzip and open that".to_owned(),
            }),
            Ok(_) => Ok(Self { path, bytes }),
        }
    }

    /// The path as messages name it.
    pub fn origin(&self) -> String {
        self.path.display().to_string()
    }

    /// The content contradicts its format.
    pub fn malformed(&self, place: Place, problem: impl Into<String>, remedy: impl Into<String>) -> DataError {
        DataError::Malformed {
            path: self.path.clone(),
            place,
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// The content is sound, but not for this.
    pub fn unsupported(&self, found: impl Into<String>, remedy: impl Into<String>) -> DataError {
        DataError::Unsupported {
            path: self.path.clone(),
            found: found.into(),
            remedy: remedy.into(),
        }
    }
}

/// The product of a header's sizes, unless it passes what a machine can address.
pub(super) fn product(sizes: impl IntoIterator<Item = usize>) -> Option<usize> {
    sizes.into_iter().try_fold(1usize, usize::checked_mul)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use super::*;

    /// `bytes`, gzipped.
    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_is_recognised_by_its_content() {
        let content = Content::unpack(Path::new("a.csv"), gzip(b"1,2,3")).unwrap();
        assert_eq!(content.bytes, b"1,2,3");
        let mut two_members = gzip(b"1,2");
        two_members.extend(gzip(b",3"));
        assert_eq!(Content::unpack(Path::new("a"), two_members).unwrap().bytes, b"1,2,3");
    }

    #[test]
    fn truncated_and_damaged_gzip_are_told_apart() {
        let mut packed = gzip(&[7; 1000]);
        let truncated = Content::unpack(Path::new("a"), packed[..packed.len() - 4].to_vec())
            .err()
            .unwrap();
        assert!(truncated.to_string().contains("ends early"), "{truncated}");
        let at = packed.len() - 6;
        packed[at] ^= 0xff;
        let damaged = Content::unpack(Path::new("a"), packed).err().unwrap();
        assert!(damaged.to_string().contains("damaged"), "{damaged}");
    }

    #[test]
    fn a_gzip_bomb_is_refused() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; 64 << 20]).unwrap();
        let packed = encoder.finish().unwrap();
        let refused = Content::unpack(Path::new("a"), packed).err().unwrap();
        assert!(matches!(refused, DataError::Unsupported { .. }), "{refused}");
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused() {
        let refused = Content::read(Path::new("/dev/zero")).err().unwrap();
        assert!(matches!(refused, DataError::Unsupported { .. }), "{refused}");
        let missing = Content::read(Path::new("/nowhere/at/all")).err().unwrap();
        assert!(matches!(missing, DataError::Unreadable { .. }), "{missing}");
    }
}
