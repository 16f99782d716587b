//! Other processes on the same file: they insert, and the manager learns it.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use ganger_conformance::soon;
use ganger_core::{
    Admin, Batch, Entry, Exchange, Filter, Job, LEASE, LeaseRef, Leased, Room, Settlement, Token, TypeRoom,
    Verdict,
};
use ganger_spool::{Source, Spool, SpoolOptions};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/enqueue.py");

fn room() -> Room {
    let types = ["cli", "test"].map(|kind| TypeRoom { kind: kind.into(), jobs: 500 });
    Room { types: types.into(), jobs: 500, bytes: 8 << 20, suspect: true, crashed: true }
}

async fn open(file: &Path) -> Arc<Source> {
    Arc::new(Spool::open(file, SpoolOptions::default()).await.unwrap().source("disk", None))
}

async fn exchange(source: &Source, seq: u64, settle: Vec<Settlement>) -> Vec<Leased> {
    let token = Token { incarnation: 1, seq };
    source.exchange(&Exchange { token, settle, room: room(), lease: LEASE }).await.unwrap().leased
}

fn python(script: &str, file: &Path) -> Child {
    let child = Command::new("python3").arg("-c").arg(script).arg(file).stdout(Stdio::piped()).spawn();
    child.expect("python3 is on the PATH: it stands for any program that has SQLite")
}

async fn ended_well(mut child: Child) {
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    assert!(soon("the end of the other process", ended).await.unwrap().success());
}

#[tokio::test]
async fn python_enqueues_in_its_own_transaction_and_the_manager_wakes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ganger.db");
    let source = open(&file).await;
    let waiting = tokio::spawn({
        let source = source.clone();
        async move { source.wait(&room()).await }
    });
    ended_well(python(&std::fs::read_to_string(SCRIPT).unwrap(), &file)).await;
    soon("the wait's end", waiting).await.unwrap().unwrap();
    let leased = exchange(&source, 1, Vec::new()).await;
    let Entry::Job(job) = &leased[0].entry else { panic!("{leased:?}") };
    assert_eq!(
        (job.kind.as_str(), job.params_text()),
        ("cli", r#"{"command": "echo", "params": ["order 1"]}"#)
    );
    assert_eq!(job.retries, Some(3));
}

#[test]
fn the_guide_shows_the_script_that_is_tested() {
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide/disk.md");
    let (guide, script) = (std::fs::read_to_string(guide).unwrap(), std::fs::read_to_string(SCRIPT).unwrap());
    assert!(
        guide.contains(script.trim_end()),
        "docs/guide/disk.md must show providers/disk/enqueue.py as it is"
    );
}

#[tokio::test]
async fn one_who_waits_learns_an_end_that_another_process_brought_about() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ganger.db");
    let source = open(&file).await;
    let job = Job::from_json(br#"{"type":"test","id":"a"}"#).unwrap();
    source.enqueue(Batch::new(vec![job])).await.unwrap()[0].as_ref().unwrap();
    let waiting = tokio::spawn({
        let source = source.clone();
        async move { source.ended(&["a".parse().unwrap()]).await }
    });
    // What a ganger of another process does to the file when a job is done.
    let script = "import sqlite3,sys; db=sqlite3.connect(sys.argv[1]); \
        db.executescript('BEGIN; DELETE FROM ready; UPDATE job SET state = 3; COMMIT;')";
    ended_well(python(script, &file)).await;
    let ended = soon("the wait's end", waiting).await.unwrap().unwrap();
    assert_eq!((ended.len(), ended[0].state), (1, Some(ganger_core::State::Done)));
}

/// Inserts row by row, each a transaction of its own with SQLite's usual patience of five seconds.
const WRITER: &str = "import sqlite3,sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for n in range(30):
    db.execute(\"INSERT INTO jobs (type, name) VALUES ('other', ?)\", (str(n),))
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_writers_get_their_turn_during_a_full_drain() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ganger.db");
    let source = open(&file).await;
    let mut child = python(WRITER, &file);
    let (mut seq, mut settle) = (0, Vec::new());
    let status = soon("the end of the other program", async {
        loop {
            // There is always more to do: whenever it runs out, more is put in.
            seq += 1;
            let token = Token { incarnation: 1, seq };
            let leased = exchange(&source, seq, settle).await;
            if leased.is_empty() {
                let jobs = (0..2000).map(|_| Job::from_json(br#"{"type":"test"}"#).unwrap()).collect();
                source.enqueue(Batch::new(jobs)).await.unwrap();
            }
            let lease = |leased: &Leased| LeaseRef { token, index: leased.index };
            settle = leased.iter().map(|leased| Settlement::new(lease(leased), Verdict::Done)).collect();
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
        }
    })
    .await;
    assert!(status.success(), "every insert got the lock within SQLite's patience");
    let others = Filter { kind: Some("other".into()), ..Filter::default() };
    assert_eq!(source.count(&others).await.unwrap(), 30);
}
