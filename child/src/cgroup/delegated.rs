//! Whether ganger has a control group that it may divide among its jobs. Only looks, and changes nothing.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, access, getxattr},
    process::{geteuid, getpid},
};

use super::place::Place;
use crate::confine::Limits;

/// A control group that ganger may divide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delegated {
    pub(super) dir: PathBuf,
    pub(super) memory: bool,
    pub(super) pids: bool,
}

/// What of an entry's limits control groups keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) memory: Option<u64>,
    pub(super) processes: Option<u64>,
}

impl Delegated {
    /// Finds it.
    ///
    /// # Errors
    /// There is none: why, and what would make one.
    pub(super) fn find() -> Result<Delegated, String> {
        let read =
            |path: &str| fs::read_to_string(path).map_err(|error| format!("{path} cannot be read: {error}"));
        let own = Place::of(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)?;
        // Who was put into a part of a delegated group may divide the whole, unless it is systemd that did.
        let parent = own.parent().filter(|_| !own.is_unit());
        let Some(place) = [Some(own.clone()), parent].into_iter().flatten().find(is_delegated) else {
            return Err(format!(
                "the control group {} is not delegated to ganger (a unit of systemd's is by `Delegate=yes`)",
                own.dir().display()
            ));
        };
        let dir = place.dir();
        for path in [dir.clone(), dir.join("cgroup.procs"), dir.join("cgroup.subtree_control")] {
            access(&path, Access::WRITE_OK)
                .map_err(|error| format!("ganger may not write to {}: {error}", path.display()))?;
        }
        let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
        let kind = text("cgroup.type");
        if kind.trim() != "domain" {
            return Err(format!("the control group {} is of the type `{}`", dir.display(), kind.trim()));
        }
        inhabitants(&dir)?;
        // At its limit such a process stands still for ever.
        if read("/proc/self/oom_score_adj")?.trim() == "-1000" {
            return Err(
                "ganger, and with it its commands, may not be killed for memory (`OOMScoreAdjust=-1000`)"
                    .into(),
            );
        }
        let controllers = text("cgroup.controllers");
        let has = |name: &str| controllers.split_whitespace().any(|controller| controller == name);
        Ok(Delegated { memory: has("memory"), pids: has("pids"), dir })
    }

    /// What of these limits it can keep.
    ///
    /// # Errors
    /// Nothing of them: why.
    pub(super) fn keeps(&self, limits: &Limits) -> Result<Kept, String> {
        let memory = limits.memory.map(|memory| memory.get());
        let kept = Kept {
            memory: memory.filter(|_| self.memory),
            processes: limits.processes.filter(|_| self.pids),
        };
        if kept == Kept::default() {
            let wanted = if memory.is_some() { "memory" } else { "pids" };
            return Err(format!("the control group {} has no controller `{wanted}`", self.dir.display()));
        }
        Ok(kept)
    }
}

/// Whether a group is ganger's to divide. That ganger can write to it says nothing: root can write everywhere, and all
/// that a user's systemd runs belongs to that user.
fn is_delegated(place: &Place) -> bool {
    let dir = place.dir();
    let is_marked = ["user.delegate", "trusted.delegate"].iter().any(|mark| attribute(&dir, mark) == b"1");
    // What systemd writes on every unit's: one with a namespace of its own is no container, and stays systemd's.
    let is_unit =
        ["user.invocation_id", "trusted.invocation_id"].iter().any(|id| !attribute(&dir, id).is_empty());
    // As in a container. The root of all groups has no type.
    let is_own_root = place.is_root() && dir.join("cgroup.type").exists() && !is_unit;
    is_marked || is_own_root || is_border(place)
}

fn attribute(dir: &Path, name: &str) -> Vec<u8> {
    let mut value = [0; 64];
    getxattr(dir, name, &mut value).map_or_else(|_| Vec::new(), |length| value[..length].to_vec())
}

/// Whether a group was given to ganger's user out of one that is another's.
fn is_border(place: &Place) -> bool {
    let user = geteuid();
    let is_own = |path: &Path| fs::metadata(path).is_ok_and(|file| file.uid() == user.as_raw());
    let dir = place.dir();
    !user.is_root()
        && ["", "cgroup.procs", "cgroup.subtree_control"].iter().all(|name| is_own(&dir.join(name)))
        && place.parent().is_some_and(|parent| !is_own(&parent.dir()))
}

/// The processes that are in a group itself: ganger, those that it was started by, and those that it has started.
///
/// # Errors
/// There are others, which ganger does not touch.
pub(super) fn inhabitants(dir: &Path) -> Result<Vec<u32>, String> {
    let file = dir.join("cgroup.procs");
    let inhabitants =
        read_numbers(&file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    let own = getpid().as_raw_nonzero().get().unsigned_abs();
    let ancestors = line_of(own);
    let is_ours = |pid: u32| {
        ancestors.contains(&pid) || line_of(pid).contains(&own) || name(pid) == "ganger-watch" || is_gone(pid)
    };
    match inhabitants.iter().find(|pid| !is_ours(**pid)) {
        None => Ok(inhabitants),
        Some(pid) => Err(format!(
            "in the control group {} there are other processes (`{}`, {pid}): start ganger alone in it, or in a group \
             below it (systemd has `DelegateSubgroup=` for that)",
            dir.display(),
            name(*pid)
        )),
    }
}

/// A process and those that it was started by.
fn line_of(pid: u32) -> Vec<u32> {
    let parent = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(") ")?;
        after_name.split(' ').nth(1)?.parse().ok().filter(|parent| *parent != 0)
    };
    // Far more than there are, should numbers be given anew in between.
    std::iter::successors(Some(pid), parent).take(1 << 10).collect()
}

fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// Whether there is no such process any more. One that cannot be seen from here is listed as 0.
fn is_gone(pid: u32) -> bool {
    pid != 0 && !Path::new("/proc").join(pid.to_string()).exists()
}

fn read_numbers(path: &Path) -> io::Result<Vec<u32>> {
    Ok(fs::read_to_string(path)?.lines().filter_map(|line| line.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use ganger_core::ByteSize;

    use super::*;

    #[test]
    fn what_is_kept_is_what_there_are_controllers_for() {
        let limits = Limits { memory: Some(ByteSize::new(1 << 20)), processes: Some(9), ..Limits::default() };
        let keeps =
            |memory, pids, limits: &Limits| Delegated { dir: "/g".into(), memory, pids }.keeps(limits);
        let both = Kept { memory: Some(1 << 20), processes: Some(9) };
        assert_eq!(keeps(true, true, &limits), Ok(both));
        assert_eq!(keeps(true, false, &limits), Ok(Kept { processes: None, ..both }));
        assert_eq!(
            keeps(false, false, &limits),
            Err("the control group /g has no controller `memory`".into())
        );
        let limits = Limits { memory: None, ..limits };
        assert_eq!(keeps(true, false, &limits), Err("the control group /g has no controller `pids`".into()));
    }

    #[test]
    fn a_process_descends_from_the_one_that_started_it() {
        let own = std::process::id();
        let line = line_of(own);
        assert_eq!(line.first(), Some(&own));
        assert!(line.contains(&std::os::unix::process::parent_id()), "{line:?}");
        assert!(is_gone(u32::MAX) && !is_gone(own) && !is_gone(0));
    }
}
