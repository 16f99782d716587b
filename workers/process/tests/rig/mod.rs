//! What the tests of this crate run programs with: the worker as the manager would use it, without the manager.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{fs, path::Path, sync::Arc};

pub(crate) use ganger_conformance::Belt;
use ganger_conformance::worker::worker_context;
use ganger_core::{
    DynWorker, Job, JobContext, JobError, JobStart, LeaseRef, Output, Record, Secret, SlotContext, Slots,
    Token, Worker, WorkerContext, WorkerError, erase_slots,
};
use ganger_worker_process::Process;
use serde_json::{Value, json};

/// The program that does wrong what it is asked to.
pub(crate) const CHILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rig/child.py");

/// A config for the program of this rig; `more` goes on top.
pub(crate) fn config(child: &Value, more: &Value) -> Value {
    let mut config = json!({
        "command": "python3",
        "params": [CHILD, child.to_string()],
        "grace": "5s",
        "backoff": {"initial": "1ms", "max": "20ms", "jitter": 0.0},
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// The slots of an entry, in a run of their own: what carries another run's mark goes with that one.
pub(crate) async fn slots(child: &Value, more: &Value) -> Arc<dyn Slots> {
    let run = Secret::new(ganger_core::JobId::new().to_string());
    let cx = WorkerContext { run, ..worker_context("process") };
    let config = serde_json::from_value(config(child, more)).unwrap();
    erase_slots::<Process>(Process::share(config, &cx).await.unwrap())
}

pub(crate) async fn try_slot(slots: &Arc<dyn Slots>, slot: u32) -> Result<Box<dyn DynWorker>, WorkerError> {
    slots.create(&SlotContext { name: "process".into(), slot }).await
}

pub(crate) async fn slot(child: &Value, more: &Value) -> Box<dyn DynWorker> {
    try_slot(&slots(child, more).await, 0).await.unwrap()
}

pub(crate) fn job(params: &Value) -> JobContext {
    context(Job::new("process", params).unwrap())
}

pub(crate) fn context(mut job: Job) -> JobContext {
    static SEQ: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let seq = SEQ.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    job.accept(ganger_core::Timestamp::now());
    JobContext::new(JobStart {
        job,
        lease: LeaseRef { token: Token { incarnation: 1, seq }, index: 0 },
        origin: 0,
        record: Record::default(),
        events: ganger_core::Events::default(),
        output_max: 1 << 20,
    })
}

/// Has the worker do jobs.
pub(crate) async fn run(worker: &mut Box<dyn DynWorker>, belt: &mut Belt) -> Result<(), WorkerError> {
    ganger_conformance::soon("the end of a batch", worker.run(belt)).await
}

/// Does one job; how it ended, and what was printed in it.
pub(crate) async fn one(
    worker: &mut Box<dyn DynWorker>,
    params: Value,
) -> (Result<Output, JobError>, String) {
    let job = job(&params);
    let mut belt = Belt::of([job.clone()]);
    run(worker, &mut belt).await.unwrap();
    let (_, end) = belt.ends.pop().expect("the job was answered");
    (end, printed(&job))
}

pub(crate) fn printed(job: &JobContext) -> String {
    job.take_side().and_then(|side| side.output).map(|output| output.finish().text()).unwrap_or_default()
}

pub(crate) fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Whether a process lives: one that is only not yet waited for does not.
pub(crate) fn lives(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit_once(") ").unwrap().1.starts_with(['Z', 'X']),
        Err(_) => false,
    }
}

pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    ganger_conformance::eventually(what, async || is_so()).await;
}

/// The process of a slot's program.
pub(crate) async fn pid_of(worker: &mut Box<dyn DynWorker>) -> i32 {
    one(worker, json!({"do": "pid"})).await.0.unwrap().text().parse().unwrap()
}
