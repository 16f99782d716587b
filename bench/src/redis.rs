//! The redis provider: drains beside the bare scripts, the effect of the backlog, bulk enqueue, renewal, and the wait of
//! a single job.

mod server;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ganger_core::{
    Beat, DynProvider, Exchange, Hold, Job, JobContext, JobError, LEASE, LeaseRef, ProviderOptions, Room,
    Timestamp, Token, TypeRoom,
};
use ganger_manager::Plan;
use ganger_provider_redis::PLUGIN;
use ganger_worker_function::function;
use redis::Connection;
use serde_json::{json, value::RawValue};

use self::server::Server;
use crate::{
    Figure, Options, Stretch, floor,
    line::{Count, finish, noop, noop_params, start},
    meter::Meter,
    runtime, show,
    store::{enqueue_one_batch, open, open_as, sink},
};

const N: u64 = 2_000_000;
const BACKLOG: (u64, u64) = (5_000_000, 500_000);
const ENQUEUED: u64 = 500_000;
const HELD: u64 = 50_000;
const ROUNDS: usize = 5;
const BATCH: usize = 500;
const LIST: &str = "jobs";
/// How many single jobs are timed, one every so often.
const SINGLES: u64 = 1_000;
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) fn run(options: Options) -> Result<(), String> {
    latency(options)?;
    bulk(options)?;
    renew(options)?;
    backlog(options)?;
    let n = options.jobs(N);
    let (mut rounds, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (ours, their_ours) = ours(n, 1)?;
        let (floor, their_floor) = bare(n)?;
        rounds.push((ours, floor));
        servers.push((their_ours, their_floor));
    }
    let note = "CPU of redis-server: a drain by ganger, beside the bare script";
    show(&Figure::paired("redis-server-cpu", &servers, note), options);
    let note = "150-byte no-ops pushed by RPUSH; floor: a bare list-to-list script, batch 500";
    show(&Figure::paired("redis", &rounds, note), options);
    Ok(())
}

fn entry(i: u64) -> String {
    format!(r#"{{"type":"noop","params":{}}}"#, noop_params(i))
}

fn fault(error: redis::RedisError) -> String {
    format!("redis: {error}")
}

fn fill(redis: &mut Connection, n: u64) -> Result<(), String> {
    const PART: u64 = 1_000;
    for from in (0..n).step_by(PART as usize) {
        let entries: Vec<String> = (from..n.min(from + PART)).map(entry).collect();
        redis::cmd("RPUSH").arg(LIST).arg(entries).query::<u64>(redis).map_err(fault)?;
    }
    Ok(())
}

/// A server's part of a stretch.
fn of_server(stretch: Stretch, cpu: f64) -> Stretch {
    Stretch { cpu, ..stretch }
}

async fn provider(server: &Server) -> Result<Arc<dyn DynProvider>, String> {
    open(PLUGIN, json!({"url": server.url(), "job_list": LIST})).await
}

/// A drain by so many managers: their stretch, and the server's.
fn ours(n: u64, managers: usize) -> Result<(Stretch, Stretch), String> {
    let server = Server::start()?;
    fill(&mut server.connect()?, n)?;
    runtime(1)?.block_on(async {
        let count = Count::up_to(n);
        let mut plans = Vec::new();
        for _ in 0..managers {
            let worker = noop(&count);
            let provider = provider(&server).await?;
            plans.push(Plan::new().opened_dyn("redis", ProviderOptions::default(), provider).worker(
                &worker.name,
                worker.options,
                worker.workers,
            ));
        }
        let (meter, cpu) = (Meter::start(), server.cpu_secs());
        let mut running = Vec::new();
        for plan in plans {
            running.push(start(plan).await?);
        }
        count.reached().await?;
        for one in running {
            finish(one).await?;
        }
        let stretch = meter.stop(n);
        Ok((stretch, of_server(stretch, server.cpu_secs() - cpu)))
    })
}

fn bare(n: u64) -> Result<(Stretch, Stretch), String> {
    let server = Server::start()?;
    let mut redis = server.connect()?;
    fill(&mut redis, n)?;
    let (meter, cpu) = (Meter::start(), server.cpu_secs());
    let drained = floor::redis::drain(&mut redis, LIST, BATCH).map_err(fault)?;
    let stretch = meter.stop(n);
    match drained == n {
        true => Ok((stretch, of_server(stretch, server.cpu_secs() - cpu))),
        false => Err(format!("the floor drained {drained} of {n} jobs")),
    }
}

/// The rate at a long backlog, beside a tenth of it; and the total of three managers beside one.
fn backlog(options: Options) -> Result<(), String> {
    let (long, short) = (options.jobs(BACKLOG.0), options.jobs(BACKLOG.1));
    let rounds = [(ours(long, 1)?.0, ours(short, 1)?.0)];
    let note = "a backlog of 5,000,000 beside one of 500,000, the `floor` here";
    show(&Figure::paired("redis-backlog", &rounds, note), options);
    let n = options.jobs(N / 2);
    let rounds = [(ours(n, 3)?.0, ours(n, 1)?.0), (ours(n, 3)?.0, ours(n, 1)?.0)];
    let note = "three managers on one list beside one, the `floor` here";
    show(&Figure::paired("redis-managers", &rounds, note), options);
    Ok(())
}

/// Bulk enqueue through the sink, beside a bare script that pushes the same batches.
fn bulk(options: Options) -> Result<(), String> {
    let n = options.jobs(ENQUEUED);
    let mut rounds = Vec::new();
    for _ in 0..3 {
        let server = Server::start()?;
        let entries: Vec<String> = (0..n).map(entry).collect();
        let mut redis = server.connect()?;
        let meter = Meter::start();
        floor::redis::push(&mut redis, LIST, &entries, BATCH).map_err(fault)?;
        let floor = meter.stop(n);
        let batches: Vec<Vec<Job>> = (0..n)
            .step_by(BATCH)
            .map(|from| (from..n.min(from + BATCH as u64)).map(noop_job).collect())
            .collect();
        let ours = runtime(1)?.block_on(async {
            let provider = provider(&server).await?;
            let sink = sink(&provider)?;
            let meter = Meter::start();
            let batches = Mutex::new(batches.into_iter());
            let next = || batches.lock().unwrap_or_else(PoisonError::into_inner).next();
            // Two on their way, so that one is written while the other is stored.
            let one_by_one = || async {
                while let Some(jobs) = next() {
                    enqueue_one_batch(&*sink, jobs).await?;
                }
                Ok::<_, String>(())
            };
            tokio::try_join!(one_by_one(), one_by_one())?;
            Ok::<_, String>(meter.stop(n))
        })?;
        rounds.push((ours, floor));
    }
    let note =
        "bulk enqueue in batches of 500, two at once; floor: a bare script that pushes the same batches";
    show(&Figure::paired("redis-enqueue", &rounds, note), options);
    Ok(())
}

fn noop_job(i: u64) -> Job {
    let params = RawValue::from_string(noop_params(i)).expect("the params are written as JSON");
    Job { kind: "noop".into(), params: Some(params), ..Job::default() }
}

/// What it costs the server to renew leases at the worst: each job is a claim of its own.
fn renew(options: Options) -> Result<(), String> {
    let n = options.jobs(HELD);
    let server = Server::start()?;
    fill(&mut server.connect()?, n)?;
    let rounds = runtime(1)?.block_on(async {
        let provider = provider(&server).await?;
        let beat = Beat {
            incarnation: 1,
            host: "bench".into(),
            pid: std::process::id(),
            version: String::new(),
            types: vec![("noop".into(), 1)],
            guarded: Vec::new(),
            draining: false,
            started: Timestamp::now(),
            lease_millis: u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX),
        };
        let mut held = Vec::new();
        for seq in 1..=n {
            let token = Token { incarnation: 1, seq };
            let types = vec![TypeRoom { kind: "noop".into(), jobs: 1 }];
            let room = Room { types, jobs: 1, bytes: 1 << 20, ..Room::default() };
            let give = Exchange { token, settle: Vec::new(), room, lease: LEASE };
            let leased = provider.exchange(&give).await.map_err(|error| error.to_string())?.leased;
            held.extend(leased.iter().map(|job| LeaseRef { token, index: job.index }));
        }
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let (meter, cpu) = (Meter::start(), server.cpu_secs());
            let holds = provider.renew(&beat, &held).await.map_err(|error| error.to_string())?;
            let stretch = meter.stop(n);
            rounds.push(of_server(stretch, server.cpu_secs() - cpu));
            if held.len() as u64 != n || holds.iter().any(|hold| *hold != Hold::Held) {
                return Err(format!("not all of {n} jobs are held"));
            }
        }
        Ok::<_, String>(rounds)
    })?;
    let note = "jobs held, each a claim of its own, renewed once; CPU of redis-server for each";
    show(&Figure::alone("redis-renew", &rounds, note), options);
    Ok(())
}

/// From just before an RPUSH by a producer to the start of the job, at 100 jobs a second.
fn latency(options: Options) -> Result<(), String> {
    let singles = options.jobs(SINGLES);
    let server = Server::start()?;
    let waits = runtime(2)?.block_on(async {
        let starts: Arc<Mutex<Vec<(u64, Instant)>>> = Arc::default();
        let worker = {
            let starts = starts.clone();
            function("noop", move |mail: serde_json::Value, _: JobContext| {
                let id = mail["id"].as_u64().unwrap_or(0);
                starts.lock().unwrap_or_else(PoisonError::into_inner).push((id, Instant::now()));
                std::future::ready(Ok::<(), JobError>(()))
            })
        };
        // The manager opens it, so that its connections live on the manager's own runtime, as they do for a user.
        let url = server.url();
        let open = Arc::new(move |cx| open_as(PLUGIN, json!({"url": url, "job_list": LIST}), cx));
        let plan = Plan::new().provider("redis", ProviderOptions::default(), open).worker(
            &worker.name,
            worker.options,
            worker.workers,
        );
        let running = start(plan).await?;
        let mut redis = server.connect()?;
        let push = move || {
            (0..singles)
                .map(|i| {
                    let at = Instant::now();
                    redis::cmd("RPUSH").arg(LIST).arg(entry(i)).query::<u64>(&mut redis).map_err(fault)?;
                    std::thread::sleep(PAUSE);
                    Ok(at)
                })
                .collect::<Result<Vec<Instant>, String>>()
        };
        let pushed = tokio::task::spawn_blocking(push).await.map_err(|error| error.to_string())??;
        let patience = tokio::time::Instant::now() + Duration::from_secs(10);
        let started = || starts.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        while started() < singles && tokio::time::Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        finish(running).await?;
        let starts = starts.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = |(id, at): &(u64, Instant)| {
            let pushed = pushed.get(usize::try_from(*id).ok()?)?;
            Some(at.saturating_duration_since(*pushed).as_secs_f64() * 1e3)
        };
        let waits: Vec<f64> = starts.iter().filter_map(wait).collect();
        match waits.len() as u64 == singles {
            true => Ok(waits),
            false => Err(format!("{} of {singles} jobs started", waits.len())),
        }
    })?;
    let note = "idle manager, RPUSH by a producer at 100 jobs/s: before the push to the start";
    show(&Figure::latency("redis-latency", &waits, note), options);
    Ok(())
}
