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
        fn keeps_head_and_tail_of_any_stream(max in 0usize..40, pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..12)) {
            let whole = pieces.concat();
            let mut buffer = OutputBuffer::new(max);
            pieces.iter().for_each(|piece| buffer.write(piece));
            let output = buffer.finish();
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
