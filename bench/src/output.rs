//! Output: one command that prints 10 GiB, by the cli worker, beside a plain reader of its pipe.

use std::{
    io::Read,
    process::{Command, Stdio},
    sync::Arc,
};

use ganger_core::{ConfiguredWorkers, Job, ProviderOptions, State, WorkerOptions};
use ganger_manager::Plan;
use ganger_worker_cli::PLUGIN as CLI;
use serde_json::json;

use crate::{
    Figure, Options, Stretch,
    line::{finish, start},
    meter::Meter,
    runtime, show,
    store::{Store, enqueue_one_batch, sink},
};

/// How many MiB the command prints.
const MIB: u64 = 10 << 10;
const ROUNDS: usize = 3;

pub(crate) fn run(options: Options) -> Result<(), String> {
    let mib = options.jobs(MIB);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push((ours(mib)?, plain(mib)?));
    }
    let note = "MiB, and MiB a second, that one job prints (head -c … /dev/zero); floor: the same into a read of 64 KiB";
    show(&Figure::paired("output", &rounds, note), options);
    Ok(())
}

fn arguments(mib: u64) -> [String; 3] {
    ["-c".to_owned(), (mib << 20).to_string(), "/dev/zero".to_owned()]
}

fn plain(mib: u64) -> Result<Stretch, String> {
    let meter = Meter::start();
    let fault = |error: std::io::Error| format!("the floor failed: {error}");
    let mut child =
        Command::new("head").args(arguments(mib)).stdout(Stdio::piped()).spawn().map_err(fault)?;
    let mut output = child.stdout.take().ok_or("the floor has no pipe")?;
    let (mut buffer, mut total) = (vec![0; 64 << 10], 0);
    loop {
        match output.read(&mut buffer).map_err(fault)? {
            0 => break,
            read => total += read as u64,
        }
    }
    child.wait().map_err(fault)?;
    let stretch = meter.stop(mib);
    if total == mib << 20 { Ok(stretch) } else { Err(format!("the floor read {total} bytes")) }
}

fn ours(mib: u64) -> Result<Stretch, String> {
    let store = Store::new()?;
    runtime(1)?.block_on(async {
        let provider = store.open().await?;
        let workers = ConfiguredWorkers::new(CLI, json!({})).expect("the plugin is a worker");
        let options = WorkerOptions { workers: 1, ..WorkerOptions::default() };
        let plan = Plan::new().opened_dyn("disk", ProviderOptions::default(), provider.clone()).worker(
            "cli",
            options,
            Arc::new(workers),
        );
        let params = json!({ "command": "head", "params": arguments(mib) });
        let mut job = Job::new("cli", &params).map_err(|error| error.to_string())?;
        job.capture_output = true;
        let meter = Meter::start();
        let running = start(plan).await?;
        let sink = sink(&provider)?;
        let ids = enqueue_one_batch(&*sink, vec![job]).await?;
        let ended = sink.ended(&ids).await.map_err(|error| error.to_string())?;
        let stretch = meter.stop(mib);
        finish(running).await?;
        let output =
            ended.iter().find(|end| end.state == Some(State::Done)).and_then(|end| end.output.as_ref());
        match output.map(ganger_core::Output::total) {
            Some(total) if total == mib << 20 => Ok(stretch),
            _ => Err(format!("the job has not printed {mib} MiB: {ended:?}")),
        }
    })
}
