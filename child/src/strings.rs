//! A list of C strings in one piece of memory, as exec wants its arguments and its environment.

use std::ffi::c_char;

use crate::text::shortened;

/// Strings that end in NUL, one after the other: two allocations for any number of them.
#[derive(Clone, Debug, Default)]
pub struct Strings {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

/// A string that has a NUL byte in it, which no program can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nul;

impl Strings {
    /// Adds a string made of parts.
    ///
    /// # Errors
    /// A part has a NUL byte in it. Nothing is changed then.
    pub fn push(&mut self, parts: &[&[u8]]) -> Result<(), Nul> {
        if parts.iter().any(|part| part.contains(&0)) {
            return Err(Nul);
        }
        self.starts.push(self.bytes.len());
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.bytes.push(0);
        Ok(())
    }

    /// Adds `name=value`.
    ///
    /// # Errors
    /// One has a NUL byte in it: the fault in words.
    pub fn variable(&mut self, name: &[u8], value: &[u8]) -> Result<(), String> {
        self.push(&[name, b"=", value]).map_err(|Nul| {
            let name = String::from_utf8_lossy(name);
            format!("the variable `{}` has a NUL byte in it", shortened(&name))
        })
    }

    /// The strings, without their NUL.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.starts.iter().skip(1).copied().chain([self.bytes.len()]);
        self.starts.iter().zip(ends).map(|(start, end)| &self.bytes[*start..end - 1])
    }

    /// Pointers to the strings, then a null: what exec takes. Valid while `self` is neither changed nor dropped.
    pub fn pointers(&self) -> Vec<*mut c_char> {
        let pointer = |start: &usize| self.bytes[*start..].as_ptr().cast_mut().cast::<c_char>();
        self.starts.iter().map(pointer).chain([std::ptr::null_mut()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_strings_apart_and_refuses_nul() {
        let mut strings = Strings::default();
        strings.push(&[b"A=", b"1"]).unwrap();
        strings.push(&[]).unwrap();
        assert_eq!(strings.push(&[b"B\0"]), Err(Nul));
        strings.push(&["é".as_bytes()]).unwrap();
        assert_eq!(strings.iter().collect::<Vec<_>>(), [b"A=1".as_slice(), b"", "é".as_bytes()]);
        assert_eq!(strings.pointers().len(), 4);
        assert_eq!(Strings::default().iter().count(), 0);
    }
}
