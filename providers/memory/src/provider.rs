//! The calls of the contract, each one step under one lock.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use ganger_core::{
    Beat, Capabilities, Clock, Entry, Exchange, Exchanged, Hold, JobId, LeaseRef, Provider, ProviderContext,
    ProviderError, Room, Sink, Timestamp,
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use crate::{MemoryConfig, store::Store};

/// Jobs in this process's memory.
pub struct MemoryProvider {
    store: Mutex<Store>,
    /// Something changed that a `wait` may be waiting for.
    pub(crate) changed: Notify,
    /// A job has ended.
    pub(crate) ended: Notify,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Default for MemoryProvider {
    fn default() -> Self {
        MemoryProvider::with(MemoryConfig::default(), Arc::new(ProcessClock(Instant::now())))
    }
}

impl MemoryProvider {
    /// An empty store with the default options.
    pub fn new() -> Self {
        MemoryProvider::default()
    }

    /// An empty store with these options, on this clock.
    pub fn with(config: MemoryConfig, clock: Arc<dyn Clock>) -> Self {
        let store = Mutex::new(Store::new(config.bytes_max.get()));
        MemoryProvider { store, changed: Notify::new(), ended: Notify::new(), clock }
    }

    /// Pushes bytes that should be a job, as a producer would onto a list. Not counted against `bytes_max`.
    pub fn push_raw(&self, bytes: impl Into<Bytes>) {
        self.push_all([bytes.into()]);
    }

    /// Pushes many at once.
    pub fn push_all(&self, entries: impl IntoIterator<Item = Bytes>) {
        self.lock().push(entries);
        self.changed.notify_waiters();
    }

    /// How many entries wait: ready, scheduled, or under a lease.
    pub fn waiting(&self) -> usize {
        self.lock().waiting()
    }

    /// The dead letters, each with its reason.
    pub fn dead_letters(&self) -> Vec<(JobId, Entry, String)> {
        self.lock().dead_letters()
    }

    /// The store. A panic under the lock leaves it as it was between two steps, so a poisoned lock is no reason
    /// to stop.
    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Provider for MemoryProvider {
    const NAME: &'static str = "memory";
    const CAPABILITIES: Capabilities = Capabilities {
        filter: true,
        schedule: true,
        priority: true,
        unique: true,
        repeat: true,
        follow: true,
        sink: true,
        find: true,
        ..Capabilities::NONE
    };
    type Config = MemoryConfig;

    async fn open(config: MemoryConfig, cx: &ProviderContext) -> Result<Self, ProviderError> {
        Ok(MemoryProvider::with(config, cx.clock.clone()))
    }

    async fn wait(&self, room: &Room) -> Result<(), ProviderError> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Armed before the look, so that a change in between is not missed.
            changed.as_mut().enable();
            let (now, wall) = (self.clock.monotonic(), self.clock.wall());
            let pause = self.lock().pause(room, now, wall);
            let Some(pause) = pause else { return Ok(()) };
            // Either way, look again.
            let _ = timeout(pause, changed).await;
        }
    }

    async fn exchange(&self, give: &Exchange) -> Result<Exchanged, ProviderError> {
        let (now, wall) = (self.clock.monotonic(), self.clock.wall());
        let exchanged = self.lock().exchange(give, now, wall);
        if !give.settle.is_empty() {
            self.changed.notify_waiters();
            self.ended.notify_waiters();
        }
        Ok(exchanged)
    }

    async fn renew(&self, beat: &Beat, held: &[LeaseRef]) -> Result<Vec<Hold>, ProviderError> {
        let now = self.clock.monotonic();
        let (holds, released) = self.lock().renew(beat, held, now);
        if released {
            self.changed.notify_waiters();
        }
        Ok(holds)
    }

    async fn close(&self) -> Result<(), ProviderError> {
        Ok(())
    }

    fn sink(self: &Arc<Self>) -> Option<Arc<dyn Sink>> {
        Some(self.clone())
    }
}

/// The clock of a program that brings none.
struct ProcessClock(Instant);

impl Clock for ProcessClock {
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
}
