//! The archive of files with which Linux boots: cpio, in the form that is called `newc`.

use std::collections::BTreeSet;

/// An archive.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    dirs: BTreeSet<String>,
}

const DIR: u32 = 0o040_755;
const FILE: u32 = 0o100_000;

impl Archive {
    /// Adds a folder, and those that it lies in.
    pub(super) fn dir(&mut self, path: &str) {
        if path.is_empty() || !self.dirs.insert(path.to_owned()) {
            return;
        }
        self.dir(path.rsplit_once('/').map_or("", |(parent, _)| parent));
        self.entry(path, DIR, &[]);
    }

    /// Adds a file, and the folders that it lies in.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.dir(path.rsplit_once('/').map_or("", |(parent, _)| parent));
        self.entry(path, FILE | mode, content);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        // Number, mode, owner, group, links, time, size, four numbers of devices, the name's length, a checksum.
        let fields = [0, mode as usize, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, path.len() + 1, 0];
        self.bytes.extend(b"070701");
        fields.iter().for_each(|field| self.bytes.extend(format!("{field:08x}").bytes()));
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.fill();
        self.bytes.extend(content);
        self.fill();
    }

    /// Each part begins at a multiple of four.
    fn fill(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_after_the_folders_that_it_lies_in() {
        let mut archive = Archive::default();
        archive.file("a/b/c", 0o755, b"hello");
        archive.file("a/d", 0o644, b"");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let at = |part: &str| text.find(part).unwrap();
        let header = "07070100000000000081ed000000000000000000000001000000000000000500000000000000000000000000000000\
                      0000000600000000a/b/c\0hello\0";
        assert!(text.replace("\0\0", "\0").contains(&header.replace("\0\0", "\0")), "{text}");
        assert!(at("a\0") < at("a/b\0") && at("a/b\0") < at("a/b/c\0") && at("a/d\0") < at("TRAILER!!!\0"));
        assert_eq!(text.matches("000041ed").count(), 2, "each folder once");
    }
}
