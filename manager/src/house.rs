//! What all rooms share: the time, the figures, the orders.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use compact_str::CompactString;
use futures_util::FutureExt;
use ganger_core::{
    Beat, BoxFuture, Clock, Events, Follower, Found, JobId, ProviderError, Readiness, Report, Status,
    Timestamp,
};
use tokio::{sync::watch, time::timeout};

use crate::{
    ManagerError, Runtimes,
    health::Health,
    judge::Policy,
    pool::{Pool, panic_text},
    source::Source,
    spawn::Spawn,
    stats::Stats,
};

/// How long a store may take to show a job.
const FIND_LIMIT: Duration = Duration::from_secs(10);

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// At work.
    Running,
    /// Nothing more is asked for or started; what runs may finish.
    Draining,
    /// What runs is stopped and handed back.
    Hurry,
    /// Everything stops where it is.
    Stopped,
}

/// What all rooms share.
pub(crate) struct House {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Events,
    pub(crate) stats: Stats,
    pub(crate) health: Health,
    pub(crate) output_max: usize,
    pub(crate) incarnation: u64,
    /// For jobs of no pool: malformed ones and those that nobody does.
    pub(crate) policy: Policy,
    pub(crate) sources: Arc<[Arc<Source>]>,
    /// Somebody has the crash permit.
    pub(crate) crash_permit: Arc<AtomicBool>,
    pub(crate) manager_spawn: Arc<dyn Spawn>,
    pub(crate) runtimes: Runtimes,
    pub(crate) started: Duration,
    pub(crate) started_wall: Timestamp,
    pub(crate) host: String,
    workers: Mutex<Workers>,
    seq: AtomicU64,
    phase: watch::Sender<Phase>,
    /// A slot has let go of its worker.
    gone: watch::Sender<()>,
    ended: watch::Sender<Option<Result<(), ManagerError>>>,
}

/// The runtime that pools share.
struct Workers {
    runtime: Arc<dyn Spawn>,
    /// Its threads are held by runs that were given up.
    held: bool,
}

/// What a [`House`] is made from.
pub(crate) struct HouseSetup {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Events,
    pub(crate) output_max: usize,
    pub(crate) incarnation: u64,
    pub(crate) policy: Policy,
    pub(crate) sources: Arc<[Arc<Source>]>,
    pub(crate) manager_spawn: Arc<dyn Spawn>,
    pub(crate) runtimes: Runtimes,
    pub(crate) workers: Arc<dyn Spawn>,
    pub(crate) host: String,
}

impl House {
    pub(crate) fn new(setup: HouseSetup) -> Self {
        let HouseSetup {
            clock,
            events,
            output_max,
            incarnation,
            policy,
            sources,
            manager_spawn,
            runtimes,
            workers,
            host,
        } = setup;
        let (started, started_wall) = (clock.monotonic(), clock.wall());
        House {
            clock,
            events,
            stats: Stats::default(),
            health: Health::default(),
            output_max,
            incarnation,
            policy,
            sources,
            crash_permit: Arc::new(AtomicBool::new(false)),
            manager_spawn,
            runtimes,
            started,
            started_wall,
            host,
            workers: Mutex::new(Workers { runtime: workers, held: false }),
            seq: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::Running),
            gone: watch::Sender::new(()),
            ended: watch::Sender::new(None),
        }
    }

    /// The number of the next exchange, of whichever provider.
    pub(crate) fn next_seq(&self) -> u64 {
        self.seq.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes on to a later phase; never back.
    pub(crate) fn go_to(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        });
    }

    /// Waits for a phase, or a later one.
    pub(crate) async fn reached(&self, phase: Phase) {
        // The sender is ours, so that it cannot be gone.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// Waits until the phase is another.
    pub(crate) async fn left(&self, phase: Phase) {
        // The sender is ours, so that it cannot be gone.
        let _ = self.phase.subscribe().wait_for(|now| *now != phase).await;
    }

    /// Waits until nothing more is to be started.
    pub(crate) async fn stopping(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Waits until everything is to stop where it is.
    pub(crate) async fn stopped(&self) {
        self.reached(Phase::Stopped).await;
    }

    /// A slot has let go of its worker.
    pub(crate) fn worker_is_gone(&self) {
        self.gone.send_replace(());
    }

    /// Waits until no slot has a worker that is still to be closed.
    pub(crate) async fn workers_closed(&self, pools: &Pools) {
        // The sender is ours, so that it cannot be gone.
        let _ =
            self.gone.subscribe().wait_for(|()| !pools.all().iter().any(|pool| pool.keeps_workers())).await;
    }

    /// A provider or intake cannot go on: hands back what can be, and ends with its error.
    pub(crate) fn fatal(&self, name: &str, error: ProviderError) {
        tracing::error!(provider = name, %error, "stopping: this will not pass by itself");
        self.fail(ManagerError::Provider { name: name.to_owned(), error: Arc::new(error) });
    }

    fn fail(&self, error: ManagerError) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(Err(error));
            }
            first
        });
        self.go_to(Phase::Hurry);
    }

    /// Everything has ended.
    pub(crate) fn end(&self) {
        self.ended.send_if_modified(|ended| {
            ended.get_or_insert(Ok(()));
            true
        });
        self.go_to(Phase::Stopped);
    }

    /// Waits until everything has ended.
    pub(crate) async fn ended(&self) -> Result<(), ManagerError> {
        self.stopped().await;
        self.ended.borrow().clone().unwrap_or(Ok(()))
    }

    /// Runs a task of the manager's own, which must not panic: should it, the manager ends rather than going on
    /// without a part of itself.
    pub(crate) async fn guarded(&self, what: &str, work: impl Future<Output = ()>) {
        if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
            let text = panic_text(&*panic);
            tracing::error!(what, panic = %text, "a fault in ganger or a provider: stopping");
            self.fail(ManagerError::Stopped(format!("{what} panicked: {text}")));
        }
    }

    /// Runs such a task on the manager's runtime.
    pub(crate) fn spawn(self: &Arc<Self>, what: String, work: impl Future<Output = ()> + Send + 'static) {
        let house = self.clone();
        self.manager_spawn.spawn(Box::pin(async move { house.guarded(&what, work).await }));
    }

    /// A new runtime for workers, if this manager may make any.
    pub(crate) fn fresh_workers(&self) -> Option<Arc<dyn Spawn>> {
        self.runtimes.fresh()
    }

    /// Runs hold the threads of this runtime: if pools share it, they go elsewhere.
    pub(crate) fn workers_are_held(&self, runtime: &Arc<dyn Spawn>) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.held |= Arc::ptr_eq(&workers.runtime, runtime);
    }

    /// Where a pool that shares `runtime` with others goes on, if not there.
    pub(crate) fn workers_elsewhere(&self, runtime: &Arc<dyn Spawn>) -> Option<Arc<dyn Spawn>> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if workers.held {
            *workers = Workers { runtime: self.runtimes.fresh()?, held: false };
        }
        (!Arc::ptr_eq(&workers.runtime, runtime)).then(|| workers.runtime.clone())
    }
}

/// The pools, by type.
pub(crate) struct Pools {
    all: Vec<Arc<Pool>>,
    by_kind: HashMap<CompactString, usize>,
}

impl Pools {
    pub(crate) fn new(all: Vec<Arc<Pool>>) -> Self {
        let by_kind = all.iter().enumerate().map(|(at, pool)| (pool.kind.clone(), at)).collect();
        Pools { all, by_kind }
    }

    /// All pools, in the order of their numbers.
    pub(crate) fn all(&self) -> &[Arc<Pool>] {
        &self.all
    }

    /// The number of the pool that does a type.
    pub(crate) fn find(&self, kind: &str) -> Option<usize> {
        self.by_kind.get(kind).copied()
    }

    /// This manager's sign of life, as of `house`'s phase.
    pub(crate) fn beat(&self, house: &House, lease: Duration) -> Beat {
        let guarded = |pool: &&Arc<Pool>| pool.traits.runs_commands || !pool.traits.carries.is_empty();
        Beat {
            incarnation: house.incarnation,
            host: house.host.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            types: self.all.iter().map(|pool| (pool.kind.to_string(), pool.slots)).collect(),
            guarded: self.all.iter().filter(guarded).map(|pool| pool.kind.to_string()).collect(),
            draining: house.phase() > Phase::Running,
            started: house.started_wall,
            lease_millis: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// The face for the console.
pub(crate) struct HouseStatus {
    pub(crate) house: Arc<House>,
    pub(crate) pools: Arc<Pools>,
    pub(crate) kinds: Vec<CompactString>,
    pub(crate) source_names: Vec<String>,
}

impl Status for HouseStatus {
    fn report(&self) -> Report {
        let now = self.house.clock.monotonic();
        let (by_type, by_provider) = self.house.stats.read(&self.kinds, &self.source_names, now);
        Report {
            uptime: now.saturating_sub(self.house.started),
            by_type: by_type.figures,
            by_provider: by_provider.figures,
            pools: self.pools.all().iter().map(|pool| (pool.kind.to_string(), pool.figures())).collect(),
            rate_by_type: by_type.rates,
            rate_by_provider: by_provider.rates,
            stale: self.house.stats.stale.load(Ordering::Relaxed),
            abandoned: self.house.stats.abandoned.load(Ordering::Relaxed),
        }
    }

    fn follow(&self, id: &JobId) -> Follower {
        let mut follower = self.house.events.follow(id);
        // After it follows, so that a run that begins in between is not missed.
        if let Some(run) = self.house.sources.iter().find_map(|source| source.held.find(id)) {
            follower.attach(run);
        }
        follower
    }

    fn find<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<Option<Found>, ProviderError>> {
        Box::pin(async move {
            let mut fault = None;
            for provider in self.house.sources.iter().filter_map(|source| source.provider()) {
                let Some(admin) = provider.admin() else { continue };
                match timeout(FIND_LIMIT, admin.show(id)).await {
                    Ok(Ok(Some(view))) => return Ok(Some(Found { view, sink: provider.sink() })),
                    Ok(Ok(None)) => {}
                    Ok(Err(error)) => fault = Some(error),
                    Err(_) => fault = Some(ProviderError::transient("a store does not answer in time")),
                }
            }
            fault.map_or(Ok(None), Err)
        })
    }

    fn ready(&self) -> Readiness {
        let mut ready = self.house.health.read();
        if self.house.phase() > Phase::Running {
            ready.reasons.push("shutting down".to_owned());
        }
        ready
    }
}
