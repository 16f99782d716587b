//! At most so many jobs a second.

use std::time::Duration;

use tokio::time::Instant;

/// How far ahead of its rate a pace may run after a pause.
const BURST: Duration = Duration::from_millis(100);

/// Lets through `target` jobs a second, in bursts of a tenth of a second (at least one job).
pub(crate) struct Pace {
    target: f64,
    allowance: f64,
    at: Instant,
}

impl Pace {
    /// A pace of `target` jobs a second; 0, or what is no number, is no limit.
    pub(crate) fn new(target: f64, now: Instant) -> Option<Self> {
        (target.is_finite() && target > 0.0).then(|| Pace { target, allowance: burst(target), at: now })
    }

    /// How many jobs may be taken now.
    pub(crate) fn allowed(&mut self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.allowance = (self.allowance + since * self.target).min(burst(self.target));
        // Saturates: a float beyond 32 bits is their largest.
        self.allowance.max(0.0) as u32
    }

    /// So many were taken.
    pub(crate) fn took(&mut self, jobs: usize) {
        self.allowance -= jobs as f64;
    }

    /// How long until the next may be taken.
    pub(crate) fn wait(&self) -> Duration {
        let missing = (1.0 - self.allowance).max(0.0);
        Duration::from_secs_f64((missing / self.target).clamp(0.001, 3600.0))
    }
}

fn burst(target: f64) -> f64 {
    (target * BURST.as_secs_f64()).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_through_its_target_and_no_more() {
        let start = Instant::now();
        let mut pace = Pace::new(50.0, start).unwrap();
        let mut taken = 0;
        for millis in 0..2_000 {
            let now = start + Duration::from_millis(millis);
            let allowed = pace.allowed(now);
            pace.took(allowed as usize);
            taken += allowed;
        }
        assert!((100..=105).contains(&taken), "{taken}");
        assert!(Pace::new(0.0, start).is_none() && Pace::new(f64::NAN, start).is_none());
    }

    #[test]
    fn a_slow_pace_waits_as_long_as_it_takes() {
        let start = Instant::now();
        let mut pace = Pace::new(0.1, start).unwrap();
        assert_eq!(pace.allowed(start), 1);
        pace.took(1);
        assert!(pace.wait() > Duration::from_secs(9));
        assert_eq!(pace.allowed(start + Duration::from_secs(11)), 1);
    }
}
