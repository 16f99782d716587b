//! The control group that ganger divides: itself in one part, and a part for each slot's jobs.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use super::{
    cage::{self, Cage},
    delegated::{Delegated, Kept, inhabitants},
};
use crate::spawn::{Place, Spawner};

/// The part in which ganger itself is: what is divided may hold no process.
const OWN: &str = "ganger";

/// How often ganger looks whether the group is empty that it leaves; processes that it moves may start others.
const ROUNDS_MAX: u32 = 16;

/// How often, 2 ms apart, a group is tried to be removed whose processes were killed.
const REMOVALS_MAX: u32 = 50;

/// What this process divides. Dropped, nothing is left of it but ganger's own part.
#[derive(Debug)]
pub(super) struct Division {
    dir: PathBuf,
    /// Whether children can be made in a group, and need not move there.
    makes_in_place: AtomicBool,
    next: AtomicU32,
    /// Groups of jobs that have ended, in which something that left its process group lives on.
    inhabited: Mutex<Vec<PathBuf>>,
}

/// One for all entries of this process.
static DIVISION: Mutex<Weak<Division>> = Mutex::new(Weak::new());

impl Division {
    /// Divides a group, if this process does not so already.
    ///
    /// # Errors
    /// The system refuses a step: which and why.
    pub(super) fn of(delegated: &Delegated) -> Result<Arc<Division>, String> {
        let mut known = DIVISION.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(division) = known.upgrade() {
            return Ok(division);
        }
        let division = Arc::new(Division::start(delegated)?);
        division.try_out()?;
        *known = Arc::downgrade(&division);
        Ok(division)
    }

    fn start(delegated: &Delegated) -> Result<Division, String> {
        let dir = delegated.dir.clone();
        leave(&dir)?;
        switch_on(delegated).map_err(|error| {
            format!("the controllers of {} cannot be switched on: {error}", dir.display())
        })?;
        remove_leftovers(&dir);
        Ok(Division {
            dir,
            makes_in_place: AtomicBool::new(false),
            next: AtomicU32::new(0),
            inhabited: Mutex::default(),
        })
    }

    /// Makes a group and a child in it, and learns how that is done here: what some containers refuse to clone3(2),
    /// and what old kernels do not know, a child can do by itself.
    fn try_out(self: &Arc<Self>) -> Result<(), String> {
        let cannot = |error| format!("no group can be made in {}: {error}", self.dir.display());
        let cage = self.cage(Kept::default()).map_err(cannot)?;
        let made = Spawner::new().try_out(None, Some(Place::Born(cage.dir())));
        self.makes_in_place.store(made.is_ok(), Relaxed);
        if made.is_err() {
            let procs = cage.procs().map_err(cannot)?;
            Spawner::new().try_out(None, Some(Place::Moves(procs.as_fd()))).map_err(cannot)?;
        }
        Ok(())
    }

    pub(super) fn makes_in_place(&self) -> bool {
        self.makes_in_place.load(Relaxed)
    }

    /// A new group.
    ///
    /// # Errors
    /// The system refuses it.
    pub(super) fn cage(self: &Arc<Self>, kept: Kept) -> io::Result<Cage> {
        self.inhabited().retain(|dir| remove(dir).is_err());
        loop {
            let number = self.next.fetch_add(1, Relaxed);
            let dir = self.dir.join(format!("{OWN}-{}-{number}", process::id()));
            match fs::create_dir(&dir) {
                Ok(()) => return Cage::new(Arc::clone(self), dir, kept),
                // Of one that had this number before.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes a group; one in which something lives, later.
    pub(super) fn give_up(&self, dir: &Path) {
        if remove(dir).is_err() {
            self.inhabited().push(dir.to_owned());
        }
    }

    fn inhabited(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.inhabited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Division {
    fn drop(&mut self) {
        let inhabited = std::mem::take(&mut *self.inhabited());
        inhabited.iter().for_each(|dir| cage::kill(dir));
        for dir in inhabited {
            for _ in 0..REMOVALS_MAX {
                if remove(&dir).is_ok() {
                    break;
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// Moves what is in a group into ganger's own part of it.
fn leave(dir: &Path) -> Result<(), String> {
    let own = dir.join(OWN);
    let cannot = |error| format!("ganger cannot move into {}: {error}", own.display());
    for _ in 0..ROUNDS_MAX {
        let pids = inhabitants(dir)?;
        if pids.is_empty() {
            return Ok(());
        }
        match fs::create_dir(&own) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(error)),
            _ => {}
        }
        for pid in pids {
            match super::write(&own.join("cgroup.procs"), &pid.to_string()) {
                // It has ended.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                moved => moved.map_err(cannot)?,
            }
        }
    }
    Err(format!("processes come into {} faster than they can be moved", dir.display()))
}

/// Has the controllers that are there count for each part by itself.
fn switch_on(delegated: &Delegated) -> io::Result<()> {
    let file = delegated.dir.join("cgroup.subtree_control");
    let on = fs::read_to_string(&file)?;
    let missing: Vec<_> = [("memory", delegated.memory), ("pids", delegated.pids)]
        .into_iter()
        .filter(|(name, is_there)| *is_there && !on.split_whitespace().any(|on| on == *name))
        .map(|(name, _)| format!("+{name}"))
        .collect();
    if missing.is_empty() { Ok(()) } else { super::write(&file, &missing.join(" ")) }
}

/// Removes groups of gangers that are gone, as far as they are empty.
fn remove_leftovers(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        // This process has none yet: what has its number is of one before it.
        let is_left = |pid: u32| pid == process::id() || !Path::new("/proc").join(pid.to_string()).exists();
        if name.to_str().and_then(maker).is_some_and(is_left) {
            let _ = remove(&entry.path());
        }
    }
}

/// The process that made a group of this name.
fn maker(name: &str) -> Option<u32> {
    let (pid, number) = name.strip_prefix(OWN)?.strip_prefix('-')?.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

/// Removes a group, and those that a job made in it. Fails if something lives there.
fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let entries = fs::read_dir(dir)?.flatten();
            for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                remove(&entry.path())?;
            }
            fs::remove_dir(dir)
        }
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_name_tells_who_made_it() {
        assert_eq!(maker("ganger-17-0"), Some(17));
        for name in ["ganger", "ganger-17", "ganger-17-x", "ganger--1", "other-17-0", "ganger-x-0"] {
            assert_eq!(maker(name), None, "{name}");
        }
    }
}
