//! The disk worker passes the suite that every worker passes.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use ganger_conformance::{WorkerHarness, worker};
use ganger_core::{Job, Slots};
use ganger_worker_disk::{Disk, DiskConfig};
use serde_json::json;

struct Harness(tempfile::TempDir);

impl WorkerHarness for Harness {
    async fn workers(&self) -> Arc<dyn Slots> {
        let config = DiskConfig { db_name: self.0.path().join("jobs.db"), bucket: None };
        worker::share_type::<Disk>(config).await
    }

    fn quick(&self) -> Job {
        Job::new("disk", &json!({"job": {"type": "test"}})).unwrap()
    }

    fn endless(&self) -> Option<Job> {
        None
    }

    async fn goes_on(&self) -> bool {
        false
    }
}

ganger_conformance::worker!(Harness(tempfile::tempdir().unwrap()));
