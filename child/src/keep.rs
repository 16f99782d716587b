//! What keeps one child at a time from its start to its end.

use std::{io, os::fd::BorrowedFd, sync::Arc};

use rustix::{
    fs::{FileType, Gid, Uid, fchown, fstat},
    io::Errno,
    process::Pid,
};

use crate::{
    cgroup::{Cage, Counts, Over},
    confine::Confinement,
    group::{Ask, Group, StopSignal},
    marked::kill_marked,
    spawn::{Spawn, Spawner},
    sys::{Reaped, reap},
    watch::{Seat, Watch},
};

/// Starts children, one at a time, and ends them. It belongs to no thread, but to one at a time.
#[derive(Debug)]
pub struct Keeper {
    seat: Seat,
    group: Arc<Group>,
    spawner: Spawner,
    confinement: Option<Arc<Confinement>>,
    umask: Option<u32>,
    /// The control group of the child, or of the one before, and what was counted there when it began.
    cage: Option<(Arc<Cage>, Counts)>,
}

/// How a child ended.
#[derive(Debug)]
pub struct End {
    /// What it was asked before its end.
    pub asked: Option<Ask>,
    /// How it ended. An error if the host program has waited for it, so that nobody knows.
    pub reaped: io::Result<Reaped>,
    /// Which limits it reached together with all that it started, where a control group keeps those.
    pub over: Option<Over>,
}

impl Keeper {
    /// A keeper whose children the watcher knows of.
    pub fn new(watch: &Arc<Watch>) -> Self {
        Keeper {
            seat: watch.seat(),
            group: Arc::default(),
            spawner: Spawner::new(),
            confinement: None,
            umask: None,
            cage: None,
        }
    }

    /// With children that are told to stop by another signal than TERM.
    pub fn stopped_by(self, signal: StopSignal) -> Self {
        Keeper { group: Arc::new(Group::new(signal)), ..self }
    }

    /// With children that are held to this.
    pub fn confined(self, confinement: Option<Arc<Confinement>>) -> Self {
        Keeper { confinement, ..self }
    }

    /// Sets which permissions files that children make from now on do not get; `None` leaves them ganger's own mask.
    pub fn set_umask(&mut self, umask: Option<u32>) {
        self.umask = umask;
    }

    /// The group of the child, for whoever wants it stopped. [`Group::begin`] must be called before each start.
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Starts a child as the leader of a new process group, with no signal blocked or (of those that commonly are)
    /// ignored, and with no other file than the three. Returns once exec has happened.
    ///
    /// # Errors
    /// The child's own, from what it is held to, chdir or exec, or that of making it; EAGAIN where the group was asked to stop before.
    /// [`crate::explain`] says what it means.
    pub fn start(&mut self, spawn: &Spawn<'_>) -> io::Result<Pid> {
        if self.group.asked().is_some() {
            return Err(Errno::AGAIN.into());
        }
        if let Some((uid, gid)) = self.confinement.as_ref().and_then(|confinement| confinement.owner()) {
            // As /dev/stdin or /dev/stdout it is opened anew, by its permissions.
            let is_pipe = |file: &BorrowedFd<'_>| {
                fstat(file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
            };
            for file in [spawn.stdin, spawn.stdout, spawn.stderr].into_iter().filter(is_pipe) {
                let _ = fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            }
        }
        let leader = self.spawn(spawn)?;
        self.seat.set(Some(leader));
        self.group.started(leader, self.cage.as_ref().map(|(cage, _)| Arc::clone(cage)));
        Ok(leader)
    }

    fn spawn(&mut self, spawn: &Spawn<'_>) -> io::Result<Pid> {
        let (confinement, umask) = (self.confinement.as_deref(), self.umask);
        let Some(hold) = confinement.and_then(|confinement| confinement.hold.as_ref()) else {
            return self.spawner.spawn(spawn, confinement, umask, None);
        };
        let cage = hold.cage(self.cage.take().map(|(cage, _)| cage))?;
        let counts = cage.counts();
        let started = cage.with_place(|place| self.spawner.spawn(spawn, confinement, umask, Some(place)));
        // What the system has no number for is not the program's fault: the next start has another group.
        let is_fit = !started.as_ref().is_err_and(|error| error.raw_os_error().is_none());
        self.cage = is_fit.then_some((cage, counts));
        started
    }

    /// Says that the child that [`Group::begin`] announced could not be started. What it was asked meanwhile.
    pub fn never_started(&mut self) -> Option<Ask> {
        self.group.end()
    }

    /// Kills what is left of the group, gives its number up and reaps its leader; waits for the leader's end, which
    /// should have come, or have been asked for.
    pub fn end(&mut self, leader: Pid) -> End {
        self.seat.set(None);
        let asked = self.group.end();
        let reaped = reap(leader);
        let over = self.cage.as_ref().map(|(cage, before)| cage.counts().since(*before));
        End { asked, reaped, over }
    }

    /// Kills every process that has this run's mark and `entry` (`NAME=value`) in its environment: what left the
    /// group. Reads all of `/proc`: not for every run.
    pub fn kill_marked(&self, entry: &[u8]) {
        kill_marked(&[self.seat.mark(), entry]);
    }
}
