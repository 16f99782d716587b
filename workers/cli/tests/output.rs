//! What a command prints is read whatever it does, and kept up to a limit.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use ganger_core::{Events, What, Worker};
use rig::{Rig, job, sh, soon};
use serde_json::json;

#[tokio::test]
async fn both_streams_are_kept_in_the_order_in_which_they_were_printed() {
    let line = "for i in 1 2 3 4 5 6 7 8 9; do echo o$i; echo e$i >&2; done";
    let (result, printed) = Rig::new().await.sh(line).await;
    assert!(result.is_ok());
    let expected: String = (1..10).map(|i| format!("o{i}\ne{i}\n")).collect();
    assert_eq!(printed, expected);
}

#[tokio::test]
async fn a_flood_keeps_its_head_and_tail_and_is_counted() {
    let rig = Rig::new().await;
    let job =
        rig::job_told(sh("echo first; yes | head -c 50000000; echo last"), 64 << 10, &Events::default());
    let mut slot = rig.slot().await;
    slot.work(job.params().unwrap(), &job).await.unwrap();
    let output = job.take_side().unwrap().output.unwrap().finish();
    assert_eq!(output.total(), 50_000_000 + 11);
    assert_eq!(output.bytes.len(), 64 << 10);
    assert!(output.text().starts_with("first\ny\n") && output.text().ends_with("y\nlast\n"));
}

#[tokio::test]
async fn binary_output_is_kept_as_it_is() {
    let rig = Rig::new().await;
    let job = job(json!({"command": "printf", "params": ["\\377\\000\\200\\n"]}));
    rig.slot().await.work(job.params().unwrap(), &job).await.unwrap();
    assert_eq!(job.take_side().unwrap().output.unwrap().finish().bytes, [0xff, 0, 0x80, b'\n']);
}

#[tokio::test]
async fn output_is_told_while_the_command_runs() {
    let rig = Rig::new().await;
    let events = Events::default();
    let mut heard = events.listen();
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let line = format!("echo early; until test -e {}; do sleep 0.01; done; echo late", go.display());
    let job = rig::job_told(sh(&line), 1 << 20, &events);
    let mut slot = rig.slot().await;
    let running = tokio::spawn(async move { rig::run(&mut slot, &job).await });
    let first = heard.recv().await.unwrap();
    assert!(matches!(&first[0].what, What::Output { bytes, .. } if bytes == b"early\n"), "{first:?}");
    std::fs::write(go, "").unwrap();
    let (result, printed) = running.await.unwrap();
    assert!(result.is_ok());
    assert_eq!(printed, "early\nlate\n");
}

/// A lost wake-up hung one job in some thousands of GoWorker's, for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b2_no_end_of_an_instant_command_is_missed() {
    let rig = Rig::new().await;
    let mut slots = Vec::new();
    for _ in 0..4 {
        let mut slot = rig.slot().await;
        slots.push(tokio::spawn(async move {
            for n in 0..500 {
                let job = job(json!({"command": "/bin/echo", "params": [n]}));
                let (result, printed) = rig::run(&mut slot, &job).await;
                assert!(result.is_ok(), "{result:?}");
                assert_eq!(printed, format!("{n}\n"));
            }
        }));
    }
    for slot in slots {
        slot.await.unwrap();
    }
}

#[tokio::test]
async fn f20_a_grandchild_that_keeps_the_pipe_open_does_not_keep_the_job() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let line = format!("sleep 1000 & echo $! > {}; echo done", pid.display());
    let (result, printed) = soon(Rig::new().await.sh(&line)).await;
    assert!(result.is_ok());
    assert_eq!(printed, "done\n");
    let pid = rig::number_in(&pid).await;
    rig::eventually("the grandchild is killed", || !rig::lives(pid)).await;
}

#[tokio::test]
async fn f20_what_a_grandchild_prints_last_is_still_heard() {
    let (result, printed) = Rig::new().await.sh("(sleep 0.05; echo from below) & exit 0").await;
    assert!(result.is_ok());
    assert_eq!(printed, "from below\n");
}

#[tokio::test]
async fn f20_a_grandchild_that_floods_the_pipe_does_not_keep_the_job() {
    let (result, printed) = soon(Rig::new().await.sh("yes & exit 0")).await;
    assert!(result.is_ok());
    assert!(printed.is_empty() || printed.starts_with("y\n"));
}

#[tokio::test]
async fn a_command_that_closes_its_output_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let line = format!("exec >&- 2>&-; sleep 0.2; echo > {}; exit 5", mark.display());
    let (result, _) = Rig::new().await.sh(&line).await;
    assert_eq!(result.unwrap_err().message(), "exit status 5");
    assert!(mark.exists());
}
