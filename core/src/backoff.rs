//! How long to wait before a retry.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{JobId, Period};

/// Exponential backoff with jitter: the wait before retry `n` (from 1) is `initial × factor^(n-1)`, at most
/// `max`, moved by up to ± `jitter` of itself.
///
/// The jitter is drawn from the job's id and `n`, not from a random source: a replayed run waits the same, and
/// a thousand jobs that failed together do not return together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// The wait before the first retry.
    pub initial: Period,
    /// What each wait is multiplied by for the next.
    pub factor: f64,
    /// The longest wait.
    pub max: Period,
    /// The part of a wait, 0 to 1, by which it may be shorter or longer.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { initial: Period::secs(1), factor: 2.0, max: Period::secs(3600), jitter: 0.2 }
    }
}

impl Backoff {
    /// The wait before retry `n` (from 1) of the job `id`. Never panics, whatever the fields are: a factor or
    /// jitter that is no sensible number counts as 1 or 0.
    pub fn wait(&self, id: &JobId, n: u32) -> Duration {
        let max = self.max.get().as_secs_f64();
        let factor = if self.factor.is_finite() && self.factor >= 1.0 { self.factor } else { 1.0 };
        let jitter = if self.jitter.is_finite() { self.jitter.clamp(0.0, 1.0) } else { 0.0 };
        let exponent = i32::try_from(n.saturating_sub(1)).unwrap_or(i32::MAX);
        let plain = self.initial.get().as_secs_f64() * factor.powi(exponent);
        let plain = if plain.is_finite() { plain.min(max) } else { max };
        let wait = plain * (1.0 + jitter * (2.0 * unit(id, n) - 1.0));
        Duration::from_secs_f64(wait.clamp(0.0, crate::period::PERIOD_MAX.as_secs_f64()))
    }
}

/// A number in 0..1 from the id and `n`: FNV-1a over both, finished by the mixer of splitmix64.
fn unit(id: &JobId, n: u32) -> f64 {
    use std::fmt::Write;
    struct Fnv(u64);
    impl Write for Fnv {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            for byte in text.bytes() {
                self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
            Ok(())
        }
    }
    let mut fnv = Fnv(0xcbf2_9ce4_8422_2325);
    // Writing into a hash cannot fail.
    let _ = write!(fnv, "{id}#{n}");
    let mut x = fnv.0;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    (x >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn grows_by_the_factor_up_to_the_maximum() {
        let backoff = Backoff { jitter: 0.0, max: Period::secs(5), ..Backoff::default() };
        let id = "job".parse().unwrap();
        let waits: Vec<u64> = (1..6).map(|n| backoff.wait(&id, n).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn jobs_that_failed_together_do_not_return_together() {
        let backoff = Backoff { jitter: 0.5, ..Backoff::default() };
        let mut waits: Vec<_> =
            (0..100).map(|n| backoff.wait(&format!("job-{n}").parse().unwrap(), 1)).collect();
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 90);
        assert!(
            waits[0] < Duration::from_millis(600) && waits[waits.len() - 1] > Duration::from_millis(1400)
        );
    }

    proptest! {
        #[test]
        fn stays_within_its_bounds_for_any_fields(factor: f64, jitter: f64, initial in 0u64..1 << 40, max in 0u64..1 << 40, n: u32) {
            let backoff = Backoff { initial: Period::millis(initial), factor, max: Period::millis(max), jitter };
            let wait = backoff.wait(&"x".parse().unwrap(), n);
            prop_assert!(wait.as_secs_f64() <= 2.0 * max as f64 / 1000.0 + 1e-3);
        }
    }
}
