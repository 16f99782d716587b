//! Keeps a program that dies again and again from taking one job after the other along.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use ganger_core::{Backoff, JobId};

/// So many jobs are handed over one at a time after a failure with several: more than all slots of most entries had.
const ALONE: u32 = 1024;

/// Counts the deaths of an entry's programs since the last job that one of them finished.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: Mutex<State>,
    /// There are deaths to forget: read at each job's end.
    troubled: AtomicBool,
    /// So many jobs are yet handed over one at a time.
    alone: AtomicU32,
    backoff: Backoff,
    deaths_max: u32,
    /// What the waits' jitter is drawn from.
    seed: JobId,
}

#[derive(Debug, Default)]
struct State {
    deaths: u32,
    open: bool,
    /// Not before then is it started again.
    until: Option<Instant>,
    last: String,
}

impl Breaker {
    pub(crate) fn new(backoff: Backoff, deaths_max: u32) -> Self {
        Breaker {
            state: Mutex::default(),
            troubled: AtomicBool::new(false),
            alone: AtomicU32::new(0),
            backoff,
            deaths_max: deaths_max.max(1),
            seed: JobId::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One died, or was killed for its own faults.
    pub(crate) fn died(&self, why: &str) {
        self.count(why, false);
    }

    /// One could not be started: no job would fare better.
    pub(crate) fn not_started(&self, why: &str) {
        self.count(why, true);
    }

    fn count(&self, why: &str, at_once: bool) {
        let mut state = self.state();
        state.deaths += 1;
        state.open |= at_once || state.deaths >= self.deaths_max;
        state.until = Some(Instant::now() + self.backoff.wait(&self.seed, state.deaths));
        why.clone_into(&mut state.last);
        self.troubled.store(true, Ordering::Release);
    }

    /// One failed with several jobs in its hands, any of which may be to blame: the next ones are handed over one at a
    /// time, so that the one that is fails alone.
    pub(crate) fn part(&self) {
        self.alone.store(ALONE, Ordering::Relaxed);
    }

    /// Whether jobs are handed over one at a time.
    pub(crate) fn is_parting(&self) -> bool {
        self.alone.load(Ordering::Relaxed) > 0
    }

    /// One has finished a job.
    pub(crate) fn finished(&self) {
        if self.is_parting() {
            // Two at once may count as one.
            self.alone.store(self.alone.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
        }
        if self.troubled.load(Ordering::Acquire) {
            let mut state = self.state();
            self.troubled.store(false, Ordering::Release);
            *state = State::default();
        }
    }

    /// How long to wait before the next start.
    pub(crate) fn wait(&self) -> Duration {
        let until = self.state().until;
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Whether there were too many deaths, and no job has been finished since.
    pub(crate) fn is_open(&self) -> bool {
        self.state().open
    }

    /// Why no job is begun; `None` where one may be, if only to see whether it goes now.
    pub(crate) fn refusal(&self) -> Option<String> {
        let wait = self.wait();
        let state = self.state();
        if !state.open || wait.is_zero() {
            return None;
        }
        let State { deaths, last, .. } = &*state;
        Some(match deaths {
            1 => last.clone(),
            _ => format!("{last} (that was failure {deaths} in a row, with no job finished)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use ganger_core::Period;

    use super::*;

    fn breaker(initial: Period) -> Breaker {
        Breaker::new(Backoff { initial, jitter: 0.0, ..Backoff::default() }, 3)
    }

    #[test]
    fn opens_after_so_many_deaths_and_closes_when_a_job_is_finished() {
        let breaker = breaker(Period::secs(60));
        for n in 1..=2 {
            breaker.died(&format!("death {n}"));
            assert_eq!(breaker.refusal(), None, "{n}");
            assert!(breaker.wait() > Duration::from_secs(50));
        }
        breaker.died("death 3");
        assert_eq!(breaker.refusal().unwrap(), "death 3 (that was failure 3 in a row, with no job finished)");
        breaker.finished();
        assert_eq!((breaker.refusal(), breaker.wait()), (None, Duration::ZERO));
    }

    #[test]
    fn tries_again_when_its_wait_is_over_and_opens_at_the_next_death() {
        let breaker = breaker(Period::millis(0));
        (0..3).for_each(|_| breaker.died("x"));
        assert_eq!(breaker.refusal(), None, "the wait is over");
    }

    #[test]
    fn what_cannot_be_started_opens_it_at_once() {
        let breaker = breaker(Period::secs(60));
        breaker.not_started("no such program");
        assert_eq!(breaker.refusal().unwrap(), "no such program");
    }
}
