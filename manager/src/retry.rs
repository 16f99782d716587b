//! How long to wait before a store is tried again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);

/// Short enough that a store that is back is noticed within the two seconds of P5.
const LONGEST: Duration = Duration::from_millis(1500);

/// Waits that double from 100 ms up to 1.5 s, each a fifth longer or shorter: many managers that lost one store
/// together do not return together. The jitter comes from a seed, so that a replay waits the same.
pub(crate) struct Backing {
    next: Duration,
    seed: u64,
}

impl Backing {
    pub(crate) fn new(seed: u64) -> Self {
        Backing { next: FIRST, seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        // xorshift64 (Marsaglia 2003): good enough to spread waits.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let jitter = 0.8 + 0.4 * ((self.seed >> 11) as f64 / (1u64 << 53) as f64);
        let wait = self.next.mul_f64(jitter);
        self.next = (self.next * 2).min(LONGEST);
        wait
    }
}
