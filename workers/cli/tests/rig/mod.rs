//! What the tests of this crate run commands with: the worker as the manager would use it, without the manager.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{fs, path::Path, sync::Arc};

use ganger_core::{
    Events, Job, JobContext, JobError, JobStart, LeaseRef, NoSinks, Output, Record, Secret, SlotContext,
    Token, Worker, WorkerContext,
};
use ganger_worker_cli::{Cli, Config, Entry, Params};
use serde_json::{Value, json};

/// A worker entry with its slots' common part.
pub(crate) struct Rig {
    pub(crate) entry: Arc<Entry>,
}

pub(crate) fn context(run: &str) -> WorkerContext {
    WorkerContext { name: "cli".into(), slots: 2, sinks: Arc::new(NoSinks), run: Secret::new(run) }
}

/// A mark that no other test has.
pub(crate) fn new_run() -> String {
    ganger_core::JobId::new().to_string()
}

impl Rig {
    pub(crate) async fn new() -> Rig {
        Rig::with(json!({})).await
    }

    pub(crate) async fn with(config: Value) -> Rig {
        Rig::of_run(config, &new_run()).await
    }

    pub(crate) async fn of_run(config: Value, run: &str) -> Rig {
        let config: Config = serde_json::from_value(config).unwrap();
        Rig { entry: Cli::share(config, &context(run)).await.unwrap() }
    }

    pub(crate) async fn slot(&self) -> Cli {
        Cli::create(&self.entry, &SlotContext { name: "cli".into(), slot: 0 }).await.unwrap()
    }

    /// Runs one job and says how it ended, with all that it printed.
    pub(crate) async fn run(&self, params: Value) -> (Result<Output, JobError>, String) {
        let mut slot = self.slot().await;
        run(&mut slot, &job(params)).await
    }

    /// Runs a line of shell.
    pub(crate) async fn sh(&self, line: &str) -> (Result<Output, JobError>, String) {
        self.run(sh(line)).await
    }
}

pub(crate) fn sh(line: &str) -> Value {
    json!({"command": "sh", "params": ["-c", line]})
}

pub(crate) fn job(params: Value) -> JobContext {
    JobContext::detached(with_id(params))
}

pub(crate) fn with_id(params: Value) -> Job {
    let mut job = Job::new("cli", &params).unwrap();
    job.id = Some(ganger_core::JobId::new());
    job
}

/// A job whose output is kept up to `output_max` bytes and told to `events`.
pub(crate) fn job_told(params: Value, output_max: usize, events: &Events) -> JobContext {
    JobContext::new(JobStart {
        job: with_id(params),
        lease: LeaseRef { token: Token { incarnation: 1, seq: 1 }, index: 0 },
        origin: 0,
        record: Record::default(),
        events: events.clone(),
        output_max,
    })
}

/// As the manager runs it.
pub(crate) async fn run(slot: &mut Cli, job: &JobContext) -> (Result<Output, JobError>, String) {
    let result = match job.params::<Params>() {
        Ok(params) => slot.work(params, job).await,
        Err(error) => Err(error),
    };
    let text = printed(job);
    (result, text)
}

pub(crate) fn printed(job: &JobContext) -> String {
    job.take_side().and_then(|side| side.output).map(|output| output.finish().text()).unwrap_or_default()
}

/// Awaits what must not hang.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    ganger_conformance::soon("the end of a run", what).await
}

/// Waits for what another process does: nothing tells of it, so it is looked for.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    ganger_conformance::eventually(what, async || is_so()).await;
}

/// The number that a command wrote into a file, once it is all there.
pub(crate) async fn number_in(path: &Path) -> i32 {
    let mut number = None;
    let read = || fs::read_to_string(path).ok()?.strip_suffix('\n')?.trim().parse().ok();
    eventually(&format!("a number in {}", path.display()), || {
        number = read();
        number.is_some()
    })
    .await;
    number.unwrap()
}

/// Whether a process lives: one that is only not yet waited for does not.
pub(crate) fn lives(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit_once(") ").unwrap().1.starts_with(['Z', 'X']),
        Err(_) => false,
    }
}

/// The names of the processes that have `GANGER_RUN=run` in their environment.
pub(crate) fn marked(run: &str) -> Vec<String> {
    let mark = format!("GANGER_RUN={run}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            found.push(fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned());
        }
    }
    found
}

/// This process's children, zombies too: how many.
pub(crate) fn children() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    threads
        .map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default())
        .map(|children| children.split_whitespace().count())
        .sum()
}

/// How many files this process has open.
pub(crate) fn files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
