//! What the disk worker promises.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use ganger_conformance::worker;
use ganger_core::{
    Admin, Advice, Attempt, FailureRecord, Filter, Job, JobContext, JobError, JobView, Order, Output, Page,
    SlotContext, State, Timestamp, Worker,
};
use ganger_spool::{Source, Spool, SpoolOptions};
use ganger_worker_disk::{Disk, DiskConfig, DiskParams};
use serde_json::json;

async fn disk(file: &Path, bucket: Option<&str>) -> Disk {
    let config = DiskConfig { db_name: file.to_owned(), bucket: bucket.map(str::to_owned) };
    let shared = Disk::share(config, &worker::worker_context("disk")).await.unwrap();
    Disk::create(&shared, &SlotContext { name: "disk".into(), slot: 0 }).await.unwrap()
}

/// Runs the job with this id and these params.
async fn run(disk: &mut Disk, id: &str, params: serde_json::Value) -> Result<Output, JobError> {
    let mut job = Job::new("disk", &params).unwrap();
    job.id = Some(id.parse().unwrap());
    let context = JobContext::detached(job);
    let params: DiskParams = context.params()?;
    disk.work(params, &context).await
}

async fn stored(file: &Path) -> (Source, Vec<JobView>) {
    let source = Spool::open(file, SpoolOptions::default()).await.unwrap().source("test", None);
    let mut all = source.list(&Filter::default(), &Page::default()).await.unwrap();
    all.reverse();
    (source, all)
}

fn file() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jobs.db");
    (dir, file)
}

#[tokio::test]
async fn b23_two_jobs_of_the_same_second_are_two_jobs() {
    let (_dir, file) = file();
    let mut disk = disk(&file, None).await;
    let job = json!({"type": "test", "params": {"same": true}});
    for id in ["a", "b"] {
        run(&mut disk, id, json!({"exicution_time": 4_000_000_000u64, "job": job})).await.unwrap();
    }
    let (_, all) = stored(&file).await;
    let told: Vec<_> = all.iter().map(|view| (view.id.to_string(), view.state)).collect();
    assert_eq!(told, [("a/1".to_owned(), State::Scheduled), ("b/1".to_owned(), State::Scheduled)]);
    assert_eq!(all[0].run_at, Some("2096-10-02T07:06:40Z".parse().unwrap()));
}

#[tokio::test]
async fn b23_a_job_without_a_job_is_dead_and_says_so() {
    let (_dir, file) = file();
    let mut disk = disk(&file, None).await;
    for params in [json!({}), json!({"execution_time": 1}), json!({"job": null})] {
        let error = run(&mut disk, "a", params).await.unwrap_err();
        assert_eq!(error.advice(), Advice::Dead);
        assert!(error.message().contains("`job`: it is missing"), "{}", error.message());
    }
    let error = run(&mut disk, "a", json!({"job": {"params": 1}})).await.unwrap_err();
    assert!(error.message().contains("missing field `type`"), "{}", error.message());
    let error = run(&mut disk, "a", json!({"job": {"type": "failure_handler.x"}})).await.unwrap_err();
    assert!(error.message().contains("ganger's own"), "{}", error.message());
    let error =
        run(&mut disk, "a", json!({"execution_time": "soon", "job": {"type": "t"}})).await.unwrap_err();
    assert!(error.message().contains("`soon` is no time"), "{}", error.message());
    for when in [json!({"delay": "5s"}), json!({"run_at": "2026-01-01T00:00:00Z"})] {
        let mut job = json!({"type": "t"});
        job.as_object_mut().unwrap().extend(when.as_object().unwrap().clone());
        let error = run(&mut disk, "a", json!({"execution_time": 1, "job": job})).await.unwrap_err();
        assert!(
            error.message().contains("`execution_time`: the job says itself when"),
            "{}",
            error.message()
        );
    }
    assert!(stored(&file).await.1.is_empty());
}

#[tokio::test]
async fn a_rerun_stores_no_second_job() {
    let (_dir, file) = file();
    let mut disk = disk(&file, Some("later")).await;
    for _ in 0..3 {
        run(&mut disk, "a", json!({"execution_time": 1.5, "job": {"type": "cli.cli"}})).await.unwrap();
    }
    let (_, all) = stored(&file).await;
    assert_eq!(all.len(), 1);
    let job = all[0].job.as_ref().unwrap();
    assert_eq!((job.kind.as_str(), job.queue(), all[0].state), ("cli", "later", State::Ready));
    assert_eq!(job.run_at, Some(Timestamp::from_millis(1500)));
}

#[tokio::test]
async fn b23_a_failure_handler_stores_the_whole_record_which_nothing_runs() {
    let (_dir, file) = file();
    let mut disk = disk(&file, Some("failed")).await;
    let record = FailureRecord {
        job: Job::from_json(br#"{"id":"a","type":"cli","params":{"command":"false"},"name":"n"}"#).unwrap(),
        state: State::Dead,
        reason: "retries spent".into(),
        error: Some("exit 1".into()),
        attempts: vec![Attempt {
            number: 1,
            started: Timestamp::from_millis(0),
            millis: 3,
            outcome: "failed".into(),
            note: None,
            error: Some("exit 1".into()),
            output: "the end".into(),
            stderr: String::new(),
            manager: "m".into(),
            usage: None,
        }],
        at: Timestamp::from_millis(5),
    };
    let mut job = Job::new("failure_handler.disk", &json!({})).unwrap();
    job.id = Some("a/failed/1".parse().unwrap());
    job.rare_mut().input = Some(record.to_raw());
    let context = JobContext::detached(job);
    for _ in 0..2 {
        disk.work(DiskParams::default(), &context).await.unwrap();
    }

    let (source, all) = stored(&file).await;
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].state, all[0].reason.as_deref()), (State::Dead, Some("retries spent")));
    assert_eq!(all[0].attempts, record.attempts);
    assert!(all[0].job.is_none(), "it is no job");
    assert_eq!(all[0].raw.as_deref(), Some(record.to_raw().get().as_bytes()));
    let of_queue = Filter { queue: Some("failed".into()), ..Filter::default() };
    assert_eq!(source.count(&of_queue).await.unwrap(), 1);

    assert_eq!(source.order(Order::Retry, &Filter::ids(vec![all[0].id.clone()])).await.unwrap(), 1);
    let room = ganger_core::Room {
        types: vec![ganger_core::TypeRoom { kind: "cli".into(), jobs: 9 }],
        jobs: 9,
        bytes: 1 << 20,
        suspect: true,
        crashed: true,
    };
    let token = ganger_core::Token { incarnation: 1, seq: 1 };
    let lease = ganger_core::LEASE;
    let give = ganger_core::Exchange { token, settle: Vec::new(), room, lease };
    let leased = source.exchange(&give).await.unwrap().leased;
    assert!(matches!(leased[0].entry, ganger_core::Entry::Malformed(_)), "also after a retry it is no job");
}

#[tokio::test]
async fn a_file_that_is_out_of_reach_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("not there yet");
    let mut disk = disk(&folder.join("jobs.db"), None).await;
    let error = run(&mut disk, "a", json!({"job": {"type": "t"}})).await.unwrap_err();
    assert_eq!(error.advice(), Advice::Retry, "{}", error.message());
    std::fs::create_dir(&folder).unwrap();
    run(&mut disk, "a", json!({"job": {"type": "t"}})).await.unwrap();
}
