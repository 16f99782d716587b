//! Finds processes by what they carry in their environment, and kills them: those that left their group.
//!
//! Neither allocates nor locks, since the watcher runs it after a fork.

use std::{ffi::CStr, mem::MaybeUninit};

use rustix::{
    fd::OwnedFd,
    fs::{CWD, Mode, OFlags, RawDir, openat},
    io::{Errno, read},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal},
};

/// Kills every process that has all of `entries` (`NAME=value`) in the environment it was started with. How many
/// there were; processes of other users cannot be looked at.
pub(crate) fn kill_marked(entries: &[&[u8]]) -> usize {
    let mut killed = 0;
    let Ok(proc) = openat(CWD, c"/proc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    else {
        return 0;
    };
    let mut names = [MaybeUninit::uninit(); 4096];
    let mut listing = RawDir::new(&proc, &mut names);
    while let Some(Ok(entry)) = listing.next() {
        if let Some(pid) = number(entry.file_name()) {
            killed += usize::from(kill_if_marked(&proc, pid, entries));
        }
    }
    killed
}

fn number(name: &CStr) -> Option<Pid> {
    let digits = name.to_bytes();
    let value = digits.iter().try_fold(0i32, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(i32::from(digit - b'0')),
        _ => None,
    })?;
    Pid::from_raw(value)
}

fn kill_if_marked(proc: &OwnedFd, pid: Pid, entries: &[&[u8]]) -> bool {
    // Opened before the look, so that the signal goes to the process that was looked at.
    let handle = pidfd_open(pid, PidfdFlags::empty());
    if matches!(handle, Err(Errno::SRCH)) || !entries.iter().all(|entry| carries(proc, pid, entry)) {
        return false;
    }
    match handle {
        Ok(handle) => pidfd_send_signal(&handle, Signal::KILL).is_ok(),
        Err(_) => kill_process(pid, Signal::KILL).is_ok(),
    }
}

fn carries(proc: &OwnedFd, pid: Pid, entry: &[u8]) -> bool {
    let mut path = [0; 24];
    let name = write_path(&mut path, pid);
    let Ok(environ) = openat(proc, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    let mut finder = Finder::new(entry);
    let mut bytes = [0; 4096];
    loop {
        match read(&environ, &mut bytes) {
            Ok(0) => return finder.end(),
            Ok(n) if finder.feed(bytes.get(..n).unwrap_or_default()) => return true,
            Ok(_) | Err(Errno::INTR) => {}
            // A kernel thread, or not ours to look at.
            Err(_) => return false,
        }
    }
}

/// `<pid>/environ`, ended by a NUL.
fn write_path(buffer: &mut [u8; 24], pid: Pid) -> &CStr {
    let mut digits = [0; 10];
    let mut value = pid.as_raw_nonzero().get().unsigned_abs();
    let mut n = 0;
    for digit in digits.iter_mut() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
        n += 1;
        if value == 0 {
            break;
        }
    }
    let name = digits.iter().take(n).rev().chain(b"/environ\0");
    buffer.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"")
}

/// Finds an entry in a stream of entries that end in NUL.
struct Finder<'a> {
    entry: &'a [u8],
    /// How much of the entry under way is the same; `None` once it differs.
    same: Option<usize>,
}

impl<'a> Finder<'a> {
    fn new(entry: &'a [u8]) -> Self {
        Finder { entry, same: Some(0) }
    }

    /// Whether the entry came to its end in these bytes.
    fn feed(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            if *byte == 0 {
                if self.end() {
                    return true;
                }
                self.same = Some(0);
            } else {
                self.same = self.same.filter(|same| self.entry.get(*same) == Some(byte)).map(|same| same + 1);
            }
        }
        false
    }

    fn end(&self) -> bool {
        self.same == Some(self.entry.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_is_written_without_the_standard_librarys_help() {
        for pid in [1, 9, 10, 4_194_304, i32::MAX] {
            let mut buffer = [0; 24];
            let path = write_path(&mut buffer, Pid::from_raw(pid).unwrap());
            assert_eq!(path.to_str().unwrap(), format!("{pid}/environ"));
        }
    }

    #[test]
    fn only_numbers_are_processes() {
        assert_eq!(number(c"42"), Pid::from_raw(42));
        for name in [c"self", c"4a", c"0", c"", c"99999999999"] {
            assert_eq!(number(name), None, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn finds_whole_entries_only(
            entries in proptest::collection::vec("[AB=]{0,4}", 0..6), wanted in "[AB=]{1,4}", cut in 0usize..24,
        ) {
            let stream: Vec<u8> = entries.iter().flat_map(|entry| [entry.as_bytes(), b"\0"].concat()).collect();
            let (first, second) = stream.split_at(cut.min(stream.len()));
            let mut finder = Finder::new(wanted.as_bytes());
            let found = finder.feed(first) || finder.feed(second) || finder.end();
            prop_assert_eq!(found, entries.contains(&wanted));
        }
    }
}
