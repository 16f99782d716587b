//! Whether the holder of a lease still lives: each incarnation locks one byte of a file beside the store for as
//! long as its process has it open. The kernel drops the lock with the process, however it ended.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// The lock file of a store: the incarnations held by this process, and a look at those of others.
#[derive(Debug)]
pub(crate) struct Holders {
    path: PathBuf,
    /// Never holds a lock, so that a look with it sees the locks of this process too.
    probe: File,
    held: Mutex<HashMap<u64, (usize, File)>>,
}

impl Holders {
    /// Opens the lock file, creating it where it is missing.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Holders { path: path.to_owned(), probe: open(path)?, held: Mutex::default() })
    }

    /// Marks `incarnation` as alive, once more.
    pub(crate) fn hold(&self, incarnation: u64) -> io::Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((count, _)) = held.get_mut(&incarnation) {
            *count += 1;
            return Ok(());
        }
        let file = open(&self.path)?;
        let mut lock = byte(incarnation, libc::F_WRLCK);
        fcntl(&file, libc::F_OFD_SETLK, &mut lock)?;
        held.insert(incarnation, (1, file));
        Ok(())
    }

    /// Takes one mark of `incarnation` back; it counts as dead with the last.
    pub(crate) fn release(&self, incarnation: u64) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((count, _)) = held.get_mut(&incarnation) {
            *count -= 1;
            if *count == 0 {
                held.remove(&incarnation);
            }
        }
    }

    /// Whether no process has `incarnation` marked as alive. Not known counts as alive: its lease runs out.
    pub(crate) fn is_dead(&self, incarnation: u64) -> bool {
        let mut lock = byte(incarnation, libc::F_WRLCK);
        match fcntl(&self.probe, libc::F_OFD_GETLK, &mut lock) {
            Ok(()) => i32::from(lock.l_type) == libc::F_UNLCK,
            Err(_) => false,
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// A lock on the byte that belongs to an incarnation.
fn byte(incarnation: u64, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: (incarnation % (libc::off_t::MAX as u64 - 1)) as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}

fn fcntl(file: &File, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open for the whole call, and the commands used here read and write one `flock`.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, lock as *mut libc::flock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Whether another process has the store open, and whether somebody writes to it: SQLite's own locks in its
/// `-shm` file, looked at and never taken.
#[derive(Debug)]
pub(crate) struct Visitors {
    // Closing any descriptor of a file drops the locks that the process has on it (POSIX), SQLite's too: this one
    // is closed after SQLite's connections.
    shm: File,
}

/// The byte of `-shm` that each process with an open connection holds for reading (`UNIX_SHM_DMS`), and the one
/// that a writer holds (`WAL_WRITE_LOCK`): SQLite's file format, "WAL-mode file format" section 2.3.
const SHM_OPEN: libc::off_t = 128;
const SHM_WRITE: libc::off_t = 120;

impl Visitors {
    /// Opens the `-shm` file, which exists while a connection is open.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Visitors { shm: OpenOptions::new().read(true).write(true).open(path)? })
    }

    /// Whether another process has the store open.
    pub(crate) fn present(&self) -> bool {
        self.locked(SHM_OPEN)
    }

    /// Whether another process is writing.
    pub(crate) fn writing(&self) -> bool {
        self.locked(SHM_WRITE)
    }

    fn locked(&self, start: libc::off_t) -> bool {
        let lock = rustix::process::Flock {
            start: start as u64,
            length: 1,
            pid: None,
            typ: rustix::process::FlockType::WriteLock,
            offset_type: rustix::process::FlockOffsetType::Set,
        };
        // A lock of this process itself is never reported.
        matches!(rustix::process::fcntl_getlk(self.shm.as_fd(), &lock), Ok(Some(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incarnation_is_alive_until_its_last_mark_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x-lock");
        let (ours, others) = (Holders::open(&path).unwrap(), Holders::open(&path).unwrap());
        assert!(others.is_dead(77));
        ours.hold(77).unwrap();
        ours.hold(77).unwrap();
        assert!(!others.is_dead(77) && !ours.is_dead(77));
        ours.release(77);
        assert!(!others.is_dead(77));
        ours.release(77);
        assert!(others.is_dead(77));
        ours.hold(77).unwrap();
        drop(ours);
        assert!(others.is_dead(77), "its process is gone");
    }
}
