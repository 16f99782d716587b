//! Programs that stay: no-op jobs by the Python client, beside a bare loop that writes and reads the same lines.

use std::{sync::Arc, time::Duration};

use ganger_core::{ConfiguredWorkers, Job, ProviderOptions, WorkerOptions};
use ganger_manager::Plan;
use ganger_worker_process::PLUGIN as PROCESS;
use serde_json::json;

use crate::{
    Figure, Options, Stretch, floor,
    line::{finish, start},
    meter::Meter,
    runtime, show,
    store::{Store, enqueue, sink},
};

const N: u64 = 100_000;
const ROUNDS: usize = 5;
const SLOTS: u32 = 2;

/// So many jobs are done before it is measured: the programs are up, and known as quick.
const WARM_UP: u64 = 2_000;

const CLIENT: &str = include_str!("../../clients/ganger.py");
const PROGRAM: &str = "import ganger\n\n@ganger.worker\ndef noop():\n    pass\n\nganger.run()\n";

pub(crate) fn run(options: Options) -> Result<(), String> {
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        return Err("python3 is not in PATH: install it".to_owned());
    }
    let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let script = folder.path().join("noop.py");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
    write("ganger.py", CLIENT)
        .and_then(|()| write("noop.py", PROGRAM))
        .map_err(|error| format!("the program cannot be written: {error}"))?;
    let n = options.jobs(N);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let meter = Meter::start();
        floor::lines::noops(&script, n, SLOTS as usize)
            .map_err(|error| format!("the floor failed: {error}"))?;
        let floor = meter.stop(n);
        rounds.push((ours(&script, n)?, floor));
    }
    let note = "no-op jobs in Python over two slots, every job durable on disk; floor: the same programs, 64 lines written and read in turn";
    show(&Figure::paired("process", &rounds, note), options);
    Ok(())
}

fn ours(script: &std::path::Path, n: u64) -> Result<Stretch, String> {
    let store = Store::new()?;
    runtime(1)?.block_on(async {
        let provider = store.open().await?;
        let job = Job::new("noop", &json!({})).map_err(|error| error.to_string())?;
        enqueue(&*sink(&provider)?, (0..n + WARM_UP).map(|_| job.clone())).await?;
        let options = json!({"command": "python3", "params": [script]});
        let workers = ConfiguredWorkers::new(PROCESS, options).expect("the plugin is a worker");
        let options = WorkerOptions { workers: SLOTS, ..WorkerOptions::default() };
        let plan = Plan::new().opened_dyn("disk", ProviderOptions::default(), provider.clone()).worker(
            "noop",
            options,
            Arc::new(workers),
        );
        let running = start(plan).await?;
        let status = running.status();
        let figures = || status.report().by_type.get("noop").copied().unwrap_or_default();
        let until = async |runs: u64| {
            while figures().runs < runs {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            figures().runs
        };
        let begun = until(WARM_UP).await;
        let meter = Meter::start();
        until(n + WARM_UP).await;
        let stretch = meter.stop(n + WARM_UP - begun);
        finish(running).await?;
        match figures().done == n + WARM_UP {
            true => Ok(stretch),
            false => Err(format!("{} of {} jobs are done", figures().done, n + WARM_UP)),
        }
    })
}
