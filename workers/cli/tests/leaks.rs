//! A hundred thousand commands leave no process, file or thread behind.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use ganger_worker_cli::Cli;
use rig::{Rig, children, eventually, files, job, sh};
use serde_json::json;

/// How many commands each of two slots runs.
const EACH: usize = 50_000;

async fn run_many(mut slot: Cli) {
    for n in 0..EACH {
        let params = match n % 50 {
            0 => sh("sleep 0.001 & exit 1"),
            1 | 26 => json!({"command": "cat", "stdin": "x"}),
            2 | 27 => json!({"command": "no-such-command"}),
            _ => json!({"command": "/bin/true"}),
        };
        let (result, _) = rig::run(&mut slot, &job(params)).await;
        assert_eq!(result.is_ok(), ![0, 2, 27].contains(&(n % 50)), "{result:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f20_a_hundred_thousand_commands_leave_no_zombie_no_file_and_no_thread() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let rig = Rig::with(json!({ "streams": "apart" })).await;
    let mut slots = [rig.slot().await, rig.slot().await];
    for slot in &mut slots {
        assert!(rig::run(slot, &job(json!({"command": "true"}))).await.0.is_ok());
    }
    let before = (files(), children(), threads());
    let runs = slots.map(|slot| tokio::spawn(run_many(slot)));
    for run in runs {
        run.await.unwrap();
    }
    eventually("only what was there before is left", || {
        let now = (files(), children(), threads());
        now.0 <= before.0 && now.1 <= before.1 && now.2 <= before.2
    })
    .await;
    drop(rig);
    eventually("the slots' files are closed", || files() < before.0).await;
}
