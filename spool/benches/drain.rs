//! Jobs a second through the store alone: `cargo bench -p ganger-spool [-- JOBS]`.
//!
//! Fills a store with no-op jobs of 150 bytes, drains it by exchanges (no manager, no workers), and drains the
//! same again by the bare statements; prints both rates and their ratio, as JSON lines.
// A program for a terminal.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "../../bench/src/floor/sqlite.rs"]
mod floor;

use std::{path::Path, sync::Arc, time::Instant};

use ganger_core::{Batch, Exchange, Job, LEASE, LeaseRef, Room, Settlement, Token, TypeRoom, Verdict};
use ganger_spool::{Source, Spool, SpoolOptions};

/// Jobs in one exchange: what a manager asks for when it has a backlog of quick jobs.
const BATCHES: [u32; 3] = [500, 1000, 4096];

fn main() {
    let jobs: u64 = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(400_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for batch in BATCHES {
        let dir = tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| "/tmp".into())).unwrap();
        let file = dir.path().join("bench.db");
        let (fill, cpu_fill) = runtime.block_on(filled(&file, jobs));
        let (ours, cpu) = runtime.block_on(drained(&file, jobs, batch));
        let bare = dir.path().join("bare.db");
        runtime.block_on(filled(&bare, jobs));
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        assert_eq!(floor::drain(bare.to_str().unwrap(), i64::from(batch)).unwrap(), jobs);
        let floor = jobs as f64 / start.elapsed().as_secs_f64();
        let cpu_floor = (cpu_seconds() - cpu_start) * 1e6 / jobs as f64;
        println!(
            "{{\"name\":\"spool\",\"batch\":{batch},\"n\":{jobs},\"enqueue_per_s\":{fill:.0},\"cpu_us_per_enqueue\":\
             {cpu_fill:.2},\"jobs_per_s\":{ours:.0},\"floor_per_s\":{floor:.0},\"ratio\":{:.2},\"cpu_us_per_job\":\
             {cpu:.2},\"floor_cpu_us_per_job\":{cpu_floor:.2},\"rss_mib\":{:.0}}}",
            ours / floor,
            rss_mib()
        );
    }
}

fn job(n: u64) -> Job {
    let text = format!(
        "{{\"type\":\"floor\",\"params\":{{\"id\":{n},\"at\":0.0,\"to\":\"user{n}@example.com\",\"subject\":\"Your weekly \
         report is ready\",\"body\":\"Hello, this is a short body of text for a job.\"}}}}"
    );
    Job::from_json(text.as_bytes()).unwrap()
}

async fn open(file: &Path) -> Arc<Source> {
    let options = SpoolOptions { retention: Some(Default::default()), existing_only: false };
    Arc::new(Spool::open(file, options).await.unwrap().source("bench", None))
}

async fn filled(file: &Path, jobs: u64) -> (f64, f64) {
    let source = open(file).await;
    let (start, cpu) = (Instant::now(), cpu_seconds());
    for first in (0..jobs).step_by(1000) {
        let batch = Batch::new((first..(first + 1000).min(jobs)).map(job).collect());
        assert!(source.enqueue(batch).await.unwrap().iter().all(Result::is_ok));
    }
    (jobs as f64 / start.elapsed().as_secs_f64(), (cpu_seconds() - cpu) * 1e6 / jobs as f64)
}

async fn drained(file: &Path, jobs: u64, batch: u32) -> (f64, f64) {
    let source = open(file).await;
    let room = Room {
        types: vec![TypeRoom { kind: "floor".into(), jobs: batch }],
        jobs: batch,
        bytes: 8 << 20,
        suspect: true,
        crashed: true,
    };
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let (mut settle, mut done) = (Vec::new(), 0);
    for seq in 1.. {
        let token = Token { incarnation: 1, seq };
        let give = Exchange { token, settle, room: room.clone(), lease: LEASE };
        let answer = source.exchange(&give).await.unwrap();
        if answer.leased.is_empty() {
            break;
        }
        done += answer.leased.len() as u64;
        let lease = |leased: &ganger_core::Leased| LeaseRef { token, index: leased.index };
        settle = answer.leased.iter().map(|leased| Settlement::new(lease(leased), Verdict::Done)).collect();
    }
    assert_eq!(done, jobs);
    (jobs as f64 / start.elapsed().as_secs_f64(), (cpu_seconds() - cpu) * 1e6 / jobs as f64)
}

/// The CPU time of this process so far.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The most memory that this process had.
fn rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<f64>().ok()).unwrap_or(0.0)
        / 1024.0
}
