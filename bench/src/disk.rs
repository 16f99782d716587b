//! The disk provider: drains beside the bare statements, the effect of the backlog, and the wait of a single job.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ganger_core::{Job, JobContext, JobError, JobId, ProviderOptions};
use ganger_manager::Plan;
use ganger_worker_function::function;
use rustix::time::{ClockId, clock_gettime};
use serde_json::value::RawValue;

use crate::{
    Figure, Options, Stretch, floor,
    helper::Helper,
    line::{Count, finish, noop, noop_params, start},
    meter::Meter,
    runtime, show,
    store::{Store, enqueue, enqueue_one_batch, open, sink},
};

const N: u64 = 200_000;
const BACKLOG: u64 = 2_000_000;
const ROUNDS: usize = 5;
/// The floor is the best of these.
const BATCHES: [i64; 4] = [500, 1_000, 2_000, 4_000];
/// How many single jobs are timed, one every so often.
const SINGLES: u64 = 1_000;
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) fn run(options: Options) -> Result<(), String> {
    latency_within(options)?;
    latency_across(options)?;
    backlog(options)?;
    let n = options.jobs(N);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push((ours(n)?, bare(n)?));
    }
    let note =
        "150-byte no-ops, FULL, finished jobs kept, user's defaults; floor: the same statements, best batch";
    show(&Figure::paired("disk", &rounds, note), options);
    Ok(())
}

fn noop_job(i: u64) -> Job {
    let params = RawValue::from_string(noop_params(i)).expect("the params are written as JSON");
    Job { kind: "noop".into(), params: Some(params), ..Job::default() }
}

/// Fills a store of its own, from a runtime that is gone before anything is measured.
fn filled(n: u64) -> Result<Store, String> {
    let store = Store::new()?;
    runtime(1)?.block_on(async {
        let provider = store.open().await?;
        enqueue(&*sink(&provider)?, (0..n).map(noop_job)).await?;
        provider.close().await.map_err(|error| error.to_string())
    })?;
    Ok(store)
}

fn ours(n: u64) -> Result<Stretch, String> {
    let store = filled(n)?;
    runtime(1)?.block_on(async {
        let provider = store.open().await?;
        let count = Count::up_to(n);
        let worker = noop(&count);
        let plan = Plan::new().opened_dyn("disk", ProviderOptions::default(), provider).worker(
            &worker.name,
            worker.options,
            worker.workers,
        );
        let meter = Meter::start();
        let running = start(plan).await?;
        count.reached().await?;
        finish(running).await?;
        Ok(meter.stop(n))
    })
}

fn bare(n: u64) -> Result<Stretch, String> {
    let mut best: Option<Stretch> = None;
    for batch in BATCHES {
        let store = filled(n)?;
        let meter = Meter::start();
        let drained = floor::sqlite::drain(&store.path(), batch)
            .map_err(|error| format!("the floor failed: {error}"))?;
        let stretch = meter.stop(n);
        if drained != n {
            return Err(format!("the floor drained {drained} of {n} jobs"));
        }
        if best.is_none_or(|best| stretch.rate() > best.rate()) {
            best = Some(stretch);
        }
    }
    best.ok_or_else(|| "no floor was measured".to_owned())
}

/// The rate at a backlog ten times as long, beside the usual one.
fn backlog(options: Options) -> Result<(), String> {
    let (long, short) = (options.jobs(BACKLOG), options.jobs(N));
    let rounds = [(ours(long)?, ours(short)?)];
    let note = "a backlog of 2,000,000 beside one of 200,000, the `floor` here";
    show(&Figure::paired("disk-backlog", &rounds, note), options);
    Ok(())
}

/// When a job was acknowledged and when it started, in nanoseconds of the system's monotonic clock.
#[derive(Default)]
struct Starts(Mutex<HashMap<JobId, u64>>);

impl Starts {
    fn note(&self, id: &JobId) {
        let now = monotonic();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), now);
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Milliseconds from each acknowledgement to the start; a job that started before its acknowledgement was
    /// read waited for nothing.
    fn waits(&self, acknowledged: &[(JobId, u64)]) -> Vec<f64> {
        let starts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wait =
            |(id, at): &(JobId, u64)| starts.get(id).map(|start| start.saturating_sub(*at) as f64 / 1e6);
        acknowledged.iter().filter_map(wait).collect()
    }
}

fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Runs `enqueue` beside an idle manager on a store, and tells the waits of the jobs it acknowledged.
fn waits(
    singles: u64,
    acknowledge: impl AsyncFnOnce(&Store) -> Result<Vec<(JobId, u64)>, String>,
) -> Result<Vec<f64>, String> {
    let store = Store::new()?;
    runtime(2)?.block_on(async {
        let starts = Arc::new(Starts::default());
        let worker = {
            let starts = starts.clone();
            function("noop", move |_: serde::de::IgnoredAny, job: JobContext| {
                starts.note(job.id());
                std::future::ready(Ok::<(), JobError>(()))
            })
        };
        let plan = Plan::new().opened_dyn("disk", ProviderOptions::default(), store.open().await?).worker(
            &worker.name,
            worker.options,
            worker.workers,
        );
        let running = start(plan).await?;
        let acknowledged = acknowledge(&store).await?;
        let patience = tokio::time::Instant::now() + Duration::from_secs(10);
        while starts.len() < singles as usize && tokio::time::Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        finish(running).await?;
        let waits = starts.waits(&acknowledged);
        match waits.len() as u64 == singles {
            true => Ok(waits),
            false => Err(format!("{} of {singles} jobs started", waits.len())),
        }
    })
}

fn latency_within(options: Options) -> Result<(), String> {
    let singles = options.jobs(SINGLES);
    let waits = waits(singles, async |store| {
        let provider = store.open().await?;
        one_by_one(&*sink(&provider)?, singles, |_, _| ()).await
    })?;
    let note = "idle manager, enqueue by the same process: acknowledged to started";
    show(&Figure::latency("disk-latency", &waits, note), options);
    Ok(())
}

fn latency_across(options: Options) -> Result<(), String> {
    let singles = options.jobs(SINGLES);
    let waits = waits(singles, async |store| {
        let path = store.path();
        let read = move || -> Result<Vec<(JobId, u64)>, String> {
            let mut other = Helper::start(&format!("enqueue={singles}:{path}"))?;
            (0..singles).map(|_| parse_acknowledged(&other.line()?)).collect()
        };
        tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?
    })?;
    let note = "idle manager, enqueue by another process: acknowledged to started";
    show(&Figure::latency("disk-latency-across", &waits, note), options);
    Ok(())
}

fn parse_acknowledged(line: &str) -> Result<(JobId, u64), String> {
    let (id, at) = line.split_once(' ').ok_or_else(|| format!("no acknowledgement: {line}"))?;
    let id = id.parse().map_err(|error| format!("{id}: {error}"))?;
    Ok((id, at.parse().map_err(|error| format!("{at}: {error}"))?))
}

/// Enqueues single jobs, one every so often.
async fn one_by_one(
    sink: &dyn ganger_core::Sink,
    singles: u64,
    mut tell: impl FnMut(&JobId, u64),
) -> Result<Vec<(JobId, u64)>, String> {
    let mut acknowledged = Vec::new();
    for i in 0..singles {
        let ids = enqueue_one_batch(sink, vec![noop_job(i)]).await?;
        let at = monotonic();
        for id in ids {
            tell(&id, at);
            acknowledged.push((id, at));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(acknowledged)
}

/// The other process of [`latency_across`]: enqueues `<count>:<path>` one by one, and prints each acknowledgement.
pub(crate) fn enqueue_role(argument: &str) -> Result<(), String> {
    let (count, path) = argument.split_once(':').ok_or("`count:path` is expected")?;
    let singles = count.parse().map_err(|_| "a count is expected".to_owned())?;
    runtime(1)?.block_on(async {
        let provider = open(ganger_provider_disk::PLUGIN, serde_json::json!({"db_name": path})).await?;
        one_by_one(&*sink(&provider)?, singles, |id, at| crate::print_line(&format!("{id} {at}")))
            .await
            .map(drop)
    })
}
