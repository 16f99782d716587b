//! Functions as workers.

use std::{marker::PhantomData, sync::Arc};

use ganger_core::{
    BoxFuture, DynWorker, Feed, JobContext, JobError, Output, ParamsCheck, Period, SlotContext, Slots,
    TypedWorkers, Worker, WorkerContext, WorkerError, WorkerOptions, WorkerTraits, Workers,
};
use serde::de::DeserializeOwned;

/// A worker made in the program: what it is called, how it is run, and the code.
#[derive(Clone)]
pub struct CodeWorker {
    /// The type of the jobs it does.
    pub name: String,
    /// How it is run.
    pub options: WorkerOptions,
    /// Makes its slots.
    pub workers: Arc<dyn Workers>,
}

impl CodeWorker {
    fn new(name: impl Into<String>, workers: impl Workers + 'static) -> Self {
        CodeWorker { name: name.into(), options: WorkerOptions::default(), workers: Arc::new(workers) }
    }

    /// How many jobs of this type run at once.
    pub fn slots(mut self, slots: u32) -> Self {
        self.options.workers = slots;
        self
    }

    /// How often a failed job is run again, for jobs that do not say.
    pub fn retries(mut self, retries: u32) -> Self {
        self.options.retries = retries;
        self
    }

    /// The longest single run, for jobs that do not say.
    pub fn timeout(mut self, timeout: impl Into<Period>) -> Self {
        self.options.timeout = Some(timeout.into());
        self
    }

    /// All options at once.
    pub fn options(mut self, options: WorkerOptions) -> Self {
        self.options = options;
        self
    }
}

impl std::fmt::Debug for CodeWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CodeWorker").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A worker from an async function. Jobs of type `name` have their params read as `P`.
pub fn function<P, F, R, O>(name: impl Into<String>, work: F) -> CodeWorker
where
    P: DeserializeOwned + Send + 'static,
    F: Fn(P, JobContext) -> R + Send + Sync + 'static,
    R: Future<Output = Result<O, JobError>> + Send + 'static,
    O: Into<Output> + 'static,
{
    CodeWorker::new(name, Functions::of::<P>(Async(work, PhantomData), false))
}

/// A worker from a function that blocks its thread: each slot has a thread of its own.
pub fn blocking<P, F, O>(name: impl Into<String>, work: F) -> CodeWorker
where
    P: DeserializeOwned + Send + 'static,
    F: Fn(P, JobContext) -> Result<O, JobError> + Send + Sync + 'static,
    O: Into<Output> + 'static,
{
    CodeWorker::new(name, Functions::of::<P>(Blocking(work, PhantomData), true))
}

/// A worker from a type of the program's own; its name is the type of the jobs it does.
pub fn typed<W: Worker>(config: W::Config) -> CodeWorker
where
    W::Config: Clone,
{
    CodeWorker::new(W::NAME, TypedWorkers::<W>::new(config))
}

/// Does the jobs of a feed with one function that all slots share.
trait Run: Send + Sync + 'static {
    fn run<'a>(&'a self, feed: &'a mut dyn Feed) -> BoxFuture<'a, ()>;
}

/// What only names the types of a function: `F` of params `P` with output `O`.
type Signature<P, R> = PhantomData<fn(P) -> R>;

struct Async<P, F, R>(F, Signature<P, R>);

impl<P, F, R, O> Run for Async<P, F, R>
where
    P: DeserializeOwned + Send + 'static,
    F: Fn(P, JobContext) -> R + Send + Sync + 'static,
    R: Future<Output = Result<O, JobError>> + Send + 'static,
    O: Into<Output> + 'static,
{
    fn run<'a>(&'a self, feed: &'a mut dyn Feed) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while let Some(job) = feed.next() {
                let result = match job.params() {
                    Ok(params) => (self.0)(params, job).await.map(Into::into),
                    Err(error) => Err(error),
                };
                feed.done(result);
            }
        })
    }
}

struct Blocking<P, F, R>(F, Signature<P, R>);

impl<P, F, O> Run for Blocking<P, F, O>
where
    P: DeserializeOwned + Send + 'static,
    F: Fn(P, JobContext) -> Result<O, JobError> + Send + Sync + 'static,
    O: Into<Output> + 'static,
{
    fn run<'a>(&'a self, feed: &'a mut dyn Feed) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            while let Some(job) = feed.next() {
                let result = job.params().and_then(|params| (self.0)(params, job)).map(Into::into);
                feed.done(result);
            }
        })
    }
}

/// The workers of one function.
struct Functions {
    run: Arc<dyn Run>,
    params: ParamsCheck,
    blocking: bool,
}

impl Functions {
    fn of<P: DeserializeOwned>(run: impl Run, blocking: bool) -> Self {
        Functions { run: Arc::new(run), params: ParamsCheck::typed::<P>(), blocking }
    }
}

impl Workers for Functions {
    fn traits(&self) -> WorkerTraits {
        WorkerTraits { blocking: self.blocking, ..WorkerTraits::default() }
    }

    fn params_check(&self) -> ParamsCheck {
        self.params.clone()
    }

    fn share<'a>(&'a self, _: &'a WorkerContext) -> BoxFuture<'a, Result<Arc<dyn Slots>, WorkerError>> {
        Box::pin(async move { Ok(Arc::new(Shared(self.run.clone())) as Arc<dyn Slots>) })
    }
}

struct Shared(Arc<dyn Run>);

impl Slots for Shared {
    fn create<'a>(&'a self, _: &'a SlotContext) -> BoxFuture<'a, Result<Box<dyn DynWorker>, WorkerError>> {
        Box::pin(async move { Ok(Box::new(Slot(self.0.clone())) as Box<dyn DynWorker>) })
    }
}

struct Slot(Arc<dyn Run>);

impl DynWorker for Slot {
    fn run<'a>(&'a mut self, feed: &'a mut dyn Feed) -> BoxFuture<'a, Result<(), WorkerError>> {
        Box::pin(async move {
            self.0.run(feed).await;
            Ok(())
        })
    }
}
