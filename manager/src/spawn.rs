//! Where tasks run: the manager's on a runtime of their own, so that no job can starve a renewal.

use std::sync::Arc;

use ganger_core::BoxFuture;
use tokio::runtime::{Builder, Handle, Runtime};

/// Runs tasks somewhere.
pub trait Spawn: Send + Sync + 'static {
    /// Runs a task until it ends.
    fn spawn(&self, task: BoxFuture<'static, ()>);
}

/// The runtimes of a manager: one for itself, its providers and intakes, one for the workers; and one for each pool
/// that is better off with a single thread ([`ganger_core::Worker::ONE_THREAD`]).
#[derive(Clone)]
pub struct Runtimes(Form);

#[derive(Clone)]
enum Form {
    Own,
    Given { manager: Arc<dyn Spawn>, workers: Arc<dyn Spawn> },
}

impl Runtimes {
    /// Two runtimes of its own: one thread for the manager, one a processor for the workers. The default.
    pub fn own() -> Self {
        Runtimes(Form::Own)
    }

    /// The runtime that the manager is started on, for all of it: for tests under paused time.
    pub fn current() -> Self {
        let here: Arc<dyn Spawn> = Arc::new(Current);
        Runtimes(Form::Given { manager: here.clone(), workers: here })
    }

    /// These two.
    pub fn given(manager: Arc<dyn Spawn>, workers: Arc<dyn Spawn>) -> Self {
        Runtimes(Form::Given { manager, workers })
    }

    pub(crate) fn manager(&self) -> std::io::Result<Arc<dyn Spawn>> {
        match &self.0 {
            Form::Own => Ok(Arc::new(OwnRuntime::start("ganger-manager", 1)?)),
            Form::Given { manager, .. } => Ok(manager.clone()),
        }
    }

    pub(crate) fn workers(&self) -> std::io::Result<Arc<dyn Spawn>> {
        match &self.0 {
            Form::Own => Ok(Arc::new(OwnRuntime::start("ganger-worker", processors())?)),
            Form::Given { workers, .. } => Ok(workers.clone()),
        }
    }
}

impl Runtimes {
    /// Where the slots of a pool run for which one thread is enough.
    pub(crate) fn one_thread(&self) -> std::io::Result<Arc<dyn Spawn>> {
        match &self.0 {
            Form::Own => Ok(Arc::new(OwnRuntime::start("ganger-worker", 1)?)),
            Form::Given { workers, .. } => Ok(workers.clone()),
        }
    }

    /// One more runtime for workers, where the manager has its own.
    pub(crate) fn fresh(&self) -> Option<Arc<dyn Spawn>> {
        match &self.0 {
            Form::Own => match OwnRuntime::start("ganger-worker", processors()) {
                Ok(runtime) => Some(Arc::new(runtime)),
                Err(error) => {
                    tracing::error!(%error, "no fresh runtime for workers that hold their threads");
                    None
                }
            },
            Form::Given { .. } => None,
        }
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// The runtime that the caller is on.
struct Current;

impl Spawn for Current {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }
}

impl Spawn for Handle {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(Handle::spawn(self, task));
    }
}

/// A runtime that ends with its last user. It is left to end by itself, since a task of it may be that user.
struct OwnRuntime {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl OwnRuntime {
    fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build()?;
        Ok(OwnRuntime { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Spawn for OwnRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(self.handle.spawn(task));
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
