//! Time in the simulation.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use ganger_core::{Clock, Timestamp};
use tokio::time::Instant;

/// Tokio's time, which the simulation pauses; a wall clock that starts at a fixed day and can be made to
/// jump.
pub struct SimClock {
    start: Instant,
    skew_millis: AtomicI64,
}

/// 2026-11-24T00:00:00Z.
const FIRST_DAY: i64 = 1_795_478_400_000;

impl SimClock {
    /// A clock that starts at `start`, so that several of one world agree.
    pub fn since(start: Instant) -> Self {
        SimClock { start, skew_millis: AtomicI64::new(0) }
    }

    /// Puts the wall clock forward or back; the monotonic clock does not notice.
    pub fn jump(&self, millis: i64) {
        self.skew_millis.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall(&self) -> Timestamp {
        let elapsed = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(FIRST_DAY + elapsed + self.skew_millis.load(Ordering::Relaxed))
    }
}
