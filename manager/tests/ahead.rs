//! Jobs that a worker takes ahead: nobody else's meanwhile, begun one by one, and back unharmed.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod setup;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ganger_core::{
    BoxFuture, Feed, JobContext, JobError, Output, Sink, SlotContext, Slots, State, StopReason, Worker,
    WorkerContext, WorkerError, WorkerOptions, WorkerTraits, Workers, erase_slots,
};
use ganger_worker_function::CodeWorker;
use serde::Deserialize;
use setup::{ends, enqueue, job, start, states};

/// Waits for each job as long as it says, and has as many ahead as it is given.
struct Ahead(Arc<Seen>);

/// What was seen of the workers.
#[derive(Default)]
struct Seen {
    most_ahead: AtomicUsize,
    /// The names of the jobs that were begun, and how each was asked to stop.
    begun: Mutex<Vec<(String, Option<StopReason>)>>,
    dropped: AtomicUsize,
    /// How long the first runs took of jobs that are run again, by their records.
    took: Mutex<Vec<u64>>,
}

impl Seen {
    fn has_begun(&self, name: &str) -> bool {
        self.begun.lock().unwrap().iter().any(|(begun, _)| begun == name)
    }
}

#[derive(Deserialize)]
struct Params {
    millis: u64,
    /// After this long those taken ahead are given back.
    #[serde(default)]
    patience: Option<u64>,
    /// Its first run fails, and the worker says that it took so long.
    #[serde(default)]
    lasts: Option<u64>,
}

impl Worker for Ahead {
    const NAME: &'static str = "t";
    const AHEAD: bool = true;
    type Config = ();
    type Params = serde_json::Value;
    type Shared = Arc<Seen>;

    async fn share((): (), _: &WorkerContext) -> Result<Arc<Seen>, WorkerError> {
        Ok(Arc::default())
    }

    async fn create(seen: &Arc<Seen>, _: &SlotContext) -> Result<Self, WorkerError> {
        Ok(Ahead(seen.clone()))
    }

    async fn work(&mut self, _: serde_json::Value, _: &JobContext) -> Result<Output, JobError> {
        Err(JobError::dead("it does batches"))
    }

    async fn batch(&mut self, feed: &mut dyn Feed) -> Result<(), WorkerError> {
        let mut ahead = 0_usize;
        while let Some(job) = feed.next() {
            ahead = ahead.saturating_sub(1);
            while feed.ahead().is_some() {
                ahead += 1;
            }
            self.0.most_ahead.fetch_max(ahead, Ordering::Relaxed);
            let name = job.job().name.clone().unwrap_or_default().to_string();
            self.0.begun.lock().unwrap().push((name, job.stop_reason()));
            let params: Params = job.params().unwrap();
            let (whole, first) = (params.millis, params.patience.unwrap_or(u64::MAX).min(params.millis));
            setup::pass(Duration::from_millis(first)).await;
            if first < whole {
                feed.give_back(std::mem::take(&mut ahead));
                setup::pass(Duration::from_millis(whole - first)).await;
            }
            feed.done(match (params.lasts, job.record().attempts.first()) {
                (Some(millis), None) => {
                    job.lasted(Duration::from_millis(millis));
                    Err(JobError::retry("as it was told"))
                }
                (_, before) => {
                    self.0.took.lock().unwrap().extend(before.map(|attempt| attempt.millis));
                    Ok(Output::default())
                }
            });
        }
        assert_eq!(ahead, 0, "what was taken ahead is given by `next`");
        Ok(())
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

struct Workforce(Arc<Seen>);

impl Workers for Workforce {
    fn traits(&self) -> WorkerTraits {
        WorkerTraits::of::<Ahead>()
    }
    fn share<'a>(&'a self, _: &'a WorkerContext) -> BoxFuture<'a, Result<Arc<dyn Slots>, WorkerError>> {
        Box::pin(async { Ok(erase_slots::<Ahead>(self.0.clone())) })
    }
}

fn named(name: &str, params: &str) -> ganger_core::Job {
    job(&format!(r#"{{"type":"t","name":"{name}","params":{params}}}"#))
}

/// A pool that knows its jobs as quick: its slots are handed many at once.
async fn pool(
    slots: u32,
) -> (Arc<Seen>, ganger_manager::Running, Arc<ganger_provider_memory::MemoryProvider>) {
    let seen = Arc::new(Seen::default());
    let workers = Arc::new(Workforce(seen.clone()));
    let worker = CodeWorker { name: "t".into(), options: WorkerOptions::default(), workers };
    let (running, provider) = start(vec![worker.slots(slots)]).await;
    let ids = enqueue(&provider, (0..100).map(|_| named("quick", r#"{"millis":0}"#))).await;
    ends(&provider, &ids).await;
    (seen, running, provider)
}

#[tokio::test(start_paused = true)]
async fn jobs_that_are_taken_ahead_are_done_once_each() {
    let (seen, running, provider) = pool(2).await;
    let ids = enqueue(&provider, (0..1_000).map(|_| named("quick", r#"{"millis":0}"#))).await;
    let ended = ends(&provider, &ids).await;
    assert!(ended.iter().all(|end| end.state == Some(State::Done) && end.runs == 1));
    assert!(seen.most_ahead.load(Ordering::Relaxed) > 8);
    running.drain();
    running.ended().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn behind_a_long_job_they_are_given_back_and_done_elsewhere() {
    let (seen, _running, provider) = pool(2).await;
    let long = named("long", r#"{"millis":600000,"patience":10}"#);
    let quick = (0..50).map(|_| named("quick", r#"{"millis":0}"#));
    let ids = enqueue(&provider, std::iter::once(long).chain(quick)).await;
    let ended = ends(&provider, &ids[1..]).await;
    assert!(ended.iter().all(|end| end.state == Some(State::Done) && end.runs == 1));
    assert!(seen.has_begun("long"));
    assert_eq!(states(&provider, &ids[..1]).await, [State::Running]);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_one_taken_ahead_counts_from_its_begin() {
    let (_seen, _running, provider) = pool(1).await;
    let timed = |_| job(r#"{"type":"t","timeout":"100ms","params":{"millis":60}}"#);
    let ids = enqueue(&provider, (0..10).map(timed)).await;
    let ended = ends(&provider, &ids).await;
    assert!(ended.iter().all(|end| end.state == Some(State::Done)), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_took_as_long_as_its_worker_says() {
    let (seen, running, provider) = pool(1).await;
    let said = |lasts| job(&format!(r#"{{"type":"t","retries":1,"params":{{"millis":0,"lasts":{lasts}}}}}"#));
    let ids = enqueue(&provider, [said(7), said(4_000)]).await;
    ends(&provider, &ids).await;
    let mut took = seen.took.lock().unwrap().clone();
    took.sort_unstable();
    assert_eq!(took, [7, 4_000]);
    // Virtual time stood still meanwhile, so that all others took none.
    let figures = running.status().report().by_type["t"];
    assert_eq!(figures.nanos, 4_007_000_000);
    assert!((7_000_000..8_000_000).contains(&figures.p99), "of 104 runs, the last but one: {}", figures.p99);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_cut_off_takes_none_along_that_was_taken_ahead() {
    let (seen, _running, provider) = pool(1).await;
    let before = seen.dropped.load(Ordering::Relaxed);
    let late = job(r#"{"type":"t","timeout":"100ms","params":{"millis":600000}}"#);
    let quick = (0..20).map(|_| named("after", r#"{"millis":0}"#));
    let ids = enqueue(&provider, std::iter::once(late).chain(quick)).await;
    let ended = ends(&provider, &ids).await;
    assert_eq!(ended[0].state, Some(State::Dead));
    assert!(ended[1..].iter().all(|end| end.state == Some(State::Done) && end.runs == 1));
    assert_eq!(seen.dropped.load(Ordering::Relaxed), before + 1, "the worker went with its run");
    assert_eq!(seen.begun.lock().unwrap().iter().filter(|(name, _)| name == "after").count(), 20);
}

#[tokio::test(start_paused = true)]
async fn p9_one_taken_ahead_that_is_cancelled_is_given_to_the_worker_with_its_stop() {
    let (seen, _running, provider) = pool(1).await;
    let first = named("first", r#"{"millis":60000}"#);
    let second = named("second", r#"{"millis":600000}"#);
    let ids = enqueue(&provider, [first, second]).await;
    setup::eventually("the first job's begin", || seen.has_begun("first")).await;
    assert!(provider.cancel(&ids[1]).await.unwrap());
    let ended = ends(&provider, &ids).await;
    assert_eq!(ended[1].state, Some(State::Cancelled));
    let begun = seen.begun.lock().unwrap();
    assert!(begun.contains(&("second".to_owned(), Some(StopReason::Cancel))), "{begun:?}");
}
