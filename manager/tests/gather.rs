//! Verdicts are gathered while pools hold work: a pool of medium-fast jobs costs few exchanges, no slot waits for
//! its next job, and no waiter for its verdict.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[allow(dead_code, reason = "every test file uses a part of it")]
#[path = "setup/faulty.rs"]
mod faulty;
mod setup;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use faulty::Faulty;
use ganger_core::{JobContext, JobError, Period, ProviderOptions, Sink, State};
use ganger_manager::{Manager, Running};
use ganger_provider_memory::MemoryProvider;
use ganger_worker_function::function;
use proptest::prelude::*;
use setup::{TestClock, add, ends, enqueue, eventually, job, memory, pass};
use tokio::time::Instant;

/// How long verdicts may be gathered, and how many of them are gathered no longer.
const GATHER_MAX: Duration = Duration::from_millis(25);
const GATHER_JOBS: usize = 32;

struct Line {
    _running: Running,
    store: Arc<MemoryProvider>,
    line: Arc<Faulty>,
    /// When each run ended.
    ended: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Line {
    /// A manager whose jobs take `takes`.
    async fn new(takes: Duration, slots: u32) -> Line {
        let clock = TestClock::new();
        let store = memory(&clock);
        let line = Faulty::new(&store);
        let ended = Arc::new(Mutex::new(Vec::new()));
        let told = ended.clone();
        let worker = function("t", move |_: (), job: JobContext| {
            let told = told.clone();
            async move {
                pass(takes).await;
                told.lock().unwrap().push((job.id().to_string(), Instant::now()));
                Ok::<_, JobError>(())
            }
        });
        let plan = setup::bare_plan(&clock).opened_dyn("store", ProviderOptions::default(), line.clone());
        let running = Manager::start(add(plan, worker.slots(slots))).await.unwrap();
        Line { _running: running, store, line, ended }
    }

    fn exchanges(&self) -> usize {
        self.line.sent.lock().unwrap().len()
    }
}

fn plain(count: usize) -> impl Iterator<Item = ganger_core::Job> {
    (0..count).map(|_| job(r#"{"type":"t"}"#))
}

/// Lets a closure's future run on a paused clock.
fn paused<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_pool_of_medium_fast_jobs_is_served_in_batches(millis in 1u64..5, slots in 1u32..9) {
        paused(async {
            let line = Line::new(Duration::from_millis(millis), slots).await;
            // Its prefetch is what it did in the last 250 ms, which it has to do first.
            let count = slots as usize * 400;
            let ids = enqueue(&line.store, plain(count)).await;
            let began = Instant::now();
            eventually("it is at work", || line.ended.lock().unwrap().len() >= count / 4).await;
            let (from, warm) = (line.exchanges(), Instant::now());
            let ended = ends(&line.store, &ids).await;
            assert!(ended.iter().all(|end| end.state == Some(State::Done) && end.runs == 1));
            // Each exchange has enough verdicts or the longest time behind it, but for a few at the end, where slots
            // run empty.
            let by_time = (warm.elapsed().as_nanos() / GATHER_MAX.as_nanos()) as usize;
            let most = by_time + count / GATHER_JOBS + 8 + slots as usize;
            let exchanges = line.exchanges() - from;
            assert!(exchanges <= most, "{exchanges} exchanges, at most {most} wanted");
            // The clock ticks in milliseconds, so that a run takes one more than it says.
            let ideal = Duration::from_millis((millis + 1) * (count as u64).div_ceil(u64::from(slots)));
            assert!(began.elapsed() <= ideal + ideal / 20 + GATHER_MAX, "{:?}, {ideal:?} at best", began.elapsed());
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_somebody_waits_for_is_settled_at_once() {
    let line = Line::new(Duration::from_millis(3), 4).await;
    enqueue(&line.store, plain(2_000)).await;
    let mut waited = job(r#"{"id":"waited","type":"t"}"#);
    waited.keep_at_least(Period::secs(60));
    let ids = enqueue(&line.store, [waited]).await;
    enqueue(&line.store, plain(2_000)).await;
    line.store.ended(&ids).await.unwrap();
    let told = Instant::now();
    let ended = line.ended.lock().unwrap().iter().find(|(id, _)| id == "waited").unwrap().1;
    assert!(told - ended <= Duration::from_millis(1), "{:?} after its end", told - ended);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_of_an_idle_pool_is_settled_at_once() {
    let line = Line::new(Duration::from_millis(3), 4).await;
    for _ in 0..20 {
        let ids = enqueue(&line.store, plain(1)).await;
        ends(&line.store, &ids).await;
        let told = Instant::now();
        let ended = line.ended.lock().unwrap().last().unwrap().1;
        assert!(told - ended <= Duration::from_millis(1), "{:?} after its end", told - ended);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_gathered_is_settled_within_25_ms() {
    let line = Line::new(Duration::from_millis(40), 3).await;
    // Every slot works and nothing waits: none of the verdicts is worth an exchange by itself.
    let ids = enqueue(&line.store, plain(300)).await;
    for id in &ids {
        ends(&line.store, std::slice::from_ref(id)).await;
        let told = Instant::now();
        let ended = line.ended.lock().unwrap().iter().find(|(of, _)| *of == id.to_string()).unwrap().1;
        assert!(told - ended <= GATHER_MAX + Duration::from_millis(2), "{:?} after its end", told - ended);
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_comes_beside_a_long_one_starts_at_once() {
    let (clock, ledger) = (TestClock::new(), setup::Ledger::default());
    let store = memory(&clock);
    let plan = add(setup::plan_with(&store, &clock), setup::acts("t", &ledger).slots(4));
    let _running = Manager::start(plan).await.unwrap();
    enqueue(&store, [job(r#"{"type":"t","params":{"sleep":60}}"#)]).await;
    eventually("it runs", || ledger.running() == 1).await;
    for n in 0..20 {
        let came = Instant::now();
        enqueue(&store, [job(r#"{"type":"t","params":{"sleep":0.002}}"#)]).await;
        while ledger.count() < n + 2 {
            pass(Duration::from_millis(1)).await;
        }
        assert!(came.elapsed() <= Duration::from_millis(3), "{:?} after it came", came.elapsed());
        // The next one comes when this one's verdict may still be on its way.
        pass(Duration::from_millis(4)).await;
    }
}
