//! Cuts what a program sends into lines, in bounded memory.

use std::ops::Range;

use memchr::memchr;

/// How much is read at once, at most.
const READ: usize = 64 << 10;

/// So much memory is kept when it is not needed.
const KEEP: usize = 256 << 10;

/// The lines of a stream, as it comes in.
#[derive(Debug)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to here there is no end of it.
    seen: usize,
    max: usize,
}

/// A line is longer than it may be.
#[derive(Debug)]
pub(crate) struct TooLong;

impl Lines {
    /// Lines of at most `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        Lines { bytes: Vec::new(), start: 0, seen: 0, max }
    }

    /// Where to put what is read.
    pub(crate) fn space(&mut self) -> &mut Vec<u8> {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.seen -= self.start;
            self.start = 0;
        }
        if self.bytes.is_empty() && self.bytes.capacity() > KEEP {
            self.bytes = Vec::new();
        }
        self.bytes.reserve(READ);
        &mut self.bytes
    }

    /// The next whole line, without its end; empty ones are passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Range<usize>>, TooLong> {
        while let Some(at) = memchr(b'\n', &self.bytes[self.seen..]) {
            let line = self.start..self.seen + at;
            self.start = line.end + 1;
            self.seen = self.start;
            if line.len() > self.max {
                return Err(TooLong);
            }
            if !self.bytes[line.clone()].trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
        self.seen = self.bytes.len();
        if self.seen - self.start > self.max { Err(TooLong) } else { Ok(None) }
    }

    /// Drops what has come in.
    pub(crate) fn forget(&mut self) {
        *self = Lines::new(self.max);
    }

    /// The bytes of a line.
    pub(crate) fn get(&self, line: Range<usize>) -> &[u8] {
        &self.bytes[line]
    }

    /// The beginning of a line that never ended.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            all.push(String::from_utf8_lossy(lines.get(line)).into_owned());
        }
        all
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let text = b"one\n\n  \r\ntwo\r\nthree\nrest";
        for cut in 0..text.len() {
            let mut lines = Lines::new(100);
            lines.space().extend_from_slice(&text[..cut]);
            let mut got = all(&mut lines);
            lines.space().extend_from_slice(&text[cut..]);
            got.append(&mut all(&mut lines));
            assert_eq!(got, ["one", "two\r", "three"], "cut at {cut}");
            assert_eq!(lines.rest(), b"rest");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_seen_before_its_end() {
        let mut lines = Lines::new(10);
        lines.space().extend_from_slice(b"0123456789");
        assert!(lines.next().unwrap().is_none());
        lines.space().push(b'x');
        assert!(lines.next().is_err());
    }
}
