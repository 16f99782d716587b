//! What becomes of a program that does not start, starts slowly, or dies again and again.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use ganger_core::WorkerError;
use rig::{Belt, job, one, run, slot, slots, try_slot};
use serde_json::{Value, json};

async fn refusal(child: Value, more: Value) -> (WorkerError, usize) {
    let slots = slots(&child, &more).await;
    let mut worker = try_slot(&slots, 0).await.unwrap();
    let mut belt = Belt::of([job(&json!({}))]);
    let ran = run(&mut worker, &mut belt).await;
    let Err(error) = ran else { panic!("{child} started: {:?}", belt.errors()) };
    assert!(belt.ends.is_empty(), "no job was begun");
    (error, belt.waiting.len())
}

#[tokio::test]
async fn one_that_cannot_be_started_costs_no_job_and_says_why() {
    for (child, more, part) in [
        (json!({}), json!({"command": "no-such-program"}), "command `no-such-program` is not found"),
        (json!({"start": "die"}), json!({}), "(exit status 3); its last words: no such database"),
        (json!({"start": "garbage"}), json!({}), "is no `hello`: `Welcome to my program`"),
        (
            json!({"start": "mute"}),
            json!({"start_timeout": "500ms"}),
            "no `hello` within `start_timeout` (500ms)",
        ),
        (json!({"protocol": 2}), json!({}), "it speaks version 2 of the protocol"),
        (json!({"types": ["a", "b"]}), json!({}), "it does `a`, `b` and not `process`"),
        (json!({"types": []}), json!({}), "it does no type of jobs, and not `process`"),
        (json!({"pipeline": 2, "can": []}), json!({}), "able to `recall`"),
        (json!({}), json!({"cwd": "/no/such/folder"}), "no directory `/no/such/folder`"),
    ] {
        let (error, waiting) = refusal(child, more).await;
        assert!(error.to_string().contains(part), "{part:?} is not in {error}");
        assert_eq!(waiting, 1);
    }
}

#[tokio::test]
async fn a_slow_start_is_waited_for_and_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let child = json!({"notes": folder.path().join("notes"), "first_seconds": 1.0});
    let mut worker = slot(&child, &json!({})).await;
    assert!(one(&mut worker, json!({})).await.0.is_ok());
}

#[tokio::test]
async fn a_crash_loop_opens_the_breaker_and_a_finished_job_closes_it() {
    let backoff = json!({"initial": "300ms", "factor": 1, "max": "300ms", "jitter": 0});
    let slots = slots(&json!({}), &json!({"breaker": 3, "backoff": backoff})).await;
    let mut worker = try_slot(&slots, 0).await.unwrap();
    for n in 1..=3 {
        assert!(try_slot(&slots, 1).await.is_ok(), "closed before death {n}");
        assert!(one(&mut worker, json!({"do": "die"})).await.0.is_err());
    }
    let refused = try_slot(&slots, 1).await.err().unwrap().to_string();
    assert!(refused.contains("exit status 7") && refused.contains("failure 3 in a row"), "{refused}");
    let mut belt = Belt::of([job(&json!({}))]);
    assert!(run(&mut worker, &mut belt).await.is_err(), "nothing is begun meanwhile");
    assert!(belt.ends.is_empty());

    let mut healed = None;
    let heal = async {
        while healed.is_none() {
            healed = try_slot(&slots, 1).await.ok();
            tokio::task::yield_now().await;
        }
    };
    ganger_conformance::soon("the next try", heal).await;
    assert!(one(healed.as_mut().unwrap(), json!({})).await.0.is_ok());
    assert!(try_slot(&slots, 2).await.is_ok(), "a finished job closes it");
}

#[tokio::test]
async fn a_job_that_fails_by_itself_is_no_death() {
    let slots = slots(&json!({}), &json!({"breaker": 1})).await;
    let mut worker = try_slot(&slots, 0).await.unwrap();
    let fail = json!({"do": "say", "messages": [{"kind": "fail", "job": "JOB", "error": "no"}]});
    assert_eq!(one(&mut worker, fail).await.0.unwrap_err().message(), "no");
    assert!(try_slot(&slots, 1).await.is_ok());
}
