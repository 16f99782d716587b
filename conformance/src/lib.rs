#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

pub mod admin;
mod belt;
pub mod intake;
mod macros;
pub mod manager;
pub mod provider;
pub mod signal;
pub mod sink;
mod store;
pub mod unique;
pub mod worker;

pub use belt::Belt;
pub use intake::IntakeHarness;
pub use manager::{Jobs, TestManager, label};
pub use signal::{Gate, PATIENCE, Signal, eventually, eventually_within, soon};
pub use store::Store;
pub use worker::WorkerHarness;

/// Runs a test on a runtime of its own.
///
/// # Panics
/// The test fails.
pub fn run(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime can be built");
    runtime.block_on(test);
}
