//! Workers that hold their threads, on real threads; and figures that many read at once.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod setup;

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use ganger_core::{Job, JobContext, JobError, ProviderOptions, State};
use ganger_manager::{Manager, Plan};
use ganger_provider_memory::MemoryProvider;
use ganger_worker_function::{CodeWorker, blocking, function};
use setup::{Ledger, acts, add, ends, enqueue, eventually, job, start};

/// Keeps the sender: whoever waits for this waits until it is dropped.
fn forever() -> (mpsc::Sender<()>, Arc<Mutex<mpsc::Receiver<()>>>) {
    let (sender, receiver) = mpsc::channel();
    (sender, Arc::new(Mutex::new(receiver)))
}

#[tokio::test]
async fn blocking_code_past_its_timeout_is_left_behind_and_counted() {
    let (keep, wait) = forever();
    let worker = blocking("t", move |waits: bool, _: JobContext| {
        if waits {
            let _ = wait.lock().unwrap().recv();
        }
        Ok::<_, JobError>(())
    });
    let (running, provider) = start(vec![worker.slots(1)]).await;
    let ids = enqueue(
        &provider,
        [
            job(r#"{"type":"t","params":true,"timeout":"50ms"}"#),
            job(r#"{"type":"t","params":false}"#),
            job(r#"{"type":"t","params":false}"#),
        ],
    )
    .await;
    let ended = ends(&provider, &ids).await;
    let states: Vec<_> = ended.iter().map(|end| end.state.unwrap()).collect();
    assert_eq!(states, [State::Dead, State::Done, State::Done]);
    assert!(ended[0].error.as_ref().unwrap().contains("timed out"));
    assert_eq!(running.status().report().abandoned, 1);
    drop(keep);
}

#[tokio::test]
async fn a_panic_on_a_thread_is_a_failed_run() {
    let worker = blocking("t", |panics: bool, _: JobContext| {
        assert!(!panics, "panicked as told");
        Ok::<_, JobError>(())
    });
    let (_running, provider) = start(vec![worker.slots(1)]).await;
    let ids =
        enqueue(&provider, [job(r#"{"type":"t","params":true}"#), job(r#"{"type":"t","params":false}"#)])
            .await;
    let ended = ends(&provider, &ids).await;
    assert_eq!((ended[0].state, ended[1].state), (Some(State::Dead), Some(State::Done)));
    assert!(ended[0].error.as_ref().unwrap().contains("panicked as told"));
}

/// A manager on runtimes of its own.
fn own(provider: &Arc<MemoryProvider>) -> Plan {
    Plan::new().opened("memory", ProviderOptions::default(), provider.clone())
}

/// It says that it is async, and blocks where its params say so.
fn liar(wait: Arc<Mutex<mpsc::Receiver<()>>>) -> CodeWorker {
    function("liar", move |waits: bool, _: JobContext| {
        let wait = wait.clone();
        async move {
            if waits {
                let _ = wait.lock().unwrap().recv();
            }
            Ok::<_, JobError>(())
        }
    })
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Jobs that hold all threads of the workers, and more.
fn held() -> impl Iterator<Item = Job> {
    (0..threads() + 1).map(|_| job(r#"{"type":"liar","params":true,"timeout":"50ms"}"#))
}

#[tokio::test]
async fn a_pool_goes_on_elsewhere_when_its_threads_are_held() {
    let (keep, wait) = forever();
    let provider = Arc::new(MemoryProvider::new());
    let running = Manager::start(add(own(&provider), liar(wait).slots(64))).await.unwrap();
    let stuck = enqueue(&provider, held()).await;
    let ids = enqueue(&provider, [job(r#"{"type":"liar","params":false}"#)]).await;
    assert_eq!(ends(&provider, &ids).await[0].state, Some(State::Done));
    let status = running.status();
    eventually("runs are left behind", || status.report().abandoned > 0).await;
    drop(keep);
    ends(&provider, &stuck).await;
    eventually("no slot is taken for busy", || status.report().pools["liar"].busy == 0).await;
    running.drain();
    running.ended().await.unwrap();
}

#[tokio::test]
async fn b11_a_type_that_holds_all_threads_holds_up_no_other_for_long() {
    let (keep, wait) = forever();
    let provider = Arc::new(MemoryProvider::new());
    let ledger = Ledger::default();
    let plan = add(add(own(&provider), liar(wait).slots(64)), acts("t", &ledger).slots(2));
    let running = Manager::start(plan).await.unwrap();
    let first = enqueue(&provider, [job(r#"{"type":"t"}"#)]).await;
    ends(&provider, &first).await;
    let stuck = enqueue(&provider, held()).await;
    eventually("all threads are held", || running.status().report().pools["liar"].busy > 0).await;
    let ids = enqueue(&provider, (0..20).map(|_| job(r#"{"type":"t"}"#))).await;
    let ended = ends(&provider, &ids).await;
    assert!(ended.iter().all(|end| end.state == Some(State::Done) && end.runs == 1));
    drop(keep);
    ends(&provider, &stuck).await;
}

#[tokio::test]
async fn a_run_that_waits_goes_on_although_its_pool_moves_away() {
    let (keep, wait) = forever();
    let go = Arc::new(tokio::sync::Notify::new());
    let told = go.clone();
    let worker = function("t", move |blocks: bool, _: JobContext| {
        let (wait, told) = (wait.clone(), told.clone());
        async move {
            match blocks {
                true => drop(wait.lock().unwrap().recv()),
                false => told.notified().await,
            }
            Ok::<_, JobError>(())
        }
    });
    let provider = Arc::new(MemoryProvider::new());
    let running = Manager::start(add(own(&provider), worker.slots(4))).await.unwrap();
    let ids = enqueue(&provider, [job(r#"{"type":"t","params":false}"#)]).await;
    let status = running.status();
    eventually("it waits", || status.report().pools["t"].busy == 1).await;
    let stuck = enqueue(&provider, [job(r#"{"type":"t","params":true,"timeout":"50ms"}"#)]).await;
    ends(&provider, &stuck).await;
    assert_eq!(status.report().abandoned, 1);
    go.notify_one();
    assert_eq!(ends(&provider, &ids).await[0].state, Some(State::Done));
    drop(keep);
}

#[tokio::test]
async fn a_run_that_is_caught_behind_held_threads_is_handed_back() {
    let (keep, wait) = forever();
    let (provider, ledger) = (Arc::new(MemoryProvider::new()), Ledger::default());
    let seen = ledger.clone();
    let caught = function("caught", move |(): (), job: JobContext| {
        let ledger = seen.clone();
        async move {
            let _running = ledger.start(&job);
            if ledger.count() == 1 {
                std::future::pending::<()>().await;
            }
            Ok::<_, JobError>(())
        }
    });
    let plan = add(add(own(&provider), liar(wait).slots(64)), caught.slots(1));
    let _running = Manager::start(plan).await.unwrap();
    let ids = enqueue(&provider, [job(r#"{"type":"caught"}"#)]).await;
    eventually("it waits", || ledger.running() == 1).await;
    enqueue(&provider, held()).await;
    let ended = ends(&provider, &ids).await;
    assert_eq!((ended[0].state, ledger.count()), (Some(State::Done), 2));
    drop(keep);
}

#[tokio::test]
async fn no_job_can_starve_a_renewal() {
    let (keep, wait) = forever();
    let hog = function("hog", move |(): (), _: JobContext| {
        let wait = wait.clone();
        async move {
            let _ = wait.lock().unwrap().recv_timeout(Duration::from_secs(60));
            Ok::<_, JobError>(())
        }
    });
    let provider = Arc::new(MemoryProvider::new());
    let options =
        ProviderOptions { lease: Some(Duration::from_secs(1).into()), ..ProviderOptions::default() };
    let plan = Plan::new().opened("memory", options, provider.clone());
    let running = Manager::start(add(plan, hog)).await.unwrap();
    let ids = enqueue(&provider, (0..8).map(|_| job(r#"{"type":"hog"}"#))).await;
    let status = running.status();
    eventually("they run", || status.report().pools["hog"].busy >= 1).await;
    // Three leases long every thread of the workers is held; the leases are held nevertheless.
    let began = std::time::Instant::now();
    eventually("three leases are over", || began.elapsed() > Duration::from_secs(3)).await;
    drop(keep);
    let ended = ends(&provider, &ids).await;
    assert!(ended.iter().all(|end| end.state == Some(State::Done) && end.runs == 1));
    assert_eq!(status.report().stale, 0);
}

#[tokio::test]
async fn b5_figures_are_read_by_many_while_jobs_are_counted() {
    let ledger = Ledger::default();
    let provider = Arc::new(MemoryProvider::new());
    let running = Manager::start(add(own(&provider), acts("t", &ledger))).await.unwrap();
    let status = running.status();
    assert_eq!(status.report().by_type.get("t").map_or(0, |figures| figures.runs), 0);
    provider.push_all((0..20_000).map(|_| bytes::Bytes::from_static(br#"{"type":"t","params":"ok"}"#)));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let status = running.status();
            std::thread::spawn(move || {
                let (mut last, mut reads) = (0, 0u32);
                while last < 20_000 {
                    let report = status.report();
                    let figures = report.by_type.get("t").copied().unwrap_or_default();
                    assert!(figures.runs >= last, "figures only grow");
                    assert_eq!(figures.runs, figures.done);
                    last = figures.runs;
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    eventually("all are done", || provider.waiting() == 0).await;
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
    let report = status.report();
    assert_eq!((report.by_type["t"].done, report.by_provider["memory"].done), (20_000, 20_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sink_is_found_as_soon_as_the_manager_has_started() {
    for _ in 0..300 {
        let (running, _provider) = start(Vec::new()).await;
        assert!(running.sink(None).is_some());
    }
}
