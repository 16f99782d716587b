//! Commands keep what every worker owes.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use std::{path::PathBuf, sync::Arc};

use ganger_conformance::WorkerHarness;
use ganger_core::{Job, Slots, erase_slots};
use ganger_worker_cli::Cli;
use serde_json::json;

/// The endless job writes its number into a file, by which its process is found.
struct Harness(tempfile::TempDir);

impl Harness {
    fn new() -> Self {
        Harness(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("pid")
    }
}

impl WorkerHarness for Harness {
    async fn workers(&self) -> Arc<dyn Slots> {
        erase_slots::<Cli>(rig::Rig::new().await.entry)
    }

    fn quick(&self) -> Job {
        Job::new("cli", &json!({"command": "true"})).unwrap()
    }

    fn endless(&self) -> Option<Job> {
        let line = format!("trap '' TERM; echo $$ > {}; exec sleep 1000", self.file().display());
        Some(Job::new("cli", &rig::sh(&line)).unwrap())
    }

    async fn goes_on(&self) -> bool {
        let written = std::fs::read_to_string(self.file()).unwrap_or_default();
        written.trim().parse().is_ok_and(rig::lives)
    }
}

ganger_conformance::worker!(Harness::new());
