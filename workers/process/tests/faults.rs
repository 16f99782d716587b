//! A program that fails fails one job, is gone, and is replaced.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use std::time::Duration;

use ganger_core::{Advice, DynWorker, JobError, StopReason};
use rig::{Belt, eventually, job, lives, one, pid_of, run, slot};
use serde_json::{Value, json};

/// Has a program do one bad job; its error. The program is gone, and the next job is done by another.
async fn fails(worker: &mut Box<dyn DynWorker>, params: Value) -> (JobError, String) {
    let before = pid_of(worker).await;
    let (end, printed) = one(worker, params).await;
    assert!(!lives(before), "the program is gone when its job is answered");
    let after = pid_of(worker).await;
    assert_ne!(before, after);
    (end.unwrap_err(), printed)
}

async fn fails_with(params: Value, more: Value, advice: Advice, part: &str) -> String {
    let mut worker = slot(&json!({}), &more).await;
    let (error, printed) = fails(&mut worker, params).await;
    assert!(error.message().contains(part), "{part:?} is not in {:?}", error.message());
    assert_eq!(error.advice(), advice, "{error}");
    printed
}

#[tokio::test]
async fn one_that_exits_fails_its_job_and_leaves_its_last_words() {
    let printed = fails_with(json!({"do": "die"}), json!({}), Advice::Retry, "exit status 7").await;
    assert_eq!(printed, "about to die\n");
    fails_with(json!({"do": "segv"}), json!({}), Advice::Retry, "killed by SIGSEGV").await;
}

#[tokio::test]
async fn one_that_is_killed_from_outside_loses_its_run() {
    fails_with(json!({"do": "kill"}), json!({}), Advice::Lost, "killed by SIGKILL").await;
}

#[tokio::test]
async fn one_that_answers_no_ping_hangs() {
    let more = json!({"ping_every": "10ms", "ping_timeout": "1s"});
    fails_with(json!({"do": "hang"}), more, Advice::Retry, "did not answer a ping for 1s").await;
}

#[tokio::test]
async fn one_that_works_long_and_answers_pings_does_not_hang() {
    let mut worker = slot(&json!({}), &json!({"ping_every": "5ms", "ping_timeout": "5s"})).await;
    let before = pid_of(&mut worker).await;
    assert!(one(&mut worker, json!({"do": "sleep", "seconds": 0.3})).await.0.is_ok());
    assert_eq!(pid_of(&mut worker).await, before);
}

#[tokio::test]
async fn one_that_hangs_while_it_is_idle_costs_no_job() {
    let mut worker = slot(&json!({}), &json!({"ping_every": "0s", "ping_timeout": "1s"})).await;
    let before = pid_of(&mut worker).await;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(before).unwrap(),
        rustix::process::Signal::STOP,
    )
    .unwrap();
    assert!(one(&mut worker, json!({})).await.0.is_ok());
    assert!(!lives(before));
}

#[tokio::test]
async fn one_that_dies_while_it_is_idle_costs_no_job() {
    let mut worker = slot(&json!({}), &json!({})).await;
    let before = pid_of(&mut worker).await;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(before).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    // Not only its main thread.
    let gone = || !std::path::Path::new(&format!("/proc/{before}")).exists();
    eventually("the end of all of the program", gone).await;
    assert!(one(&mut worker, json!({})).await.0.is_ok());
}

#[tokio::test]
async fn one_that_talks_garbage_is_quoted_safely() {
    let part = "`\\u{1b}[31mTraceback\u{fffd}`";
    fails_with(json!({"do": "garbage"}), json!({}), Advice::Retry, part).await;
}

#[tokio::test]
async fn half_an_answer_is_none() {
    fails_with(json!({"do": "partial"}), json!({}), Advice::Retry, "it ended (exit status 0)").await;
}

#[tokio::test]
async fn one_that_floods_is_stopped_at_the_longest_line() {
    fails_with(
        json!({"do": "flood"}),
        json!({"line_max": "1MiB"}),
        Advice::Retry,
        "`line_max` (1048576 bytes)",
    )
    .await;
}

#[tokio::test]
async fn one_that_closes_its_output_and_lives_is_killed() {
    fails_with(json!({"do": "close_stdout"}), json!({}), Advice::Retry, "it closed its output").await;
}

#[tokio::test]
async fn messages_that_cannot_come_now_are_garbage() {
    let done = json!({"kind": "done", "job": "JOB"});
    for (messages, part) in [
        (json!([done, done]), "an answer to no job"),
        (json!([{"kind": "done", "job": 99}]), "it was handed no such job"),
        (json!([{"kind": "done", "job": 0}]), "answered already"),
        (json!([{"kind": "hello", "protocol": 1}]), "it has said hello before"),
    ] {
        let mut worker = slot(&json!({}), &json!({})).await;
        let mut belt =
            Belt::of([job(&json!({"do": "say", "messages": messages, "then": "wait"})), job(&json!({}))]);
        run(&mut worker, &mut belt).await.unwrap();
        if part == "an answer to no job" {
            assert!(belt.ends[0].1.is_ok());
            // The second answer came too early for the second job, or too late for the first.
            run(&mut worker, &mut belt).await.unwrap();
            assert!(belt.errors().iter().all(|error| error.is_empty() || error.contains("answered already")));
        } else {
            assert!(belt.errors()[0].contains(part), "{:?}", belt.errors());
        }
    }
}

#[tokio::test]
async fn a_flood_of_logs_and_complaints_does_no_harm() {
    let mut worker = slot(&json!({}), &json!({})).await;
    let before = pid_of(&mut worker).await;
    assert!(one(&mut worker, json!({"do": "chatter"})).await.0.is_ok());
    assert!(one(&mut worker, json!({"do": "complain"})).await.0.is_ok());
    assert_eq!(pid_of(&mut worker).await, before);
}

const GUSH: &str = r#"{"kind":"log","level":"trace","message":"more"}"#;

#[tokio::test]
async fn one_that_logs_without_end_hears_of_its_stop_and_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let mut worker = slot(&json!({"notes": notes}), &json!({"grace": "500ms"})).await;
    let mut other = slot(&json!({}), &json!({})).await;
    let before = pid_of(&mut worker).await;
    let long = job(&json!({"do": "gush", "line": GUSH}));
    let mut belt = Belt::of([long.clone()]);
    let stop = async {
        eventually("the run's wait", || long.heeds_stop()).await;
        // On the same thread.
        for _ in 0..5 {
            pid_of(&mut other).await;
        }
        long.ask_to_stop(StopReason::Cancel);
    };
    let (ran, ()) = tokio::join!(run(&mut worker, &mut belt), stop);
    ran.unwrap();
    assert!(belt.errors()[0].contains("the job was cancelled"), "{:?}", belt.errors());
    assert_eq!(rig::lines(&notes).last().map(String::as_str), Some("cancel cancel"));
    assert!(!lives(before));
}

#[tokio::test]
async fn one_that_logs_without_end_while_it_is_idle_is_read_in_bounds() {
    let mut worker = slot(&json!({}), &json!({"grace": "200ms"})).await;
    let before = pid_of(&mut worker).await;
    assert!(one(&mut worker, json!({"do": "gush", "line": GUSH, "idle": true})).await.0.is_ok());
    let next = job(&json!({}));
    next.ask_to_stop(StopReason::Timeout);
    let mut belt = Belt::of([next]);
    run(&mut worker, &mut belt).await.unwrap();
    assert_eq!(belt.ends.len(), 1);
    pid_of(&mut worker).await;
    assert!(!lives(before));
}

#[tokio::test]
async fn one_that_prints_empty_lines_in_place_of_a_hello_has_its_time_and_no_more() {
    let more = json!({"command": "yes", "params": [""], "start_timeout": "300ms"});
    let mut worker = slot(&json!({}), &more).await;
    let mut belt = Belt::of([job(&json!({}))]);
    let error = run(&mut worker, &mut belt).await.unwrap_err().to_string();
    assert!(error.contains("no `hello` within `start_timeout` (300ms)"), "{error}");
}

#[tokio::test]
async fn a_job_that_is_stopped_may_end_by_itself() {
    let mut worker = slot(&json!({}), &json!({})).await;
    let before = pid_of(&mut worker).await;
    let long = job(&json!({"do": "sleep", "seconds": 1000}));
    long.ask_to_stop(StopReason::Timeout);
    let mut belt = Belt::of([long]);
    run(&mut worker, &mut belt).await.unwrap();
    assert_eq!(belt.errors(), ["cancelled"]);
    assert_eq!(pid_of(&mut worker).await, before, "the program stays");
}

#[tokio::test]
async fn a_job_that_does_not_heed_its_stop_is_killed_with_its_program() {
    for can in [json!(["cancel", "ping", "recall"]), json!([])] {
        let mut worker = slot(&json!({"can": can}), &json!({"grace": "50ms"})).await;
        let before = pid_of(&mut worker).await;
        let long = job(&json!({"do": "sleep", "seconds": 1000, "deaf": true}));
        let mut belt = Belt::of([long.clone()]);
        let stop = async {
            eventually("the run's wait", || long.heeds_stop()).await;
            long.ask_to_stop(StopReason::Cancel);
        };
        let (ran, ()) = tokio::join!(run(&mut worker, &mut belt), stop);
        ran.unwrap();
        assert!(
            belt.errors()[0].contains("the job was cancelled; it did not end it in time"),
            "{:?}",
            belt.errors()
        );
        assert!(!lives(before));
    }
}

#[tokio::test]
async fn what_it_started_goes_with_it() {
    let mut worker = slot(&json!({}), &json!({})).await;
    let daemon: i32 = one(&mut worker, json!({"do": "daemon"})).await.0.unwrap().text().parse().unwrap();
    assert!(lives(daemon));
    assert!(one(&mut worker, json!({"do": "die"})).await.0.is_err());
    eventually("the end of what has a session of its own", || !lives(daemon)).await;
}

#[tokio::test]
async fn it_is_replaced_after_its_number_of_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let child = json!({"notes": notes, "pipeline": 8});
    let mut worker = slot(&child, &json!({"recycle_after": 3})).await;
    let mut pids = Vec::new();
    for _ in 0..7 {
        pids.push(pid_of(&mut worker).await);
    }
    assert_eq!(pids[0], pids[2]);
    assert_ne!(pids[2], pids[3]);
    assert_eq!(pids[3], pids[5]);
    assert_ne!(pids[5], pids[6]);
    let ends = || rig::lines(&notes).iter().filter(|line| *line == "end").count();
    eventually("two that ended by themselves when their input was closed", || ends() == 2).await;
}

#[tokio::test]
async fn one_that_grows_too_large_is_replaced_between_jobs() {
    let mut worker = slot(&json!({}), &json!({"memory_max": "60MiB"})).await;
    let before = pid_of(&mut worker).await;
    assert_eq!(pid_of(&mut worker).await, before);
    assert!(one(&mut worker, json!({"do": "grow"})).await.0.is_ok());
    // Its memory is looked at every 200 ms.
    let mut after = before;
    let replaced = async {
        while after == before {
            after = pid_of(&mut worker).await;
        }
    };
    ganger_conformance::soon("a new program", replaced).await;
    eventually("the end of the old one", || !lives(before)).await;
}

#[tokio::test]
async fn one_that_does_not_leave_is_killed() {
    let mut worker = slot(&json!({"stays": true}), &json!({"recycle_after": 1, "grace": "100ms"})).await;
    let before = pid_of(&mut worker).await;
    assert_ne!(pid_of(&mut worker).await, before);
    eventually("the end of one that stays", || !lives(before)).await;
}

#[tokio::test]
async fn one_that_never_reads_is_killed_by_the_jobs_time() {
    let mut worker = slot(&json!({"reads": false}), &json!({"grace": "50ms"})).await;
    for size in [10, 1 << 20] {
        let stuck = job(&json!({"pad": "x".repeat(size)}));
        let mut belt = Belt::of([stuck.clone()]);
        let stop = async {
            eventually("the run's wait", || stuck.heeds_stop()).await;
            stuck.ask_to_stop(StopReason::Timeout);
        };
        let (ran, ()) = tokio::join!(run(&mut worker, &mut belt), stop);
        ran.unwrap();
        assert!(belt.errors()[0].contains("longer than its timeout"), "{:?}", belt.errors());
    }
}

#[tokio::test]
async fn a_large_job_and_a_large_answer_pass_both_ways() {
    let mut worker = slot(&json!({}), &json!({})).await;
    let text = "ä€😀\n".repeat(200_000);
    let (end, _) = one(&mut worker, json!({"do": "echo", "pad": text})).await;
    let echoed: Value = serde_json::from_str(&end.unwrap().text()).unwrap();
    assert_eq!(echoed["params"]["pad"], text);
}

#[tokio::test]
async fn a_run_that_is_dropped_takes_its_program_along() {
    let mut worker = slot(&json!({}), &json!({})).await;
    let pid = pid_of(&mut worker).await;
    let mut belt = Belt::of([job(&json!({"do": "sleep", "seconds": 1000, "deaf": true}))]);
    let dropped = tokio::time::timeout(Duration::from_millis(50), worker.run(&mut belt)).await;
    assert!(dropped.is_err());
    drop(worker);
    eventually("the program's end", || !lives(pid)).await;
}
