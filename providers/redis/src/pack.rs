//! What Lua's `cmsgpack` makes of a table of texts: a MessagePack array, or a map from places to texts.

use std::ops::Range;

/// Reads packed texts: the place of each, from 0, and where in the bytes its text is. `None` where the bytes are no
/// such table.
pub(crate) fn texts(bytes: &[u8]) -> Option<Vec<(u32, Range<usize>)>> {
    let mut reader = Reader { bytes, at: 0 };
    let tag = reader.byte()?;
    let (count, is_map) = match tag {
        0x80..=0x8f => (u32::from(tag & 0x0f), true),
        0x90..=0x9f => (u32::from(tag & 0x0f), false),
        0xdc => (reader.number(2)?, false),
        0xdd => (reader.number(4)?, false),
        0xde => (reader.number(2)?, true),
        0xdf => (reader.number(4)?, true),
        _ => return None,
    };
    // A text is at least one byte: a false count makes no large buffer.
    let mut texts = Vec::with_capacity((count as usize).min(bytes.len()));
    for place in 0..count {
        let place = if is_map { reader.int()?.checked_sub(1)? } else { place };
        texts.push((place, reader.text()?));
    }
    // Lua's maps have no order.
    if is_map {
        texts.sort_unstable_by_key(|(place, _)| *place);
    }
    Some(texts)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// A number of so many bytes, big-endian.
    fn number(&mut self, len: usize) -> Option<u32> {
        let bytes = self.bytes.get(self.at..self.at + len)?;
        self.at += len;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    fn int(&mut self) -> Option<u32> {
        match self.byte()? {
            small @ 0..=0x7f => Some(u32::from(small)),
            0xcc | 0xd0 => self.number(1),
            0xcd | 0xd1 => self.number(2),
            0xce | 0xd2 => self.number(4),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<Range<usize>> {
        let len = match self.byte()? {
            tag @ 0xa0..=0xbf => u32::from(tag & 0x1f),
            0xc4 | 0xd9 => self.number(1)?,
            0xc5 | 0xda => self.number(2)?,
            0xc6 | 0xdb => self.number(4)?,
            _ => return None,
        };
        let range = self.at..self.at.checked_add(len as usize)?;
        self.bytes.get(range.clone())?;
        self.at = range.end;
        Some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_arrays_and_maps() {
        assert_eq!(texts(b"\x92\xa1a\xd9\x02bc"), Some(vec![(0, 2..3), (1, 5..7)]));
        assert_eq!(texts(b"\x82\x05\xa1e\x02\xa1b"), Some(vec![(1, 6..7), (4, 3..4)]));
        assert_eq!(texts(b"\xdc\x00\x01\xa0"), Some(vec![(0, 4..4)]));
    }

    #[test]
    fn refuses_what_is_cut_off_or_something_else() {
        for bytes in [&b""[..], b"\x91", b"\x91\xa5abc", b"\xc0", b"\xdd\xff\xff\xff\xff", b"\x81\x00\xa0"] {
            assert_eq!(texts(bytes), None, "{bytes:?}");
        }
    }
}
