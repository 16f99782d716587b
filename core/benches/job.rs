//! What reading a job costs: the codec is on the path of every job that a producer pushed as bytes.
//!
//! `cargo bench -p ganger-core`

use ganger_core::{Backoff, Job, JobId, Period};

fn main() {
    divan::main();
}

/// The 150-byte no-op that the whole-pipeline benches use too.
const NOOP: &[u8] = br#"{"type":"noop","params":{"id":123456,"at":0.0,"to":"user123456@example.com","subject":"Your weekly report is ready","body":"Hello, this is a short body."}}"#;

#[divan::bench]
fn from_json_noop() -> Job {
    Job::from_json(divan::black_box(NOOP)).expect("a well-formed job")
}

#[divan::bench]
fn from_json_bare_value() -> serde_json::Value {
    serde_json::from_slice(divan::black_box(NOOP)).expect("well-formed JSON")
}

#[divan::bench]
fn accept() -> JobId {
    JobId::new()
}

#[divan::bench]
fn backoff() -> std::time::Duration {
    Backoff { initial: Period::secs(1), ..Backoff::default() }
        .wait(divan::black_box(&"job".parse().expect("an id")), 3)
}
