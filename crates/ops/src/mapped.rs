//! Files as memory.

use std::fs::File;
use std::io;
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
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
