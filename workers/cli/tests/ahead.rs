//! Jobs that the slot has before it needs them are begun one by one, and those that are not come back.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use std::{fs, path::Path, thread, time::Duration};

use ganger_conformance::Belt;
use ganger_core::{Feed, JobContext, JobError, Output, StopReason, Worker};
use ganger_worker_cli::Cli;
use rig::{Rig, eventually, job, lives, number_in, sh, soon};
use serde_json::json;
use tempfile::TempDir;

/// A command that leaves a line behind.
fn note(dir: &Path, name: &str) -> JobContext {
    job(sh(&format!("echo {name} >> {}/notes", dir.display())))
}

fn notes(dir: &Path) -> Vec<String> {
    fs::read_to_string(dir.join("notes")).unwrap_or_default().lines().map(str::to_owned).collect()
}

async fn run(slot: &mut Cli, belt: &mut Belt) {
    soon(slot.batch(belt)).await.unwrap();
}

#[tokio::test]
async fn quick_commands_are_run_in_their_order_each_with_its_own_end() {
    let dir = TempDir::new().unwrap();
    let mut slot = Rig::new().await.slot().await;
    let jobs = (0..40).map(|n| match n % 4 {
        3 => job(json!({"command": "sh", "params": ["-c", "exit 3"]})),
        2 => job(json!({"command": "no-such-command"})),
        1 => job(json!({"command": "echo", "nonsense": true})),
        _ => note(dir.path(), &n.to_string()),
    });
    let mut belt = Belt::of(jobs);
    run(&mut slot, &mut belt).await;
    assert_eq!((belt.ends.len(), belt.ahead), (40, 0));
    assert!(belt.most_ahead > 0);
    for (n, error) in belt.errors().iter().enumerate() {
        let part = ["", "`nonsense` is no param", "not found", "exit status 3"][n % 4];
        assert!(error.contains(part) && error.is_empty() == part.is_empty(), "{n}: {error}");
    }
    assert_eq!(notes(dir.path()), (0..40).step_by(4).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn each_has_the_time_that_its_own_command_took() {
    let mut slot = Rig::new().await.slot().await;
    let mut belt = Belt::of((0..6).map(|n| job(sh(if n == 3 { "sleep 0.2" } else { "exit 1" }))));
    run(&mut slot, &mut belt).await;
    let mut times: Vec<_> = belt.ends.iter().map(|(job, _)| job.duration().unwrap()).collect();
    let slow = times.remove(3);
    assert!(slow >= Duration::from_millis(200), "{slow:?}");
    assert!(times.iter().all(|time| !time.is_zero() && *time < slow), "{times:?}");
}

#[tokio::test]
async fn behind_a_long_command_they_come_back_and_are_not_run() {
    let dir = TempDir::new().unwrap();
    let mut slot = Rig::new().await.slot().await;
    let mut belt = Belt::of([job(sh("sleep 0.3")), note(dir.path(), "second"), note(dir.path(), "third")]);
    belt.takes_rest = true;
    run(&mut slot, &mut belt).await;
    assert_eq!((belt.ends.len(), belt.given_back), (1, 2));
    let mut belt = Belt::of([note(dir.path(), "fourth")]);
    run(&mut slot, &mut belt).await;
    assert_eq!(notes(dir.path()), ["fourth"], "what came back is nobody's here");
}

#[tokio::test]
async fn a_stop_reaches_the_command_that_it_is_for_and_no_other() {
    let dir = TempDir::new().unwrap();
    let mut slot = Rig::with(json!({"grace": "100ms"})).await.slot().await;
    let (first, second, third) = (job(sh("sleep 1000")), job(sh("sleep 1000")), note(dir.path(), "third"));
    first.ask_to_stop(StopReason::Cancel);
    second.ask_to_stop(StopReason::Cancel);
    let mut belt = Belt::of([first, second, third]);
    run(&mut slot, &mut belt).await;
    let errors = belt.errors();
    assert!(!errors[0].is_empty() && !errors[1].is_empty() && errors[2].is_empty(), "{errors:?}");
    assert_eq!(notes(dir.path()), ["third"]);
}

#[tokio::test]
async fn a_batch_that_is_dropped_leaves_nothing_behind_and_begins_nothing_more() {
    let (dir, run_mark) = (TempDir::new().unwrap(), rig::new_run());
    let mut slot = Rig::of_run(json!({}), &run_mark).await.slot().await;
    let pid = dir.path().join("pid");
    let first = job(sh(&format!("echo $$ > {}; exec sleep 1000", pid.display())));
    let mut belt = Belt::of([first, note(dir.path(), "second")]);
    let running = tokio::spawn(async move { slot.batch(&mut belt).await });
    let command = number_in(&pid).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    eventually("the command is dead", || !lives(command)).await;
    eventually("nothing else of it lives", || rig::marked(&run_mark).is_empty()).await;
    assert_eq!(notes(dir.path()), Vec::<String>::new());
}

/// A feed that holds its thread, once it has given two jobs, until a file is there: as if ganger stood still.
struct Still<'a>(Belt, &'a Path);

impl Feed for Still<'_> {
    fn next(&mut self) -> Option<JobContext> {
        self.0.next()
    }
    fn done(&mut self, result: Result<Output, JobError>) {
        self.0.done(result);
    }
    fn ahead(&mut self) -> Option<JobContext> {
        let job = self.0.ahead();
        while job.is_none() && !self.1.exists() {
            thread::yield_now();
        }
        job
    }
    fn give_back(&mut self, count: usize) {
        self.0.give_back(count);
    }
}

#[tokio::test]
async fn what_has_waited_through_a_standstill_is_not_begun_by_itself() {
    let dir = TempDir::new().unwrap();
    let mut slot = Rig::new().await.slot().await;
    let still = dir.path().join("still");
    let long = job(sh(&format!("sleep 1.2; echo > {}", still.display())));
    let (second, third) = (note(dir.path(), "second"), note(dir.path(), "third"));
    // Meanwhile another may have it.
    second.ask_to_stop(StopReason::Fenced);
    let mut feed = Still(Belt::of([long, second, third]), &still);
    // It was taken ahead before it was known.
    soon(slot.batch(&mut feed)).await.unwrap();
    let errors = feed.0.errors();
    assert!(errors[0].is_empty() && !errors[1].is_empty() && errors[2].is_empty(), "{errors:?}");
    assert_eq!(notes(dir.path()), ["third"]);
}
