#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

pub mod admin;
pub mod intake;
mod macros;
pub mod manager;
pub mod provider;
pub mod sink;
mod store;
pub mod worker;

pub use intake::IntakeHarness;
pub use manager::{Jobs, TestManager, label};
pub use store::Store;
pub use worker::WorkerHarness;

use std::time::Duration;

/// How long anything may take that should happen soon, on the slowest machine. No test passes by waiting for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test on a runtime of its own.
///
/// # Panics
/// The test fails.
pub fn run(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime can be built");
    runtime.block_on(test);
}

/// Waits for something that should happen soon.
///
/// # Panics
/// It did not happen within [`PATIENCE`]; `what` says what that is.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} has not happened within {PATIENCE:?}"),
    }
}

/// Looks again and again, until a condition holds that nothing tells of.
///
/// # Panics
/// It did not within [`PATIENCE`].
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let look = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(what, look).await;
}
