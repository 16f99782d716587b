//! The worker's group.

use std::sync::Arc;

use ganger_core::{
    Advice, BoxFuture, DynWorker, Feed, Job, JobContext, JobError, NoSinks, Output, Secret, SlotContext,
    Slots, WorkerContext, Workers, erase_slots,
};

use crate::{eventually, soon};

/// What the suite needs of a worker's tests.
pub trait WorkerHarness: Send + Sync + 'static {
    /// The workers, as a pool makes them.
    fn workers(&self) -> impl Future<Output = Arc<dyn Slots>> + Send;

    /// A job that ends well at once.
    fn quick(&self) -> Job;

    /// A job that does not end before it is stopped; `None` for a worker that has no such job.
    fn endless(&self) -> Option<Job>;

    /// Whether the work of the endless job goes on now, seen from outside: its process lives, its connection is
    /// open, its guard has not been dropped.
    fn goes_on(&self) -> impl Future<Output = bool> + Send;

    /// A job whose params do not fit; `None` for a worker that takes any.
    fn misfit(&self) -> Option<Job> {
        let mut job = self.quick();
        job.params = Some(serde_json::value::RawValue::from_string("[[]]".into()).unwrap());
        Some(job)
    }
}

/// What a worker is told when its shared part is made, in a test.
pub fn worker_context(name: &str) -> WorkerContext {
    WorkerContext { name: name.into(), slots: 2, sinks: Arc::new(NoSinks), run: Secret::new("conformance") }
}

/// Makes the shared part of workers, as a pool does.
///
/// # Panics
/// They cannot be set up.
pub async fn share(name: &str, workers: &dyn Workers) -> Arc<dyn Slots> {
    soon("setting the workers up", workers.share(&worker_context(name)))
        .await
        .expect("the workers are set up")
}

/// The same for a worker type with its config.
///
/// # Panics
/// It cannot be set up.
pub async fn share_type<W: ganger_core::Worker>(config: W::Config) -> Arc<dyn Slots> {
    let shared = soon("setting the worker up", W::share(config, &worker_context(W::NAME))).await;
    erase_slots::<W>(shared.expect("the worker is set up"))
}

/// A feed of a few jobs that keeps how they ended.
#[derive(Default)]
pub struct Hopper {
    jobs: Vec<JobContext>,
    /// The job under way.
    pub current: Option<JobContext>,
    /// How each ended, in order.
    pub ends: Vec<Result<Output, JobError>>,
}

impl Hopper {
    /// A feed of these jobs, in order.
    pub fn new(jobs: Vec<Job>) -> Self {
        let jobs = jobs.into_iter().rev().map(|mut job| {
            job.accept(ganger_core::Timestamp::now());
            JobContext::detached(job)
        });
        Hopper { jobs: jobs.collect(), ..Hopper::default() }
    }
}

impl Feed for Hopper {
    fn next(&mut self) -> Option<JobContext> {
        self.current = self.jobs.pop();
        self.current.clone()
    }
    fn done(&mut self, result: Result<Output, JobError>) {
        assert!(self.current.take().is_some(), "each job is answered once, before the next is taken");
        self.ends.push(result);
    }
}

async fn slot(slots: &Arc<dyn Slots>, slot: u32) -> Box<dyn DynWorker> {
    let cx = SlotContext { name: "conformance".into(), slot };
    soon("making a worker", slots.create(&cx)).await.expect("a worker is made")
}

async fn does_quick_jobs(harness: &impl WorkerHarness, worker: &mut Box<dyn DynWorker>, n: usize) {
    let mut hopper = Hopper::new((0..n).map(|_| harness.quick()).collect());
    soon("quick jobs", worker.run(&mut hopper)).await.expect("the worker is ready for more");
    assert_eq!(hopper.ends.len(), n, "every job of a batch is answered");
    for end in hopper.ends {
        if let Err(error) = end {
            panic!("a quick job failed: {error}");
        }
    }
}

/// A run that is dropped (timeout, cancel, shutdown) has stopped its work when the drop returns, or fences it; its
/// worker value is dropped with it and made anew.
pub async fn a_run_that_is_dropped_timeout_cancel_shutdown_has_stopped_its_work_when_the_drop_returns_or_fences_it_its_worker_value_is_dropped_with_it_and_made_anew(
    harness: impl WorkerHarness,
) {
    let slots = harness.workers().await;
    let Some(endless) = harness.endless() else { return };
    let mut worker = slot(&slots, 0).await;
    let mut hopper = Hopper::new(vec![endless, harness.quick()]);
    let mut run: BoxFuture<'_, _> = worker.run(&mut hopper);
    tokio::select! {
        biased;
        () = eventually("the endless job's work", async || harness.goes_on().await) => {}
        _ = &mut run => panic!("the endless job has ended by itself"),
    }
    drop(run);
    drop(worker);
    eventually("the end of a dropped run's work", async || !harness.goes_on().await).await;
    assert!(hopper.ends.is_empty(), "a dropped run answers nothing");
    does_quick_jobs(&harness, &mut slot(&slots, 0).await, 2).await;
}

/// A run that ends in time sees no other run on its value.
pub async fn a_run_that_ends_in_time_sees_no_other_run_on_its_value(harness: impl WorkerHarness) {
    let slots = harness.workers().await;
    let (mut one, mut two) = (slot(&slots, 0).await, slot(&slots, 1).await);
    tokio::join!(does_quick_jobs(&harness, &mut one, 5), does_quick_jobs(&harness, &mut two, 5));
    does_quick_jobs(&harness, &mut one, 1).await;
}

/// Params that do not fit end the job dead, since another run would find the same; the next job is done.
pub async fn params_that_do_not_fit_end_the_job_dead(harness: impl WorkerHarness) {
    let Some(misfit) = harness.misfit() else { return };
    let slots = harness.workers().await;
    let mut worker = slot(&slots, 0).await;
    let mut hopper = Hopper::new(vec![misfit, harness.quick()]);
    soon("a job whose params do not fit", worker.run(&mut hopper))
        .await
        .expect("the worker is ready for more");
    match &hopper.ends[..] {
        [Err(error), Ok(_)] => assert_eq!(error.advice(), Advice::Dead, "{error}"),
        ends => panic!("not an error and a quick job's end: {ends:?}"),
    }
}
