//! What a running manager says of itself: read by the console, written by the manager.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use crate::{BoxFuture, Follower, JobId, JobView, ProviderError, Sink};

/// What the console reads of a running manager. Figures and readiness are cheap to ask, and safe thousands of times a
/// second.
pub trait Status: Send + Sync {
    /// The figures so far.
    fn report(&self) -> Report;
    /// Whether it is ready for work, and if not, why not.
    fn ready(&self) -> Readiness;
    /// Follows a job from now on, or from the beginning of the run that is under way.
    fn follow(&self, id: &JobId) -> Follower;
    /// A stored job, and the store that has it; `None` when none knows it (any more). Bounded in time.
    fn find<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<Option<Found>, ProviderError>>;
}

/// A stored job, and where its end is told.
#[derive(Clone)]
pub struct Found {
    /// The job.
    pub view: JobView,
    /// The store that has it, if it tells.
    pub sink: Option<Arc<dyn Sink>>,
}

/// Whether a manager is ready for work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Everything that stands in the way, in words; empty when ready.
    pub reasons: Vec<String>,
}

impl Readiness {
    /// Whether nothing stands in the way.
    pub fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// The figures of a manager since its start.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Time since the start.
    pub uptime: Duration,
    /// Figures by type.
    pub by_type: BTreeMap<String, Figures>,
    /// Figures by provider; the intake that jobs came through counts too.
    pub by_provider: BTreeMap<String, Figures>,
    /// What the pools hold, by type.
    pub pools: BTreeMap<String, PoolFigures>,
    /// Runs that ended in the last whole second, by type: the rate now.
    pub rate_by_type: BTreeMap<String, f64>,
    /// The same by provider.
    pub rate_by_provider: BTreeMap<String, f64>,
    /// Settlements that came too late and changed nothing.
    pub stale: u64,
    /// Runs of blocking code that could not be stopped and were left behind.
    pub abandoned: u64,
}

/// What was counted for one type or provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Runs that ended, however.
    pub runs: u64,
    /// Jobs that ended done.
    pub done: u64,
    /// Runs that failed.
    pub failed: u64,
    /// Jobs that ended dead.
    pub dead: u64,
    /// Jobs that ended cancelled.
    pub cancelled: u64,
    /// Jobs that ended expired.
    pub expired: u64,
    /// Runs that were lost.
    pub lost: u64,
    /// Time spent running, in nanoseconds.
    pub nanos: u64,
    /// The median run, in nanoseconds.
    pub p50: u64,
    /// The 95th percentile, in nanoseconds.
    pub p95: u64,
    /// The 99th percentile, in nanoseconds.
    pub p99: u64,
    /// Processor time that runs used, in microseconds, of workers that can tell.
    pub cpu_us: u64,
    /// The most memory that a process of a run had at once, in KiB, of workers that can tell.
    pub max_rss_kib: u64,
}

/// What a pool holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PoolFigures {
    /// Slots in all.
    pub slots: u32,
    /// Slots at work.
    pub busy: u32,
    /// Jobs that wait for a slot.
    pub queued: u32,
}
