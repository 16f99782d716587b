//! A store that a test can cut the power of, and put back to an earlier day.
//!
//! It keeps the contract of `ganger_core::Provider`, which `tests/simulated_store.rs` holds it to, and it is
//! as lazy about its disk as the contract allows: a claim of ready jobs and the deadlines of renewed leases
//! are in its memory only, until something else is written.

mod claim;
mod settle;
mod state;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use compact_str::CompactString;
use ganger_core::{
    Admin, Batch, Beat, BoxFuture, Capabilities, Clock, DynProvider, Ended, Enqueued, Exchange, Exchanged,
    Hold, JobId, LeaseRef, ProviderError, Refused, RefusedKind, Room, Sink, State, Token,
};
use tokio::{sync::Notify, time::timeout};

use self::state::Contents;

/// A store, and a connection to it: clones are the same store.
#[derive(Clone)]
pub struct SimStore(Arc<Shared>);

struct Shared {
    disk: Mutex<Disk>,
    /// Something changed that a `wait` may be waiting for.
    changed: Notify,
    /// A job has ended.
    ended: Notify,
    clock: Arc<dyn Clock>,
    can: Capabilities,
}

struct Disk {
    now: Contents,
    /// What would be left if the power failed now. Kept only where it may.
    synced: Option<Contents>,
}

/// What was lost with the power.
#[derive(Clone, Debug, Default)]
pub struct Loss {
    /// Leases that vanished, each with whether it was a suspect's.
    pub leases: Vec<(LeaseRef, bool)>,
    /// Claims of which a renewal was lost.
    pub renewals: Vec<Token>,
}

/// What a store held at some time.
#[derive(Clone)]
pub struct Snapshot(Contents);

impl SimStore {
    /// An empty store that can do what a store of the house can.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let can = Capabilities {
            filter: true,
            schedule: true,
            priority: true,
            repeat: true,
            wait_and_claim: true,
            follow: true,
            sink: true,
            find: true,
            ..Capabilities::NONE
        };
        SimStore::able(clock, can)
    }

    /// An empty store that can do this. It always orders by priority and holds jobs until their time.
    pub fn able(clock: Arc<dyn Clock>, can: Capabilities) -> Self {
        let disk = Mutex::new(Disk { now: Contents::default(), synced: None });
        SimStore(Arc::new(Shared { disk, changed: Notify::new(), ended: Notify::new(), clock, can }))
    }

    /// Keeps in mind, from now on, what a loss of power would leave.
    pub fn may_lose_power(&self) {
        let mut disk = self.disk();
        disk.synced = Some(disk.now.clone());
    }

    /// The power fails and comes back: what was not synced is gone.
    pub fn lose_power(&self) -> Loss {
        let mut disk = self.disk();
        let Some(left) = disk.synced.clone() else { return Loss::default() };
        let before = std::mem::replace(&mut disk.now, left);
        let loss = Loss {
            leases: before.leases().filter(|(lease, _)| !disk.now.is_held(*lease)).collect(),
            renewals: disk.now.shortened_since(&before),
        };
        drop(disk);
        self.0.changed.notify_waiters();
        loss
    }

    /// What it holds now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.disk().now.clone())
    }

    /// Forgets everything since.
    pub fn restore(&self, snapshot: &Snapshot) {
        let mut disk = self.disk();
        disk.now = snapshot.0.clone();
        if disk.synced.is_some() {
            disk.synced = Some(disk.now.clone());
        }
        drop(disk);
        self.0.changed.notify_waiters();
    }

    /// Pushes bytes that should be a job, as a foreign producer would.
    pub fn push_raw(&self, bytes: Vec<u8>) {
        let now = self.0.clock.monotonic();
        self.change(|contents| contents.push(bytes, now));
        self.0.changed.notify_waiters();
    }

    /// Since when the oldest job has been ready that any manager with room for this type could have had.
    /// Suspects, which wait for their turn, do not count.
    pub fn ready_since(&self, kind: &str) -> Option<Duration> {
        self.disk().now.ready_since(kind)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step.
    fn change<R>(&self, step: impl FnOnce(&mut Contents) -> R) -> R {
        let mut disk = self.disk();
        let result = step(&mut disk.now);
        if disk.now.take_unsynced() && disk.synced.is_some() {
            disk.synced = Some(disk.now.clone());
        }
        result
    }
}

impl DynProvider for SimStore {
    fn capabilities(&self) -> Capabilities {
        self.0.can
    }

    fn wait<'a>(&'a self, room: &'a Room) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            loop {
                let mut changed = std::pin::pin!(self.0.changed.notified());
                // Armed before the look, so that a change in between is not missed.
                changed.as_mut().enable();
                let (now, wall) = (self.0.clock.monotonic(), self.0.clock.wall());
                let pause = self.disk().now.pause(room, now, wall, self.0.can.filter);
                let Some(pause) = pause else { return Ok(()) };
                // Either way, look again.
                let _ = timeout(pause, changed).await;
            }
        })
    }

    fn wait_and_claim<'a>(
        &'a self,
        give: &'a Exchange,
    ) -> BoxFuture<'a, Result<Option<Exchanged>, ProviderError>> {
        Box::pin(async move {
            if !self.0.can.wait_and_claim {
                return self.wait(&give.room).await.map(|()| None);
            }
            loop {
                let mut changed = std::pin::pin!(self.0.changed.notified());
                changed.as_mut().enable();
                let (now, wall) = (self.0.clock.monotonic(), self.0.clock.wall());
                let claimed = self.change(|contents| contents.claim_by_wait(give, now, wall, &self.0.can));
                if let Some(answer) = claimed {
                    return Ok(Some(answer));
                }
                let pause = self.disk().now.pause(&give.room, now, wall, self.0.can.filter);
                let Some(pause) = pause else { return Ok(None) };
                let _ = timeout(pause, changed).await;
            }
        })
    }

    fn exchange<'a>(&'a self, give: &'a Exchange) -> BoxFuture<'a, Result<Exchanged, ProviderError>> {
        Box::pin(async move {
            let (now, wall) = (self.0.clock.monotonic(), self.0.clock.wall());
            let answer = self.change(|contents| contents.exchange(give, now, wall, &self.0.can));
            if !give.settle.is_empty() {
                self.0.changed.notify_waiters();
                self.0.ended.notify_waiters();
            }
            Ok(answer)
        })
    }

    fn renew<'a>(
        &'a self,
        beat: &'a Beat,
        held: &'a [LeaseRef],
    ) -> BoxFuture<'a, Result<Vec<Hold>, ProviderError>> {
        Box::pin(async move {
            let now = self.0.clock.monotonic();
            let (holds, released) = self.change(|contents| contents.renew(beat, held, now));
            if released {
                self.0.changed.notify_waiters();
            }
            Ok(holds)
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), ProviderError>> {
        Box::pin(async { Ok(()) })
    }

    fn sink(&self) -> Option<Arc<dyn Sink>> {
        self.0.can.sink.then(|| Arc::new(self.clone()) as Arc<dyn Sink>)
    }

    fn admin(&self) -> Option<Arc<dyn Admin>> {
        None
    }
}

impl Sink for SimStore {
    fn enqueue(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Result<Enqueued, Refused>>, ProviderError>> {
        Box::pin(async move {
            let (now, wall) = (self.0.clock.monotonic(), self.0.clock.wall());
            let answers = self.change(|contents| {
                contents.batch(batch, |contents, job| {
                    self.0.can.admit(&job)?;
                    contents.enqueue(job, now, wall).map_err(|id| {
                        let message = format!("the id `{id}` belongs to another job: leave it out");
                        Refused::new(RefusedKind::Conflict, message)
                    })
                })
            });
            self.0.changed.notify_waiters();
            Ok(answers)
        })
    }

    fn states<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Option<State>>, ProviderError>> {
        Box::pin(async move {
            let disk = self.disk();
            Ok(ids.iter().map(|id| disk.now.find(id).map(|at| disk.now.state(at))).collect())
        })
    }

    fn ended<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Ended>, ProviderError>> {
        Box::pin(async move {
            loop {
                let mut changed = std::pin::pin!(self.0.ended.notified());
                changed.as_mut().enable();
                let ended: Vec<Ended> = {
                    let disk = self.disk();
                    ids.iter().filter_map(|id| disk.now.ended(id)).collect()
                };
                if !ended.is_empty() || ids.is_empty() {
                    return Ok(ended);
                }
                changed.await;
            }
        })
    }

    fn managers(&self) -> BoxFuture<'_, Result<Vec<Beat>, ProviderError>> {
        Box::pin(async move { Ok(self.disk().now.managers(self.0.clock.monotonic())) })
    }

    fn ready_types(&self) -> BoxFuture<'_, Result<Vec<CompactString>, ProviderError>> {
        Box::pin(async move { Ok(self.disk().now.ready_types()) })
    }

    fn cancel<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<bool, ProviderError>> {
        Box::pin(async move {
            let cancelled = self.change(|contents| contents.cancel(id));
            self.0.ended.notify_waiters();
            Ok(cancelled)
        })
    }
}
