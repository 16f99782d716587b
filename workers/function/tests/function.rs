//! What functions of all kinds yield.
#![allow(clippy::unwrap_used)]

use ganger_conformance::worker::{Hopper, share, worker_context};
use ganger_core::{
    Advice, Job, JobContext, JobError, Output, SlotContext, Worker, WorkerContext, WorkerError,
};
use ganger_worker_function::{CodeWorker, blocking, function, typed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, JsonSchema)]
struct Add {
    a: i32,
    b: i32,
}

async fn ends(code: &CodeWorker, jobs: Vec<Job>) -> Vec<Result<Output, JobError>> {
    let slots = share(&code.name, &*code.workers).await;
    let cx = SlotContext { name: code.name.clone(), slot: 0 };
    let mut worker = slots.create(&cx).await.unwrap();
    let mut hopper = Hopper::new(jobs);
    worker.run(&mut hopper).await.unwrap();
    hopper.ends
}

fn adds(numbers: &[(i32, i32)]) -> Vec<Job> {
    numbers.iter().map(|(a, b)| Job::new("add", &Add { a: *a, b: *b }).unwrap()).collect()
}

fn texts(ends: Vec<Result<Output, JobError>>) -> Vec<String> {
    ends.into_iter().map(|end| end.map_or_else(|error| error.to_string(), |output| output.text())).collect()
}

#[tokio::test]
async fn an_async_function_gets_its_params_and_its_return_is_the_output() {
    let code = function("add", async |add: Add, job: JobContext| -> Result<String, JobError> {
        Ok(format!("{} in run {}", add.a + add.b, job.attempt()))
    });
    assert_eq!(texts(ends(&code, adds(&[(1, 2), (3, 4)])).await), ["3 in run 1", "7 in run 1"]);
}

#[tokio::test]
async fn a_blocking_function_says_so() {
    let code = blocking("add", |add: Add, _: JobContext| {
        let sum = u32::try_from(add.a + add.b)?;
        Ok(sum.to_string())
    });
    assert!(code.workers.traits().blocking);
    let ends = ends(&code, adds(&[(1, 2), (1, -2)])).await;
    assert_eq!(ends[1].as_ref().unwrap_err().advice(), Advice::Retry, "any error can be tried again");
    assert_eq!(texts(ends)[0], "3");
}

/// Counts its jobs: a value of its own per slot.
struct Counter(u32);

impl Worker for Counter {
    const NAME: &'static str = "count";
    type Config = u32;
    type Params = ();
    type Shared = u32;

    async fn share(start: u32, _: &WorkerContext) -> Result<u32, WorkerError> {
        Ok(start)
    }
    async fn create(start: &u32, _: &SlotContext) -> Result<Self, WorkerError> {
        Ok(Counter(*start))
    }
    async fn work(&mut self, (): (), _: &JobContext) -> Result<Output, JobError> {
        self.0 += 1;
        Ok(self.0.to_string().into())
    }
}

#[tokio::test]
async fn a_type_of_the_programs_own_holds_what_it_needs_between_jobs() {
    let code = typed::<Counter>(7).slots(1);
    assert_eq!((code.name.as_str(), code.options.workers), ("count", 1));
    let job = || Job { kind: "count".into(), ..Job::default() };
    assert_eq!(texts(ends(&code, vec![job(), job()]).await), ["8", "9"]);
    assert!(code.workers.share(&worker_context("count")).await.is_ok());
}
