//! Functions keep what every worker owes.
#![allow(clippy::unwrap_used)]

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use ganger_conformance::{WorkerHarness, worker::share};
use ganger_core::{Job, JobContext, Slots};
use ganger_worker_function::function;

/// A function that ends at once, or never: then it holds a guard.
#[derive(Default)]
struct Harness {
    running: Arc<AtomicBool>,
}

/// Lowers the flag when the run is dropped.
struct Guard(Arc<AtomicBool>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl WorkerHarness for Harness {
    async fn workers(&self) -> Arc<dyn Slots> {
        let running = self.running.clone();
        let code = function("forever", move |forever: bool, _: JobContext| {
            let running = running.clone();
            async move {
                if forever {
                    running.store(true, Ordering::SeqCst);
                    let _guard = Guard(running);
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        });
        share(&code.name, &*code.workers).await
    }

    fn quick(&self) -> Job {
        Job::new("forever", &false).unwrap()
    }

    fn endless(&self) -> Option<Job> {
        Some(Job::new("forever", &true).unwrap())
    }

    async fn goes_on(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }
}

ganger_conformance::worker!(Harness::default());
