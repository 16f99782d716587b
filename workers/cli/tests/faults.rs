//! Commands that misbehave. Which test has which fault:
//!
//! | fault | test |
//! |---|---|
//! | killed by SIGKILL, not by ganger | `run`: `f2_a_kill_that_is_not_gangers_is_a_lost_run` |
//! | ignores TERM | `stop`: `f20_a_command_that_ignores_term_is_killed_after_the_grace_with_its_whole_group` |
//! | daemonised grandchild | `stop`: `f20_a_daemon_that_left_the_group_does_not_survive_a_stop` |
//! | output closed early | `output`: `a_command_that_closes_its_output_is_waited_for` |
//! | output held open | `output`: `f20_a_grandchild_that_keeps_the_pipe_open_does_not_keep_the_job` |
//! | input never read | here |
//! | fork bomb, memory hog, hog of files | `confine`: `f21_…` |
//! | memory hog that the kernel kills | `shortage`: `f21_…` |
//! | instant exit | `output`: `b2_no_end_of_an_instant_command_is_missed` |
//! | exec fails, arguments too long | `run`: `what_cannot_be_started_is_dead_at_once_and_says_why`; here |
//! | binary output | `output`: `binary_output_is_kept_as_it_is` |
//! | a million lines | here |
//! | directory vanished | `run`: `a_directory_that_is_gone_may_come_back`; here |
//! | stopped (SIGSTOP) at its timeout | `stop`: `a_stopped_command_is_stopped_all_the_same`; here |
//! | ganger killed with 50 commands | `outlive`: `b28_no_command_survives_a_kill_of_ganger`; the real program in `e2e` |
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use ganger_core::{Advice, Events, StopReason, Worker};
use rig::{Rig, eventually, job, lives, number_in, sh, soon};
use serde_json::json;

#[tokio::test]
async fn f20_input_that_nobody_reads_holds_nothing_up() {
    let rig = Rig::new().await;
    let large = "x".repeat(1 << 20);
    let (result, _) = soon(rig.run(json!({"command": "sleep", "params": [0.1], "stdin": large}))).await;
    assert!(result.is_ok(), "{result:?}");
    let (result, printed) =
        soon(rig.run(json!({"command": "head", "params": ["-c", 3], "stdin": large}))).await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(printed, "xxx");
    // Closed before it could be read.
    let mut closes = sh("exec <&-; exit 0");
    closes["stdin"] = json!(large);
    assert!(soon(rig.run(closes)).await.0.is_ok());
}

#[tokio::test]
async fn a_million_lines_are_read_to_the_last() {
    let rig = Rig::new().await;
    let job = rig::job_told(json!({"command": "seq", "params": [1_000_000]}), 64 << 10, &Events::default());
    let mut slot = rig.slot().await;
    slot.work(job.params().unwrap(), &job).await.unwrap();
    let output = job.take_side().unwrap().output.unwrap().finish();
    assert_eq!(output.total(), (1..=1_000_000).map(|n: u64| n.to_string().len() as u64 + 1).sum::<u64>());
    assert!(output.text().starts_with("1\n2\n") && output.text().ends_with("\n999999\n1000000\n"));
}

#[tokio::test]
async fn arguments_that_are_too_long_together_are_dead_and_pass_on_stdin() {
    let rig = Rig::new().await;
    let many = vec!["x".repeat(100_000); 100];
    let error = rig.run(json!({"command": "true", "params": many})).await.0.unwrap_err();
    assert_eq!(error.advice(), Advice::Dead);
    assert!(error.message().contains("longer than the system allows"), "{}", error.message());
    let (result, printed) = rig.run(json!({"command": "wc", "params": ["-c"], "stdin": many.concat()})).await;
    assert!(result.is_ok());
    assert_eq!(printed.trim(), "10000000");
}

#[tokio::test]
async fn a_directory_that_vanishes_under_a_command_is_its_own_affair() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let rig = Rig::new().await;
    let mut slot = rig.slot().await;
    let params = json!({"command": "sh", "params": ["-c", "rmdir \"$PWD\"; echo still here"], "cwd": gone});
    let (result, printed) = rig::run(&mut slot, &job(params.clone())).await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(printed, "still here\n");
    let (result, _) = rig::run(&mut slot, &job(params)).await;
    let error = result.unwrap_err();
    assert_eq!(error.advice(), Advice::Retry);
    assert!(error.message().contains("no directory"), "{}", error.message());
}

#[tokio::test]
async fn a_stopped_command_that_ignores_everything_is_killed_with_what_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let (leader, below) = (dir.path().join("leader"), dir.path().join("below"));
    let rig = Rig::with(json!({"grace": "50ms"})).await;
    let line = format!(
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > {}; kill -STOP $$; sleep 1000' & echo $$ > {}; kill -STOP $$; \
         while :; do sleep 1; done",
        below.display(),
        leader.display()
    );
    let job = job(sh(&line));
    let mut slot = rig.slot().await;
    let running = tokio::spawn({
        let job = job.clone();
        async move { rig::run(&mut slot, &job).await }
    });
    let (leader, below) = (number_in(&leader).await, number_in(&below).await);
    eventually("it is stopped", || {
        std::fs::read_to_string(format!("/proc/{leader}/stat")).is_ok_and(|stat| stat.contains(") T "))
    })
    .await;
    job.ask_to_stop(StopReason::Timeout);
    let (result, _) = soon(running).await.unwrap();
    assert!(result.unwrap_err().message().ends_with("it did not stop in time and was killed"));
    assert!(!lives(leader));
    eventually("what it started is dead", || !lives(below)).await;
}
