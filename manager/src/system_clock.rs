//! The system's clocks.

use std::time::Duration;

use ganger_core::{Clock, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// The system's clocks: `CLOCK_BOOTTIME` where there is one, so that a machine that slept knows it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The system's clocks.
    pub fn new() -> Self {
        SystemClock
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const MONOTONIC: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const MONOTONIC: ClockId = ClockId::Monotonic;

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        let now = clock_gettime(MONOTONIC);
        // The kernel's monotonic clocks are never negative, and their nanoseconds fit.
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
}
