//! Counts what happens, by type and by where jobs came from.
//!
//! Slots count into shards of their own, once a batch, so that they never wait for each other nor for a reader;
//! a reader adds the shards up. Figures only grow, and reading changes nothing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use compact_str::CompactString;
use ganger_core::{Figures, Outcome, Usage, Verdict};
use hdrhistogram::Histogram;

/// How many shards there are: more than there are processors to count at once on most machines.
const SHARDS: usize = 8;

/// What is counted of one run or one end, before it is added to a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) runs: u64,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) dead: u64,
    pub(crate) cancelled: u64,
    pub(crate) expired: u64,
    pub(crate) lost: u64,
    pub(crate) nanos: u64,
    pub(crate) cpu_us: u64,
    pub(crate) max_rss_kib: u64,
}

impl Tally {
    /// What one outcome counts as; the last column of the judge's table. Taken before the judge takes the outcome.
    pub(crate) fn of(outcome: &Outcome, ran: bool) -> Self {
        let mut tally = Tally { runs: u64::from(ran), ..Tally::default() };
        match outcome {
            Outcome::Failed(error) => match error.advice() {
                ganger_core::Advice::Lost => tally.lost = 1,
                ganger_core::Advice::Discard => {}
                _ => tally.failed = 1,
            },
            Outcome::TimedOut | Outcome::Panicked(_) => tally.failed = 1,
            // Cut off: it will run again, and counts then.
            Outcome::Released => tally.runs = 0,
            _ => {}
        }
        tally
    }

    /// Adds what the verdict makes of it.
    pub(crate) fn judged(mut self, verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Done => self.done = 1,
            Verdict::Dead { .. } => self.dead = 1,
            Verdict::Cancelled | Verdict::Duplicate { .. } => self.cancelled = 1,
            Verdict::Expired => self.expired = 1,
            Verdict::Retry { .. } | Verdict::Release | Verdict::Park { .. } => {}
        }
        self
    }

    /// Adds what a run used.
    pub(crate) fn used(&mut self, usage: Option<&Usage>) {
        if let Some(usage) = usage {
            self.cpu_us = self.cpu_us.saturating_add(usage.cpu_us);
            self.max_rss_kib = self.max_rss_kib.max(usage.max_rss_kib);
        }
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.runs += other.runs;
        self.done += other.done;
        self.failed += other.failed;
        self.dead += other.dead;
        self.cancelled += other.cancelled;
        self.expired += other.expired;
        self.lost += other.lost;
        self.nanos += other.nanos;
        self.cpu_us = self.cpu_us.saturating_add(other.cpu_us);
        self.max_rss_kib = self.max_rss_kib.max(other.max_rss_kib);
    }
}

/// The figures of a manager.
pub(crate) struct Stats {
    shards: Vec<Mutex<Shard>>,
    pub(crate) stale: AtomicU64,
    pub(crate) abandoned: AtomicU64,
}

#[derive(Default)]
struct Shard {
    /// By (pool, origin).
    cells: HashMap<(u32, u32), Cell>,
    /// By (pool, intake).
    via: HashMap<(u32, CompactString), Cell>,
}

struct Cell {
    tally: Tally,
    times: Histogram<u32>,
    second: u64,
    this_second: u64,
    last_second: u64,
}

/// Run times from 1 ns to 10 days, two digits true.
const NANOS_MAX: u64 = 864_000_000_000_000;

impl Default for Cell {
    fn default() -> Self {
        let times = Histogram::new_with_bounds(1, NANOS_MAX, 2).expect("the bounds are in order");
        Cell { tally: Tally::default(), times, second: 0, this_second: 0, last_second: 0 }
    }
}

impl Cell {
    fn add(&mut self, tally: &Tally, timed: &[u64], now: Duration) {
        self.tally.add(tally);
        if tally.runs == 0 {
            return;
        }
        for nanos in timed {
            self.times.saturating_record((*nanos).clamp(1, NANOS_MAX));
        }
        // The others of one batch are counted at their mean.
        let others = tally.runs.saturating_sub(timed.len() as u64);
        if let Some(mean) = tally.nanos.saturating_sub(timed.iter().sum()).checked_div(others) {
            let count = u32::try_from(others).unwrap_or(u32::MAX);
            self.times.saturating_record_n(mean.clamp(1, NANOS_MAX), count);
        }
        self.turn(now.as_secs());
        self.this_second += tally.runs;
    }

    fn turn(&mut self, second: u64) {
        if second != self.second {
            self.last_second = if second == self.second + 1 { self.this_second } else { 0 };
            self.this_second = 0;
            self.second = second;
        }
    }

    /// Runs in the last whole second.
    fn rate(&self, now: Duration) -> u64 {
        match now.as_secs().saturating_sub(self.second) {
            0 => self.last_second,
            1 => self.this_second,
            _ => 0,
        }
    }
}

/// Figures added up over shards.
struct Sum {
    tally: Tally,
    times: Histogram<u64>,
    rate: u64,
}

impl Default for Sum {
    fn default() -> Self {
        let times = Histogram::new_with_bounds(1, NANOS_MAX, 2).expect("the bounds are in order");
        Sum { tally: Tally::default(), times, rate: 0 }
    }
}

impl Sum {
    fn add(&mut self, cell: &Cell, now: Duration) {
        self.tally.add(&cell.tally);
        for step in cell.times.iter_recorded() {
            self.times.saturating_record_n(step.value_iterated_to(), u64::from(step.count_at_value()));
        }
        self.rate += cell.rate(now);
    }

    fn figures(&self) -> Figures {
        let Tally { runs, done, failed, dead, cancelled, expired, lost, nanos, cpu_us, max_rss_kib } =
            self.tally;
        let at = |quantile| if self.times.is_empty() { 0 } else { self.times.value_at_quantile(quantile) };
        let (p50, p95, p99) = (at(0.5), at(0.95), at(0.99));
        Figures {
            runs,
            done,
            failed,
            dead,
            cancelled,
            expired,
            lost,
            nanos,
            p50,
            p95,
            p99,
            cpu_us,
            max_rss_kib,
        }
    }
}

/// Figures with the rates, by name.
#[derive(Default)]
pub(crate) struct ByName {
    pub(crate) figures: BTreeMap<String, Figures>,
    pub(crate) rates: BTreeMap<String, f64>,
}

impl ByName {
    fn of(sums: BTreeMap<String, Sum>) -> Self {
        let figures = sums.iter().map(|(name, sum)| (name.clone(), sum.figures())).collect();
        // A count of one second, exact as a float for thousands of years.
        let rates = sums.iter().map(|(name, sum)| (name.clone(), sum.rate as f64)).collect();
        ByName { figures, rates }
    }
}

impl Default for Stats {
    fn default() -> Self {
        Stats {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            stale: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
        }
    }
}

impl Stats {
    fn shard(&self, of: usize) -> std::sync::MutexGuard<'_, Shard> {
        self.shards[of % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a batch of one pool's jobs from one provider, through the shard of a slot. Of the runs some may be timed by
    /// themselves, in nanoseconds; the tally has their time too.
    pub(crate) fn count(
        &self,
        slot: usize,
        pool: u32,
        origin: u32,
        tally: &Tally,
        timed: &[u64],
        now: Duration,
    ) {
        self.shard(slot).cells.entry((pool, origin)).or_default().add(tally, timed, now);
    }

    /// Counts a job that came through an intake for that intake too.
    pub(crate) fn count_via(
        &self,
        slot: usize,
        pool: u32,
        via: &CompactString,
        tally: &Tally,
        now: Duration,
    ) {
        self.shard(slot).via.entry((pool, via.clone())).or_default().add(tally, &[], now);
    }

    /// Counts settlements that came too late.
    pub(crate) fn count_stale(&self, count: usize) {
        self.stale.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// The figures by type and by provider (and intake), under these names.
    pub(crate) fn read(
        &self,
        kinds: &[CompactString],
        sources: &[String],
        now: Duration,
    ) -> (ByName, ByName) {
        let mut by_type: BTreeMap<String, Sum> = BTreeMap::new();
        let mut by_provider: BTreeMap<String, Sum> = BTreeMap::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for ((pool, origin), cell) in &shard.cells {
                if let Some(kind) = kinds.get(*pool as usize) {
                    by_type.entry(kind.to_string()).or_default().add(cell, now);
                }
                if let Some(source) = sources.get(*origin as usize) {
                    by_provider.entry(source.clone()).or_default().add(cell, now);
                }
            }
            for ((_, via), cell) in &shard.via {
                by_provider.entry(via.to_string()).or_default().add(cell, now);
            }
        }
        (ByName::of(by_type), ByName::of(by_provider))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_whole_second() {
        let mut cell = Cell::default();
        let at = Duration::from_millis;
        cell.add(&Tally { runs: 5, nanos: 50, ..Tally::default() }, &[], at(1_200));
        assert_eq!(cell.rate(at(1_900)), 0);
        assert_eq!(cell.rate(at(2_100)), 5);
        cell.add(&Tally { runs: 2, nanos: 20, ..Tally::default() }, &[], at(2_500));
        assert_eq!(cell.rate(at(2_900)), 5);
        assert_eq!(cell.rate(at(3_000)), 2);
        assert_eq!(cell.rate(at(4_000)), 0);
    }

    #[test]
    fn a_run_that_is_timed_by_itself_counts_with_its_own_time_and_the_others_with_their_mean() {
        let stats = Stats::default();
        let tally = Tally { runs: 10, nanos: 8 * 1_000 + 70_000 + 900_000, ..Tally::default() };
        stats.count(0, 0, 0, &tally, &[70_000, 900_000], Duration::ZERO);
        let (by_type, _) = stats.read(&["t".into()], &[], Duration::ZERO);
        let figures = by_type.figures["t"];
        assert_eq!((figures.runs, figures.nanos), (10, 978_000));
        assert!((990..=1_010).contains(&figures.p50), "{}", figures.p50);
        assert!((890_000..=910_000).contains(&figures.p99), "{}", figures.p99);
    }

    #[test]
    fn processor_time_adds_up_and_of_memory_the_most_counts() {
        let stats = Stats::default();
        for (slot, cpu_us, max_rss_kib) in [(0, 5, 70), (1, 6, 40)] {
            let mut tally = Tally { runs: 1, done: 1, ..Tally::default() };
            tally.used(Some(&Usage { cpu_us, max_rss_kib, signal: None }));
            stats.count(slot, 0, 0, &tally, &[], Duration::ZERO);
        }
        let (by_type, _) = stats.read(&["t".into()], &[], Duration::ZERO);
        assert_eq!((by_type.figures["t"].cpu_us, by_type.figures["t"].max_rss_kib), (11, 70));
    }

    #[test]
    fn figures_add_up_over_shards_and_reading_changes_nothing() {
        let stats = Stats::default();
        let tally = Tally { runs: 1, done: 1, nanos: 1_000, ..Tally::default() };
        for slot in 0..100 {
            stats.count(slot, 0, 0, &tally, &[], Duration::ZERO);
            stats.count_via(slot, 0, &"http".into(), &tally, Duration::ZERO);
        }
        for _ in 0..2 {
            let (by_type, by_provider) = stats.read(&["t".into()], &["disk".into()], Duration::ZERO);
            let figures = by_type.figures["t"];
            assert_eq!((figures.runs, figures.done, figures.nanos), (100, 100, 100_000));
            assert!((990..=1_010).contains(&figures.p99), "{}", figures.p99);
            assert_eq!(by_provider.figures.keys().collect::<Vec<_>>(), ["disk", "http"]);
        }
    }
}
