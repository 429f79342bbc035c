//! Reading little-endian numbers and strings from bytes that may end anywhere.

/// A problem and its offset from the start of the file.
pub(super) type Problem = (usize, String);

/// A position in the bytes of a file.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// The position, from the start of the file.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    pub(super) fn problem<T>(&self, problem: impl Into<String>) -> Result<T, Problem> {
        Err((self.at, problem.into()))
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], Problem> {
        let end = self.at.checked_add(count);
        match end.and_then(|end| Some((end, self.bytes.get(self.at..end)?))) {
            Some((end, bytes)) => {
                self.at = end;
                Ok(bytes)
            }
            None => self.problem(format!(
                "{what} needs {count} bytes, but only {} are left",
                self.remaining()
            )),
        }
    }

    /// The next `SIZE` bytes, as an array for `from_le_bytes`.
    pub(super) fn word<const SIZE: usize>(&mut self, what: &str) -> Result<[u8; SIZE], Problem> {
        let mut word = [0; SIZE];
        word.copy_from_slice(self.take(SIZE, what)?);
        Ok(word)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, Problem> {
        self.word(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, Problem> {
        self.word(what).map(u64::from_le_bytes)
    }

    /// A count of things of at least `least` bytes each, which must fit into the rest of the file: whoever allocates
    /// by it allocates no more than a small multiple of the file's size.
    pub(super) fn count(&mut self, least: usize, what: &str) -> Result<usize, Problem> {
        let at = self.at;
        let count = self.u64(what)?;
        match usize::try_from(count) {
            Ok(count) if count <= self.remaining() / least.max(1) => Ok(count),
            _ => Err((
                at,
                format!(
                    "{what} is stated as {count}, more than the {} bytes that follow can hold",
                    self.remaining()
                ),
            )),
        }
    }

    /// A string: its length in bytes as u64, then UTF-8.
    pub(super) fn string(&mut self, what: &str) -> Result<&'a str, Problem> {
        let at = self.at;
        let length = self.count(1, &format!("the length of {what}"))?;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|_| (at, format!("{what} is not in UTF-8")))
    }
}
