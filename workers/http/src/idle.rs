//! Connections that wait for their next request.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::connection::Connection;

/// How long a connection stays open without a request.
const IDLE: Duration = Duration::from_secs(30);

/// How many connections stay open without a request, of however many slots.
const IDLE_MAX: usize = 1_024;

/// The connections without a request, by age: the one that was used last is at the end, and is used again first.
pub(crate) struct Idle {
    kept: Mutex<Kept>,
    max: usize,
}

#[derive(Default)]
struct Kept {
    connections: VecDeque<One>,
    /// There is a task that closes the old ones.
    watched: bool,
}

struct One {
    origin: Box<str>,
    since: Instant,
    connection: Connection,
}

impl Idle {
    /// Room for one connection a slot.
    pub(crate) fn new(slots: usize) -> Arc<Self> {
        Arc::new(Idle { kept: Mutex::default(), max: slots.clamp(1, IDLE_MAX) })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out a connection to an origin.
    pub(crate) fn take(&self, origin: &str) -> Option<(Box<str>, Connection)> {
        let mut kept = self.kept();
        let at = kept.connections.iter().rposition(|one| *one.origin == *origin)?;
        kept.connections.remove(at).map(|one| (one.origin, one.connection))
    }

    /// Puts in a connection; the oldest goes where there are too many.
    pub(crate) fn put(self: &Arc<Self>, origin: Box<str>, connection: Connection) {
        let mut kept = self.kept();
        let too_many = kept.connections.len() >= self.max;
        let oldest = if too_many { kept.connections.pop_front() } else { None };
        kept.connections.push_back(One { origin, since: Instant::now(), connection });
        let watched = std::mem::replace(&mut kept.watched, true);
        drop(kept);
        // Closed outside the lock.
        drop(oldest);
        if !watched {
            tokio::spawn(close_old(Watch(Arc::downgrade(self))));
        }
    }

    /// Closes those that are too old; when the next one is.
    fn close_old(&self) -> Option<Instant> {
        let mut kept = self.kept();
        let old = kept.connections.iter().take_while(|one| one.since.elapsed() >= IDLE).count();
        let old: Vec<One> = kept.connections.drain(..old).collect();
        let next = kept.connections.front().map(|one| one.since + IDLE);
        kept.watched = next.is_some();
        drop(kept);
        drop(old);
        next
    }
}

/// The task that closes old connections; another may follow where it ended with its runtime.
struct Watch(Weak<Idle>);

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(idle) = self.0.upgrade() {
            idle.kept().watched = false;
        }
    }
}

async fn close_old(watch: Watch) {
    while let Some(next) = watch.0.upgrade().and_then(|idle| idle.close_old()) {
        sleep_until(next).await;
    }
}
