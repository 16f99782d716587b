//! Settlements: what a manager tells a provider about a job it had leased.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Attempt, Job, JobId, LeaseRef, Output, State, Timestamp};

/// What becomes of a leased job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ended well: the job leaves, or its record stays as long as it is kept.
    Done,
    /// Again at this time (state `scheduled`).
    Retry {
        /// Not before.
        at: Timestamp,
    },
    /// A dead letter, with the reason in one word or sentence (`retries spent`, `crashed`, `malformed: …`).
    Dead {
        /// Why.
        reason: String,
    },
    /// Ready again, in its old place in the order; nothing happened.
    Release,
    /// Not run, nothing spent: set aside to its type's lane, or until a time; claimed again only when its type
    /// has room.
    Park {
        /// Not before; `None` puts it to its type's lane.
        until: Option<Timestamp>,
    },
    /// Ended by an order.
    Cancelled,
    /// Not run, since another job held its `unique` key: it ends cancelled, with the reason
    /// ([`Unique::duplicate_of`](crate::Unique::duplicate_of)).
    Duplicate {
        /// The job that held it.
        of: Box<JobId>,
    },
    /// Not started in time.
    Expired,
}

impl Verdict {
    /// The state in which the verdict leaves the job at `now`.
    pub fn state(&self) -> State {
        match self {
            Verdict::Done => State::Done,
            Verdict::Retry { .. } | Verdict::Park { until: Some(_) } => State::Scheduled,
            Verdict::Dead { .. } => State::Dead,
            Verdict::Release | Verdict::Park { until: None } => State::Ready,
            Verdict::Cancelled | Verdict::Duplicate { .. } => State::Cancelled,
            Verdict::Expired => State::Expired,
        }
    }
}

/// Which budget a settlement spends from (P7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Spend {
    /// None: the run ended the job, was cut off, or never began.
    #[default]
    Nothing,
    /// One of `retries`: the handler's own error.
    Retry,
    /// One of `max_crashes`: the run was lost.
    Crash,
}

/// A settlement: one atomic step at the store. Conditional on the lease; a stale one changes nothing.
///
/// `Done` with nothing to keep is the settlement that every quick job ends with, so it costs no allocation.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The lease it settles.
    pub lease: LeaseRef,
    /// What becomes of the job.
    pub verdict: Verdict,
    /// What that spends.
    pub spend: Spend,
    /// What few settlements carry.
    pub more: Option<Box<SettlementMore>>,
}

/// What few [`Settlement`]s carry.
#[derive(Clone, Debug, Default)]
pub struct SettlementMore {
    /// The run's record, appended to the job's; the last ten are kept.
    pub attempt: Option<Attempt>,
    /// What the run printed, kept with the job's end (when captured or waited for).
    pub output: Option<Output>,
    /// Jobs that become real together with this settlement, or not at all.
    pub follow: Vec<Job>,
    /// How a failure-handler job ended, to be shown on the dead job that it handled.
    pub handled: Option<Handled>,
    /// The type of a raw entry that returns to the store, which could not read it: names the lane it waits in.
    pub kind: Option<CompactString>,
}

impl Settlement {
    /// A settlement that carries nothing more.
    pub fn new(lease: LeaseRef, verdict: Verdict) -> Self {
        Settlement { lease, verdict, spend: Spend::Nothing, more: None }
    }

    /// What few settlements carry, to write.
    pub fn more_mut(&mut self) -> &mut SettlementMore {
        self.more.get_or_insert_default()
    }
}

/// How a failure handler ended, shown on the job it was for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handled {
    /// The dead job.
    pub job: JobId,
    /// The handler's name in the config.
    pub handler: String,
    /// How it ended.
    pub state: State,
    /// What went wrong, where something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// All that is known of a failed job: what a failure handler is given to work on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailureRecord {
    /// The job, as it was enqueued.
    pub job: Job,
    /// Its state: `dead` or `expired`.
    pub state: State,
    /// Why it ended there.
    pub reason: String,
    /// The last error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its runs, the last ten.
    pub attempts: Vec<Attempt>,
    /// When it ended.
    pub at: Timestamp,
}

impl FailureRecord {
    /// The record as raw JSON: the `input` of a failure-handler job.
    pub fn to_raw(&self) -> Box<RawValue> {
        serde_json::value::to_raw_value(self)
            .expect("a record's fields are texts, numbers and JSON read as such")
    }
}
