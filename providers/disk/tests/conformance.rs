//! The disk provider passes the suite that every provider passes.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use ganger_conformance::Store;
use ganger_core::{DynProvider, ProviderContext, ProviderError, Timestamp, erase_provider};
use ganger_provider_disk::{DiskConfig, DiskProvider};

struct Wall(std::time::Instant);

impl ganger_core::Clock for Wall {
    fn monotonic(&self) -> std::time::Duration {
        self.0.elapsed()
    }
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
}

fn context(incarnation: u64) -> ProviderContext {
    let clock = Arc::new(Wall(std::time::Instant::now()));
    ProviderContext { name: "disk".into(), incarnation, clock, existing_only: false }
}

async fn open(db_name: PathBuf, incarnation: u64) -> Result<Arc<dyn DynProvider>, ProviderError> {
    use ganger_core::Provider;
    let config = DiskConfig { db_name, ..DiskConfig::default() };
    Ok(erase_provider(Arc::new(DiskProvider::open(config, &context(incarnation)).await?)))
}

/// A file in a folder of its own, and in another after each kill.
struct File {
    folder: tempfile::TempDir,
    kills: AtomicU32,
}

impl File {
    fn new() -> Self {
        File { folder: tempfile::tempdir().unwrap(), kills: AtomicU32::new(0) }
    }

    fn path(&self) -> PathBuf {
        let folder = self.folder.path().join(self.kills.load(Ordering::Relaxed).to_string());
        std::fs::create_dir_all(&folder).unwrap();
        folder.join("ganger.db")
    }
}

impl Store for File {
    async fn open(&self, incarnation: u64) -> Arc<dyn DynProvider> {
        open(self.path(), incarnation).await.unwrap()
    }

    /// Goes on with what processes killed now would leave: the file and its log, and nobody who holds a lock.
    async fn kill(&self) -> bool {
        let before = self.path();
        self.kills.fetch_add(1, Ordering::Relaxed);
        for suffix in ["", "-wal"] {
            let beside = |path: &PathBuf| PathBuf::from(format!("{}{suffix}", path.display()));
            std::fs::copy(beside(&before), beside(&self.path())).unwrap();
        }
        true
    }

    async fn open_out_of_reach(&self) -> Option<ProviderError> {
        open(self.folder.path().join("no such folder/ganger.db"), 1).await.err()
    }

    async fn open_newer_format(&self) -> Option<(ProviderError, bool)> {
        open(self.path(), 1).await.unwrap().close().await.unwrap();
        let db = rusqlite::Connection::open(self.path()).unwrap();
        db.execute_batch("PRAGMA user_version = 99; UPDATE meta SET value = 99 WHERE key = 'oldest'")
            .unwrap();
        db.close().unwrap();
        let before = std::fs::read(self.path()).unwrap();
        let error = open(self.path(), 1).await.err()?;
        Some((error, std::fs::read(self.path()).unwrap() == before))
    }
}

ganger_conformance::provider!(File::new());
