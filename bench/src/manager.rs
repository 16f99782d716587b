//! The manager alone: entries in memory, read by the codec, done by a no-op.

use std::sync::Arc;

use bytes::Bytes;
use ganger_core::{Job, ProviderOptions};
use ganger_manager::Plan;
use ganger_provider_memory::MemoryProvider;

use crate::{
    Figure, Options, Stretch,
    line::{Count, Mail, finish, noop, noop_params, start},
    meter::Meter,
    runtime, show,
};

const N: u64 = 3_000_000;
const ROUNDS: usize = 5;

pub(crate) fn run(options: Options) -> Result<(), String> {
    let n = options.jobs(N);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push((ours(n, false)?, floor(n)));
    }
    let followed =
        (0..ROUNDS).map(|_| Ok((ours(n, true)?, ours(n, false)?))).collect::<Result<Vec<_>, String>>()?;
    let note = "the same while someone follows a job that does not come; floor: while nobody does";
    show(&Figure::paired("manager-followed", &followed, note), options);
    let note =
        "memory provider, JSON bytes read, no-op function; floor: read and call on one thread, no manager";
    show(&Figure::paired("manager", &rounds, note), options);
    Ok(())
}

fn entries(n: u64) -> Vec<Bytes> {
    (0..n).map(|i| Bytes::from(format!(r#"{{"type":"noop","params":{}}}"#, noop_params(i)))).collect()
}

fn ours(n: u64, followed: bool) -> Result<Stretch, String> {
    runtime(1)?.block_on(async {
        let provider = Arc::new(MemoryProvider::new());
        provider.push_all(entries(n));
        let count = Count::up_to(n);
        let worker = noop(&count);
        let plan = Plan::new().opened("memory", ProviderOptions::default(), provider.clone()).worker(
            &worker.name,
            worker.options,
            worker.workers,
        );
        let meter = Meter::start();
        let running = start(plan).await?;
        let quiet = "quiet".parse().expect("it is an id");
        let _follower = followed.then(|| running.events().follow(&quiet));
        count.reached().await?;
        finish(running).await?;
        let stretch = meter.stop(n);
        match provider.waiting() {
            0 => Ok(stretch),
            left => Err(format!("{left} entries were left unsettled")),
        }
    })
}

fn floor(n: u64) -> Stretch {
    let entries = entries(n);
    let meter = Meter::start();
    for entry in &entries {
        let job = Job::from_json(entry).expect("the entry was written above");
        let params: Mail = serde_json::from_str(job.params_text()).expect("the params were written above");
        std::hint::black_box(params);
    }
    meter.stop(n)
}
