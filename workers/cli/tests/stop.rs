//! A run that must stop does, with all that it started.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use std::path::Path;

use ganger_core::{Advice, JobContext, JobError, Output, StopReason, Worker};
use ganger_worker_cli::Cli;
use rig::{Rig, eventually, job, lives, number_in, sh};
use serde_json::json;
use tokio::task::JoinHandle;

/// Long for a test, short for a command that is forgotten.
const LONG: &str = "1000";

type Running = JoinHandle<(Result<Output, JobError>, String)>;

/// Runs a line of shell that says its number in `pid` when it is ready.
async fn start(mut slot: Cli, line: &str, pid: &Path) -> (Running, JobContext, i32) {
    let job = job(sh(&line.replace("READY", &format!("echo $$ > {}", pid.display()))));
    let running = tokio::spawn({
        let job = job.clone();
        async move { rig::run(&mut slot, &job).await }
    });
    let pid = number_in(pid).await;
    (running, job, pid)
}

fn message(result: &Result<Output, JobError>) -> &str {
    let error = result.as_ref().unwrap_err();
    assert_eq!(error.advice(), Advice::Retry);
    error.message()
}

#[tokio::test]
async fn a_timeout_asks_first_and_the_command_may_clean_up() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new().await;
    // Nothing is forked: a child of a shell that is told to stop before it has dropped its parent's trap never stops.
    let line = "trap 'echo cleaning up; exit 0' TERM; READY; while :; do :; done";
    let (running, job, pid) = start(rig.slot().await, line, &dir.path().join("pid")).await;
    job.ask_to_stop(StopReason::Timeout);
    let (result, printed) = running.await.unwrap();
    assert_eq!(
        message(&result),
        "the command took longer than its timeout; told to stop, it ended: exit status 0"
    );
    assert_eq!(printed, "cleaning up\n");
    assert!(!lives(pid));
}

#[tokio::test]
async fn f20_a_command_that_ignores_term_is_killed_after_the_grace_with_its_whole_group() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::with(json!({"grace": "50ms"})).await;
    let below = dir.path().join("below");
    let line = format!("trap '' TERM; sleep {LONG} & echo $! > {}; READY; wait; wait", below.display());
    let (running, job, pid) = start(rig.slot().await, &line, &dir.path().join("pid")).await;
    let below = number_in(&below).await;
    job.ask_to_stop(StopReason::Cancel);
    let (result, _) = running.await.unwrap();
    assert_eq!(message(&result), "the job was cancelled; it did not stop in time and was killed");
    assert!(!lives(pid));
    eventually("the rest of the group is dead", || !lives(below)).await;
}

#[tokio::test]
async fn the_rest_of_a_group_has_its_grace_too() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new().await;
    // The leader dies of TERM at once; what it started takes longer than the output of the dead is waited for.
    let below = "trap 'sleep 0.4; echo tidied; exit' TERM; echo $$ > FILE; while :; do sleep 0.01; done";
    let file = dir.path().join("below");
    let below = below.replace("FILE", &file.display().to_string());
    let mut params = sh("sh -c \"$BELOW\" & wait");
    params["env"] = json!({ "BELOW": below });
    let job = job(params);
    let mut slot = rig.slot().await;
    let running = tokio::spawn({
        let job = job.clone();
        async move { rig::run(&mut slot, &job).await }
    });
    number_in(&file).await;
    job.ask_to_stop(StopReason::Cancel);
    let (result, printed) = running.await.unwrap();
    assert_eq!(message(&result), "the job was cancelled; told to stop, it ended: killed by SIGTERM");
    assert!(printed.ends_with("tidied\n"), "{printed}");
}

#[tokio::test]
async fn a_run_that_is_dropped_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new().await;
    let below = dir.path().join("below");
    let line = format!("trap '' TERM; sleep {LONG} & echo $! > {}; READY; wait", below.display());
    let (running, _, pid) = start(rig.slot().await, &line, &dir.path().join("pid")).await;
    let below = number_in(&below).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    eventually("the group is dead", || !lives(pid) && !lives(below)).await;
    eventually("the command is waited for", || !Path::new(&format!("/proc/{pid}")).exists()).await;
}

#[tokio::test]
async fn a_run_dropped_before_its_command_started_starts_none() {
    let rig = Rig::new().await;
    let run = rig::new_run();
    let rig_of_run = Rig::of_run(json!({}), &run).await;
    for _ in 0..200 {
        let mut slot = rig_of_run.slot().await;
        let job = job(json!({"command": "sleep", "params": [LONG]}));
        let params = job.params().unwrap();
        let mut work = Box::pin(slot.work(params, &job));
        assert!(futures_poll(&mut work).is_none());
        drop(work);
        drop(slot);
    }
    eventually("all are dead", || rig::marked(&run).is_empty()).await;
    assert!(rig.sh("exit 0").await.0.is_ok());
}

/// Polls once.
fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(future).poll(&mut cx) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn a_stopped_command_is_stopped_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new().await;
    let line = format!("trap 'exit 9' TERM; READY; kill -STOP $$; sleep {LONG}");
    let (running, job, pid) = start(rig.slot().await, &line, &dir.path().join("pid")).await;
    eventually("it is stopped", || {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T "))
    })
    .await;
    job.ask_to_stop(StopReason::Timeout);
    let (result, _) = running.await.unwrap();
    assert!(message(&result).ends_with("it ended: exit status 9"), "{result:?}");
}

#[tokio::test]
async fn f20_a_daemon_that_left_the_group_does_not_survive_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::with(json!({"grace": "200ms"})).await;
    let file = dir.path().join("daemon");
    let line = format!(
        "setsid sh -c 'echo $$ > {}; exec sleep {LONG}' > /dev/null 2>&1 & READY; wait",
        file.display()
    );
    let (running, job, _) = start(rig.slot().await, &line, &dir.path().join("pid")).await;
    let daemon = number_in(&file).await;
    job.ask_to_stop(StopReason::Cancel);
    assert!(running.await.unwrap().0.is_err());
    eventually("the daemon is dead", || !lives(daemon)).await;
}

#[tokio::test]
async fn a_timeout_among_the_params_stops_the_command_too() {
    let rig = Rig::new().await;
    let mut slot = rig.slot().await;
    let mut params = sh(&format!("echo $GANGER_DEADLINE; sleep {LONG}"));
    params["timeout"] = json!("100ms");
    let (result, printed) = rig::run(&mut slot, &job(params)).await;
    assert_eq!(
        message(&result),
        "the command took longer than its timeout; told to stop, it ended: killed by SIGTERM"
    );
    assert!(printed.trim().parse::<ganger_core::Timestamp>().is_ok(), "{printed}");
    let in_time = json!({"command": "echo", "params": ["x"], "timeout": "1m"});
    assert_eq!(rig::run(&mut slot, &job(in_time)).await.1, "x\n");
}

#[tokio::test]
async fn a_slot_goes_on_after_a_stop() {
    let rig = Rig::new().await;
    let mut slot = rig.slot().await;
    let first = job(json!({"command": "sleep", "params": [LONG]}));
    first.ask_to_stop(StopReason::Cancel);
    let (result, _) = rig::run(&mut slot, &first).await;
    assert!(
        message(&result).starts_with("the job was cancelled") || message(&result).contains("stopped before")
    );
    let (result, printed) = rig::run(&mut slot, &job(sh("echo next"))).await;
    assert!(result.is_ok());
    assert_eq!(printed, "next\n");
}

#[tokio::test]
async fn a_command_that_ended_before_it_was_told_has_its_own_result() {
    let rig = Rig::new().await;
    let mut slot = rig.slot().await;
    for _ in 0..100 {
        let job = job(json!({"command": "true"}));
        let run = rig::run(&mut slot, &job);
        let stop = async {
            tokio::task::yield_now().await;
            job.ask_to_stop(StopReason::Shutdown);
        };
        let ((result, _), ()) = tokio::join!(run, stop);
        // Whichever came first: never a failure of the job's own, never a hang.
        if let Err(error) = result {
            assert!(error.message().contains("shuts down") || error.message().contains("stopped before"));
        }
    }
}
