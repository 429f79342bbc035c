//! What a Parquet file says about sizes, checked before the `parquet` crate believes it.
//!
//! The crate allocates what a footer or a page header announces: lists by their stated length, pages by their stated
//! unpacked size. A file of a few bytes could so ask for gigabytes, and a failed allocation ends the process. The walk
//! over Thrift's compact protocol here ([specification][1]) makes sure that every list and every text is no longer than
//! the bytes that follow, and reads the few numbers that have to be compared.
//!
//! [1]: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md

/// Elements that a schema may have. The crate builds the schema by recursion; this also bounds the depth.
pub(super) const MOST_SCHEMA_ELEMENTS: usize = 1000;

/// Nesting within a footer: 5 levels of structures occur.
const DEEPEST: usize = 24;

/// The bytes end, or are not what they should be.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    /// More bytes are needed.
    Short,
    /// The bytes make no sense.
    Wrong(&'static str),
}

/// The stated sizes of a page.
#[derive(Debug, PartialEq)]
pub(super) struct PageSizes {
    /// Bytes of the header itself.
    pub header: usize,
    /// Bytes of the content in the file.
    pub packed: u64,
    /// Bytes of the content unpacked.
    pub unpacked: u64,
}

/// Checks a footer's lists and texts against its length, and its schema's size.
pub(super) fn check_footer(bytes: &[u8]) -> Result<(), Fault> {
    let mut walk = Walk { bytes, at: 0 };
    let mut last = 0;
    while let Some((id, kind)) = walk.field(&mut last)? {
        // FileMetaData { 2: list<SchemaElement> schema }
        if id == 2 && kind == LIST {
            let (length, element) = walk.list()?;
            if element != STRUCT {
                return Err(Fault::Wrong("the schema is not a list of elements"));
            }
            if length > MOST_SCHEMA_ELEMENTS {
                return Err(Fault::Wrong("the schema has more than 1,000 elements"));
            }
            let mut children = 0u64;
            for _ in 0..length {
                let mut last = 0;
                while let Some((id, kind)) = walk.field(&mut last)? {
                    // SchemaElement { 5: i32 num_children }
                    if id == 5 && kind == I32 {
                        let stated = walk.zigzag()?;
                        children += u64::try_from(stated).map_err(|_| Fault::Wrong("a negative number of children"))?;
                    } else {
                        walk.skip(kind, 0)?;
                    }
                }
            }
            if children >= length.max(1) as u64 {
                return Err(Fault::Wrong("the schema announces more children than it has elements"));
            }
        } else {
            walk.skip(kind, 0)?;
        }
    }
    Ok(())
}

/// The sizes in the page header that `bytes` start with.
pub(super) fn page_sizes(bytes: &[u8]) -> Result<PageSizes, Fault> {
    let mut walk = Walk { bytes, at: 0 };
    let (mut unpacked, mut packed) = (None, None);
    let mut last = 0;
    while let Some((id, kind)) = walk.field(&mut last)? {
        // PageHeader { 2: i32 uncompressed_page_size, 3: i32 compressed_page_size }
        match (id, kind) {
            (2, I32) => unpacked = Some(walk.zigzag()?),
            (3, I32) => packed = Some(walk.zigzag()?),
            _ => walk.skip(kind, 0)?,
        }
    }
    let size = |size: Option<i64>| {
        size.and_then(|size| u64::try_from(size).ok())
            .ok_or(Fault::Wrong("a page without its size"))
    };
    Ok(PageSizes {
        header: walk.at,
        packed: size(packed)?,
        unpacked: size(unpacked)?,
    })
}

const I32: u8 = 5;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    fn byte(&mut self) -> Result<u8, Fault> {
        let byte = *self.bytes.get(self.at).ok_or(Fault::Short)?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::Wrong("a number of more than 64 bits"))
    }

    fn zigzag(&mut self) -> Result<i64, Fault> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The next field's number and type, `None` at the end of the structure.
    fn field(&mut self, last: &mut i64) -> Result<Option<(i64, u8)>, Fault> {
        let byte = self.byte()?;
        let kind = byte & 0x0f;
        if kind == 0 {
            return Ok(None);
        }
        let delta = i64::from(byte >> 4);
        *last = if delta == 0 {
            self.zigzag()?
        } else {
            last.saturating_add(delta)
        };
        Ok(Some((*last, kind)))
    }

    fn pass(&mut self, count: u64) -> Result<(), Fault> {
        if count > (self.bytes.len() - self.at) as u64 {
            return Err(Fault::Short);
        }
        self.at += count as usize;
        Ok(())
    }

    /// A list's length and the type of its elements. Each element takes a byte at least, so the length is borne out.
    fn list(&mut self) -> Result<(usize, u8), Fault> {
        let byte = self.byte()?;
        let length = match byte >> 4 {
            15 => self.varint()?,
            short => u64::from(short),
        };
        if length > (self.bytes.len() - self.at) as u64 {
            return Err(Fault::Short);
        }
        Ok((length as usize, byte & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Result<(), Fault> {
        if depth > DEEPEST {
            return Err(Fault::Wrong("structures nested too deeply"));
        }
        match kind {
            // In a field, the type itself says true or false.
            1 | 2 => Ok(()),
            3 => self.pass(1),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            8 => {
                let length = self.varint()?;
                self.pass(length)
            }
            9 | 10 => {
                let (length, element) = self.list()?;
                for _ in 0..length {
                    self.element(element, depth)?;
                }
                Ok(())
            }
            11 => {
                let length = self.varint()?;
                if length > 0 {
                    let kinds = self.byte()?;
                    for _ in 0..length {
                        self.element(kinds >> 4, depth)?;
                        self.element(kinds & 0x0f, depth)?;
                    }
                }
                Ok(())
            }
            STRUCT => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip(kind, depth + 1)?;
                }
                Ok(())
            }
            13 => self.pass(16),
            _ => Err(Fault::Wrong("an unknown type of field")),
        }
    }

    /// In a list, true and false take a byte.
    fn element(&mut self, kind: u8, depth: usize) -> Result<(), Fault> {
        match kind {
            1 | 2 => self.pass(1),
            kind => self.skip(kind, depth + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A page header: type 0, unpacked 300 (zigzag 600 = d8 04), packed 20 (zigzag 40), data page header {1: 5 values}.
    const HEADER: [u8; 12] = [0x15, 0x00, 0x15, 0xd8, 0x04, 0x15, 40, 0x2c, 0x15, 10, 0x00, 0x00];

    #[test]
    fn a_page_header_is_read() {
        let sizes = PageSizes {
            header: 12,
            packed: 20,
            unpacked: 300,
        };
        assert_eq!(page_sizes(&[&HEADER[..], b"content"].concat()), Ok(sizes));
        for cut in 0..12 {
            assert_eq!(page_sizes(&HEADER[..cut]), Err(Fault::Short));
        }
        assert!(matches!(page_sizes(&[0x15, 0, 0]), Err(Fault::Wrong(_))));
        // -1 as a size.
        assert!(matches!(page_sizes(&[0x25, 1, 0x15, 2, 0]), Err(Fault::Wrong(_))));
    }

    #[test]
    fn lengths_that_the_bytes_do_not_bear_out_are_refused() {
        // Field 4, a list of 2^28 structures.
        let list = [0x49, 0xfc, 0x80, 0x80, 0x80, 0x80, 0x01, 0, 0];
        assert_eq!(check_footer(&list), Err(Fault::Short));
        // Field 6, a text of 2^28 bytes.
        let text = [0x68, 0x80, 0x80, 0x80, 0x80, 0x01, 0, 0];
        assert_eq!(check_footer(&text), Err(Fault::Short));
        // Field 2, a schema of one element that announces 2^20 children (zigzag 2^21).
        let schema = [0x29, 0x1c, 0x55, 0x80, 0x80, 0x80, 0x01, 0, 0];
        assert!(matches!(check_footer(&schema), Err(Fault::Wrong(_))));
        let nested = vec![0x1c; 1000];
        assert!(matches!(check_footer(&nested), Err(Fault::Wrong(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = check_footer(&bytes);
            let _ = page_sizes(&bytes);
        }
    }
}
