//! `/bin/true` in two slots, by the worker alone, beside the bare loop in the same run; then a flood of output,
//! beside a plain reader of a pipe: `cargo bench -p ganger-worker-cli`. With the manager and a store it is `ganger
//! bench cli`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench says so by a panic, and prints")]

#[path = "../../../bench/src/floor/spawn.rs"]
#[allow(unreachable_pub, reason = "it is public where it lives")]
mod floor;
#[path = "../tests/rig/mod.rs"]
mod rig;

use std::{
    io::Read,
    process::{Command, Stdio},
    time::Instant,
};

use rig::Rig;
use serde_json::json;

const ROUNDS: usize = 8;
const SLOTS: u64 = 2;

fn main() {
    // `cargo test --benches` only wants to know that it works.
    let whole = std::env::args().any(|argument| argument == "--bench");
    let (n, mib) = if whole { (3000, 1024) } else { (20, 1) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    beside("jobs/s", || {
        let floor = rate(n, || floor::trues(n, SLOTS as usize).unwrap());
        (rate(n, || runtime.block_on(trues(n))), floor)
    });
    beside("MiB/s", || {
        let floor = rate(mib, || read_plainly(&mut flood(mib)));
        (rate(mib, || runtime.block_on(read_by_worker(mib))), floor)
    });
}

/// Measures the worker and its floor by turns, and prints the rates and their ratio.
fn beside(unit: &str, measure: impl Fn() -> (f64, f64)) {
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let (ours, floor) = measure();
        println!("worker {ours:7.0} {unit}   floor {floor:7.0} {unit}   ratio {:.2}", ours / floor);
        ratios.push(ours / floor);
    }
    ratios.sort_by(f64::total_cmp);
    println!("ratio, median of {ROUNDS}: {:.2}", ratios[ROUNDS / 2]);
}

fn flood(mib: u64) -> Command {
    let mut command = Command::new("head");
    command.args(["-c", &format!("{mib}M"), "/dev/zero"]);
    command
}

fn read_plainly(command: &mut Command) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut buffer = vec![0; 64 << 10];
    while stdout.read(&mut buffer).unwrap() > 0 {}
    assert!(child.wait().unwrap().success());
}

async fn read_by_worker(mib: u64) {
    let mut slot = Rig::new().await.slot().await;
    let job = rig::job(json!({"command": "head", "params": ["-c", format!("{mib}M"), "/dev/zero"]}));
    rig::run(&mut slot, &job).await.0.unwrap();
}

fn rate(n: u64, work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    n as f64 / begin.elapsed().as_secs_f64()
}

async fn trues(n: u64) {
    let rig = Rig::new().await;
    let mut slots = Vec::new();
    for _ in 0..SLOTS {
        let mut slot = rig.slot().await;
        slots.push(tokio::spawn(async move {
            for _ in 0..n / SLOTS {
                let job = rig::job(json!({"command": "/bin/true"}));
                rig::run(&mut slot, &job).await.0.unwrap();
            }
        }));
    }
    for slot in slots {
        slot.await.unwrap();
    }
}
