//! Jobs in a row, for the tests of workers that take jobs ahead.

use std::collections::VecDeque;

use ganger_core::{Feed, JobContext, JobError, Output};

/// Jobs as a slot feeds them to its worker, with what became of each.
#[derive(Default)]
pub struct Belt {
    /// What has not begun.
    pub waiting: VecDeque<JobContext>,
    /// The first so many of them are with the worker.
    pub ahead: usize,
    /// How many were at the most.
    pub most_ahead: usize,
    /// How many came back.
    pub given_back: usize,
    /// What is under way.
    pub current: Option<JobContext>,
    /// What has ended, and how.
    pub ends: Vec<(JobContext, Result<Output, JobError>)>,
    /// What is not taken ahead is taken away, as the manager does while a run waits.
    pub takes_rest: bool,
}

impl Belt {
    /// With these jobs.
    pub fn of(jobs: impl IntoIterator<Item = JobContext>) -> Self {
        Belt { waiting: jobs.into_iter().collect(), ..Belt::default() }
    }

    /// The error of each job that has ended; none is an empty text.
    pub fn errors(&self) -> Vec<String> {
        self.ends
            .iter()
            .map(|(_, end)| end.as_ref().err().map(ToString::to_string).unwrap_or_default())
            .collect()
    }
}

impl Feed for Belt {
    fn next(&mut self) -> Option<JobContext> {
        assert!(self.current.is_none(), "one job after the other");
        self.current = self.waiting.pop_front();
        self.ahead = self.ahead.saturating_sub(1);
        self.current.clone()
    }
    fn done(&mut self, result: Result<Output, JobError>) {
        self.ends.push((self.current.take().expect("a job is under way"), result));
    }
    fn ahead(&mut self) -> Option<JobContext> {
        let job = self.waiting.get(self.ahead).cloned()?;
        self.ahead += 1;
        self.most_ahead = self.most_ahead.max(self.ahead);
        Some(job)
    }
    fn give_back(&mut self, count: usize) {
        self.ahead -= count;
        self.given_back += count;
        if self.takes_rest {
            self.waiting.truncate(self.ahead);
        }
    }
}
