//! How a program that is not needed any more ends.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use ganger_conformance::soon;
use rig::{eventually, lives, pid_of, slot};
use serde_json::json;

#[tokio::test]
async fn one_whose_worker_is_closed_has_its_time_to_end_and_is_heard_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let mut worker = slot(&json!({"notes": notes, "last_seconds": 0.3}), &json!({})).await;
    let pid = pid_of(&mut worker).await;
    soon("the end of a program", worker.close()).await;
    assert_eq!(rig::lines(&notes).last().map(String::as_str), Some("left"));
    assert!(!lives(pid));
}

#[tokio::test]
async fn one_whose_worker_is_closed_and_that_stays_is_killed() {
    let mut worker = slot(&json!({"stays": true}), &json!({"grace": "100ms"})).await;
    let pid = pid_of(&mut worker).await;
    soon("the end of one that stays", worker.close()).await;
    assert!(!lives(pid));
}

#[tokio::test]
async fn a_worker_without_a_program_closes_at_once() {
    let mut worker = slot(&json!({}), &json!({})).await;
    soon("the close of a worker that has done nothing", worker.close()).await;
}

#[tokio::test]
async fn one_that_is_replaced_is_heard_until_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let child = json!({"notes": notes, "last_seconds": 0.1});
    let mut worker = slot(&child, &json!({"recycle_after": 1})).await;
    let before = pid_of(&mut worker).await;
    assert_ne!(pid_of(&mut worker).await, before);
    eventually("the end of what it had to say", || rig::lines(&notes).contains(&"left".to_owned())).await;
    eventually("its end", || !lives(before)).await;
}
