//! A manager under paused time: the memory provider, workers that are functions, and one runtime for all of it.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ganger_core::{
    Batch, BoxFuture, Clock, Ended, Job, JobContext, JobError, JobId, Output, ProviderOptions, Sink, State,
    Timestamp,
};
use ganger_manager::{Manager, Plan, Running, Runtimes};
use ganger_provider_memory::{MemoryConfig, MemoryProvider};
use ganger_worker_function::{CodeWorker, function};
use serde_json::Value;
use tokio::time::Instant;

/// Tokio's time, which a test may pause; the wall clock begins at a fixed day.
pub(crate) struct TestClock(Instant);

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(TestClock(Instant::now()))
    }
}

impl Clock for TestClock {
    fn monotonic(&self) -> Duration {
        self.0.elapsed() + Duration::from_secs(1_000)
    }
    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000).plus(self.0.elapsed())
    }
}

/// A plan on this runtime with a memory provider that is called `memory`.
pub(crate) fn plan_with(provider: &Arc<MemoryProvider>, clock: &Arc<TestClock>) -> Plan {
    let mut plan = bare_plan(clock);
    plan = plan.opened("memory", ProviderOptions::default(), provider.clone());
    plan
}

/// A plan on this runtime without a provider.
pub(crate) fn bare_plan(clock: &Arc<TestClock>) -> Plan {
    let mut plan = Plan::new();
    plan.clock = clock.clone();
    plan.runtimes = Runtimes::current();
    plan.incarnation = 0xabc;
    plan
}

pub(crate) fn memory(clock: &Arc<TestClock>) -> Arc<MemoryProvider> {
    Arc::new(MemoryProvider::with(MemoryConfig::default(), clock.clone()))
}

pub(crate) fn add(plan: Plan, worker: CodeWorker) -> Plan {
    plan.worker(&worker.name, worker.options, worker.workers)
}

/// A manager with these workers on a memory provider.
pub(crate) async fn start(workers: Vec<CodeWorker>) -> (Running, Arc<MemoryProvider>) {
    let clock = TestClock::new();
    let provider = memory(&clock);
    let plan = workers.into_iter().fold(plan_with(&provider, &clock), add);
    (Manager::start(plan).await.unwrap(), provider)
}

/// A job from its JSON text.
pub(crate) fn job(text: &str) -> Job {
    Job::from_json(text.as_bytes()).unwrap()
}

/// Enqueues jobs; their ids.
pub(crate) async fn enqueue(sink: &Arc<MemoryProvider>, jobs: impl IntoIterator<Item = Job>) -> Vec<JobId> {
    let answers = sink.enqueue(Batch::new(jobs.into_iter().collect())).await.unwrap();
    answers.into_iter().map(|answer| answer.unwrap().id).collect()
}

/// Waits until all of these have ended; in the order of `ids`.
pub(crate) async fn ends(sink: &Arc<MemoryProvider>, ids: &[JobId]) -> Vec<Ended> {
    let mut ends = Vec::new();
    for id in ids {
        let ended = tokio::time::timeout(Duration::from_secs(3600), sink.ended(std::slice::from_ref(id)));
        ends.extend(ended.await.unwrap_or_else(|_| panic!("job {id} has not ended within an hour")).unwrap());
    }
    ends
}

pub(crate) async fn states(sink: &Arc<MemoryProvider>, ids: &[JobId]) -> Vec<State> {
    sink.states(ids).await.unwrap().into_iter().map(|state| state.expect("the job is known")).collect()
}

/// Lets virtual time pass: nothing is waited for, and nothing races.
///
/// # Panics
/// If the clock is not paused: there a sleep would be a hope.
pub(crate) async fn pass(time: Duration) {
    // Tokio refuses to move a clock that is not paused.
    tokio::time::advance(Duration::ZERO).await;
    // tidy: allow(sleep), the line above makes sure that the time is virtual
    tokio::time::sleep(time).await;
}

/// Waits until something holds, on either clock: at most an hour of the test's time, and a minute of real time.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    for _ in 0..360_000 {
        if holds() {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{what} did not happen within a minute");
        // tidy: allow(sleep), between looks at a condition that has a deadline
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not happen within an hour");
}

/// Counts runs by job, and how many run at once.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Inner>);

#[derive(Default)]
struct Inner {
    starts: Mutex<Vec<(String, u32)>>,
    running: AtomicU32,
    most: AtomicU32,
}

pub(crate) struct Started(Ledger);

impl Ledger {
    pub(crate) fn start(&self, job: &JobContext) -> Started {
        self.0.starts.lock().unwrap().push((job.id().to_string(), job.attempt()));
        let now = self.0.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(now, Ordering::SeqCst);
        Started(self.clone())
    }
    pub(crate) fn starts(&self) -> Vec<(String, u32)> {
        self.0.starts.lock().unwrap().clone()
    }
    pub(crate) fn count(&self) -> usize {
        self.0.starts.lock().unwrap().len()
    }
    pub(crate) fn running(&self) -> u32 {
        self.0.running.load(Ordering::SeqCst)
    }
    pub(crate) fn most(&self) -> u32 {
        self.0.most.load(Ordering::SeqCst)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.0.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A worker whose jobs say in their params what they do: one action or a list, of which attempt n takes the nth
/// (the last for all that come after): `"ok"`, `"fail"`, `"dead"`, `"discard"`, `"lost"`, `"panic"`, `"write"`,
/// `{"sleep": seconds}`.
pub(crate) fn acts(name: &str, ledger: &Ledger) -> CodeWorker {
    let ledger = ledger.clone();
    function(name, move |params: Value, job: JobContext| {
        let ledger = ledger.clone();
        act(params, job, ledger)
    })
}

fn act(params: Value, job: JobContext, ledger: Ledger) -> BoxFuture<'static, Result<Output, JobError>> {
    Box::pin(async move {
        let _running = ledger.start(&job);
        let action = match &params {
            Value::Array(list) => list[(job.attempt() as usize - 1).min(list.len() - 1)].clone(),
            one => one.clone(),
        };
        if let Some(seconds) = action["sleep"].as_f64() {
            pass(Duration::from_secs_f64(seconds)).await;
            return Ok(Output::default());
        }
        match action.as_str().unwrap_or("ok") {
            "fail" => Err(JobError::retry("failed as told")),
            "dead" => Err(JobError::dead("dead as told")),
            "discard" => Err(JobError::discard("discarded as told")),
            "lost" => Err(JobError::lost("lost as told")),
            "panic" => panic!("panicked as told"),
            "write" => {
                job.write(b"written");
                Ok(Output::default())
            }
            _ => Ok(Output::default()),
        }
    })
}
