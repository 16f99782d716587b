//! What happens when a commit fails, and when the process ends right before or after one.
//!
//! `cargo test -p ganger-spool --features failpoints --test failpoints`
#![cfg(feature = "failpoints")]
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use ganger_core::{Admin, Batch, Filter, Severity, State, Verdict};
use support::{File, Manager, check_places, job, jobs};

/// Fail points are the whole process's: these tests take turns.
fn turn() -> fail::FailScenario<'static> {
    fail::FailScenario::setup()
}

#[test]
fn a_full_disk_refuses_before_anything_is_acknowledged_and_work_goes_on_after_it() {
    let scenario = turn();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let file = File::new();
        let manager = file.open().await;
        manager.put(jobs(2)).await;
        let held = manager.take(1).await;
        for fault in ["return(full)", "return(io)"] {
            fail::cfg("spool::before_commit", fault).unwrap();
            let error = manager.source.enqueue(Batch::new(jobs(1))).await.unwrap_err();
            assert_eq!(error.severity(), Severity::Transient);
            if fault == "return(full)" {
                assert!(error.to_string().contains("the disk is full; nothing was accepted"), "{error}");
            }
            let done = ganger_core::Settlement::new(held[0].0, Verdict::Done);
            let give = ganger_core::Exchange {
                token: manager.token(),
                settle: vec![done],
                room: ganger_core::Room::none(),
                lease: support::LONG,
            };
            assert!(manager.source.exchange(&give).await.is_err());
            fail::remove("spool::before_commit");
            assert_eq!(manager.source.count(&Filter::default()).await.unwrap(), 2);
        }
        assert!(manager.say(held[0].0, Verdict::Done).await, "there is room again");
        manager.put(jobs(1)).await;
        check_places(&file.foreign());
    });
    scenario.teardown();
}

/// The other process of the test below: does three things, and is aborted in one of them.
#[test]
fn aborted_process() {
    let Ok(path) = std::env::var("SPOOL_ABORTED") else { return };
    let _scenario = turn();
    let (point, nth) = (std::env::var("SPOOL_POINT").unwrap(), std::env::var("SPOOL_NTH").unwrap());
    let left = std::sync::atomic::AtomicI32::new(nth.parse().unwrap());
    let abort = move || {
        if left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) == 0 {
            std::process::abort();
        }
    };
    fail::cfg_callback(point, abort).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let manager = Manager::open(path.as_ref()).await;
        manager.put(vec![job(r#"{"type":"test","id":"a"}"#)]).await;
        println!("stored");
        let held = manager.take(1).await;
        println!("leased");
        assert!(manager.say(held[0].0, Verdict::Done).await);
        println!("done");
    });
}

#[test]
fn p1_p4_a_process_that_is_aborted_around_each_commit_loses_nothing_it_said() {
    let scenario = turn();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for point in ["spool::before_commit", "spool::after_commit"] {
        for nth in 0..3 {
            let file = File::new();
            let said = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "aborted_process", "--nocapture"])
                .env("SPOOL_ABORTED", file.path())
                .env("SPOOL_POINT", point)
                .env("SPOOL_NTH", nth.to_string())
                .output()
                .unwrap();
            let said = String::from_utf8(said.stdout).unwrap();
            runtime.block_on(left_behind(&file, &said, point == "spool::after_commit", nth));
        }
    }
    scenario.teardown();
}

/// What the process said holds, and what it did not say is done once more at most.
async fn left_behind(file: &File, said: &str, after: bool, nth: i32) {
    let case = format!("{nth} after={after}: {said}");
    assert!(!said.contains("done"), "it was to die before: {case}");
    let manager = file.open().await;
    check_places(&file.foreign());
    let id = ["a".parse().unwrap()];
    let state = manager.source.states(&id).await.unwrap()[0];
    match (said.contains("stored"), after, nth) {
        (false, false, 0) => assert_eq!(state, None, "{case}"),
        (false, true, 0) => assert_eq!(state, Some(State::Ready), "{case}"),
        (true, true, 2) => assert_eq!(state, Some(State::Done), "{case}"),
        (true, ..) => assert!(matches!(state, Some(State::Ready | State::Running)), "{case}: {state:?}"),
        other => panic!("{other:?} {case}"),
    }
    let held = manager.take(9).await;
    assert_eq!(held.len(), usize::from(matches!(state, Some(State::Ready | State::Running))), "{case}");
    for (lease, _) in held {
        assert!(manager.say(lease, Verdict::Done).await);
    }
}
