//! What a program can do wrong, and what that means for its job.

use std::time::Duration;

use ganger_core::{JobError, StopReason};

use crate::warden::Ended;

/// Why a program is given up.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It has ended.
    Died(Ended),
    /// It has closed its output or its input, and lives.
    Closed(&'static str),
    /// It sent a line that is no message, or not one that could come now: why, with what it sent.
    Garbage(String),
    /// It sent a line that is longer than it may be.
    TooLong(u64),
    /// It does not answer.
    Hung(Duration),
    /// It did not end a job in time that it was told to cancel.
    Unheeding(StopReason),
}

impl Fault {
    /// In words, as the end of a sentence about the program.
    pub(crate) fn words(&self) -> String {
        match self {
            Fault::Died(ended) => format!("it ended ({})", ended.how),
            Fault::Closed(what) => format!("it closed its {what} and was killed"),
            Fault::Garbage(why) => format!("it sent what is no message and was killed: {why}"),
            Fault::TooLong(max) => {
                format!("it sent a line longer than `line_max` ({max} bytes) and was killed")
            }
            Fault::Hung(time) => format!("it did not answer a ping for {time:?} and was killed"),
            Fault::Unheeding(reason) => {
                format!("{}; it did not end it in time and was killed", because(*reason))
            }
        }
    }

    /// The error of the job that was under way, where `ahead` others were handed over. That the program was killed from
    /// outside proves nothing against the job; nor does its death where it may have been at one of the others, since
    /// answers may be gathered.
    pub(crate) fn error(&self, ahead: usize) -> JobError {
        if self.counts() && ahead > 0 {
            return JobError::lost(format!(
                "the program failed in this job or in one of {ahead} that it was handed with it: {}",
                self.words()
            ));
        }
        let words = match self {
            Fault::Unheeding(_) => format!("the program: {}", self.words()),
            _ => format!("the program failed in this job: {}", self.words()),
        };
        match self {
            Fault::Died(ended) if ended.was_killed => JobError::lost(words),
            _ => JobError::retry(words),
        }
    }

    /// Whether it speaks against the program: the end of a job that takes too long does not.
    pub(crate) fn counts(&self) -> bool {
        !matches!(self, Fault::Unheeding(_))
    }
}

fn because(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Cancel => "the job was cancelled",
        StopReason::Fenced => "the job's lease may be lost",
        StopReason::Shutdown => "ganger shuts down",
        StopReason::Timeout => "the job took longer than its timeout",
    }
}
