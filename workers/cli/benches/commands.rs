//! `/bin/true` in two slots, by the worker alone, beside the bare loop in the same run: `cargo bench -p
//! ganger-worker-cli`. With the manager and a store it is `ganger bench cli`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench says so by a panic, and prints")]

#[path = "../../../bench/src/floor/spawn.rs"]
#[allow(unreachable_pub, reason = "it is public where it lives")]
mod floor;
#[path = "../tests/rig/mod.rs"]
mod rig;

use std::time::Instant;

use rig::Rig;
use serde_json::json;

const ROUNDS: usize = 8;
const SLOTS: u64 = 2;

fn main() {
    // `cargo test --benches` only wants to know that it works.
    let n = if std::env::args().any(|argument| argument == "--bench") { 3000 } else { 20 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let floor = rate(n, || floor::trues(n, SLOTS as usize).unwrap());
        let ours = rate(n, || runtime.block_on(trues(n)));
        println!("worker {ours:7.0}/s   floor {floor:7.0}/s   ratio {:.2}", ours / floor);
        ratios.push(ours / floor);
    }
    ratios.sort_by(f64::total_cmp);
    println!("ratio, median of {ROUNDS}: {:.2}", ratios[ROUNDS / 2]);
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
