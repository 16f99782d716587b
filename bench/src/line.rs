//! The whole pipeline, from a provider to the last verdict, as every bench runs it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ganger_core::{JobContext, JobError};
use ganger_manager::{Manager, Plan, Running};
use ganger_worker_function::{CodeWorker, function};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Notify;

/// How long a drain may take before a bench gives up.
const PATIENCE: Duration = Duration::from_secs(600);

/// The no-op's job: about 150 bytes on the wire, as in every comparison with other systems.
pub(crate) fn noop_params(i: u64) -> String {
    format!(
        r#"{{"id":{i},"at":0.0,"to":"user{i}@example.com","subject":"Your weekly report is ready","body":"Hello, this is a short body."}}"#
    )
}

/// The no-op's params, read as a worker would read them.
#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "reading the params is the work; what they say is not looked at")]
pub(crate) struct Mail {
    id: u64,
    at: f64,
    to: String,
    subject: String,
    body: String,
}

/// Counts jobs, and tells when the last is there.
#[derive(Default)]
pub(crate) struct Count {
    done: AtomicU64,
    last: AtomicU64,
    reached: Notify,
}

impl Count {
    pub(crate) fn up_to(last: u64) -> Arc<Self> {
        Arc::new(Count { last: AtomicU64::new(last), ..Count::default() })
    }

    /// One more.
    pub(crate) fn add(&self) {
        if self.done.fetch_add(1, Ordering::Relaxed) + 1 == self.last.load(Ordering::Relaxed) {
            self.reached.notify_one();
        }
    }

    /// Waits for the last.
    pub(crate) async fn reached(&self) -> Result<(), String> {
        tokio::time::timeout(PATIENCE, self.reached.notified()).await.map_err(|_| {
            format!("only {} of the jobs were done in {PATIENCE:?}", self.done.load(Ordering::Relaxed))
        })
    }
}

/// A worker that reads its params, does nothing and counts.
pub(crate) fn noop(count: &Arc<Count>) -> CodeWorker {
    let count = count.clone();
    function("noop", move |_: Mail, _: JobContext| {
        count.add();
        std::future::ready(Ok::<(), JobError>(()))
    })
}

/// Starts a plan.
pub(crate) async fn start(plan: Plan) -> Result<Running, String> {
    Manager::start(plan).await.map_err(|error| error.to_string())
}

/// Ends it: every verdict is settled when this returns.
pub(crate) async fn finish(running: Running) -> Result<(), String> {
    running.drain();
    running.ended().await.map_err(|error| error.to_string())
}
