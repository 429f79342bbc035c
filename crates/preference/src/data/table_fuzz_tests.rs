//! Damaged Parquet files: never a panic, never more memory than a file can bear out.

use std::sync::OnceLock;

use parquet::file::properties::{WriterProperties, WriterVersion};
use proptest::prelude::*;

use super::tests::{SCHEMA, compressions, many_rows, parquet, read};
use crate::quiet;

/// Changes and truncations of valid files; half of the changes in the footer. Used by the property test, and by the long
/// run below.
fn mutated(file: &[u8], mut random: u64) -> Vec<u8> {
    let mut next = |below: usize| {
        // xorshift64* (Marsaglia 2003, Vigna 2016).
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below.max(1)
    };
    let mut bytes = file.to_vec();
    let footer = u32::from_le_bytes(file[file.len() - 8..file.len() - 4].try_into().unwrap()) as usize + 8;
    // Insertions and deletions move everything behind them, so most files keep their length: those are read further.
    let ways = if next(3) == 0 { 8 } else { 6 };
    for _ in 0..1 + next(4) {
        let at = if next(2) == 0 {
            bytes.len() - 1 - next(footer.min(bytes.len()))
        } else {
            next(bytes.len())
        };
        match next(ways) {
            0 => bytes[at] = next(256) as u8,
            1 => bytes[at] ^= 1 << next(8),
            2 => bytes[at] = bytes[at].wrapping_add(1),
            3 => bytes[at] = 0xff,
            4 => bytes[at] = 0,
            5 => {
                let from = next(bytes.len());
                let length = next(16).min(bytes.len() - from.max(at));
                bytes.copy_within(from..from + length, at);
            }
            6 => {
                bytes.remove(at);
            }
            _ => bytes.insert(at, next(256) as u8),
        }
    }
    if next(20) == 0 {
        bytes.truncate(next(bytes.len()));
    }
    bytes
}

fn small_files() -> Vec<Vec<u8>> {
    let rows = many_rows()[..30].to_vec();
    let mut files = Vec::new();
    for compression in compressions() {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for dictionary in [true, false] {
                let properties = WriterProperties::builder()
                    .set_compression(compression)
                    .set_writer_version(version)
                    .set_dictionary_enabled(dictionary);
                files.push(parquet(SCHEMA, std::slice::from_ref(&rows), properties));
            }
        }
    }
    files
}

/// `MUTATIONS=100000 FIRST=0 cargo test --release many_mutated_files -- --ignored`, under `ulimit -v 1500000`.
#[test]
#[ignore = "takes minutes; run it when the parquet crate changes"]
fn many_mutated_files_never_panic() {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let files = small_files();
    let (mut read_well, mut refused) = (0, 0);
    let first = number("FIRST", 0);
    for seed in first..first + number("MUTATIONS", 100_000) {
        // What is not compressed is read further: half of the files are of that kind, the first four.
        let few = if seed % 2 == 0 { 4 } else { files.len() };
        let file = &files[(seed / 2) as usize % few];
        match read(&mutated(file, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1), |_| true) {
            Ok(_) => read_well += 1,
            Err(_) => refused += 1,
        }
    }
    eprintln!(
        "{read_well} read, {refused} refused, {} panics caught",
        quiet::CAUGHT.load(std::sync::atomic::Ordering::Relaxed)
    );
    assert!(read_well > 0 && refused > 0);
}

static FILES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();

proptest! {
    #[test]
    fn mutated_files_never_panic(which in 0usize..16, seed in 1u64..) {
        let files = FILES.get_or_init(small_files);
        let _ = read(&mutated(&files[which], seed), |_| true);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut file = b"PAR1".to_vec();
        file.extend(&bytes);
        file.extend((bytes.len() as u32).to_le_bytes());
        file.extend(b"PAR1");
        prop_assert!(read(&file, |_| true).is_err());
    }
}
