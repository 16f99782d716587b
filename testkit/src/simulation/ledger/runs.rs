//! Runs under way, and what must hold while they are.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ganger_core::{JobContext, LeaseRef};
use tokio::time::Instant;

use super::{
    Fate,
    book::{Book, MAX_CRASHES},
    members::SLACK,
    words,
};

/// A run that a worker is at.
pub(super) struct UnderWay {
    /// The number of its job.
    pub(super) at: Option<usize>,
    pub(super) lease: LeaseRef,
    label: Arc<str>,
    kind: String,
    /// It has lost runs before.
    crashed: bool,
    /// How long it takes to end when it is asked to; `None` for one that is dropped at once.
    heeds: Option<Duration>,
    /// Its store has forgotten the lease, which nobody could know.
    pub(super) excused: bool,
}

/// Those of a world.
#[derive(Default)]
pub(super) struct Runs {
    pub(super) all: BTreeMap<u64, UnderWay>,
    next: u64,
}

impl Book {
    /// A run begins; its number.
    pub(super) fn begin(&mut self, job: &JobContext, fate: &Fate) -> u64 {
        let (id, lease, crashes) = (job.id(), job.lease(), job.record().crashes);
        self.trace_run(id, lease);
        self.note(|| format!("start {id} under {}", words::lease(&lease)));
        let at = self.by_id.get(id).copied();
        let label: Arc<str> = match at {
            Some(at) => self.jobs[at].label.clone(),
            None => id.to_string().into(),
        };
        let run = UnderWay {
            at,
            lease,
            label,
            kind: job.job().kind.to_string(),
            crashed: crashes > 0,
            heeds: fate.heeds.map(Duration::from_millis),
            excused: self.forgotten.contains(&lease.token)
                || at.is_some_and(|at| self.jobs[at].forgotten_leases.contains(&lease)),
        };
        match at {
            None => self.violate(format!("P1: a run of `{id}`, which nobody enqueued")),
            Some(at) => self.expect_may_begin(at, &run),
        }
        self.runs.next += 1;
        let number = self.runs.next;
        self.runs.all.insert(number, run);
        number
    }

    fn expect_may_begin(&mut self, at: usize, run: &UnderWay) {
        let (lease, now) = (run.lease, Instant::now());
        let at_once = self.at_once(at);
        let crashed = self
            .runs
            .all
            .values()
            .filter(|other| other.crashed && other.lease.token.incarnation == lease.token.incarnation);
        let crowd = if run.crashed { crashed.count() } else { 0 };
        let (lasts, store) = (self.lease, self.jobs[at].store);
        let stop_by = self.members.get_mut(&lease.token.incarnation).and_then(|member| {
            member.begun(lease, store);
            member.stop_by(lease, lasts)
        });
        let log = &mut self.jobs[at];
        log.runs += 1;
        let crashes = log.crashes + log.lost_as_suspect;
        let fault = match &mut log.open {
            Some(open) if open.lease == lease && !open.started => {
                open.started = true;
                None
            }
            Some(open) if open.lease == lease => Some("P2: it ran twice under one lease"),
            // Its store forgot the lease, which its manager cannot know until it renews.
            _ if log.forgotten_leases.contains(&lease) => {
                log.forgotten += 1;
                None
            }
            Some(_) => Some("P6: it was begun under a lease that another has taken"),
            None => Some("P6: it was begun under a lease that is over"),
        };
        let label = run.label.clone();
        if let Some(fault) = fault {
            self.violate(format!("{fault}: `{label}`, lease {}", words::lease(&lease)));
        }
        self.expect(stop_by.is_some_and(|by| now <= by + SLACK), || {
            format!("P6: `{label}` was begun when two thirds of its lease were over, or it was lost")
        });
        self.expect(crashes < MAX_CRASHES, || format!("P7: `{label}` is run after {crashes} crashes"));
        self.expect(at_once == 0 || run.excused, || {
            format!("P6: `{label}` runs {} times at once", at_once + 1)
        });
        self.expect(crowd == 0, || {
            format!("P7: `{label}` lost runs before, and {crowd} such job runs at the same manager")
        });
    }

    /// How many runs of a job are really under way: a manager that stands still does nothing, and one that
    /// wakes needs a moment to see that it slept.
    pub(super) fn at_once(&self, at: usize) -> usize {
        let runs = self.runs.all.values().filter(|run| run.at == Some(at) && !run.excused);
        runs.filter(|run| self.is_awake(run.lease.token.incarnation)).count()
    }

    pub(super) fn under_way(&self, incarnation: u64, kind: &str) -> usize {
        let here = |run: &&UnderWay| run.lease.token.incarnation == incarnation && run.kind == kind;
        self.runs.all.values().filter(here).count()
    }

    /// A run has ended.
    pub(super) fn finish(&mut self, number: u64) {
        let Some(run) = self.runs.all.remove(&number) else { return };
        self.note(|| format!("end {}", run.label));
        self.expect_stopped_in_time(&run);
        self.expect_cancelled_in_time(&run);
    }

    /// A manager that cannot renew stops its own work at two thirds of the lease; what it is told to be lost
    /// at once (P6).
    fn expect_stopped_in_time(&mut self, run: &UnderWay) {
        let Some(member) = self.members.get(&run.lease.token.incarnation) else { return };
        let Some(stop_by) = member.stop_by(run.lease, self.lease) else { return };
        let ended = member.life.over_at().unwrap_or_else(Instant::now);
        let awake = stop_by.max(member.life.thawed_at().unwrap_or(stop_by));
        // Frozen and killed: it never went on.
        if member.life.is_frozen() {
            return;
        }
        let grace = run.heeds.map_or(Duration::ZERO, |heeds| heeds.min(self.lease / 6));
        let late = ended.saturating_duration_since(awake + grace);
        self.expect(late <= SLACK, || {
            format!(
                "P6: `{}` ran on for {late:?} under {}, when it should have been stopped",
                run.label,
                words::lease(&run.lease)
            )
        });
    }

    /// A holder learns of a cancel within a third of a lease, and stops the run (P9).
    fn expect_cancelled_in_time(&mut self, run: &UnderWay) {
        let Some(cancelled) = run.at.and_then(|at| self.jobs[at].cancel) else { return };
        let Some(member) = self.members.get(&run.lease.token.incarnation) else { return };
        let quiet = self.calm_since.is_some_and(|calm| calm + self.lease < cancelled);
        let awake = !member.life.is_over()
            && !member.life.is_frozen()
            && member.life.thawed_at().is_none_or(|at| at + self.lease < cancelled);
        if !quiet || !awake {
            return;
        }
        let grace = run.heeds.unwrap_or_default();
        let late = Instant::now().saturating_duration_since(cancelled + self.lease / 3 + grace);
        self.expect(late <= SLACK, || {
            format!(
                "P9: `{}` ran on for {late:?} after its manager should have known that it is cancelled",
                run.label
            )
        });
    }
}
