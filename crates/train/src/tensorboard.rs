//! TensorBoard event files.
//!
//! The format is small enough to write out: a file of records, each a length (8 bytes, little endian), its masked
//! CRC-32C, a protobuf `Event`, and the masked CRC-32C of that. The fields used here (tensorflow's `event.proto` and
//! `summary.proto`):
//!
//! ```text
//! Event       1: double wall_time   2: int64 step   3: string file_version   5: Summary   7: SessionLog
//! Summary     1: repeated Value { 1: string tag   2: float simple_value   4: Image }
//! Image       1: int32 height   2: int32 width   3: int32 colorspace   4: bytes encoded_image_string
//! SessionLog  1: enum status, START = 1
//! ```
//!
//! Every process that trains into a run opens its own file, which begins with `SessionLog START` at the first step that
//! it will write. TensorBoard then drops what earlier files hold from that step on: the steps that a killed process did
//! after its last checkpoint.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::files::FileError;
use crate::metrics::Metrics;

const PREFIX: &str = "events.out.tfevents.";

/// TensorBoard events could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TensorBoardError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// An image is not a PNG.
    #[error("the image \"{name}\" is not a PNG file, which is what TensorBoard is given; encode it as PNG")]
    NotPng {
        /// The image's name.
        name: String,
    },
}

/// Writes one event file.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Starts a new event file in `directory` (created if need be), whose first step will be `first_step`.
    ///
    /// # Errors
    /// [`TensorBoardError::File`] when the system refuses.
    pub fn create(directory: &Path, first_step: u64) -> Result<Self, TensorBoardError> {
        fs::create_dir_all(directory).map_err(FileError::because("create the directory", directory))?;
        // TensorBoard reads the files of a directory in the order of their names, so a later file needs a later time
        // in its name, also when two were started within a second.
        let newest = newest_stamp(directory).map_err(FileError::because("read", directory))?;
        let stamp = (wall_time() as u64).max(newest.map_or(0, |stamp| stamp + 1));
        let path = directory.join(format!("{PREFIX}{stamp:010}.posterior.{}", std::process::id()));
        let file = File::options().append(true).create_new(true).open(&path);
        let mut writer = Self {
            file: file.map_err(FileError::because("create", &path))?,
            path,
        };
        writer.write(0, &bytes_field(3, b"brain.Event:2"))?;
        writer.write(first_step, &bytes_field(7, &varint_field(1, 1)))?;
        Ok(writer)
    }

    /// Writes all metrics as scalars.
    ///
    /// # Errors
    /// [`TensorBoardError::File`] when the system refuses.
    pub fn scalars(&mut self, step: u64, metrics: &Metrics) -> Result<(), TensorBoardError> {
        let mut summary = Vec::new();
        for (name, value) in metrics.iter() {
            let mut entry = bytes_field(1, name.as_bytes());
            entry.push(2 << 3 | 5);
            entry.extend((value as f32).to_le_bytes());
            summary.extend(bytes_field(1, &entry));
        }
        self.write(step, &bytes_field(5, &summary))
    }

    /// Writes an image, given as the bytes of a PNG file.
    ///
    /// # Errors
    /// [`TensorBoardError::NotPng`], or [`TensorBoardError::File`] when the system refuses.
    pub fn image(&mut self, step: u64, name: &str, png: &[u8]) -> Result<(), TensorBoardError> {
        let Some((width, height, channels)) = png_shape(png) else {
            return Err(TensorBoardError::NotPng { name: name.to_owned() });
        };
        let sizes = [
            varint_field(1, height),
            varint_field(2, width),
            varint_field(3, channels),
        ]
        .concat();
        let image = [sizes, bytes_field(4, png)].concat();
        let entry = [bytes_field(1, name.as_bytes()), bytes_field(4, &image)].concat();
        self.write(step, &bytes_field(5, &bytes_field(1, &entry)))
    }

    /// Writes one record in one piece, so that a kill can tear only the last one.
    fn write(&mut self, step: u64, what: &[u8]) -> Result<(), TensorBoardError> {
        let mut event = vec![1 << 3 | 1];
        event.extend(wall_time().to_le_bytes());
        event.extend(varint_field(2, step));
        event.extend(what);
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc32c(&length).to_le_bytes());
        record.extend(&event);
        record.extend(masked_crc32c(&event).to_le_bytes());
        Ok(self
            .file
            .write_all(&record)
            .map_err(FileError::because("write", &self.path))?)
    }
}

/// Seconds since 1970. A clock set before that counts as 1970.
fn wall_time() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// The latest time in the names of a directory's event files.
fn newest_stamp(directory: &Path) -> std::io::Result<Option<u64>> {
    let mut newest = None;
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let stamp = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('.').next()?.parse().ok());
        newest = newest.max(stamp);
    }
    Ok(newest)
}

/// Width, height and number of channels from a PNG's header chunk (PNG specification, section 11.2.1).
fn png_shape(png: &[u8]) -> Option<(u64, u64, u64)> {
    let header = png.strip_prefix(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR")?.get(..10)?;
    let number = |at: usize| {
        u64::from(u32::from_be_bytes([
            header[at],
            header[at + 1],
            header[at + 2],
            header[at + 3],
        ]))
    };
    let channels = match header[9] {
        0 => 1,
        2 | 3 => 3,
        4 => 2,
        6 => 4,
        _ => return None,
    };
    Some((number(0), number(4), channels))
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn varint_field(field: u8, value: u64) -> Vec<u8> {
    [vec![field << 3], varint(value)].concat()
}

fn bytes_field(field: u8, content: &[u8]) -> Vec<u8> {
    [&[field << 3 | 2], &varint(content.len() as u64)[..], content].concat()
}

/// The CRC of the record format: CRC-32C, rotated by 15 bits, plus a constant.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected polynomial 0x82f63b78, a byte at a time.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut value = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 {
                    value >> 1 ^ 0x82f6_3b78
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        table
    };
    !bytes
        .iter()
        .fold(!0u32, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4, and the polynomial's customary check value.
    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    /// Field 1 as a varint of 150 is 08 96 01; field 2 as the string "testing" is 12 07 74 65 73 74 69 6e 67 (the
    /// protocol buffers' own encoding examples).
    #[test]
    fn the_encoding_is_protobuf() {
        assert_eq!(varint_field(1, 150), [0x08, 0x96, 0x01]);
        assert_eq!(bytes_field(2, b"testing"), b"\x12\x07testing");
        assert_eq!(varint(u64::MAX).len(), 10);
    }

    #[test]
    fn later_files_have_later_names() {
        let directory = tempfile::tempdir().unwrap();
        let mut paths: Vec<PathBuf> = (0..5)
            .map(|step| EventWriter::create(directory.path(), step).unwrap().path)
            .collect();
        let created = paths.clone();
        paths.sort();
        paths.dedup();
        assert_eq!(paths, created);
    }

    #[test]
    fn records_are_framed_and_checked() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(directory.path(), 7).unwrap();
        writer
            .scalars(7, &Metrics::new().mean("loss", 0.5).last("lr", 1.0))
            .unwrap();
        let bytes = fs::read(&writer.path).unwrap();
        let (mut rest, mut events) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked_crc32c(&rest[..8]).to_le_bytes());
            assert_eq!(
                rest[12 + length..16 + length],
                masked_crc32c(&rest[12..12 + length]).to_le_bytes()
            );
            events.push(rest[12..12 + length].to_vec());
            rest = &rest[16 + length..];
        }
        // Each event: 09 and 8 bytes of wall time, then step and content.
        assert_eq!(events[0][9..], *b"\x10\x00\x1a\x0dbrain.Event:2");
        assert_eq!(events[1][9..], *b"\x10\x07\x3a\x02\x08\x01");
        assert_eq!(
            events[2][9..],
            *b"\x10\x07\x2a\x18\x0a\x0b\x0a\x04loss\x15\0\0\0\x3f\x0a\x09\x0a\x02lr\x15\0\0\x80\x3f"
        );
    }

    #[test]
    fn only_png_images_are_taken() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(directory.path(), 1).unwrap();
        let error = writer
            .image(0, "grid", b"\xff\xd8\xff\xe0 a JPEG")
            .unwrap_err()
            .to_string();
        assert!(error.contains("\"grid\" is not a PNG"), "{error}");
        let header = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x01\0\0\0\0\x20\x08\x02\0\0\0";
        assert_eq!(png_shape(header), Some((256, 32, 3)));
        writer.image(0, "grid", header).unwrap();
        for length in 0..26 {
            assert_eq!(png_shape(&header[..length]), None);
        }
    }
}
