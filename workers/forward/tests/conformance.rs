//! The worker keeps what every worker owes.
#![allow(clippy::unwrap_used)]

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use compact_str::CompactString;
use ganger_conformance::WorkerHarness;
use ganger_core::{
    Batch, Beat, BoxFuture, Ended, Enqueued, Job, JobId, ProviderError, Refused, Secret, Sink, Sinks, Slots,
    State, Worker, WorkerContext, erase_slots,
};
use ganger_worker_forward::{Forward, ForwardConfig};
use serde_json::json;

/// A provider that takes jobs, and one that never answers.
#[derive(Clone, Default)]
struct Harness {
    asked: Arc<AtomicBool>,
}

struct Place {
    answers: bool,
    asked: Arc<AtomicBool>,
}

/// Lowers the flag when the run is dropped.
struct Asking(Arc<AtomicBool>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Sink for Place {
    fn enqueue(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Result<Enqueued, Refused>>, ProviderError>> {
        Box::pin(async move {
            if !self.answers {
                self.asked.store(true, Ordering::SeqCst);
                let _asking = Asking(self.asked.clone());
                std::future::pending::<()>().await;
            }
            let stored = |job: Job| {
                Ok(Enqueued { id: job.id.unwrap_or_default(), existed: false, state: State::Ready })
            };
            Ok(batch.jobs.into_iter().map(stored).collect())
        })
    }
    fn states<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Option<State>>, ProviderError>> {
        Box::pin(async move { Ok(vec![None; ids.len()]) })
    }
    fn ended<'a>(&'a self, _: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Ended>, ProviderError>> {
        Box::pin(std::future::pending())
    }
    fn managers(&self) -> BoxFuture<'_, Result<Vec<Beat>, ProviderError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn ready_types(&self) -> BoxFuture<'_, Result<Vec<CompactString>, ProviderError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn cancel<'a>(&'a self, _: &'a JobId) -> BoxFuture<'a, Result<bool, ProviderError>> {
        Box::pin(async { Ok(false) })
    }
}

impl Sinks for Harness {
    fn find(&self, name: Option<&str>) -> Option<Arc<dyn Sink>> {
        Some(Arc::new(Place { answers: name != Some("deaf"), asked: self.asked.clone() }))
    }
    fn names(&self) -> Vec<String> {
        vec!["redis".into(), "deaf".into()]
    }
}

impl WorkerHarness for Harness {
    async fn workers(&self) -> Arc<dyn Slots> {
        let cx = WorkerContext {
            name: "forward".into(),
            slots: 2,
            sinks: Arc::new(self.clone()),
            run: Secret::new("conformance"),
        };
        let config = ForwardConfig { to: Some("redis".into()) };
        erase_slots::<Forward>(Forward::share(config, &cx).await.unwrap())
    }

    fn quick(&self) -> Job {
        Job::new("forward", &json!({"job": {"type": "t"}})).unwrap()
    }

    fn endless(&self) -> Option<Job> {
        Some(Job::new("forward", &json!({"to": "deaf", "job": {"type": "t"}})).unwrap())
    }

    async fn goes_on(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}

ganger_conformance::worker!(Harness::default());
