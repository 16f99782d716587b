//! Commands: `/bin/true` by the cli worker, beside a bare loop that spawns it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ganger_core::{ConfiguredWorkers, Job, ProviderOptions, State, WorkerOptions};
use ganger_manager::Plan;
use ganger_worker_cli::PLUGIN as CLI;
use serde_json::json;

use crate::{
    Figure, Options, Stretch, floor,
    line::{finish, start},
    meter::Meter,
    runtime, show,
    store::{Store, enqueue, sink},
};

const N: u64 = 6_000;
const ROUNDS: usize = 5;
const SLOTS: u32 = 2;

pub(crate) fn run(options: Options) -> Result<(), String> {
    let n = options.jobs(N);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push((ours(n)?, bare(n)?));
    }
    let note = "/bin/true in two slots, every job durable on disk; floor: posix_spawn with a group and two pipes, wait4";
    show(&Figure::paired("cli", &rounds, note), options);
    Ok(())
}

fn bare(n: u64) -> Result<Stretch, String> {
    let meter = Meter::start();
    floor::spawn::trues(n, SLOTS as usize).map_err(|error| format!("the floor failed: {error}"))?;
    Ok(meter.stop(n))
}

fn ours(n: u64) -> Result<Stretch, String> {
    let store = Store::new()?;
    runtime(1)?.block_on(async {
        let provider = store.open().await?;
        let job = Job::new("cli", &json!({"command": "/bin/true"})).map_err(|error| error.to_string())?;
        enqueue(&*sink(&provider)?, (0..n).map(|_| job.clone())).await?;
        let workers = ConfiguredWorkers::new(CLI, json!({})).expect("the plugin is a worker");
        let options = WorkerOptions { workers: SLOTS, ..WorkerOptions::default() };
        let plan = Plan::new().opened_dyn("disk", ProviderOptions::default(), provider.clone()).worker(
            "cli",
            options,
            Arc::new(workers),
        );
        let meter = Meter::start();
        let running = start(plan).await?;
        let status = running.status();
        let figures = || status.report().by_type.get("cli").copied().unwrap_or_default();
        let began = Instant::now();
        loop {
            let runs = figures().runs;
            if runs >= n {
                break;
            }
            tokio::time::sleep(until_next_look(began.elapsed(), runs, n - runs)).await;
        }
        let stretch = meter.stop(n);
        finish(running).await?;
        all_done(n, figures().done, stretch)
    })
}

/// Half of the time that the rest will take: looks are no part of the work, so they are few until the end is near.
fn until_next_look(elapsed: Duration, runs: u64, left: u64) -> Duration {
    let half = elapsed.mul_f64(left as f64 / runs.max(1) as f64 / 2.0);
    half.clamp(Duration::from_millis(1), Duration::from_millis(200))
}

fn all_done(n: u64, done: u64, stretch: Stretch) -> Result<Stretch, String> {
    match done == n {
        true => Ok(stretch),
        false => Err(format!("{done} of {n} jobs ended {}", State::Done)),
    }
}
