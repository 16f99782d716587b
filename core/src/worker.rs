//! The worker: does jobs of one type.

use std::{marker::PhantomData, sync::Arc};

use futures_util::FutureExt;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::{BoxFuture, JobContext, JobError, OptionsError, Output, ParamsCheck, Secret, Sink, WorkerError};

/// What a worker is given when its slots' shared part is made.
#[derive(Clone)]
pub struct WorkerContext {
    /// The instance's name: the `type` of the jobs it does.
    pub name: String,
    /// How many slots there will be.
    pub slots: u32,
    /// Finds a sink by its name in the config, once everything is open; `None` names the default one.
    pub sinks: Arc<dyn Sinks>,
    /// This run of ganger: children carry it in their environment (`GANGER_RUN`).
    pub run: Secret,
}

/// Finds sinks by name, once everything is open.
pub trait Sinks: Send + Sync {
    /// The sink of a provider of the config; the default one for `None`.
    fn find(&self, name: Option<&str>) -> Option<Arc<dyn Sink>>;
    /// The names there are.
    fn names(&self) -> Vec<String>;
}

/// No sinks at all: for tests, and for programs whose workers need none.
pub struct NoSinks;

impl Sinks for NoSinks {
    fn find(&self, _: Option<&str>) -> Option<Arc<dyn Sink>> {
        None
    }
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a worker value is given when it is made.
#[derive(Clone, Debug)]
pub struct SlotContext {
    /// The instance's name.
    pub name: String,
    /// Which slot it is for, from 0.
    pub slot: u32,
}

/// Does jobs of one type. One value per slot, so that it may hold a process or a connection without locks.
///
/// # Behavior
/// - A run that is dropped (timeout, cancel, shutdown) has stopped its work when the drop returns, or fences it;
///   its worker value is dropped with it and made anew.
/// - A run that ends in time sees no other run on its value.
///
/// # The mistake everyone makes
/// Blocking the thread in an `async fn`. Work that blocks says `const BLOCKING: bool = true` and gets a thread
/// per slot.
pub trait Worker: Sized + Send + 'static {
    /// Its name in the config file.
    const NAME: &'static str;

    /// Whether `work` blocks its thread: then each slot has one of its own. Blocking code cannot be stopped: past
    /// its timeout it is fenced and left behind.
    const BLOCKING: bool = false;

    /// Whether `work` does next to nothing but wait for what goes on elsewhere, such as a process or a thread of its
    /// own: then one thread wakes all its slots, which costs least. One that waits for a network reads and writes
    /// too, and is better off where all processors can help.
    const ONE_THREAD: bool = false;

    /// Whether it takes jobs ahead ([`Feed::ahead`]): its slots are then handed as many at once as they do in a few
    /// milliseconds, although each run waits for what goes on elsewhere.
    const AHEAD: bool = false;

    /// Whether its jobs name commands to run: an intake takes such jobs only where its `accept` list names them.
    const RUNS_COMMANDS: bool = false;

    /// The params in which its jobs carry jobs: what is inside is held against `accept` too.
    const CARRIES: &'static [&'static str] = &[];

    /// Its options in the config file.
    type Config: DeserializeOwned + JsonSchema + Send + Sync;

    /// The arguments of its jobs.
    type Params: DeserializeOwned + JsonSchema + Send;

    /// What its slots share: a client, a pool.
    type Shared: Send + Sync + 'static;

    /// Says what is wrong with params that fit their type, as far as that can be told without a run: such a job
    /// is refused where it comes in. A run meets the same params, from a producer that nobody checked.
    ///
    /// # Errors
    /// What is wrong, with the path of the param.
    fn check(_config: &Self::Config, _params: &Self::Params) -> Result<(), OptionsError> {
        Ok(())
    }

    /// What is worth a word in `ganger check` about an entry with these options: how it will do what they ask.
    fn about(_config: &Self::Config) -> Option<String> {
        None
    }

    /// Makes what the slots share.
    fn share(
        config: Self::Config,
        cx: &WorkerContext,
    ) -> impl Future<Output = Result<Self::Shared, WorkerError>> + Send;

    /// Makes the worker of one slot.
    fn create(
        shared: &Self::Shared,
        cx: &SlotContext,
    ) -> impl Future<Output = Result<Self, WorkerError>> + Send;

    /// Does one job.
    fn work(
        &mut self,
        params: Self::Params,
        job: &JobContext,
    ) -> impl Future<Output = Result<Output, JobError>> + Send;

    /// Makes the value ready for its next job; failing, it is made anew.
    fn recycle(&mut self) -> Result<(), WorkerError> {
        Ok(())
    }

    /// Ends what the value has kept for jobs to come, such as a process: its slot gets no more, since ganger ends. The
    /// value is dropped afterwards, and without this where it was given up or is replaced. All slots close at once;
    /// whoever has not when the manager's grace is over is dropped in the middle, so that it must be safe to drop.
    ///
    /// A worker that blocks is not asked: its value is dropped on its own thread.
    fn close(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Does the jobs of a batch, one after the other. A worker that takes jobs ahead has its own way to do so; for any
    /// other this one is right. Dropping it drops the run under way.
    ///
    /// # Errors
    /// The worker could not be made ready for its next job: it must be made anew. Every job that `feed` gave has
    /// been answered.
    fn batch(&mut self, feed: &mut dyn Feed) -> impl Future<Output = Result<(), WorkerError>> + Send {
        async move {
            while let Some(job) = feed.next() {
                let result = match job.params::<Self::Params>() {
                    Ok(params) => self.work(params, &job).await,
                    Err(error) => Err(error),
                };
                feed.done(result);
                self.recycle()?;
            }
            Ok(())
        }
    }
}

/// The jobs of one batch, as a slot hands them to its worker one after the other.
pub trait Feed: Send {
    /// The next job, which is under way from now on; `None` ends the batch. While jobs are taken ahead it gives those,
    /// in their order, also one that was asked to stop meanwhile; `None` then means that the slot was given up, and what
    /// was taken ahead with it.
    fn next(&mut self) -> Option<JobContext>;
    /// The job that `next` gave last has ended so.
    fn done(&mut self, result: Result<Output, JobError>);
    /// The job after those taken ahead so far, to be got ready while another runs; `None` where there is none. It is not
    /// begun: it has no deadline, and is nobody else's until `next` gives it or it is given back.
    fn ahead(&mut self) -> Option<JobContext> {
        None
    }
    /// Gives back the last `count` of the jobs that were taken ahead: they have not been begun, and will not be here.
    fn give_back(&mut self, _count: usize) {}
}

/// A [`Worker`] with its types erased. One box per batch, not per job.
pub trait DynWorker: Send {
    /// Does the jobs of `feed` one after the other. Dropping it drops the run under way.
    ///
    /// # Errors
    /// The worker could not be made ready for its next job: it must be made anew. Every job that `feed` gave has
    /// been answered.
    fn run<'a>(&'a mut self, feed: &'a mut dyn Feed) -> BoxFuture<'a, Result<(), WorkerError>>;
    /// See [`Worker::close`].
    fn close(&mut self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

struct ErasedWorker<W>(W);

impl<W: Worker> DynWorker for ErasedWorker<W> {
    fn run<'a>(&'a mut self, feed: &'a mut dyn Feed) -> BoxFuture<'a, Result<(), WorkerError>> {
        self.0.batch(feed).boxed()
    }
    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.0.close().boxed()
    }
}

/// Makes the workers of one pool.
pub trait Workers: Send + Sync {
    /// What is special about the type.
    fn traits(&self) -> WorkerTraits;
    /// Checks the params of jobs that come in.
    fn params_check(&self) -> ParamsCheck {
        ParamsCheck::default()
    }
    /// Makes what the slots share, and with it the maker of slots.
    fn share<'a>(&'a self, cx: &'a WorkerContext) -> BoxFuture<'a, Result<Arc<dyn Slots>, WorkerError>>;
}

/// Makes the workers of single slots.
pub trait Slots: Send + Sync {
    /// Makes the worker of one slot.
    fn create<'a>(&'a self, cx: &'a SlotContext) -> BoxFuture<'a, Result<Box<dyn DynWorker>, WorkerError>>;
}

/// What is special about a worker's type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerTraits {
    /// See [`Worker::BLOCKING`].
    pub blocking: bool,
    /// See [`Worker::ONE_THREAD`].
    pub one_thread: bool,
    /// See [`Worker::AHEAD`].
    pub ahead: bool,
    /// See [`Worker::RUNS_COMMANDS`].
    pub runs_commands: bool,
    /// See [`Worker::CARRIES`].
    pub carries: &'static [&'static str],
}

impl WorkerTraits {
    /// The traits of a worker.
    pub const fn of<W: Worker>() -> Self {
        WorkerTraits {
            blocking: W::BLOCKING,
            one_thread: W::ONE_THREAD,
            ahead: W::AHEAD,
            runs_commands: W::RUNS_COMMANDS,
            carries: W::CARRIES,
        }
    }
}

struct SharedSlots<W: Worker>(W::Shared, PhantomData<fn() -> W>);

impl<W: Worker> Slots for SharedSlots<W> {
    fn create<'a>(&'a self, cx: &'a SlotContext) -> BoxFuture<'a, Result<Box<dyn DynWorker>, WorkerError>> {
        async move {
            let worker = W::create(&self.0, cx).await?;
            Ok(Box::new(ErasedWorker(worker)) as Box<dyn DynWorker>)
        }
        .boxed()
    }
}

/// Erases a worker's shared part: for makers of workers that are no plugins, such as closures.
pub fn erase_slots<W: Worker>(shared: W::Shared) -> Arc<dyn Slots> {
    Arc::new(SharedSlots::<W>(shared, PhantomData))
}
