//! How a run ended, and what that means for the job.

use std::{borrow::Cow, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{JobId, Timestamp};

/// What a run printed or returned: the whole, or its head and tail where it was longer than its limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The bytes kept.
    pub bytes: Vec<u8>,
    /// How many bytes were cut out of the middle; 0 when `bytes` is the whole.
    pub cut: u64,
    /// Where in `bytes` the cut is; meaningless when nothing was cut.
    pub cut_at: usize,
    /// The media type, where the worker knows it.
    pub content_type: Option<String>,
}

/// Which of its two streams a run wrote to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stream {
    /// What it has to say: the job's output.
    #[default]
    Stdout,
    /// What it says of itself, where a worker keeps that apart.
    Stderr,
}

impl Stream {
    /// Both, the output first.
    pub const ALL: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

    /// The one that it is not.
    pub fn other(self) -> Stream {
        match self {
            Stream::Stdout => Stream::Stderr,
            Stream::Stderr => Stream::Stdout,
        }
    }

    /// `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// What a cut leaves in the text, so that a reader sees the gap.
pub fn cut_note(cut: u64) -> String {
    format!("\n[… {cut} bytes cut …]\n")
}

impl Output {
    /// Whole output.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Output { bytes: bytes.into(), ..Output::default() }
    }

    /// Nothing printed.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.cut == 0
    }

    /// How long the output was before the cut.
    pub fn total(&self) -> u64 {
        self.bytes.len() as u64 + self.cut
    }

    /// The output as text: invalid UTF-8 replaced, the cut shown.
    pub fn text(&self) -> String {
        if self.cut == 0 {
            return String::from_utf8_lossy(&self.bytes).into_owned();
        }
        let (head, tail) = self.bytes.split_at(self.cut_at.min(self.bytes.len()));
        format!("{}{}{}", String::from_utf8_lossy(head), cut_note(self.cut), String::from_utf8_lossy(tail))
    }

    /// The last `max` bytes as text, cut at a character: what an attempt's record keeps.
    pub fn tail(&self, max: usize) -> String {
        let start = self.bytes.len().saturating_sub(max);
        let start = (start..self.bytes.len().min(start + 4))
            .find(|at| self.bytes[*at] & 0xc0 != 0x80)
            .unwrap_or(start);
        String::from_utf8_lossy(&self.bytes[start..]).into_owned()
    }
}

impl From<()> for Output {
    fn from((): ()) -> Self {
        Output::default()
    }
}

impl From<String> for Output {
    fn from(text: String) -> Self {
        Output::new(text)
    }
}

/// What should become of a job whose run failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Try again after the backoff, while retries last. The default.
    Retry,
    /// Try again after this long, while retries last.
    RetryAfter(Duration),
    /// Not worth a retry and no failure: the job ends done, its error kept.
    Discard,
    /// Not worth a retry: dead at once, failure handlers run.
    Dead,
    /// The run was lost with no proof against the job (killed by the kernel, out of memory): spends one of
    /// `max_crashes`, not a retry.
    Lost,
}

/// A failed run: what went wrong, and what to do about the job.
///
/// Any error converts into one that is retried, so that `?` works in a worker:
///
/// ```
/// use ganger_core::{JobError, Output};
/// fn work(text: &str) -> Result<Output, JobError> {
///     let number: u32 = text.parse()?;
///     if number > 9 {
///         return Err(JobError::dead("a digit is expected"));
///     }
///     Ok(Output::default())
/// }
/// assert!(work("x").is_err());
/// ```
#[derive(Debug)]
pub struct JobError {
    message: Cow<'static, str>,
    advice: Advice,
    output: Option<Box<Output>>,
}

impl JobError {
    /// Try again after the backoff, while retries last.
    pub fn retry(message: impl Into<Cow<'static, str>>) -> Self {
        JobError { message: message.into(), advice: Advice::Retry, output: None }
    }

    /// Try again after `wait`, while retries last.
    pub fn retry_after(wait: Duration, message: impl Into<Cow<'static, str>>) -> Self {
        JobError { advice: Advice::RetryAfter(wait), ..JobError::retry(message) }
    }

    /// End the job as done, keeping the message: the work is no longer wanted.
    pub fn discard(message: impl Into<Cow<'static, str>>) -> Self {
        JobError { advice: Advice::Discard, ..JobError::retry(message) }
    }

    /// Dead at once: another run would fail the same way.
    pub fn dead(message: impl Into<Cow<'static, str>>) -> Self {
        JobError { advice: Advice::Dead, ..JobError::retry(message) }
    }

    /// The run was lost, which proves nothing against the job: spends one of `max_crashes`.
    pub fn lost(message: impl Into<Cow<'static, str>>) -> Self {
        JobError { advice: Advice::Lost, ..JobError::retry(message) }
    }

    /// Keeps what the run had printed when it failed.
    pub fn with_output(mut self, output: Output) -> Self {
        self.output = Some(Box::new(output));
        self
    }

    /// What went wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about the job.
    pub fn advice(&self) -> Advice {
        self.advice
    }

    /// What the run had printed.
    pub fn output(&self) -> Option<&Output> {
        self.output.as_deref()
    }

    /// Takes the error apart.
    pub fn into_parts(self) -> (Cow<'static, str>, Advice, Option<Output>) {
        (self.message, self.advice, self.output.map(|output| *output))
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// `JobError` is no `std::error::Error` itself: that is what lets every error convert into it.
impl<E: std::error::Error> From<E> for JobError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !message.contains(&cause_text) {
                message = format!("{message}: {cause_text}");
            }
            source = cause.source();
        }
        JobError::retry(message)
    }
}

/// How a run ended, as the manager saw it.
#[derive(Debug)]
pub enum Outcome {
    /// The worker returned well.
    Done(Output),
    /// The worker returned an error.
    Failed(JobError),
    /// The run was longer than its `timeout` and was stopped.
    TimedOut,
    /// The worker panicked.
    Panicked(String),
    /// The run was stopped because the job is cancelled.
    Cancelled,
    /// Another job held its `unique` key when it was leased: it is not run.
    Duplicate(Box<JobId>),
    /// The run was cut off by a shutdown, or never started.
    Released,
    /// The job's `expires_at` had passed before it was started.
    Expired,
    /// The entry was no job (P8).
    Malformed(crate::Malformed),
    /// No worker here does this type (P8): parked, or dead by policy.
    NoWorker,
    /// The job has used up `max_crashes` and is not run again (P7).
    Crashed,
}

/// One run of a job, as its record keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counts the runs of the job that are on record, from 1.
    pub number: u32,
    /// When the run began.
    pub started: Timestamp,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// How it ended: `done`, `failed`, `timed out`, `panicked`, `lost`, `cancelled`, `released`.
    pub outcome: String,
    /// What there is to say of it beside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The end of what it printed, at most [`OUTPUT_TAIL_MAX`] bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// The end of what it wrote to standard error, where that is kept apart; as much again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
    /// Which manager ran it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub manager: String,
    /// What it used, where the worker can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// What a run used, of a worker that has processes do its jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Processor time, the system's for it included, in microseconds.
    pub cpu_us: u64,
    /// The most memory that one of its processes had at once, in KiB.
    pub max_rss_kib: u64,
    /// The signal that ended it, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// How much of each stream of a run its [`Attempt`] keeps, in bytes.
pub const OUTPUT_TAIL_MAX: usize = 4 << 10;

/// How many [`Attempt`]s a job keeps: the last ones.
pub const ATTEMPTS_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_begins_at_a_character() {
        let output = Output::new("aä€".as_bytes());
        assert_eq!(output.tail(100), "aä€");
        assert_eq!(output.tail(4), "€");
        assert_eq!(output.tail(3), "€");
    }

    #[test]
    fn an_attempt_is_read_with_and_without_what_it_used() {
        let old = r#"{"number":1,"started":"2026-01-01T00:00:00Z","millis":5,"outcome":"done"}"#;
        let mut attempt: Attempt = serde_json::from_str(old).unwrap();
        assert_eq!(attempt.usage, None);
        attempt.usage = Some(Usage { cpu_us: 7, max_rss_kib: 8, signal: Some("SIGTERM".to_owned()) });
        let text = serde_json::to_string(&attempt).unwrap();
        assert!(text.contains(r#""usage":{"cpu_us":7,"max_rss_kib":8,"signal":"SIGTERM"}"#), "{text}");
        assert_eq!(serde_json::from_str::<Attempt>(&text).unwrap(), attempt);
    }

    #[test]
    fn text_shows_the_cut() {
        let output = Output { bytes: b"headtail".to_vec(), cut: 7, cut_at: 4, content_type: None };
        assert_eq!(output.text(), "head\n[… 7 bytes cut …]\ntail");
        assert_eq!(output.total(), 15);
    }
}
