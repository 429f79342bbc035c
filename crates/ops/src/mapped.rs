//! Files as memory.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// A file's content, read by the system when it is looked at.
///
/// Weights are larger than anything else a program reads, and most of them are looked at once, on their way into a
/// tensor. Mapped, they take no memory of their own and can be dropped by the system at any time.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps a file.
    ///
    /// A file that another process cuts short while it is mapped ends this process when it looks behind the new end
    /// (SIGBUS); programs that replace model files do so by renaming a new one, which does not disturb the mapping.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the content is only ever read as bytes, for which every value is valid. That another process may
        // change them is what every reader of a file lives with.
        #[expect(unsafe_code, reason = "mapping a file has no safe interface")]
        let map = unsafe { memmap2::Mmap::map(&file) }?;
        Ok(Self(map))
    }

    /// Tells the system that these bytes are not looked at again soon, so that they do not count as this program's
    /// memory. Looking at them all the same reads them again.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if range.start < range.end && range.end <= self.0.len() {
            // SAFETY: dropping pages of a read-only mapping of a file changes nothing: they come back from the file with
            // the same content.
            #[expect(unsafe_code, reason = "the advice is unsafe for other kinds of mappings")]
            let advised = unsafe {
                self.0
                    .unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
            // Advice: a system that does not take it keeps the pages.
            drop(advised);
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_are_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let map = MappedFile::open(&path).unwrap();
        assert_eq!(map.as_ref(), bytes);
        // In pages and out of them, and what is no part of the file.
        for range in [5..7, 0..100_000, 3..99_999, 0..0, 90_000..200_000] {
            map.release(range);
            assert_eq!(map.as_ref(), bytes);
        }
    }
}
