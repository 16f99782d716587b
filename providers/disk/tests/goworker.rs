//! What GoWorker's disk provider did wrong.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

use std::{collections::HashSet, sync::Arc};

use ganger_core::{
    Batch, Entry, Exchange, Job, LEASE, LeaseRef, Room, Settlement, Timestamp, Token, TypeRoom, Verdict,
};
use ganger_spool::{Source, Spool, SpoolOptions};

fn room(jobs: u32) -> Room {
    let types = vec![TypeRoom { kind: "test".into(), jobs }];
    Room { types, jobs, bytes: 8 << 20, suspect: true, crashed: true }
}

async fn fresh(jobs: u32) -> (tempfile::TempDir, Arc<Source>) {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path().join("my.db"), SpoolOptions::default()).await.unwrap();
    let source = Arc::new(spool.source("disk", Some("job_list".into())));
    // All of them due since the same second.
    let job = |n: u32| Job {
        run_at: Some(Timestamp::from_millis(1000)),
        ..Job::from_json(format!(r#"{{"type":"test","id":"{n}"}}"#).as_bytes()).unwrap()
    };
    source.enqueue(Batch::new((0..jobs).map(job).collect())).await.unwrap();
    (dir, source)
}

/// Claims until nothing is left; the ids in the order in which they came.
async fn drain(source: &Source, at_once: u32, incarnation: u64) -> Vec<String> {
    let (mut ids, mut settle) = (Vec::new(), Vec::new());
    for seq in 1.. {
        let token = Token { incarnation, seq };
        let give = Exchange { token, settle, room: room(at_once), lease: LEASE };
        let leased = source.exchange(&give).await.unwrap().leased;
        if leased.is_empty() {
            break;
        }
        settle = Vec::new();
        for one in leased {
            let Entry::Job(job) = one.entry else { panic!("no job") };
            ids.push(job.id.unwrap().to_string());
            settle.push(Settlement::new(LeaseRef { token, index: one.index }, Verdict::Done));
        }
    }
    ids
}

/// On a small file GoWorker hung with 5 due jobs in 8 of 8 fresh starts, skipped the oldest, and asked only for the
/// first ten.
#[tokio::test]
async fn b13_all_due_jobs_of_a_fresh_file_run_the_oldest_first_and_more_than_ten() {
    for jobs in [1, 5, 37] {
        let (_dir, source) = fresh(jobs).await;
        let expected: Vec<String> = (0..jobs).map(|n| n.to_string()).collect();
        assert_eq!(drain(&source, 4, 1).await, expected);
    }
}

/// GoWorker handed a job out up to ten times in one poll.
#[tokio::test]
async fn b29_a_job_is_handed_out_once_however_many_ask_at_once() {
    let (_dir, source) = fresh(200).await;
    let polls = (1..=8u64).map(|incarnation| {
        let source = source.clone();
        tokio::spawn(async move { drain(&source, 7, incarnation).await })
    });
    let mut ids = Vec::new();
    for poll in polls.collect::<Vec<_>>() {
        ids.extend(poll.await.unwrap());
    }
    let unique: HashSet<&String> = ids.iter().collect();
    assert_eq!((ids.len(), unique.len()), (200, 200));
}
