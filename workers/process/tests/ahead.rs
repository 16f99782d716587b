//! Jobs that are handed over ahead are begun one by one, and come back unharmed.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use std::time::Duration;

use ganger_core::{Advice, StopReason};
use rig::{Belt, eventually, job, lives, pid_of, run, slot};
use serde_json::json;

#[tokio::test]
async fn several_are_handed_over_at_once_and_answered_in_order() {
    let mut worker = slot(&json!({"pipeline": 16}), &json!({})).await;
    let jobs: Vec<_> = (0..40).map(|n| job(&json!({"n": n}))).collect();
    let mut belt = Belt::of(jobs.clone());
    run(&mut worker, &mut belt).await.unwrap();
    assert_eq!((belt.ends.len(), belt.most_ahead), (40, 15));
    for ((done, end), job) in belt.ends.iter().zip(&jobs) {
        assert!(end.is_ok() && done.lease() == job.lease());
    }
}

#[tokio::test]
async fn a_slow_one_behind_quick_ones_has_its_own_time() {
    let mut worker = slot(&json!({"pipeline": 16}), &json!({})).await;
    let mut belt = Belt::of((0..9).map(|_| job(&json!({}))));
    belt.waiting.push_back(job(&json!({"do": "sleep", "seconds": 0.2})));
    run(&mut worker, &mut belt).await.unwrap();
    let times: Vec<_> = belt.ends.iter().map(|(job, _)| job.duration()).collect();
    assert!(times[9] >= Some(Duration::from_millis(190)), "{times:?}");
    assert!(times[..9].iter().flatten().sum::<Duration>() < times[9].unwrap(), "{times:?}");
}

#[tokio::test]
async fn one_that_takes_one_at_a_time_is_handed_one() {
    let mut worker = slot(&json!({}), &json!({})).await;
    let mut belt = Belt::of((0..5).map(|n| job(&json!({"n": n}))));
    run(&mut worker, &mut belt).await.unwrap();
    assert_eq!((belt.ends.len(), belt.most_ahead), (5, 0));
}

#[tokio::test]
async fn behind_a_long_job_they_are_recalled_and_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let mut worker = slot(&json!({"pipeline": 16, "notes": notes}), &json!({})).await;
    let long = job(&json!({"do": "sleep", "seconds": 0.3}));
    let mut belt = Belt::of([long, job(&json!({})), job(&json!({}))]);
    belt.takes_rest = true;
    run(&mut worker, &mut belt).await.unwrap();
    assert_eq!((belt.ends.len(), belt.given_back), (1, 2));
    let begun = rig::lines(&notes).iter().filter(|line| line.starts_with("begin")).count();
    assert_eq!(begun, 1);
}

#[tokio::test]
async fn when_the_program_dies_one_fails_and_the_others_come_back() {
    let mut worker = slot(&json!({"pipeline": 16}), &json!({})).await;
    let mut belt = Belt::of([job(&json!({})), job(&json!({"do": "die"})), job(&json!({})), job(&json!({}))]);
    run(&mut worker, &mut belt).await.unwrap();
    assert_eq!((belt.ends.len(), belt.ahead), (2, 0));
    assert!(belt.given_back >= 2);
    assert!(belt.errors()[1].contains("exit status 7"));
    run(&mut worker, &mut belt).await.unwrap();
    assert_eq!(belt.errors().iter().filter(|error| !error.is_empty()).count(), 1);
    assert_eq!(belt.ends.len(), 4);
}

/// Answers may be gathered, so that the job under way is not known where the program dies with several in its hands.
#[tokio::test]
async fn a_job_that_kills_its_program_fails_alone_and_takes_no_neighbour_along() {
    let folder = tempfile::tempdir().unwrap();
    let gathers = folder.path().join("gathers");
    std::fs::write(&gathers, "").unwrap();
    let mut worker = slot(&json!({"pipeline": 16, "gathers": gathers}), &json!({})).await;
    let poison = job(&json!({"do": "die"}));
    let mut belt = Belt::of([job(&json!({})), job(&json!({})), poison.clone(), job(&json!({}))]);
    // The first is lost, which proves nothing against it, and would come again.
    run(&mut worker, &mut belt).await.unwrap();
    assert_eq!((belt.ends.len(), belt.given_back), (1, 3));
    assert_eq!(belt.ends[0].1.as_ref().unwrap_err().advice(), Advice::Lost);
    belt.most_ahead = 0;
    while !belt.waiting.is_empty() {
        run(&mut worker, &mut belt).await.unwrap();
    }
    assert_eq!(belt.most_ahead, 0, "one at a time");
    let failed: Vec<_> = belt.ends[1..].iter().filter(|(_, end)| end.is_err()).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].0.lease(), poison.lease());
    assert_eq!(failed[0].1.as_ref().unwrap_err().advice(), Advice::Retry);
}

#[tokio::test]
async fn one_taken_ahead_that_is_stopped_is_told_so_in_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let (notes, gate) = (folder.path().join("notes"), folder.path().join("gate"));
    let mut worker = slot(&json!({"pipeline": 16, "notes": notes}), &json!({})).await;
    let second = job(&json!({"do": "sleep", "seconds": 1000}));
    let mut belt = Belt::of([job(&json!({"do": "until", "file": gate})), second.clone()]);
    let open = async {
        eventually("the first job's begin", || {
            rig::lines(&notes).iter().any(|line| line.starts_with("begin"))
        })
        .await;
        second.ask_to_stop(StopReason::Cancel);
        std::fs::write(&gate, "").unwrap();
    };
    let (ran, ()) = tokio::join!(run(&mut worker, &mut belt), open);
    ran.unwrap();
    assert_eq!(belt.errors(), ["", "cancelled"]);
}

#[tokio::test]
async fn one_that_does_not_give_back_what_must_stop_is_killed() {
    let mut worker = slot(&json!({"pipeline": 16}), &json!({})).await;
    let pid = pid_of(&mut worker).await;
    let second = job(&json!({}));
    let mut belt = Belt::of([job(&json!({"do": "hang"})), second.clone()]);
    second.ask_to_stop(StopReason::Fenced);
    run(&mut worker, &mut belt).await.unwrap();
    assert_eq!((belt.ends.len(), belt.given_back), (1, 1));
    assert!(!lives(pid));
}
