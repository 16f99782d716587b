//! The worker keeps what every worker owes.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, OnceLock, atomic::Ordering};

use ganger_conformance::{WorkerHarness, worker::share_type};
use ganger_core::{Job, Slots};
use ganger_worker_http::{Http, HttpConfig};
use serde_json::json;
use support::{Server, answer, serve};

/// A server that answers at once, or never.
#[derive(Default)]
struct Harness {
    server: OnceLock<Server>,
    hanging: Arc<std::sync::atomic::AtomicUsize>,
}

/// A request that the server has not answered, until its connection is gone.
struct Hanging(Arc<std::sync::atomic::AtomicUsize>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl WorkerHarness for Harness {
    async fn workers(&self) -> Arc<dyn Slots> {
        let hanging = self.hanging.clone();
        let server = serve(move |seen| {
            let hanging = hanging.clone();
            async move {
                if seen.uri.path() == "/endless" {
                    hanging.fetch_add(1, Ordering::SeqCst);
                    let _hanging = Hanging(hanging);
                    std::future::pending::<()>().await;
                }
                answer(200, &[], "quick")
            }
        })
        .await;
        assert!(self.server.set(server).is_ok(), "the workers are made once");
        share_type::<Http>(HttpConfig::default()).await
    }

    fn quick(&self) -> Job {
        Job::new("http", &json!({"url": self.server.get().unwrap().url("/")})).unwrap()
    }

    fn endless(&self) -> Option<Job> {
        Some(Job::new("http", &json!({"url": self.server.get().unwrap().url("/endless")})).unwrap())
    }

    async fn goes_on(&self) -> bool {
        self.hanging.load(Ordering::SeqCst) > 0
    }
}

ganger_conformance::worker!(Harness::default());
