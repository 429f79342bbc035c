//! Telling whether data are still the data that a run was started on.

use crc32fast::Hasher;

/// A checksum of data, fed piece by piece: the number of bytes and their CRC-32.
///
/// It notices what happens by accident (another file under the same name, rows added, labels corrected); it is no
/// protection against somebody who wants to be fooled. Pieces are separated by their lengths, so that moving a
/// boundary between two of them changes it.
///
/// ```
/// use posterior_train::fingerprint::Fingerprint;
///
/// let of = |pieces: &[&str]| {
///     let mut fingerprint = Fingerprint::default();
///     pieces.iter().for_each(|piece| fingerprint.bytes(piece.as_bytes()));
///     fingerprint.finish()
/// };
/// assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
/// assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Fingerprint {
    hasher: Hasher,
    bytes: u64,
}

impl Fingerprint {
    /// Takes a piece of bytes in.
    pub fn bytes(&mut self, piece: &[u8]) {
        self.hasher.update(&(piece.len() as u64).to_le_bytes());
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
    }

    /// Takes a piece of numbers in, by their bits.
    pub fn numbers(&mut self, piece: &[f32]) {
        self.hasher.update(&(size_of_val(piece) as u64).to_le_bytes());
        let mut buffer = Vec::with_capacity(4 << 10);
        for part in piece.chunks(1 << 10) {
            buffer.clear();
            buffer.extend(part.iter().flat_map(|number| number.to_le_bytes()));
            self.hasher.update(&buffer);
        }
        self.bytes += size_of_val(piece) as u64;
    }

    /// The checksum, as in `376320-cbf43926`.
    #[must_use]
    pub fn finish(self) -> String {
        format!("{}-{:08x}", self.bytes, self.hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_their_bytes() {
        let values: Vec<f32> = (0..3000).map(|i| i as f32 * 0.1).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let (mut numbers, mut plain) = (Fingerprint::default(), Fingerprint::default());
        numbers.numbers(&values);
        plain.bytes(&bytes);
        let found = numbers.finish();
        assert_eq!(found, plain.finish());
        assert!(found.starts_with("12000-"), "{found}");
        let mut changed = Fingerprint::default();
        let mut other = values;
        other[2999] = 0.0;
        changed.numbers(&other);
        assert_ne!(changed.finish(), found);
    }
}
