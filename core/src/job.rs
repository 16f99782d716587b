//! The job: what a producer asks for.

use std::time::Duration;

use compact_str::CompactString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Backoff, JobId, Period, State, Timestamp, Unique};

/// The largest job accepted by default, in bytes of its JSON text.
pub const JOB_BYTES_MAX: usize = 1 << 20;

/// The longest type, queue, header or label name, in bytes.
pub const NAME_MAX: usize = 200;

/// The queue of a job that names none.
pub const DEFAULT_QUEUE: &str = "default";

/// What the types of failure-handler jobs begin with: a space of ganger's own, refused from outside.
pub const HANDLER_PREFIX: &str = "failure_handler.";

/// A piece of work, as a producer describes it.
///
/// The wire form is a JSON object (see [`Job::from_json`]); every field but `type` is optional, unknown fields
/// are kept and handed on. What a provider needs at every claim is in the struct itself; what few jobs use is
/// in [`rare`](Job::rare), so that a waiting job costs little more than its bytes.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// Which worker does it: the name that a worker has in the config (`type` on the wire).
    pub kind: CompactString,
    /// The worker's own arguments, untouched until the worker parses them.
    pub params: Option<Box<RawValue>>,
    /// Unique; fixed at the first durable write.
    pub id: Option<JobId>,
    /// A label for people, logs and stats.
    pub name: Option<CompactString>,
    /// Order, pause and weights are per queue; [`DEFAULT_QUEUE`] when absent.
    pub queue: Option<CompactString>,
    /// How often a failed job is run again; the worker's configured default when absent.
    pub retries: Option<u32>,
    /// Higher first, where the provider can order. Default 0.
    pub priority: i32,
    /// Keep the worker's output with the result.
    pub capture_output: bool,
    /// The longest single run.
    pub timeout: Option<Duration>,
    /// Not before this time.
    pub run_at: Option<Timestamp>,
    /// If not started by then, the job is expired.
    pub expires_at: Option<Timestamp>,
    /// Set at the first durable write.
    pub created_at: Option<Timestamp>,
    /// Fields that few jobs have.
    pub rare: Option<Box<Rare>>,
}

/// The fields of a [`Job`] that few jobs have.
#[derive(Clone, Debug, Default)]
pub struct Rare {
    /// `delay`: becomes `run_at` at the first durable write, and is then gone.
    pub delay: Option<Duration>,
    /// `max_age`: becomes `expires_at` at the first durable write, and is then gone.
    pub max_age: Option<Duration>,
    /// How long to wait before each retry; the worker's configured default when absent.
    pub backoff: Option<Backoff>,
    /// Refuse a second job of this key while the first is in the named states.
    pub unique: Option<Unique>,
    /// At most so many at once, or so many a time, of this key.
    pub limit: Option<Limit>,
    /// Ids of jobs that must be done first.
    pub after: Vec<JobId>,
    /// `traceparent`, tenant, whatever: given to `cli` as environment, to `http` as headers.
    pub headers: Vec<(CompactString, String)>,
    /// How long the record of its end stays; a waiter sets it; the store's default when absent.
    pub keep: Option<Duration>,
    /// What a failure-handler job works on (a [`FailureRecord`](crate::FailureRecord)). Never read from the wire.
    pub input: Option<Box<RawValue>>,
    /// The intake it came through, for the stats (`via`). Never read from the wire.
    pub via: Option<CompactString>,
    /// Fields that ganger does not know, kept as they came.
    pub unknown: Vec<(CompactString, Box<RawValue>)>,
}

/// `limit`: bounds on the jobs of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Jobs with the same key share the bounds.
    pub key: String,
    /// At most so many running at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// At most so many starts in a time, like `10/s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
}

static NOTHING_RARE: Rare = Rare {
    delay: None,
    max_age: None,
    backoff: None,
    unique: None,
    limit: None,
    after: Vec::new(),
    headers: Vec::new(),
    keep: None,
    input: None,
    via: None,
    unknown: Vec::new(),
};

impl Job {
    /// A job of a type, with its params.
    ///
    /// # Errors
    /// When `params` cannot be written as JSON.
    ///
    /// ```
    /// use ganger_core::Job;
    /// let job = Job::new("cli", &serde_json::json!({"command": "true"})).unwrap();
    /// assert_eq!(job.kind, "cli");
    /// ```
    pub fn new(kind: impl Into<CompactString>, params: &impl Serialize) -> Result<Self, serde_json::Error> {
        let params = serde_json::value::to_raw_value(params)?;
        Ok(Job { kind: kind.into(), params: Some(params), ..Job::default() })
    }

    /// The rare fields, to read.
    pub fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(&NOTHING_RARE)
    }

    /// The rare fields, to write.
    pub fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// The queue's name, defaulted.
    pub fn queue(&self) -> &str {
        self.queue.as_deref().unwrap_or(DEFAULT_QUEUE)
    }

    /// The params' JSON text; `null` when absent.
    pub fn params_text(&self) -> &str {
        self.params.as_ref().map_or("null", |raw| raw.get())
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.rare().headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Fixes what is fixed at the first durable write: the id (unless the producer gave one), `created_at`,
    /// and the times that `delay` and `max_age` stand for. Doing it again changes nothing.
    pub fn accept(&mut self, now: Timestamp) -> &JobId {
        let created = *self.created_at.get_or_insert(now);
        if let Some(rare) = &mut self.rare {
            if let Some(delay) = rare.delay.take() {
                self.run_at.get_or_insert(created.plus(delay));
            }
            if let Some(max_age) = rare.max_age.take() {
                self.expires_at.get_or_insert(created.plus(max_age));
            }
        }
        self.id.get_or_insert_with(JobId::new)
    }

    /// The state in which the job begins at `now`.
    pub fn initial_state(&self, now: Timestamp) -> State {
        if self.run_at.is_some_and(|at| at > now) { State::Scheduled } else { State::Ready }
    }

    /// Whether `other` asks for the same work: what makes a repeated enqueue of one id the same job. Compared
    /// as the producers wrote it; ids and times that ganger fixed do not count.
    pub fn same_content(&self, other: &Job) -> bool {
        let raw = |a: &Option<Box<RawValue>>, b: &Option<Box<RawValue>>| {
            a.as_ref().map_or("null", |raw| raw.get()) == b.as_ref().map_or("null", |raw| raw.get())
        };
        self.kind == other.kind
            && raw(&self.params, &other.params)
            && self.queue() == other.queue()
            && self.name == other.name
            && self.retries == other.retries
            && self.priority == other.priority
    }

    /// A rough count of the bytes that the job occupies, for limits in bytes.
    pub fn weight(&self) -> usize {
        let rare = self.rare();
        let texts = |pairs: &[(CompactString, String)]| -> usize {
            pairs.iter().map(|(key, value)| key.len() + value.len()).sum()
        };
        self.params_text().len()
            + self.kind.len()
            + self.name.as_ref().map_or(0, |name| name.len())
            + texts(&rare.headers)
            + rare.input.as_ref().map_or(0, |raw| raw.get().len())
            + rare.unknown.iter().map(|(key, value)| key.len() + value.get().len()).sum::<usize>()
    }

    /// Sets how long the record of the job's end stays, if that is longer than asked so far.
    pub fn keep_at_least(&mut self, keep: Period) {
        let rare = self.rare_mut();
        rare.keep = Some(rare.keep.map_or(keep.get(), |kept| kept.max(keep.get())));
    }
}

/// The one spelling of a type: GoWorker's doubled names (`cli.cli`, `http.http`, `disk.disk`) are the plain ones.
pub fn canonical_kind(kind: &str) -> &str {
    match kind {
        "cli.cli" => "cli",
        "http.http" => "http",
        "disk.disk" => "disk",
        other => other,
    }
}

/// Why a text cannot be the name of a type, queue or header; `None` if it can.
pub fn name_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("a name cannot be empty");
    }
    if name.len() > NAME_MAX {
        return Some("a name has at most 200 bytes");
    }
    if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Some("a name has no spaces or control characters");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_job_costs_little_more_than_its_bytes() {
        assert!(size_of::<Job>() <= 300, "{} bytes", size_of::<Job>());
    }

    #[test]
    fn accepting_fixes_id_and_times_once() {
        let mut job = Job::from_json(br#"{"type":"t","delay":"5s","max_age":"1m"}"#).unwrap();
        let now = Timestamp::from_millis(1_000);
        let id = job.accept(now).clone();
        assert_eq!(job.run_at, Some(Timestamp::from_millis(6_000)));
        assert_eq!(job.expires_at, Some(Timestamp::from_millis(61_000)));
        assert_eq!(job.initial_state(now), State::Scheduled);
        assert_eq!(*job.accept(Timestamp::from_millis(9_000)), id);
        assert_eq!(job.created_at, Some(now));
        assert_eq!(job.run_at, Some(Timestamp::from_millis(6_000)));
    }
}
