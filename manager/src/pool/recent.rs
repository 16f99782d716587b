//! Counts what happened in the last quarter of a second.

use std::time::Duration;

/// The span of one of the buckets.
const SPAN: Duration = Duration::from_millis(50);
const BUCKETS: usize = 5;

/// How many there were in the last 250 ms, to a bucket of 50 ms.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recent {
    buckets: [u32; BUCKETS],
    /// The bucket's number since the clock's start.
    at: u64,
}

impl Recent {
    /// Adds `count` at `now`.
    pub(crate) fn add(&mut self, now: Duration, count: u32) {
        self.turn(now);
        let bucket = &mut self.buckets[(self.at % BUCKETS as u64) as usize];
        *bucket = bucket.saturating_add(count);
    }

    /// How many there were in the 250 ms before `now`.
    pub(crate) fn sum(&mut self, now: Duration) -> u32 {
        self.turn(now);
        self.buckets.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    fn turn(&mut self, now: Duration) {
        // Since the clock's start in spans of 50 ms: fits for ten billion years.
        let at = (now.as_millis() / SPAN.as_millis()) as u64;
        let steps = at.saturating_sub(self.at).min(BUCKETS as u64);
        for step in 1..=steps {
            self.buckets[((self.at + step) % BUCKETS as u64) as usize] = 0;
        }
        if steps == BUCKETS as u64 {
            self.buckets = [0; BUCKETS];
        }
        self.at = self.at.max(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_after_a_quarter_of_a_second() {
        let mut recent = Recent::default();
        let at = Duration::from_millis;
        recent.add(at(1_000), 3);
        recent.add(at(1_120), 4);
        assert_eq!(recent.sum(at(1_200)), 7);
        assert_eq!(recent.sum(at(1_260)), 4);
        assert_eq!(recent.sum(at(1_400)), 0);
        recent.add(at(9_000), 1);
        assert_eq!(recent.sum(at(9_000)), 1);
        assert_eq!(recent.sum(at(1_000)), 1, "a clock that steps back changes nothing");
    }
}
