//! Records of text files, one at a time: lines, or the objects of a JSON array. Never more than one record is in
//! memory, and a record longer than a limit is an error.

use std::io::{self, BufRead, Read as _};

/// The longest record that is read, in bytes. The longest contexts of models hold some 10 MB of text.
pub(super) const LONGEST: u64 = 64 << 20;

/// Why no record could be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The system or the unpacking failed.
    Read(io::Error),
    /// The text at this line is not as it should be: what is wrong and what to do.
    Text(u64, String, &'static str),
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Its line, counted from 1.
    pub line: u64,
    /// Its first byte, counted from 0.
    pub start: u64,
    /// Its length in bytes.
    pub length: u64,
}

const TOO_LONG: &str = "split it, or remove it";

/// Lines that are not blank, without their line ends and without a byte-order mark.
pub(super) struct Lines<R> {
    reader: R,
    line: u64,
    offset: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            line: 0,
            offset: 0,
            buffer: Vec::new(),
        }
    }

    /// The next line and where it is.
    pub fn next(&mut self) -> Option<Result<(Span, &[u8]), Fault>> {
        loop {
            self.buffer.clear();
            let start = self.offset;
            // One byte more tells a line of the greatest length from a longer one.
            let read = self
                .reader
                .by_ref()
                .take(LONGEST + 1)
                .read_until(b'\n', &mut self.buffer);
            match read {
                Ok(0) => return None,
                Ok(count) => self.offset += count as u64,
                Err(error) => return Some(Err(Fault::Read(error))),
            }
            self.line += 1;
            if self.buffer.len() as u64 > LONGEST {
                return Some(Err(too_long(self.line)));
            }
            let mut from = 0;
            if self.line == 1 {
                if self.buffer.starts_with(b"\xff\xfe") || self.buffer.starts_with(b"\xfe\xff") {
                    let problem = "this is UTF-16".to_owned();
                    return Some(Err(Fault::Text(1, problem, "save the file as UTF-8")));
                }
                if self.buffer.starts_with(b"\xef\xbb\xbf") {
                    from = 3;
                }
            }
            let mut to = self.buffer.len();
            while to > from && matches!(self.buffer[to - 1], b'\n' | b'\r') {
                to -= 1;
            }
            if self.buffer[from..to].iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let span = Span {
                line: self.line,
                start: start + from as u64,
                length: (to - from) as u64,
            };
            return Some(Ok((span, &self.buffer[from..to])));
        }
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

fn too_long(line: u64) -> Fault {
    let problem = format!("a row of more than {} MiB, the longest that is read", LONGEST >> 20);
    Fault::Text(line, problem, TOO_LONG)
}

/// The objects of a JSON array.
///
/// Only braces, brackets and strings are followed here to find where an object ends; whether it is JSON is for its
/// parser to say.
pub(super) struct Objects<R> {
    reader: R,
    line: u64,
    offset: u64,
    state: State,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Before the opening bracket.
    Start,
    /// After the opening bracket.
    First,
    /// After a comma.
    Next,
    /// After an object.
    After,
    /// After the closing bracket.
    End,
}

impl<R: BufRead> Objects<R> {
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            line: 1,
            offset: 0,
            state: State::Start,
            buffer: Vec::new(),
        }
    }

    /// The next object and where it is.
    pub fn next(&mut self) -> Option<Result<(Span, &[u8]), Fault>> {
        match self.find() {
            Ok(Some(span)) => Some(Ok((span, &self.buffer))),
            Ok(None) => None,
            Err(fault) => Some(Err(fault)),
        }
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn find(&mut self) -> Result<Option<Span>, Fault> {
        loop {
            let Some(byte) = self.byte()? else {
                return match self.state {
                    State::End => Ok(None),
                    State::Start => Ok(None),
                    _ => Err(self.fault("the file ends within its array", "it was cut short; make it again")),
                };
            };
            self.state = match (self.state, byte) {
                (_, b' ' | b'\t' | b'\r' | b'\n') => self.state,
                (State::Start, 0xef | 0xbb | 0xbf) if self.offset <= 3 => State::Start,
                (State::Start, b'[') => State::First,
                (State::First | State::After, b']') => State::End,
                (State::After, b',') => State::Next,
                (State::First | State::Next, b'{') => {
                    let span = self.object()?;
                    self.state = State::After;
                    return Ok(Some(span));
                }
                (State::First | State::Next, _) => {
                    return Err(self.fault("an element of the array is not an object", "give a list of objects"));
                }
                (State::End, _) => {
                    return Err(self.fault("something after the array's end", "give one list of objects"));
                }
                (State::After, _) => {
                    return Err(self.fault("no comma between two elements", "put one there"));
                }
                (State::Start, _) => {
                    return Err(self.fault("neither a list nor objects", "give a list of objects"));
                }
            };
        }
    }

    /// Reads the rest of an object whose opening brace was read.
    fn object(&mut self) -> Result<Span, Fault> {
        let (line, start) = (self.line, self.offset - 1);
        self.buffer.clear();
        self.buffer.push(b'{');
        let (mut depth, mut in_string, mut escaped) = (1usize, false, false);
        while depth > 0 {
            let Some(byte) = self.byte()? else {
                return Err(self.fault("the file ends within an object", "it was cut short; make it again"));
            };
            self.buffer.push(byte);
            if self.buffer.len() as u64 > LONGEST {
                return Err(too_long(line));
            }
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth -= 1,
                _ => {}
            }
        }
        let length = self.buffer.len() as u64;
        Ok(Span { line, start, length })
    }

    fn byte(&mut self) -> Result<Option<u8>, Fault> {
        let byte = loop {
            match self.reader.fill_buf() {
                Ok(bytes) => break bytes.first().copied(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Read(error)),
            }
        };
        if let Some(byte) = byte {
            self.reader.consume(1);
            self.offset += 1;
            self.line += u64::from(byte == b'\n');
        }
        Ok(byte)
    }

    fn fault(&self, problem: &str, remedy: &'static str) -> Fault {
        Fault::Text(self.line, problem.to_owned(), remedy)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(bytes: &[u8]) -> Vec<Result<(u64, String), u64>> {
        let mut lines = Lines::new(bytes);
        let mut all = Vec::new();
        while let Some(line) = lines.next() {
            all.push(match line {
                Ok((span, text)) => {
                    assert_eq!(text, &bytes[span.start as usize..][..span.length as usize]);
                    Ok((span.line, String::from_utf8_lossy(text).into_owned()))
                }
                Err(Fault::Text(line, ..)) => Err(line),
                Err(Fault::Read(error)) => panic!("{error}"),
            });
        }
        all
    }

    fn objects(bytes: &[u8]) -> Vec<Result<(u64, String), String>> {
        let mut objects = Objects::new(bytes);
        let mut all = Vec::new();
        while let Some(object) = objects.next() {
            match object {
                Ok((span, text)) => {
                    assert_eq!(text, &bytes[span.start as usize..][..span.length as usize]);
                    all.push(Ok((span.line, String::from_utf8_lossy(text).into_owned())));
                }
                Err(Fault::Text(line, problem, _)) => {
                    all.push(Err(format!("{line}: {problem}")));
                    break;
                }
                Err(Fault::Read(error)) => panic!("{error}"),
            }
        }
        all
    }

    #[test]
    fn lines_come_without_ends_marks_and_blanks() {
        let found = lines(b"\xef\xbb\xbf{1}\r\n\r\n  \n{2}\n\n{3}");
        let expected = [(1, "{1}"), (4, "{2}"), (6, "{3}")].map(|(line, text)| Ok((line, text.to_owned())));
        assert_eq!(found, expected);
        assert_eq!(lines(b"\xff\xfe{\0"), [Err(1)]);
        assert!(lines(b"").is_empty());
    }

    #[test]
    fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
        let mut bytes = vec![b'x'; LONGEST as usize];
        bytes.extend(b"\nnext");
        let error = |bytes: &[u8]| matches!(Lines::new(bytes).next(), Some(Err(Fault::Text(1, ..))));
        // The line end counts.
        assert!(error(&bytes));
        bytes.remove(0);
        assert!(!error(&bytes));
    }

    #[test]
    fn objects_are_found_whatever_their_strings_hold() {
        let found = objects(b"\xef\xbb\xbf [\n{\"a\": \"}]\\\"{\"},\n {\"b\": [{}]}\n]\n");
        let expected =
            [(2, "{\"a\": \"}]\\\"{\"}"), (3, "{\"b\": [{}]}")].map(|(line, text)| Ok((line, text.to_owned())));
        assert_eq!(found, expected);
        assert!(objects(b"[]").is_empty());
        assert!(objects(b"  ").is_empty());
    }

    #[test]
    fn faults_of_an_array_are_named() {
        for (text, expected) in [
            ("[{}", "1: the file ends within its array"),
            ("[\n{\"a\":", "2: the file ends within an object"),
            ("[1]", "1: an element of the array is not an object"),
            ("[{},]", "1: an element of the array is not an object"),
            ("[{} {}]", "1: no comma between two elements"),
            ("[{}]\nx", "2: something after the array's end"),
            ("7", "1: neither a list nor objects"),
        ] {
            assert_eq!(objects(text.as_bytes()).pop(), Some(Err(expected.to_owned())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(
            prop_oneof![Just(b'\n'), Just(b'{'), Just(b'}'), Just(b'['), Just(b']'), Just(b','), Just(b'"'), Just(b'\\'), any::<u8>()], 0..80,
        )) {
            lines(&bytes);
            objects(&bytes);
        }
    }
}
