//! What plays a scenario at a program ends, whatever the program does.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

use std::time::Duration;

use ganger_conformance::{soon, worker::worker_context};
use ganger_worker_process::check::{Scenario, Verdict, play};

#[tokio::test]
async fn a_program_that_talks_without_end_is_told_to_answer_nothing() {
    let gush = "echo '{\"kind\":\"hello\",\"protocol\":1,\"can\":[\"ping\"]}'; exec yes '{\"kind\":\"log\",\"message\":\"more\"}'";
    let scenario = Scenario {
        command: ["sh", "-c", gush].map(str::to_owned).into(),
        job_type: None,
        params: None,
        patience: Duration::from_millis(100),
    };
    let mut steps = Vec::new();
    let context = worker_context("test");
    let all_ok = soon("the end of a scenario", play(&scenario, &context, |step| steps.push(step))).await;
    assert!(!all_ok.unwrap());
    let why = |name: &str| steps.iter().find(|step| step.name == name).map(|step| step.verdict.clone());
    let late = |what: &str| Some(Verdict::NotOk(format!("no {what} within 100ms")));
    assert_eq!(why("answers a job"), late("answer to job 1"), "{steps:?}");
    assert_eq!(why("answers pings"), late("answer to a ping"), "{steps:?}");
}
