//! Opening a store, and what is said where it cannot be opened.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

mod support;

use ganger_core::{Batch, Severity};
use ganger_spool::{Spool, SpoolOptions};
use support::{File, jobs};

#[tokio::test]
async fn a_reader_creates_no_store() {
    let file = File::new();
    let options = SpoolOptions { existing_only: true, ..SpoolOptions::default() };
    let error = Spool::open(file.path(), options.clone()).await.unwrap_err();
    assert_eq!(error.severity(), Severity::Transient);
    assert!(error.to_string().contains("jobs.db` does not exist: `ganger run`"), "{error}");
    assert!(!file.path().exists());
    drop(file.open().await);
    Spool::open(file.path(), options).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_store_is_left_as_it_is() {
    let file = File::new();
    // GoWorker's bolt file, or anything else.
    let bytes = b"\x00\x00\x00\x00\xed\xda\x0c\xed, surely no SQLite database".repeat(100);
    std::fs::write(file.path(), &bytes).unwrap();
    let error = Spool::open(file.path(), SpoolOptions::default()).await.unwrap_err();
    assert_eq!(error.severity(), Severity::Fatal);
    assert!(error.to_string().contains("is no SQLite database"), "{error}");
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
}

#[tokio::test]
async fn waiting_operations_are_committed_together() {
    let file = File::new();
    let manager = file.open().await;
    manager.put(jobs(1)).await;
    // Each commit writes the pages that it changed, so that the log tells one commit from a hundred.
    let log = || std::fs::metadata(file.path().with_file_name("jobs.db-wal")).unwrap().len();
    let one = log();
    manager.put(jobs(1)).await;
    let single = log() - one;
    let blocker = file.foreign();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let many: Vec<_> = (0..100)
        .map(|_| {
            let source = manager.source.clone();
            tokio::spawn(async move { source.enqueue(Batch::new(jobs(1))).await.unwrap() })
        })
        .collect();
    // All are sent before the lock is free: this runtime has one thread, and it yields to each of them.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    let before = log();
    blocker.execute_batch("ROLLBACK").unwrap();
    for one in many {
        assert!(one.await.unwrap()[0].is_ok());
    }
    let grown = log() - before;
    assert!(grown < 20 * single, "100 enqueues wrote {grown} bytes, one writes {single}");
}
