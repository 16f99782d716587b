//! The sink: where jobs are made durable.

use std::fmt;

use compact_str::CompactString;
use serde::Serialize;

use crate::{Beat, BoxFuture, Job, JobId, Output, ProviderError, State, Unique};

/// Where jobs are made durable. Found by name once everything is open.
pub trait Sink: Send + Sync {
    /// Makes jobs durable, all of them in one step where the store can; answers for each, in order, once it is.
    ///
    /// # Behavior
    /// - An acknowledged job survives the end of the process.
    /// - A job without an id is given one.
    /// - The same id with the same content again answers the existing job, as long as its id is known.
    /// - The same id with other content is refused.
    /// - A field that the provider does not support is refused by name.
    /// - Refusing one job of a batch disturbs no other.
    /// - The same batch token again stores nothing twice.
    /// - A job whose unique key another job holds is refused, and that job is named.
    /// - A job holds its unique key exactly while it is in the states that it names.
    /// - Of several that enqueue the same unique key at once one is taken.
    /// - A job is never refused as its own duplicate.
    fn enqueue(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Result<Enqueued, Refused>>, ProviderError>>;

    /// The states of jobs, in order; `None` for an id that is not known (any more).
    fn states<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Option<State>>, ProviderError>>;

    /// Waits until at least one of the jobs has ended, and tells all that have; wakes whichever process ran
    /// them. An id that is not known counts as ended in no state. May be dropped at any time.
    fn ended<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Ended>, ProviderError>>;

    /// The managers that gave a sign of life within their lease.
    fn managers(&self) -> BoxFuture<'_, Result<Vec<Beat>, ProviderError>>;

    /// The types that jobs wait for, whether or not a manager does them.
    ///
    /// # Behavior
    /// - Every type of which a job is ready is named; one of which none is may be.
    fn ready_types(&self) -> BoxFuture<'_, Result<Vec<CompactString>, ProviderError>>;

    /// Asks for a job to be cancelled: a mark in the store (P9). `false` when it had ended or is not known.
    fn cancel<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<bool, ProviderError>>;
}

/// Jobs to enqueue together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Names the batch, so that repeating it after an unknown outcome stores nothing twice. Drawn at random.
    pub token: u128,
    /// The jobs, in order.
    pub jobs: Vec<Job>,
}

impl Batch {
    /// A batch with a token of its own.
    pub fn new(jobs: Vec<Job>) -> Self {
        Batch { token: uuid::Uuid::now_v7().as_u128(), jobs }
    }
}

/// A job that is durable now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Enqueued {
    /// Its id.
    pub id: JobId,
    /// It was there already, with the same content.
    pub existed: bool,
    /// Its state now.
    pub state: State,
}

/// Why a job was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedKind {
    /// A field that this store does not support, or a type that is not for outsiders.
    Unsupported,
    /// The id is taken by a job with other content.
    Conflict,
    /// Another job holds the `unique` key: [`Refused::holder`].
    Duplicate,
    /// Larger than the limit.
    TooLarge,
    /// The store is full.
    Full,
    /// Not a job at all.
    Malformed,
}

/// A job that was not taken, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// What kind of refusal it is.
    pub kind: RefusedKind,
    /// Why, and what to do.
    pub message: String,
    /// Of a duplicate: the job that holds its `unique` key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<JobId>,
}

impl Refused {
    /// A refusal.
    pub fn new(kind: RefusedKind, message: impl Into<String>) -> Self {
        Refused { kind, message: message.into(), holder: None }
    }

    /// A job whose `unique` key another one holds.
    pub fn duplicate(holder: JobId) -> Self {
        let message = Unique::duplicate_of(&holder);
        Refused { holder: Some(holder), ..Refused::new(RefusedKind::Duplicate, message) }
    }

    /// A field or type that is not supported.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Refused::new(RefusedKind::Unsupported, message)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

/// The end of a job, as one who waits for it learns it.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The job.
    pub id: JobId,
    /// How it ended; `None` when its record is gone.
    pub state: Option<State>,
    /// How many runs it had.
    pub runs: u32,
    /// The last error.
    pub error: Option<String>,
    /// What its last run printed, where that was kept.
    pub output: Option<Output>,
}
