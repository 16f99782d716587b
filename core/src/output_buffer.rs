//! Keeps the head and the tail of a stream of any length in bounded memory.

use crate::Output;

/// How much of a run's output is kept by default, in bytes.
pub const OUTPUT_MAX: usize = 1 << 20;

/// Keeps the first and the last half of what is written to it, at most `max` bytes in all, and counts what it
/// cut between them.
///
/// ```
/// use ganger_core::OutputBuffer;
/// let mut buffer = OutputBuffer::new(8);
/// buffer.write(b"0123456789abcdef");
/// let output = buffer.finish();
/// assert_eq!(output.text(), "0123\n[… 8 bytes cut …]\ncdef");
/// ```
#[derive(Clone, Debug)]
pub struct OutputBuffer {
    max: usize,
    head: Vec<u8>,
    /// A ring once it is full: `at` is its oldest byte.
    tail: Vec<u8>,
    at: usize,
    total: u64,
}

impl OutputBuffer {
    /// Keeps at most `max` bytes.
    pub fn new(max: usize) -> Self {
        OutputBuffer { max, head: Vec::new(), tail: Vec::new(), at: 0, total: 0 }
    }

    /// Adds bytes. Never fails, never grows beyond `max`.
    pub fn write(&mut self, mut bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let head_max = self.max.div_ceil(2);
        if self.head.len() < head_max {
            let (now, rest) = bytes.split_at(bytes.len().min(head_max - self.head.len()));
            self.head.extend_from_slice(now);
            bytes = rest;
        }
        let tail_max = self.max - head_max;
        if tail_max == 0 {
            return;
        }
        bytes = &bytes[bytes.len().saturating_sub(tail_max)..];
        if self.tail.len() < tail_max {
            let (now, rest) = bytes.split_at(bytes.len().min(tail_max - self.tail.len()));
            self.tail.extend_from_slice(now);
            bytes = rest;
        }
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(tail_max - self.at));
            self.tail[self.at..self.at + now.len()].copy_from_slice(now);
            self.at = (self.at + now.len()) % tail_max;
            bytes = rest;
        }
    }

    /// What is kept from byte `at` of the stream on, at most `max` bytes; before it, how many bytes from there on are
    /// not kept.
    pub fn since(&self, at: u64, max: usize) -> (u64, Vec<u8>) {
        let head_left = usize::try_from(at).ok().and_then(|at| self.head.get(at..)).unwrap_or_default();
        if !head_left.is_empty() {
            return (0, head_left[..head_left.len().min(max)].to_vec());
        }
        let tail_from = self.total - self.tail.len() as u64;
        let missed = tail_from.saturating_sub(at);
        // What is left of the tail fits into memory, as all of it does.
        let skip = usize::try_from((at + missed).saturating_sub(tail_from)).unwrap_or(usize::MAX);
        let (newer, older) = self.tail.split_at(self.at);
        let first = older.get(skip..).unwrap_or_default();
        let second = newer.get(skip.saturating_sub(older.len())..).unwrap_or_default();
        let mut bytes = first[..first.len().min(max)].to_vec();
        bytes.extend_from_slice(&second[..second.len().min(max - bytes.len())]);
        (missed, bytes)
    }

    /// What was kept.
    pub fn finish(mut self) -> Output {
        self.tail.rotate_left(self.at);
        let cut_at = self.head.len();
        self.head.append(&mut self.tail);
        let cut = self.total - self.head.len() as u64;
        Output { bytes: self.head, cut, cut_at, content_type: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keeps_head_and_tail_of_any_stream(max in 0usize..40, at in 0u64..400, step in 1usize..20, pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..12)) {
            let whole = pieces.concat();
            let mut buffer = OutputBuffer::new(max);
            pieces.iter().for_each(|piece| buffer.write(piece));
            // Read from anywhere it is what was written there, or is said to be missing.
            let (missed, bytes) = buffer.since(at, step);
            let from = usize::try_from(at + missed).unwrap();
            prop_assert_eq!(bytes.as_slice(), whole.get(from..(from + bytes.len())).unwrap_or_default());
            let (mut read, mut gaps) = (Vec::new(), 0);
            loop {
                let (missed, bytes) = buffer.since(read.len() as u64 + gaps, step);
                if missed == 0 && bytes.is_empty() { break }
                gaps += missed;
                read.extend(bytes);
            }
            let output = buffer.finish();
            prop_assert_eq!((&read, gaps), (&output.bytes, output.cut));
            prop_assert!(output.bytes.len() <= max);
            prop_assert_eq!(output.total(), whole.len() as u64);
            if output.cut == 0 {
                prop_assert_eq!(&output.bytes, &whole);
            } else {
                prop_assert_eq!(output.bytes.len(), max);
                let (head, tail) = output.bytes.split_at(output.cut_at);
                prop_assert!(whole.starts_with(head) && whole.ends_with(tail));
            }
        }
    }
}
