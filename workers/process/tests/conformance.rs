//! Programs that stay keep what every worker owes.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use std::{path::PathBuf, sync::Arc};

use ganger_conformance::WorkerHarness;
use ganger_core::{Job, Slots};
use serde_json::json;

/// The endless job begins by a line in a file, where its program has left its number.
struct Harness(tempfile::TempDir);

impl Harness {
    fn new() -> Self {
        Harness(tempfile::tempdir().unwrap())
    }

    fn notes(&self) -> PathBuf {
        self.0.path().join("notes")
    }
}

impl WorkerHarness for Harness {
    async fn workers(&self) -> Arc<dyn Slots> {
        rig::slots(&json!({"notes": self.notes(), "pipeline": 8}), &json!({})).await
    }

    fn quick(&self) -> Job {
        Job::new("process", &json!({"do": "done"})).unwrap()
    }

    fn endless(&self) -> Option<Job> {
        let mut job = Job::new("process", &json!({"do": "sleep", "seconds": 1000, "deaf": true})).unwrap();
        job.id = Some("endless".parse().unwrap());
        Some(job)
    }

    async fn goes_on(&self) -> bool {
        let notes = rig::lines(&self.notes());
        let Some(at) = notes.iter().position(|line| line == "begin endless") else { return false };
        let start = notes[..at].iter().rev().find_map(|line| line.strip_prefix("start "));
        start.and_then(|pid| pid.parse().ok()).is_some_and(rig::lives)
    }

    /// Its params are whatever the program takes.
    fn misfit(&self) -> Option<Job> {
        None
    }
}

ganger_conformance::worker!(Harness::new());
