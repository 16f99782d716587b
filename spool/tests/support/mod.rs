//! What the store's tests share.
// Code of tests: a panic is how it speaks; and no test uses all of it.
#![allow(clippy::unwrap_used, dead_code)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ganger_core::{
    Batch, Exchange, Exchanged, Job, JobId, LeaseRef, Leased, Room, Settlement, Token, TypeRoom, Verdict,
};
use ganger_spool::{Source, Spool, SpoolOptions};
use rusqlite::Connection;

/// A lease that does not run out during a test.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// A file in a folder of its own.
pub(crate) struct File {
    dir: tempfile::TempDir,
}

impl File {
    pub(crate) fn new() -> File {
        File { dir: tempfile::tempdir().unwrap() }
    }

    /// One whose syncs cost nothing, where the system has such a place.
    pub(crate) fn quick() -> File {
        let memory = Path::new("/dev/shm");
        match tempfile::tempdir_in(memory) {
            Ok(dir) => File { dir },
            Err(_) => File::new(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("jobs.db")
    }

    pub(crate) async fn open(&self) -> Manager {
        Manager::open(&self.path()).await
    }

    /// A connection as another program has it.
    pub(crate) fn foreign(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }
}

/// A manager, as far as a store can tell.
pub(crate) struct Manager {
    pub(crate) source: Arc<Source>,
    incarnation: u64,
    seq: std::sync::atomic::AtomicU64,
}

impl Manager {
    pub(crate) async fn open(path: &Path) -> Manager {
        Manager::with(path, SpoolOptions::default()).await
    }

    pub(crate) async fn with(path: &Path, options: SpoolOptions) -> Manager {
        let source = Arc::new(Spool::open(path, options).await.unwrap().source("test", None));
        Manager { source, incarnation: ganger_core::draw_incarnation(), seq: 0.into() }
    }

    pub(crate) fn token(&self) -> Token {
        let seq = self.seq.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        Token { incarnation: self.incarnation, seq }
    }

    pub(crate) async fn put(&self, jobs: Vec<Job>) -> Vec<JobId> {
        let answers = self.source.enqueue(Batch::new(jobs)).await.unwrap();
        answers.into_iter().map(|answer| answer.unwrap().id).collect()
    }

    pub(crate) async fn exchange(&self, settle: Vec<Settlement>, room: Room) -> (Token, Exchanged) {
        let token = self.token();
        let give = Exchange { token, settle, room, lease: LONG };
        (token, self.source.exchange(&give).await.unwrap())
    }

    /// Leases up to `n` jobs of type `test`.
    pub(crate) async fn take(&self, n: u32) -> Vec<(LeaseRef, Leased)> {
        let (token, answer) = self.exchange(Vec::new(), room(n)).await;
        answer.leased.into_iter().map(|leased| (LeaseRef { token, index: leased.index }, leased)).collect()
    }

    /// Settles one; `false` when the lease is lost.
    pub(crate) async fn say(&self, lease: LeaseRef, verdict: Verdict) -> bool {
        self.settle(Settlement::new(lease, verdict)).await
    }

    pub(crate) async fn settle(&self, settlement: Settlement) -> bool {
        self.exchange(vec![settlement], Room::none()).await.1.stale.is_empty()
    }
}

/// Room for `n` jobs of type `test`, suspects too.
pub(crate) fn room(n: u32) -> Room {
    Room {
        types: vec![TypeRoom { kind: "test".into(), jobs: n }],
        jobs: n,
        bytes: 8 << 20,
        suspect: true,
        crashed: true,
    }
}

pub(crate) fn job(text: &str) -> Job {
    Job::from_json(text.as_bytes()).unwrap()
}

/// `n` jobs of type `test` with the names 0, 1, …
pub(crate) fn jobs(n: u32) -> Vec<Job> {
    (0..n).map(|n| job(&format!(r#"{{"type":"test","name":"{n}"}}"#))).collect()
}

pub(crate) fn name(leased: &Leased) -> String {
    match &leased.entry {
        ganger_core::Entry::Job(job) => job.name.as_deref().unwrap_or_default().to_owned(),
        other => panic!("no job: {other:?}"),
    }
}

pub(crate) fn names(leased: &[(LeaseRef, Leased)]) -> Vec<String> {
    leased.iter().map(|(_, leased)| name(leased)).collect()
}

/// Every open job is in exactly one place, and every place holds open jobs only.
pub(crate) fn check_places(db: &Connection) {
    let mut places: std::collections::HashMap<i64, Vec<String>> = std::collections::HashMap::new();
    for (place, sql) in [
        ("ready", "SELECT seq FROM ready"),
        ("due", "SELECT seq FROM due"),
        ("suspect", "SELECT seq FROM suspect"),
    ] {
        let mut statement = db.prepare(sql).unwrap();
        for seq in statement.query_map([], |row| row.get::<_, i64>(0)).unwrap() {
            places.entry(seq.unwrap()).or_default().push(place.to_owned());
        }
    }
    let mut statement = db.prepare("SELECT items FROM claim").unwrap();
    for items in statement.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap() {
        for item in items.unwrap().chunks_exact(8) {
            let item = u64::from_le_bytes(item.try_into().unwrap());
            if item != 0 {
                places.entry((item >> 3) as i64).or_default().push("claim".to_owned());
            }
        }
    }
    let mut open = db.prepare("SELECT seq FROM job WHERE state = 2").unwrap();
    let open: Vec<i64> = open.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    for seq in &open {
        let at = places.remove(seq).unwrap_or_default();
        assert_eq!(at.len(), 1, "open job {seq} is in {at:?}");
    }
    assert!(places.is_empty(), "jobs that are not open are in {places:?}");
    let cancel: i64 = db
        .query_row(
            "SELECT count(*) FROM cancel WHERE seq NOT IN (SELECT seq FROM job WHERE state = 2 AND cancel = 1)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(cancel, 0, "marks on jobs that are not open");
}
