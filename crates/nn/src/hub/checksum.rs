//! What the Hub says of a file's content: the etag, which for files of the Hub is a checksum.
//!
//! A large file's (Git LFS's) etag is its SHA-256; any other's is git's name of the blob: the SHA-1 of `blob `, the size
//! in decimal, a zero byte, and the content (huggingface_hub 2.4, `hf_hub_url`; "Pro Git", section 10.2). SHA-1 guards
//! against accidents only.

use sha1::{Digest, Sha1};
use sha2::Sha256;

/// An etag that is fit for a file's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Etag(String);

impl Etag {
    /// Reads the header, `"..."` or `W/"..."`.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let text = header.trim();
        let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
        let fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(fit) && !text.starts_with('.');
        fits.then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// A computation of the checksum that this etag states, for a content of this many bytes.
    pub(super) fn checksum(&self, size: u64) -> Checksum {
        let is_hexadecimal = self.0.bytes().all(|byte| byte.is_ascii_hexdigit());
        match self.0.len() {
            64 if is_hexadecimal => Checksum::Sha256(Sha256::new()),
            40 if is_hexadecimal => Checksum::GitBlob(Sha1::new().chain_update(format!("blob {size}\0"))),
            // Another server's etag: no checksum that could be known.
            _ => Checksum::None,
        }
    }

    /// Whether a checksum is the one that this etag states.
    pub(super) fn agrees(&self, checksum: &str) -> bool {
        checksum.is_empty() || checksum.eq_ignore_ascii_case(&self.0)
    }
}

/// A checksum under way.
#[derive(Clone)]
pub(super) enum Checksum {
    Sha256(Sha256),
    GitBlob(Sha1),
    None,
}

impl Checksum {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(digest) => digest.update(bytes),
            Self::GitBlob(digest) => digest.update(bytes),
            Self::None => {}
        }
    }

    /// In lower-case hexadecimal digits; empty if there is none.
    pub(super) fn finish(self) -> String {
        let digest = match self {
            Self::Sha256(digest) => digest.finalize().to_vec(),
            Self::GitBlob(digest) => digest.finalize().to_vec(),
            Self::None => Vec::new(),
        };
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(etag: &str, content: &[u8]) -> String {
        let mut checksum = Etag::parse(etag).unwrap().checksum(content.len() as u64);
        checksum.update(content);
        checksum.finish()
    }

    /// `printf 'hello\n' | git hash-object --stdin` and `printf abc | sha256sum`.
    #[test]
    fn the_checksums_are_those_of_git_and_sha256sum() {
        assert_eq!(
            of(&"0".repeat(40), b"hello\n"),
            "ce013625030ba8dba906f756967f9e9ca394464a"
        );
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of(&"0".repeat(64), b"abc"), sha256);
        assert!(Etag::parse(&sha256.to_uppercase()).unwrap().agrees(sha256));
        assert!(!Etag::parse(&"0".repeat(64)).unwrap().agrees(sha256));
        assert_eq!(of("5f3a-12", b"abc"), "");
    }

    #[test]
    fn an_etag_is_unquoted_and_must_be_fit_for_a_name() {
        assert_eq!(Etag::parse("\"abc\"").unwrap().as_str(), "abc");
        assert_eq!(Etag::parse("W/\"abc-1\"").unwrap().as_str(), "abc-1");
        for bad in ["", "\"\"", "\"../x\"", "\"a/b\"", ".x", "a b", "é", &"a".repeat(129)] {
            assert_eq!(Etag::parse(bad), None, "{bad}");
        }
    }
}
