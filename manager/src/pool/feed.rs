//! Hands a batch of jobs to a worker one by one, judges how each ended, and passes the verdicts on together.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ganger_core::{
    Event, Feed, HANDLER_PREFIX, Job, JobContext, JobError, Outcome, Output, Settlement, Side, State,
    StopReason, Timestamp, Verdict, What,
};
use tokio::time::Instant;

use super::{Pool, board::Board};
use crate::{
    house::House,
    judge::{Case, Run, judge},
    stats::Tally,
};

/// A slot's batch at work.
pub(super) struct SlotFeed<'a> {
    house: &'a House,
    pool: &'a Pool,
    board: Arc<Board>,
    slot: u32,
    current: Option<JobContext>,
    /// One job only: its time is its own.
    single: bool,
    heard: bool,
    events: Vec<Event>,
    started: Duration,
    started_wall: Timestamp,
    /// Up to here the time is told, and so many runs ended since.
    mark: Duration,
    unmarked: u32,
    parts: Vec<Part>,
}

/// What goes to one provider.
struct Part {
    origin: u32,
    settle: Vec<Settlement>,
    tally: Tally,
    /// The times of those runs whose workers said them, in nanoseconds.
    timed: Vec<u64>,
    urgent: bool,
}

/// What a batch came to.
pub(super) struct BatchEnd {
    pub(super) runs: u32,
    pub(super) nanos: u64,
    pub(super) now: Duration,
}

impl<'a> SlotFeed<'a> {
    /// Begins a batch that is laid down on the board.
    pub(super) fn new(house: &'a House, pool: &'a Pool, board: &Arc<Board>, slot: u32, single: bool) -> Self {
        let started = house.clock.monotonic();
        SlotFeed {
            house,
            pool,
            board: board.clone(),
            slot,
            current: None,
            single,
            heard: house.events.heard(),
            events: Vec::new(),
            started,
            started_wall: house.clock.wall(),
            mark: started,
            unmarked: 0,
            parts: Vec::with_capacity(1),
        }
    }

    fn part(&mut self, origin: u32) -> &mut Part {
        let at = match self.parts.iter().position(|part| part.origin == origin) {
            Some(at) => at,
            None => {
                let settle = Vec::with_capacity(if self.single { 1 } else { 64 });
                let (tally, timed) = (Tally::default(), Vec::new());
                self.parts.push(Part { origin, settle, tally, timed, urgent: false });
                self.parts.len() - 1
            }
        };
        &mut self.parts[at]
    }

    /// The run under way was cut off: it was asked to stop for this reason, and did not return.
    pub(super) fn cut_off(&mut self, reason: StopReason) {
        if let Some(run) = self.current.take() {
            self.ended(run, cut_off(reason), true);
        }
    }

    /// The worker panicked in the run under way.
    pub(super) fn panicked(&mut self, message: String) {
        if let Some(run) = self.current.take() {
            self.ended(run, Outcome::Panicked(message), true);
        }
    }

    /// The worker returned without an answer for the run under way: a fault of its maker.
    pub(super) fn unanswered(&mut self) {
        if let Some(run) = self.current.take() {
            let error = JobError::retry("the worker ended its batch without an answer for this job");
            self.ended(run, Outcome::Failed(error), true);
        }
    }

    /// A run that goes as nearly all do: well, quickly, and without anything to tell.
    fn is_plain(&self, run: &JobContext, output: &Output) -> bool {
        let job: &Job = run.job();
        let record = run.record();
        !self.single
            && !self.heard
            && !self.house.events.is_followed(run.id())
            && output.is_empty()
            && job.rare.is_none()
            && !job.capture_output
            && record.spent == 0
            && record.crashes == 0
            && record.attempts.is_empty()
    }

    fn plain(&mut self, run: &JobContext) {
        self.unmarked += 1;
        let part = self.part(run.origin());
        part.tally.runs += 1;
        part.tally.done += 1;
        part.tally.used(run.usage());
        part.timed.extend(run.duration().map(nanos_of));
        part.settle.push(Settlement::new(run.lease(), Verdict::Done));
    }

    fn ended(&mut self, run: JobContext, outcome: Outcome, ran: bool) {
        let side = run.take_side();
        self.ended_with(run, outcome, ran, side);
    }

    fn ended_with(&mut self, run: JobContext, outcome: Outcome, ran: bool, side: Option<Box<Side>>) {
        let (job, record) = (run.job(), run.record());
        let now = self.house.clock.monotonic();
        let mean = now.saturating_sub(self.mark) / (self.unmarked + 1);
        let took = run.duration().unwrap_or(mean);
        if ran {
            self.mark = now;
            self.unmarked = 0;
        }
        let outcome = self.refuse_follow(&run, outcome, side.as_deref());
        let mut tally = Tally::of(&outcome, ran);
        tally.used(run.usage());
        let case = Case {
            lease: run.lease(),
            job: Some(job),
            record,
            run: ran.then(|| Run { started: self.started_wall, took, side, usage: run.usage().cloned() }),
        };
        let settlement = judge(case, outcome, &self.pool.policy, self.house.clock.wall());
        tally = tally.judged(&settlement.verdict);
        self.tell(&run, &settlement);
        if let Some(via) = &job.rare().via {
            let tally = Tally { nanos: nanos_of(took) * tally.runs, ..tally };
            self.house.stats.count_via(self.slot as usize, self.pool.index, via, &tally, now);
        }
        // Any other verdict may be gathered.
        let urgent = run.is_waited_for();
        let part = self.part(run.origin());
        part.tally.add(&tally);
        part.timed.extend(run.duration().filter(|_| tally.runs > 0).map(nanos_of));
        part.urgent |= urgent;
        part.settle.push(settlement);
    }

    /// A job that follows and that its store would have to ignore a field of fails the run that enqueued it:
    /// nothing is accepted and ignored.
    fn refuse_follow(&self, run: &JobContext, outcome: Outcome, side: Option<&Side>) -> Outcome {
        let (Outcome::Done(_), Some(side)) = (&outcome, side) else { return outcome };
        let capabilities = self.pool.source(run).provider().map(|provider| provider.capabilities());
        let fault = side.follow.iter().find_map(|job| {
            if job.kind.starts_with(HANDLER_PREFIX) {
                return Some(format!("types that begin with `{HANDLER_PREFIX}` are for failure handlers"));
            }
            capabilities.and_then(|can| can.admit(job).err()).map(|refused| refused.message)
        });
        match fault {
            None => outcome,
            Some(fault) => {
                Outcome::Failed(JobError::dead(format!("a job that it enqueued is refused: {fault}")))
            }
        }
    }

    fn tell(&mut self, run: &JobContext, settlement: &Settlement) {
        let more = settlement.more.as_deref();
        let error = more.and_then(|more| more.attempt.as_ref()).and_then(|attempt| attempt.error.clone());
        if let Some(error) = &error {
            let (id, kind) = (run.id(), &run.job().kind);
            match &settlement.verdict {
                Verdict::Retry { at } => {
                    tracing::warn!(%id, "type" = %kind, %error, again = %at, "a run failed and is tried again");
                }
                Verdict::Dead { reason } => {
                    tracing::warn!(%id, "type" = %kind, %error, reason, "a job is dead");
                }
                _ => tracing::warn!(%id, "type" = %kind, %error, "a run failed"),
            }
        }
        let state = settlement.verdict.state();
        if self.house.events.is_followed(run.id()) {
            self.house.events.changed(run.id(), self.house.clock.wall(), state, error.as_deref());
        }
        if self.heard {
            self.event(run, state, error);
        }
    }

    fn event(&mut self, run: &JobContext, state: State, error: Option<String>) {
        self.events.push(Event {
            id: run.id().clone(),
            kind: run.job().kind.to_string(),
            at: self.house.clock.wall(),
            what: What::State { state, error },
        });
    }

    /// Passes everything on, and tells what the batch came to.
    pub(super) fn finish(mut self) -> BatchEnd {
        let disowned = self.board.end();
        let now = self.house.clock.monotonic();
        let nanos = nanos_of(now.saturating_sub(self.started));
        let runs: u64 = self.parts.iter().map(|part| part.tally.runs).sum();
        let timed = || self.parts.iter().flat_map(|part| &part.timed);
        let untimed_runs = runs.saturating_sub(timed().count() as u64);
        let untimed = nanos.saturating_sub(timed().sum()) / untimed_runs.max(1);
        for part in &mut self.parts {
            if let Some(lease) = disowned {
                part.settle.retain(|settlement| settlement.lease != lease);
            }
            let timed = part.timed.iter().sum::<u64>();
            part.tally.nanos = timed + untimed * part.tally.runs.saturating_sub(part.timed.len() as u64);
            let (tally, timed) = (&part.tally, part.timed.as_slice());
            self.house.stats.count(self.slot as usize, self.pool.index, part.origin, tally, timed, now);
            self.pool.sources[part.origin as usize].settle(&mut part.settle, part.urgent);
        }
        self.house.events.tell(std::mem::take(&mut self.events));
        BatchEnd { runs: u32::try_from(runs).unwrap_or(u32::MAX), nanos, now }
    }
}

fn nanos_of(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What a run that did not return is judged as.
pub(super) fn cut_off(reason: StopReason) -> Outcome {
    match reason {
        StopReason::Cancel => Outcome::Cancelled,
        StopReason::Timeout => Outcome::TimedOut,
        StopReason::Fenced | StopReason::Shutdown => Outcome::Released,
    }
}

/// What a run is judged as that returned, perhaps after it was asked to stop: what is done is done, and an error
/// after the asking is no fault of the job.
pub(super) fn returned(result: Result<Output, JobError>, stop: Option<StopReason>) -> Outcome {
    match (result, stop) {
        (Ok(output), _) => Outcome::Done(output),
        (Err(error), None) => Outcome::Failed(error),
        (Err(_), Some(reason)) => cut_off(reason),
    }
}

impl Feed for SlotFeed<'_> {
    fn next(&mut self) -> Option<JobContext> {
        loop {
            // What is taken ahead may be begun already, for all that is known here.
            if self.pool.is_closing() && !self.board.is_ahead() {
                return None;
            }
            let (run, was_ahead) = self.board.next()?;
            // Cancelled or fenced while it waited: it is not begun.
            if let Some(reason) = run.stop_reason().filter(|_| !was_ahead) {
                self.ended(run, cut_off(reason), false);
                continue;
            }
            if let Some(timeout) = run.job().timeout.or(self.pool.timeout) {
                run.set_deadline((Instant::now() + timeout).into_std());
            }
            if self.house.events.is_followed(run.id()) {
                self.house.events.began(&run, self.house.clock.wall());
            }
            if self.heard {
                self.event(&run, State::Running, None);
                if self.single {
                    self.house.events.tell(std::mem::take(&mut self.events));
                }
            }
            self.current = Some(run.clone());
            return Some(run);
        }
    }

    fn done(&mut self, result: Result<Output, JobError>) {
        let Some(run) = self.current.take() else { return };
        let stop = run.stop_reason();
        if let Ok(output) = &result
            && stop.is_none()
            && self.is_plain(&run, output)
        {
            match run.take_side() {
                None => self.plain(&run),
                side => self.ended_with(run, returned(result, stop), true, side),
            }
            return;
        }
        self.ended(run, returned(result, stop), true);
    }

    fn ahead(&mut self) -> Option<JobContext> {
        if self.pool.is_closing() { None } else { self.board.take_ahead() }
    }

    fn give_back(&mut self, count: usize) {
        self.board.give_back_ahead(count);
    }
}

/// Releases runs that have not begun: nothing happened to them.
pub(crate) fn release(pool: &Pool, runs: impl IntoIterator<Item = JobContext>, now: Timestamp) {
    let mut by_origin: VecDeque<(u32, Vec<Settlement>)> = VecDeque::new();
    for run in runs {
        let (job, record) = (Some(run.job()), run.record());
        let outcome = run.stop_reason().map_or(Outcome::Released, cut_off);
        let case = Case { lease: run.lease(), job, record, run: None };
        let settlement = judge(case, outcome, &pool.policy, now);
        match by_origin.iter_mut().find(|(origin, _)| *origin == run.origin()) {
            Some((_, settle)) => settle.push(settlement),
            None => by_origin.push_back((run.origin(), vec![settlement])),
        }
    }
    for (origin, mut settle) in by_origin {
        pool.sources[origin as usize].settle(&mut settle, true);
    }
}
