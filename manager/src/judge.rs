//! Judges every end of every run: a pure function, and the one home of all rules about retries, budgets, expiry
//! and failure handlers.
//!
//! | outcome | verdict | spends | attempt kept | jobs that follow | counted as |
//! |---|---|---|---|---|---|
//! | done | done | nothing | if it has more to tell¹ | those that the run enqueued | run, done |
//! | failed `retry`, timed out, panicked; retries left | retry after the backoff | a retry | yes | none | run, failed |
//! | failed `retry_after(d)`; retries left | retry after `d` | a retry | yes | none | run, failed |
//! | any of these; no retry left | dead, `retries spent` | nothing | yes | first failure handler | run, failed, dead |
//! | failed `dead` | dead, `not worth a retry` | nothing | yes | first failure handler | run, failed, dead |
//! | failed `discard` | done, with its error | nothing | yes | none | run, done |
//! | failed `lost`; crashes left | retry after the backoff | a crash | yes | none | run, lost |
//! | failed `lost`; none left | dead, `crashed` | a crash | yes | first failure handler | run, lost, dead |
//! | cancelled | cancelled | nothing | if it ran | none | (run,) cancelled |
//! | a duplicate (another job holds its `unique` key) | cancelled, naming that job | nothing | no | none | cancelled |
//! | released (shutdown, fenced, or not started) | release | nothing | no | none | – |
//! | expired | expired | nothing | no | first failure handler | expired |
//! | malformed | dead, `malformed: …` | nothing | no | none: there is no job to hand on | dead |
//! | no worker | park, or dead by policy | nothing | no | none, or first failure handler | –, or dead |
//! | crashes used up before it ran | dead, `crashed` | nothing | no | first failure handler | dead |
//!
//! The lease ends with the settlement, whatever the verdict. Once a job is marked as cancelled, every outcome but
//! done (and no job at all) ends it as cancelled. A job of a failure handler is judged by the same rules, but
//! never has handlers of its own: when it has ended, however, its end is told to the job it was for, and the next
//! handler follows. Jitter comes from (id, retry), so a replay judges the same.
//!
//! ¹ when it was no first run, took a millisecond or longer, or leaves output: a quick job's settlement carries
//! nothing and allocates nothing.

use std::{sync::Arc, time::Duration};

use compact_str::CompactString;
use ganger_core::{
    ATTEMPTS_MAX, Advice, Attempt, Backoff, FailureRecord, HANDLER_PREFIX, Handled, Job, JobError, JobId,
    LeaseRef, OUTPUT_TAIL_MAX, Outcome, Output, OutputBuffer, PERIOD_MAX, Record, Settlement, Side, Spend,
    State, Timestamp, Usage, Verdict, WorkerOptions,
};
use serde_json::value::RawValue;

use crate::UnknownType;

/// The reason of a job that failed more often than it may.
pub const RETRIES_SPENT: &str = "retries spent";
/// The reason of a job whose worker said that another run would fail alike.
pub const NOT_WORTH_A_RETRY: &str = "not worth a retry";
/// The reason of a job that took its manager or its process along too often.
pub const CRASHED: &str = "crashed";

/// How long a good first run that wrote nothing must take for its record to be worth its bytes.
pub const WORTH_A_RECORD: Duration = Duration::from_millis(1);

/// What the config says about the jobs of one type.
#[derive(Clone, Debug)]
pub struct Policy {
    /// How often a failed job is run again, for jobs that do not say.
    pub retries: u32,
    /// How long to wait before each retry, for jobs that do not say.
    pub backoff: Backoff,
    /// After so many lost runs a job is dead.
    pub max_crashes: u32,
    /// What becomes of a job that no worker does.
    pub unknown: UnknownType,
    /// How much of a run's output is kept, in bytes.
    pub output_max: usize,
    /// The failure handlers of dead jobs, by name, in their order.
    pub handlers: Arc<[CompactString]>,
    /// The manager's name, for the attempts on record.
    pub manager: Arc<str>,
}

impl Policy {
    /// The policy of a type with these options; everything else as it is by default.
    pub fn of(options: &WorkerOptions) -> Self {
        Policy {
            retries: options.retries,
            backoff: options.backoff,
            max_crashes: options.max_crashes.max(1),
            unknown: UnknownType::Park,
            output_max: ganger_core::OUTPUT_MAX,
            handlers: Arc::new([]),
            manager: Arc::from(""),
        }
    }
}

/// What is judged: a leased job, or the entry that is none.
#[derive(Debug)]
pub struct Case<'a> {
    /// The lease that the settlement ends.
    pub lease: LeaseRef,
    /// The job; `None` for an entry that is none.
    pub job: Option<&'a Job>,
    /// What happened to it before.
    pub record: &'a Record,
    /// Its run, if it had one.
    pub run: Option<Run>,
}

/// A run, beside its outcome.
#[derive(Debug, Default)]
pub struct Run {
    /// When it began.
    pub started: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// What it left beside its result.
    pub side: Option<Box<Side>>,
    /// What it used.
    pub usage: Option<Usage>,
}

/// Judges: the table above, nothing else. Pure: the same arguments give the same settlement.
pub fn judge(case: Case<'_>, outcome: Outcome, policy: &Policy, now: Timestamp) -> Settlement {
    let Case { lease, job, record, run } = case;
    let Some(job) = job else { return without_job(lease, outcome) };
    let outcome = match outcome {
        Outcome::Done(_) => outcome,
        _ if record.cancel => Outcome::Cancelled,
        _ => outcome,
    };
    match outcome {
        Outcome::Done(output) => done(lease, job, record, run, output, policy),
        other => Hearing { lease, job, record, run, policy, now }.decide(other),
    }
}

fn without_job(lease: LeaseRef, outcome: Outcome) -> Settlement {
    match outcome {
        Outcome::Malformed(fault) => {
            Settlement::new(lease, Verdict::Dead { reason: format!("malformed: {fault}") })
        }
        Outcome::Released => Settlement::new(lease, Verdict::Release),
        other => Settlement::new(lease, Verdict::Dead { reason: format!("no job: {other:?}") }),
    }
}

/// The end that nearly every job has: carries nothing unless there is something to carry.
fn done(
    lease: LeaseRef,
    job: &Job,
    record: &Record,
    run: Option<Run>,
    returned: Output,
    policy: &Policy,
) -> Settlement {
    let mut settlement = Settlement::new(lease, Verdict::Done);
    let mut run = run.unwrap_or_default();
    let side = run.side.take().map(|side| *side).unwrap_or_default();
    let is_handler = job.kind.starts_with(HANDLER_PREFIX);
    let first_run = record.attempts.is_empty() && record.spent == 0 && record.crashes == 0;
    let keeps = keeps_output(job) || side.keep_output;
    let wrote = side.output.is_some() || side.stderr.is_some();
    let is_plain = side.follow.is_empty() && side.note.is_none() && !wrote;
    if first_run && !keeps && !is_handler && run.took < WORTH_A_RECORD && is_plain {
        return settlement;
    }
    let mut output = returned_or_written(Some(returned), side.output, policy.output_max);
    if let Some(output) = output.as_mut().filter(|output| output.content_type.is_none()) {
        output.content_type = side.content_type;
    }
    let more = settlement.more_mut();
    let entry = attempt(record, &run, "done", None, output.as_ref(), policy);
    more.attempt = Some(Attempt { note: side.note, stderr: tail(side.stderr), ..entry });
    more.follow = numbered(job, side.follow);
    more.output = output.filter(|_| keeps);
    if is_handler {
        let at_end = end_of_handler(job, State::Done, None, policy);
        more.handled = at_end.handled;
        more.follow.extend(at_end.next);
    }
    settlement
}

/// Whether the whole output goes with the job's end: asked for, or someone waits for it.
fn keeps_output(job: &Job) -> bool {
    job.capture_output || job.rare().keep.is_some()
}

/// What the worker returned, else what it wrote; held to the limit.
fn returned_or_written(
    returned: Option<Output>,
    written: Option<OutputBuffer>,
    max: usize,
) -> Option<Output> {
    let output = match returned {
        Some(output) if !output.is_empty() => output,
        _ => return written.map(OutputBuffer::finish).filter(|output| !output.is_empty()),
    };
    if output.bytes.len() <= max {
        return Some(output);
    }
    let mut buffer = OutputBuffer::new(max);
    buffer.write(&output.bytes);
    let held = buffer.finish();
    Some(Output { cut: held.cut + output.cut, content_type: output.content_type, ..held })
}

/// Gives follow-up jobs their ids: `<parent>/<n>`, from 1.
fn numbered(parent: &Job, mut follow: Vec<Job>) -> Vec<Job> {
    if let Some(id) = &parent.id {
        for (n, job) in follow.iter_mut().enumerate() {
            job.id.get_or_insert_with(|| id.child(n + 1));
        }
    }
    follow
}

fn attempt(
    record: &Record,
    run: &Run,
    outcome: &str,
    error: Option<String>,
    output: Option<&Output>,
    policy: &Policy,
) -> Attempt {
    Attempt {
        number: record.next_run(),
        started: run.started,
        millis: u64::try_from(run.took.as_millis()).unwrap_or(u64::MAX),
        outcome: outcome.to_owned(),
        note: None,
        error,
        output: output.map(|output| output.tail(OUTPUT_TAIL_MAX)).unwrap_or_default(),
        stderr: String::new(),
        manager: policy.manager.to_string(),
        usage: run.usage.clone(),
    }
}

/// The end of what was written to a stream.
fn tail(written: Option<OutputBuffer>) -> String {
    written.map(|written| written.finish().tail(OUTPUT_TAIL_MAX)).unwrap_or_default()
}

/// All that a case needs which is not simply done.
struct Hearing<'a> {
    lease: LeaseRef,
    job: &'a Job,
    record: &'a Record,
    run: Option<Run>,
    policy: &'a Policy,
    now: Timestamp,
}

/// How a run failed, in the words of its record.
struct Failure {
    word: &'static str,
    error: String,
    output: Option<Output>,
}

impl Hearing<'_> {
    fn decide(self, outcome: Outcome) -> Settlement {
        match outcome {
            Outcome::Done(_) => unreachable!("done is judged before"),
            Outcome::Failed(error) => self.failed(error),
            Outcome::TimedOut => {
                let error = format!("timed out after {}", ganger_core::Period::from(self.took()));
                self.retry_or_dead(Failure { word: "timed out", error, output: None }, None)
            }
            Outcome::Panicked(message) => {
                let error = format!("the worker panicked: {message}");
                self.retry_or_dead(Failure { word: "panicked", error, output: None }, None)
            }
            Outcome::Cancelled => {
                let failure = self.run.is_some().then(|| Failure {
                    word: "cancelled",
                    error: "cancelled while it ran".to_owned(),
                    output: None,
                });
                self.settle(Verdict::Cancelled, Spend::Nothing, failure)
            }
            Outcome::Duplicate(of) => self.settle(Verdict::Duplicate { of }, Spend::Nothing, None),
            Outcome::Released => self.settle(Verdict::Release, Spend::Nothing, None),
            Outcome::Expired => self.settle(Verdict::Expired, Spend::Nothing, None),
            Outcome::Malformed(fault) => self.dead(&format!("malformed: {fault}"), Spend::Nothing, None),
            Outcome::NoWorker => match self.policy.unknown {
                UnknownType::Park => self.settle(Verdict::Park { until: None }, Spend::Nothing, None),
                UnknownType::Dead => {
                    let reason = format!("no worker does type `{}`", self.job.kind);
                    self.dead(&reason, Spend::Nothing, None)
                }
            },
            Outcome::Crashed => self.dead(CRASHED, Spend::Nothing, None),
        }
    }

    fn took(&self) -> Duration {
        self.run.as_ref().map_or(Duration::ZERO, |run| Duration::from_millis(run.took.as_millis() as u64))
    }

    fn failed(self, error: JobError) -> Settlement {
        let (message, advice, output) = error.into_parts();
        let failure = Failure { word: "failed", error: message.into_owned(), output };
        match advice {
            Advice::Retry => self.retry_or_dead(failure, None),
            Advice::RetryAfter(wait) => self.retry_or_dead(failure, Some(wait.min(PERIOD_MAX))),
            Advice::Discard => self.settle(Verdict::Done, Spend::Nothing, Some(failure)),
            Advice::Dead => self.dead(NOT_WORTH_A_RETRY, Spend::Nothing, Some(failure)),
            Advice::Lost => self.lost(failure),
        }
    }

    fn retry_or_dead(self, failure: Failure, wait: Option<Duration>) -> Settlement {
        let retries = self.job.retries.unwrap_or(self.policy.retries);
        if self.record.spent >= retries {
            return self.dead(RETRIES_SPENT, Spend::Nothing, Some(failure));
        }
        let wait = wait.unwrap_or_else(|| self.backoff(self.record.spent + 1));
        let at = self.now.plus(wait);
        self.settle(Verdict::Retry { at }, Spend::Retry, Some(failure))
    }

    fn lost(self, failure: Failure) -> Settlement {
        let failure = Failure { word: "lost", ..failure };
        let crashes = self.record.crashes.saturating_add(1);
        if crashes >= self.policy.max_crashes {
            return self.dead(CRASHED, Spend::Crash, Some(failure));
        }
        let at = self.now.plus(self.backoff(crashes));
        self.settle(Verdict::Retry { at }, Spend::Crash, Some(failure))
    }

    fn backoff(&self, n: u32) -> Duration {
        let backoff = self.job.rare().backoff.unwrap_or(self.policy.backoff);
        match &self.job.id {
            Some(id) => backoff.wait(id, n),
            None => backoff.wait(&JobId::claimed(self.lease), n),
        }
    }

    fn dead(self, reason: &str, spend: Spend, failure: Option<Failure>) -> Settlement {
        self.settle(Verdict::Dead { reason: reason.to_owned() }, spend, failure)
    }

    /// Puts the settlement together: the run's record, what it printed, and the failure handlers.
    fn settle(mut self, verdict: Verdict, spend: Spend, failure: Option<Failure>) -> Settlement {
        let mut run = self.run.take().unwrap_or_default();
        let state = verdict.state();
        let reason = match &verdict {
            Verdict::Dead { reason } => reason.clone(),
            other => other.state().to_string(),
        };
        let returns = matches!(verdict, Verdict::Retry { .. } | Verdict::Park { .. } | Verdict::Release);
        let mut settlement = Settlement { spend, ..Settlement::new(self.lease, verdict) };
        let error = failure.as_ref().map(|failure| failure.error.clone());
        if let Some(failure) = failure {
            let side = run.side.take().map(|side| *side).unwrap_or_default();
            let keeps = keeps_output(self.job) || side.keep_output || state == State::Dead;
            let output = returned_or_written(failure.output, side.output, self.policy.output_max);
            let more = settlement.more_mut();
            let entry =
                attempt(self.record, &run, failure.word, Some(failure.error), output.as_ref(), self.policy);
            more.attempt = Some(Attempt { note: side.note, stderr: tail(side.stderr), ..entry });
            more.output = output.filter(|_| keeps);
        }
        // A store that holds bytes cannot read their type: it is told where they wait.
        if returns && self.record.first.is_some() {
            settlement.more_mut().kind = Some(self.job.kind.clone());
        }
        self.follow_up(&mut settlement, state, reason, error);
        settlement
    }

    fn follow_up(&self, settlement: &mut Settlement, state: State, reason: String, error: Option<String>) {
        if !state.is_end() {
            return;
        }
        if self.job.kind.starts_with(HANDLER_PREFIX) {
            let at_end = end_of_handler(self.job, state, error.or(Some(reason)), self.policy);
            let more = settlement.more_mut();
            more.handled = at_end.handled;
            more.follow.extend(at_end.next);
            return;
        }
        let wanted = matches!(state, State::Dead | State::Expired);
        let (Some(id), Some(handler), true) = (&self.job.id, self.policy.handlers.first(), wanted) else {
            return;
        };
        let mut attempts = self.record.attempts.clone();
        let last = settlement.more.as_ref().and_then(|more| more.attempt.clone());
        attempts.extend(last);
        attempts.drain(..attempts.len().saturating_sub(ATTEMPTS_MAX));
        let error = error.or_else(|| attempts.iter().rev().find_map(|attempt| attempt.error.clone()));
        let failure = FailureRecord { job: self.job.clone(), state, reason, error, attempts, at: self.now };
        let job = handler_job(handler, id.failed(1), failure.to_raw(), self.job);
        settlement.more_mut().follow.push(job);
    }
}

/// The job of a failure handler. What its config entry says of params is put in when it runs: a stored job must not
/// tell the secrets in them.
fn handler_job(handler: &str, id: JobId, input: Box<RawValue>, like: &Job) -> Job {
    let mut job = Job {
        kind: handler_kind(handler),
        id: Some(id),
        name: like.name.clone(),
        queue: like.queue.clone(),
        ..Job::default()
    };
    let rare = job.rare_mut();
    rare.input = Some(input);
    rare.headers = like.rare().headers.clone();
    job
}

/// What the end of a failure handler's job brings about.
#[derive(Default)]
struct HandlerEnd {
    handled: Option<Handled>,
    next: Option<Job>,
}

fn end_of_handler(job: &Job, state: State, error: Option<String>, policy: &Policy) -> HandlerEnd {
    let Some((parent, number)) = handled_job(job) else { return HandlerEnd::default() };
    let name = job.kind.strip_prefix(HANDLER_PREFIX).unwrap_or(&job.kind);
    let error = error.filter(|_| state != State::Done);
    let at = policy.handlers.iter().position(|handler| handler == name);
    let next = at.and_then(|at| policy.handlers.get(at + 1)).and_then(|handler| {
        let input = job.rare().input.clone()?;
        Some(handler_job(handler, parent.failed(number + 1), input, job))
    });
    HandlerEnd { handled: Some(Handled { job: parent, handler: name.to_owned(), state, error }), next }
}

/// The dead job that a handler's job is for, as its record names it, and the handler's number: the end of its id.
fn handled_job(job: &Job) -> Option<(JobId, usize)> {
    let number = job.id.as_ref()?.to_string().rsplit_once("/failed/")?.1.parse().ok()?;
    let failure: FailureRecord = serde_json::from_str(job.rare().input.as_ref()?.get()).ok()?;
    Some((failure.job.id?, number))
}

/// The type of a failure handler's jobs.
pub(crate) fn handler_kind(name: &str) -> CompactString {
    compact_str::format_compact!("{HANDLER_PREFIX}{name}")
}
