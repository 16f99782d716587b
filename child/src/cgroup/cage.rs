//! The control group of a slot's jobs, one job at a time.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{Mode, OFlags, fstat, openat};

use super::{delegated::Kept, division::Division};
use crate::spawn::Place;

/// A group in which more than this part of its memory is taken before a job begins, by what those before it left in the
/// system's cache or in a file system in memory, is not used again.
const LEFT_MAX: u64 = 8;

/// A control group. Dropped, it is removed, or left to what lives on in it.
#[derive(Debug)]
pub(crate) struct Cage {
    division: Arc<Division>,
    path: PathBuf,
    dir: OwnedFd,
    kept: Kept,
}

/// What the kernel has counted in a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// How often its memory was not enough, and how many processes were killed for memory: for that, or for the whole
    /// machine's.
    short: u64,
    killed: u64,
    /// How many processes it was refused.
    refused: u64,
}

/// Which limits the processes of a job, taken together, have reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Over {
    /// They were killed for their memory.
    pub memory: bool,
    /// One more was refused.
    pub processes: bool,
}

impl Cage {
    pub(super) fn new(division: Arc<Division>, path: PathBuf, kept: Kept) -> io::Result<Cage> {
        let opened = File::open(&path);
        let dir = opened.inspect_err(|_| division.give_up(&path))?.into();
        let cage = Cage { division, path, dir, kept };
        if let Some(memory) = kept.memory {
            cage.set("memory.max", memory)?;
            // What is over the limit would go to the disk. Some systems count no swap.
            match cage.set("memory.swap.max", 0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            cage.set("memory.oom.group", 1)?;
        }
        if let Some(processes) = kept.processes {
            cage.set("pids.max", processes)?;
        }
        Ok(cage)
    }

    fn set(&self, name: &str, value: u64) -> io::Result<()> {
        super::write(&self.path.join(name), &value.to_string())
    }

    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The file through which a process moves into the group.
    pub(super) fn procs(&self) -> io::Result<OwnedFd> {
        Ok(openat(&self.dir, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Has `make` make a child that begins in the group.
    pub(crate) fn with_place<T>(&self, make: impl FnOnce(Place<'_>) -> io::Result<T>) -> io::Result<T> {
        match self.division.makes_in_place() {
            true => make(Place::Born(self.dir())),
            false => make(Place::Moves(self.procs().map_err(super::refused)?.as_fd())),
        }
    }

    /// Whether a job can begin here: nothing lives in it, or is not yet waited for, no job has divided it, and it has
    /// its memory.
    pub(super) fn is_fresh(&self) -> bool {
        let is_empty = || match self.kept.processes {
            Some(_) => self.number("pids.current") == Some(0),
            None => self.count("cgroup.events", "populated") == Some(0),
        };
        let has_memory = || {
            let max = self.kept.memory?;
            Some(self.number("memory.current")? <= max / LEFT_MAX)
        };
        let is_whole = || fstat(&self.dir).is_ok_and(|stat| stat.st_nlink <= 2);
        is_empty() && is_whole() && (self.kept.memory.is_none() || has_memory() == Some(true))
    }

    /// What was counted until now.
    pub(crate) fn counts(&self) -> Counts {
        let memory = self.kept.memory.and_then(|_| self.read("memory.events").ok()).unwrap_or_default();
        let pids = self.kept.processes.and_then(|_| self.read("pids.events").ok()).unwrap_or_default();
        Counts {
            short: count_in(&memory, "oom").unwrap_or(0),
            killed: count_in(&memory, "oom_kill").unwrap_or(0),
            refused: count_in(&pids, "max").unwrap_or(0),
        }
    }

    /// Kills all that is in it.
    pub(crate) fn kill(&self) {
        kill(&self.path);
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.read(name).ok()?.trim_end().parse().ok()
    }

    fn count(&self, name: &str, key: &str) -> Option<u64> {
        count_in(&self.read(name).ok()?, key)
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let file = openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = String::with_capacity(256);
        File::from(file).read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        self.division.give_up(&self.path);
    }
}

impl Counts {
    /// What was reached since `before`.
    pub(crate) fn since(self, before: Counts) -> Over {
        Over {
            memory: self.short > before.short && self.killed > before.killed,
            processes: self.refused > before.refused,
        }
    }
}

/// Kills all that is in a group, whatever it has become. Linux before 5.14 cannot.
pub(super) fn kill(dir: &Path) {
    // What is gone need not be killed.
    let _ = super::write(&dir.join("cgroup.kill"), "1");
}

/// The number behind a key, in a file of lines.
fn count_in(text: &str, key: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok();
    text.lines().find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_found_by_its_whole_key() {
        let events = "low 0\nhigh 0\nmax 31\noom 2\noom_kill 1\noom_group_kill 1\n";
        assert_eq!(count_in(events, "oom"), Some(2));
        assert_eq!(count_in(events, "oom_kill"), Some(1));
        assert_eq!(count_in(events, "oom_"), None);
        assert_eq!(count_in("populated 0\nfrozen 1\n", "populated"), Some(0));
    }

    #[test]
    fn a_kill_for_the_whole_machines_memory_is_not_over_the_limit() {
        let before = Counts { short: 1, killed: 2, refused: 3 };
        assert_eq!(Counts { killed: 9, ..before }.since(before), Over::default());
        let over = Counts { short: 2, killed: 4, refused: 3 }.since(before);
        assert_eq!(over, Over { memory: true, processes: false });
        let over = Counts { refused: 4, ..before }.since(before);
        assert_eq!(over, Over { memory: false, processes: true });
    }
}
