//! The store's clock: what leases are timed by.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds of `CLOCK_BOOTTIME`: never jumps with the wall clock, counts on through a suspend, and is the
/// same for every process of this machine. It starts anew with the machine, so it is compared only within one
/// [`boot`].
pub(crate) fn boot_millis() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)
}

/// Names this start of the machine.
pub(crate) fn boot() -> String {
    // Where the kernel does not tell, all starts look alike: a lease is then timed as if the machine ran on.
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}
