//! Looking at stored jobs, and giving orders about them.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{Attempt, BoxFuture, Handled, Job, JobId, Output, ProviderError, State, Timestamp};

/// Looks at stored jobs and changes them. Works with or without a running manager.
pub trait Admin: Send + Sync {
    /// Jobs that match, newest first, at most `page.limit` (clamped to 1,000), from after `page.after`.
    fn list<'a>(
        &'a self,
        filter: &'a Filter,
        page: &'a Page,
    ) -> BoxFuture<'a, Result<Vec<JobView>, ProviderError>>;

    /// How many jobs match.
    fn count<'a>(&'a self, filter: &'a Filter) -> BoxFuture<'a, Result<u64, ProviderError>>;

    /// How many jobs there are of each queue, type and state.
    fn counts(&self) -> BoxFuture<'_, Result<Vec<Count>, ProviderError>>;

    /// One job, with all that is known of it; `None` when it is not known (any more).
    fn show<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<Option<JobView>, ProviderError>>;

    /// Carries out an order on all jobs that match; answers how many it changed. Jobs in a state that the order
    /// does not fit are passed over.
    ///
    /// # Behavior
    /// - Retrying a dead, cancelled or expired job makes it ready with its budgets restored; a scheduled one is due now.
    /// - Cancelling a waiting job ends it at once; a running one is marked, and its holder learns it by renewal.
    /// - Removing a job that is not running forgets it; a running one is passed over.
    /// - Retrying a job whose unique key another job holds by now leaves it as it is.
    fn order<'a>(&'a self, order: Order, filter: &'a Filter) -> BoxFuture<'a, Result<u64, ProviderError>>;

    /// The job that holds a `unique` key now. None where the provider does not declare `unique`.
    fn holder<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<JobId>, ProviderError>> {
        let _ = key;
        Box::pin(async { Ok(None) })
    }

    /// How many jobs lie stranded, found by a search; changes nothing. None where the provider does not declare
    /// `recover`.
    fn stranded(&self) -> BoxFuture<'_, Result<Stranded, ProviderError>> {
        Box::pin(async { Ok(Stranded::default()) })
    }

    /// Brings stranded jobs back; answers how many. Dropped or failed half-way it has brought some back, and may be
    /// called again.
    ///
    /// # Behavior
    /// - Recovering brings each stranded job back once, and leaves one that may still run where it is.
    fn recover(&self) -> BoxFuture<'_, Result<Stranded, ProviderError>> {
        Box::pin(async { Ok(Stranded::default()) })
    }
}

/// Jobs that interrupted runs of the program which used the store before ganger have left in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stranded {
    /// How many can be brought back, or were.
    pub jobs: u64,
    /// How many more may still run there: they are left where they are.
    pub held: u64,
    /// What a person has to see to first, as a sentence.
    pub caution: String,
}

/// What can be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Run it again, from the start.
    Retry,
    /// End it as cancelled.
    Cancel,
    /// Forget it.
    Remove,
}

/// Which jobs. Everything that is set must hold; an empty filter is all jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// These ids.
    pub ids: Option<Vec<JobId>>,
    /// In one of these states.
    pub states: Option<Vec<State>>,
    /// Of this type.
    pub kind: Option<String>,
    /// Of this queue.
    pub queue: Option<String>,
    /// With this name.
    pub name: Option<String>,
    /// Whose last error contains this.
    pub error: Option<String>,
}

impl Filter {
    /// These jobs.
    pub fn ids(ids: Vec<JobId>) -> Self {
        Filter { ids: Some(ids), ..Filter::default() }
    }

    /// Whether it is all jobs.
    pub fn is_all(&self) -> bool {
        *self == Filter::default()
    }
}

/// Which part of a long list.
#[derive(Clone, Debug)]
pub struct Page {
    /// At most so many.
    pub limit: usize,
    /// Those after this one, in the list's order.
    pub after: Option<JobId>,
}

impl Default for Page {
    fn default() -> Self {
        Page { limit: 50, after: None }
    }
}

/// How many jobs there are of a queue, type and state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// The queue.
    pub queue: String,
    /// The type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The state.
    pub state: State,
    /// How many.
    pub count: u64,
}

/// A stored job, with all that is known of it.
#[derive(Clone, Debug)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// The job; `None` for an entry that is no job.
    pub job: Option<Job>,
    /// The bytes of an entry that is no job.
    pub raw: Option<Vec<u8>>,
    /// Its state.
    pub state: State,
    /// Why it is in that state, where there is something to say.
    pub reason: Option<String>,
    /// Retries spent.
    pub spent: u32,
    /// Crashes spent.
    pub crashes: u32,
    /// Whether it waits for a retry rather than for its first time.
    pub retrying: bool,
    /// Whether someone has asked for it to be cancelled.
    pub cancel: bool,
    /// When it is due, while it is scheduled.
    pub run_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Which manager holds it.
    pub holder: Option<String>,
    /// Its last runs.
    pub attempts: Vec<Attempt>,
    /// What its last run printed, where that was kept.
    pub output: Option<Output>,
    /// How its failure handlers ended.
    pub handled: Vec<Handled>,
    /// What a failure-handler job works on.
    pub input: Option<Box<RawValue>>,
}
