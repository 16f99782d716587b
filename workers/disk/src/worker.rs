//! Stores the job that it carries, or the record of one that failed.

use std::sync::Arc;

use compact_str::CompactString;
use ganger_core::{
    Batch, FailureRecord, HANDLER_PREFIX, Job, JobContext, JobError, OptionsError, Output, ProviderError,
    Refused, RefusedKind, Severity, SlotContext, Worker, WorkerContext, WorkerError,
};
use ganger_spool::{Source, Spool, SpoolOptions};
use tokio::sync::OnceCell;

use crate::{DiskConfig, DiskParams};

/// What the slots share: the open file.
pub struct DiskShared {
    name: String,
    config: DiskConfig,
    queue: Option<CompactString>,
    source: OnceCell<Source>,
}

impl DiskShared {
    /// The file, opened at the first need: one that is out of reach now may be back later.
    async fn source(&self) -> Result<&Source, ProviderError> {
        let open = async || {
            let spool = Spool::open(&self.config.db_name, SpoolOptions::default()).await?;
            Ok(spool.source(self.name.clone(), self.queue.clone()))
        };
        self.source.get_or_try_init(open).await
    }
}

/// Stores jobs and failure records in a file.
pub struct Disk(Arc<DiskShared>);

impl Worker for Disk {
    const NAME: &'static str = "disk";
    const CARRIES: &'static [&'static str] = &["job"];
    type Config = DiskConfig;
    type Params = DiskParams;
    type Shared = Arc<DiskShared>;

    fn check(_: &DiskConfig, params: &DiskParams) -> Result<(), OptionsError> {
        carried(params).map(drop)
    }

    async fn share(config: DiskConfig, cx: &WorkerContext) -> Result<Arc<DiskShared>, WorkerError> {
        if let Some(fault) = config.bucket.as_deref().and_then(ganger_core::name_fault) {
            return Err(WorkerError::new(format!("option `bucket`: {fault}")));
        }
        let queue = config.bucket.as_deref().map(CompactString::from);
        let shared = DiskShared { name: cx.name.clone(), config, queue, source: OnceCell::new() };
        match shared.source().await {
            Err(error) if error.severity() == Severity::Fatal => Err(WorkerError::new(error.to_string())),
            // Out of reach now: each job says so until it is back.
            _ => Ok(Arc::new(shared)),
        }
    }

    async fn create(shared: &Arc<DiskShared>, _: &SlotContext) -> Result<Self, WorkerError> {
        Ok(Disk(shared.clone()))
    }

    async fn work(&mut self, params: DiskParams, job: &JobContext) -> Result<Output, JobError> {
        let source = self.0.source().await.map_err(at_store)?;
        match job.failure()? {
            Some(record) => keep(source, &params, job, record).await,
            None => defer(source, params, job).await,
        }
    }
}

/// The job to store.
fn carried(params: &DiskParams) -> Result<Job, OptionsError> {
    let Some(raw) = &params.job else {
        return Err(OptionsError::of("job", "it is missing: it is the job to store"));
    };
    let carried = Job::from_json(raw.get().as_bytes()).map_err(|why| OptionsError::of("job", why.message))?;
    if carried.kind.starts_with(HANDLER_PREFIX) {
        let fault = format!("types that begin with `{HANDLER_PREFIX}` are ganger's own");
        return Err(OptionsError::of("job", fault));
    }
    if params.execution_time.is_some() && (carried.run_at.is_some() || carried.rare().delay.is_some()) {
        let fault = "the job says itself when, by `run_at` or `delay`: give one of them";
        return Err(OptionsError::of("execution_time", fault));
    }
    Ok(carried)
}

/// Stores the carried job. It is on the disk before this job is done.
async fn defer(source: &Source, params: DiskParams, job: &JobContext) -> Result<Output, JobError> {
    let mut carried = carried(&params).map_err(|error| job.unfit(&error))?;
    if let Some(when) = params.execution_time {
        carried.run_at = Some(when.0);
    }
    // The same id on every run, so that a rerun stores no second job.
    carried.id.get_or_insert_with(|| job.id().child(1));
    let answers = source.enqueue(Batch::new(vec![carried])).await.map_err(at_store)?;
    match answers.into_iter().next() {
        Some(Ok(stored)) => Ok(Output::from(format!("{} is {}\n", stored.id, stored.state))),
        Some(Err(refused)) => Err(refusal(&refused)),
        None => Err(JobError::retry("the job store gave no answer for the job")),
    }
}

/// Stores the whole record of a failed job, which no worker runs.
async fn keep(
    source: &Source,
    params: &DiskParams,
    job: &JobContext,
    record: FailureRecord,
) -> Result<Output, JobError> {
    if params.job.is_some() || params.execution_time.is_some() {
        return Err(JobError::dead("`job` and `execution_time` are not for a failure handler"));
    }
    let id = job.id().child(1);
    source.keep_record(id.clone(), record).await.map_err(at_store)?;
    Ok(Output::from(format!("the record is {id}\n")))
}

fn at_store(error: ProviderError) -> JobError {
    match error.severity() {
        Severity::Transient => JobError::retry(error.to_string()),
        Severity::Fatal => JobError::dead(error.to_string()),
    }
}

fn refusal(refused: &Refused) -> JobError {
    let message = format!("the job was refused: {refused}");
    match refused.kind {
        RefusedKind::Full => JobError::retry(message),
        // Its work is there already, or under way.
        RefusedKind::Duplicate => JobError::discard(message),
        _ => JobError::dead(message),
    }
}
