//! A fresh disk store in a temporary folder, for the time of a measurement.

use std::sync::Arc;

use ganger_core::{
    Batch, BoxFuture, DynProvider, Job, JobId, Plugin, ProviderContext, ProviderError, Role, Sink,
    draw_incarnation,
};
use ganger_manager::SystemClock;
use ganger_provider_disk::PLUGIN as DISK;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How many jobs are enqueued together.
const BATCH: usize = 1_000;

/// A disk provider on a file of its own.
pub(crate) struct Store {
    folder: TempDir,
}

impl Store {
    pub(crate) fn new() -> Result<Self, String> {
        Ok(Store { folder: tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))? })
    }

    /// The path of the file.
    pub(crate) fn path(&self) -> String {
        self.folder.path().join("ganger.db").display().to_string()
    }

    /// Opens it as a user's config would who says nothing but where it is.
    pub(crate) async fn open(&self) -> Result<Arc<dyn DynProvider>, String> {
        open(DISK, json!({"db_name": self.path()})).await
    }
}

/// Opens a provider plugin with its options.
pub(crate) async fn open(plugin: Plugin, options: Value) -> Result<Arc<dyn DynProvider>, String> {
    let cx = ProviderContext {
        name: plugin.name.to_owned(),
        incarnation: draw_incarnation(),
        clock: Arc::new(SystemClock::new()),
        existing_only: false,
    };
    open_as(plugin, options, cx).await.map_err(|error| error.to_string())
}

/// The same for whoever has a context.
pub(crate) fn open_as(
    plugin: Plugin,
    options: Value,
    cx: ProviderContext,
) -> BoxFuture<'static, Result<Arc<dyn DynProvider>, ProviderError>> {
    match plugin.role {
        Role::Provider { open, .. } => open(options, cx),
        _ => {
            let message = format!("`{}` is no provider", plugin.name);
            Box::pin(async { Err(ProviderError::fatal(message)) })
        }
    }
}

/// The sink of a provider.
pub(crate) fn sink(provider: &Arc<dyn DynProvider>) -> Result<Arc<dyn Sink>, String> {
    provider.sink().ok_or_else(|| "the provider takes no jobs in".to_owned())
}

/// Enqueues jobs in batches.
pub(crate) async fn enqueue(sink: &dyn Sink, jobs: impl Iterator<Item = Job>) -> Result<(), String> {
    let mut jobs = jobs.peekable();
    while jobs.peek().is_some() {
        enqueue_one_batch(sink, jobs.by_ref().take(BATCH).collect()).await?;
    }
    Ok(())
}

/// Enqueues jobs together, and tells their ids.
pub(crate) async fn enqueue_one_batch(sink: &dyn Sink, jobs: Vec<Job>) -> Result<Vec<JobId>, String> {
    let answers = sink.enqueue(Batch::new(jobs)).await.map_err(|error| error.to_string())?;
    answers
        .into_iter()
        .map(|answer| answer.map(|enqueued| enqueued.id).map_err(|error| error.to_string()))
        .collect()
}
