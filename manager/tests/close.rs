//! Workers are closed when the manager ends: all at once, within its grace, and none can hold it up for longer.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod setup;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ganger_core::{
    BoxFuture, Feed, JobContext, JobError, Output, SlotContext, Slots, State, Worker, WorkerContext,
    WorkerError, WorkerOptions, WorkerTraits, Workers, erase_slots,
};
use ganger_manager::{Manager, Running};
use ganger_provider_memory::MemoryProvider;
use serde_json::Value;
use setup::{TestClock, ends, enqueue, eventually, job, memory, pass, plan_with, states};
use tokio::time::Instant;

/// What a worker does while it is closed.
#[derive(Clone, Copy, PartialEq)]
enum Close {
    Takes(Duration),
    Hangs,
    Panics,
}

/// How workers are closed, and what they have noted.
#[derive(Clone)]
struct Closer {
    close: Close,
    notes: Arc<Mutex<Vec<&'static str>>>,
    /// A batch is not begun.
    stuck: bool,
}

impl Closer {
    fn new(close: Close) -> Self {
        Closer { close, notes: Arc::default(), stuck: false }
    }

    fn note(&self, what: &'static str) {
        self.notes.lock().unwrap().push(what);
    }

    fn count(&self, what: &str) -> usize {
        self.notes.lock().unwrap().iter().filter(|note| **note == what).count()
    }
}

struct Closing(Closer);

impl Worker for Closing {
    const NAME: &'static str = "closing";
    type Config = ();
    type Params = Value;
    type Shared = Closer;

    async fn share((): (), _: &WorkerContext) -> Result<Closer, WorkerError> {
        Ok(Closer::new(Close::Hangs))
    }

    async fn create(shared: &Closer, _: &SlotContext) -> Result<Self, WorkerError> {
        Ok(Closing(shared.clone()))
    }

    async fn work(&mut self, params: Value, _: &JobContext) -> Result<Output, JobError> {
        self.0.note("begun");
        pass(Duration::from_secs_f64(params["sleep"].as_f64().unwrap_or_default())).await;
        self.0.note("done");
        Ok(Output::default())
    }

    async fn batch(&mut self, feed: &mut dyn Feed) -> Result<(), WorkerError> {
        if self.0.stuck {
            self.0.note("stuck");
            std::future::pending::<()>().await;
        }
        while let Some(job) = feed.next() {
            let params = job.params().unwrap();
            feed.done(self.work(params, &job).await);
        }
        Ok(())
    }

    async fn close(&mut self) {
        self.0.note("closing");
        match self.0.close {
            Close::Takes(time) => pass(time).await,
            Close::Hangs => std::future::pending().await,
            Close::Panics => panic!("panicked as told"),
        }
        self.0.note("closed");
    }
}

impl Workers for Closer {
    fn traits(&self) -> WorkerTraits {
        WorkerTraits::of::<Closing>()
    }
    fn share<'a>(&'a self, _: &'a WorkerContext) -> BoxFuture<'a, Result<Arc<dyn Slots>, WorkerError>> {
        Box::pin(async move { Ok(erase_slots::<Closing>(self.clone())) })
    }
}

const GRACE: Duration = Duration::from_secs(10);

async fn started(closer: &Closer) -> (Running, Arc<MemoryProvider>) {
    let clock = TestClock::new();
    let provider = memory(&clock);
    let options = WorkerOptions { workers: 4, ..WorkerOptions::default() };
    let mut plan = plan_with(&provider, &clock).worker("t", options, Arc::new(closer.clone()));
    plan.grace = GRACE;
    (Manager::start(plan).await.unwrap(), provider)
}

/// All four slots do a job each, so that each has a worker.
async fn worked(closer: &Closer) -> (Running, Arc<MemoryProvider>) {
    let (running, provider) = started(closer).await;
    let ids = enqueue(&provider, (0..4).map(|_| job(r#"{"type":"t","params":{"sleep":1}}"#))).await;
    ends(&provider, &ids).await;
    assert_eq!(closer.count("closing"), 0, "not before the end");
    (running, provider)
}

async fn drained(running: &Running) -> Duration {
    let began = Instant::now();
    running.drain();
    running.ended().await.unwrap();
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn idle_workers_are_closed_all_at_once_before_the_manager_ends() {
    let closer = Closer::new(Close::Takes(Duration::from_secs(3)));
    let (running, _provider) = worked(&closer).await;
    let took = drained(&running).await;
    assert_eq!(closer.count("closed"), 4);
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_at_work_is_closed_after_its_run() {
    let closer = Closer::new(Close::Takes(Duration::from_secs(3)));
    let (running, provider) = started(&closer).await;
    let ids = enqueue(&provider, [job(r#"{"type":"t","params":{"sleep":5}}"#)]).await;
    eventually("it runs", || closer.count("begun") == 1).await;
    let took = drained(&running).await;
    assert_eq!(*closer.notes.lock().unwrap(), ["begun", "done", "closing", "closed"]);
    assert_eq!(states(&provider, &ids).await, [State::Done]);
    assert!(took < Duration::from_secs(9), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn workers_that_hang_while_they_are_closed_have_the_grace_and_no_more() {
    let closer = Closer::new(Close::Hangs);
    let (running, _provider) = worked(&closer).await;
    let took = drained(&running).await;
    assert_eq!((closer.count("closing"), closer.count("closed")), (4, 0));
    assert!(took >= GRACE && took < GRACE + Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_second_order_waits_for_no_close() {
    let closer = Closer::new(Close::Hangs);
    let (running, _provider) = worked(&closer).await;
    running.drain();
    eventually("they are being closed", || closer.count("closing") == 4).await;
    let began = Instant::now();
    running.hurry();
    running.ended().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn workers_that_panic_while_they_are_closed_hold_up_nobody() {
    let closer = Closer::new(Close::Panics);
    let (running, _provider) = worked(&closer).await;
    let took = drained(&running).await;
    assert_eq!(closer.count("closing"), 4);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// A worker that gets ready for long has begun nothing: its jobs go back, and nobody waits for it.
#[tokio::test(start_paused = true)]
async fn a_worker_that_has_not_begun_is_not_waited_for() {
    let closer = Closer { stuck: true, ..Closer::new(Close::Hangs) };
    let (running, provider) = started(&closer).await;
    let ids = enqueue(&provider, [job(r#"{"type":"t"}"#)]).await;
    eventually("it gets ready", || closer.count("stuck") > 0).await;
    let took = drained(&running).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(states(&provider, &ids).await, [State::Ready]);
}
