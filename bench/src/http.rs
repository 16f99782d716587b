//! HTTP: GETs to a local nginx beside bare hyper connections, and ten thousand jobs that wait for slow answers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ganger_core::{ConfiguredWorkers, ProviderOptions, WorkerOptions};
use ganger_manager::Plan;
use ganger_provider_memory::MemoryProvider;
use ganger_worker_http::PLUGIN as HTTP;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;

use crate::{
    Figure, Options, Stretch, floor,
    helper::Helper,
    line::{finish, start},
    meter::Meter,
    nginx::Nginx,
    runtime, show,
};

const N: u64 = 60_000;
const ROUNDS: usize = 5;
/// As many at once as `oha` and `wrk` are given beside it.
const CONNECTIONS: u32 = 64;
const WAITING: u64 = 10_000;
const HOLD_MS: u64 = 4_000;

pub(crate) fn run(options: Options) -> Result<(), String> {
    raise_file_limit();
    let waiting = options.jobs(WAITING);
    let mut server = Helper::start(&format!("slow-server={HOLD_MS}"))?;
    let port = server.line()?;
    let stretch = ours(&format!("http://127.0.0.1:{port}/"), waiting, waiting as u32)?;
    let note = "jobs that all wait at once for an answer that takes 4 s: what matters is the memory";
    show(&Figure::alone("http-waiting", &[stretch], note), options);
    drop(server);

    let nginx = Nginx::start()?;
    let n = options.jobs(N);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push((ours(&format!("http://{}/", nginx.address), n, CONNECTIONS)?, bare(&nginx, n)?));
    }
    let note = "GETs to a local nginx, 64 at once; floor: bare hyper connections";
    show(&Figure::paired("http", &rounds, note), options);
    Ok(())
}

fn ours(url: &str, n: u64, slots: u32) -> Result<Stretch, String> {
    runtime(1)?.block_on(async {
        let provider = Arc::new(MemoryProvider::new());
        let entry = Bytes::from(json!({"type": "http", "params": {"url": url}}).to_string());
        provider.push_all((0..n).map(|_| entry.clone()));
        let workers = ConfiguredWorkers::new(HTTP, json!({})).expect("the plugin is a worker");
        let options = WorkerOptions { workers: slots, ..WorkerOptions::default() };
        let plan = Plan::new().opened("memory", ProviderOptions::default(), provider.clone()).worker(
            "http",
            options,
            Arc::new(workers),
        );
        let meter = Meter::start();
        let running = start(plan).await?;
        while provider.waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let stretch = meter.stop(n);
        let failed: u64 = running.status().report().by_type.values().map(|figures| figures.failed).sum();
        finish(running).await?;
        match failed {
            0 => Ok(stretch),
            failed => Err(format!("{failed} of {n} requests failed")),
        }
    })
}

fn bare(nginx: &Nginx, n: u64) -> Result<Stretch, String> {
    let runtime = runtime(2)?;
    let meter = Meter::start();
    runtime.block_on(floor::http::gets(nginx.address, n, CONNECTIONS as usize))?;
    Ok(meter.stop(n))
}

/// Ten thousand connections are as many open files: as many as the system lets us have.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it is refused, the connections will say so.
    let _ = setrlimit(Resource::Nofile, limit);
}
