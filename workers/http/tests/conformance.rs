//! The worker keeps what every worker owes.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ganger_conformance::{WorkerHarness, worker::share_type};
use ganger_core::{Job, Slots};
use ganger_worker_http::{Http, HttpConfig};
use serde_json::json;
use support::{answer, serve_on};

/// A server that answers at once, or never.
struct Harness {
    listener: TcpListener,
    hanging: Arc<AtomicUsize>,
}

impl Harness {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Harness { listener, hanging: Arc::default() }
    }

    fn job(&self, path: &str) -> Job {
        let url = format!("http://{}{path}", self.listener.local_addr().unwrap());
        Job::new("http", &json!({"url": url})).unwrap()
    }
}

/// A request that the server has not answered, until its connection is gone.
struct Hanging(Arc<AtomicUsize>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl WorkerHarness for Harness {
    async fn workers(&self) -> Arc<dyn Slots> {
        let hanging = self.hanging.clone();
        let listener = tokio::net::TcpListener::from_std(self.listener.try_clone().unwrap()).unwrap();
        serve_on(listener, move |seen| {
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
        share_type::<Http>(HttpConfig::default()).await
    }

    fn quick(&self) -> Job {
        self.job("/")
    }

    fn endless(&self) -> Option<Job> {
        Some(self.job("/endless"))
    }

    async fn goes_on(&self) -> bool {
        self.hanging.load(Ordering::SeqCst) > 0
    }
}

ganger_conformance::worker!(Harness::new());
