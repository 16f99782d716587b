//! A job's run: what is said to the program, what it answers, and when it has had its time.

use std::time::{Duration, Instant};

use ganger_core::{Feed, Job, JobContext, JobError, Output, StopReason};

use crate::{
    child::{Child, Event},
    config::Config,
    fault::Fault,
    message::{RECALL, Said, excerpt, write_cancel, write_job, write_ping},
};

/// A job that takes longer has those that wait behind it recalled: they are done elsewhere, or later.
const RECALL_AFTER: Duration = Duration::from_millis(10);

/// So many bytes of jobs are handed over at once, beyond one job.
const AHEAD_BYTES_MAX: usize = 256 << 10;

/// How long beyond its grace a program is given to be killed, before the manager drops its run.
const REAP_MAX: Duration = Duration::from_secs(1);

/// How long a program may take to end a job where the manager has no time: another one is about to run it, or this one
/// is at the end of its own grace.
const GRACE_HURRIED_MAX: Duration = Duration::from_millis(750);

/// How long a program may keep jobs that it was handed ahead and that are asked to stop.
const RECALL_MAX: Duration = Duration::from_millis(500);

/// What a line came to.
enum Heard {
    Answer(Result<Output, JobError>),
    /// Jobs from this number on are not begun, and will not be.
    GivenBack(u64),
    Nothing,
}

/// A job's end that was asked for.
struct Stopping {
    reason: StopReason,
    kill_at: Instant,
}

impl Child {
    /// Has it do a job. Dropped, it must be dropped too.
    ///
    /// # Errors
    /// It failed: it must be killed, and whatever it was handed is over.
    pub(crate) async fn do_job(
        &mut self,
        feed: &mut dyn Feed,
        job: &JobContext,
        timeout: Option<Duration>,
        config: &Config,
    ) -> Result<Result<Output, JobError>, Fault> {
        let mut number = match self.ahead.pop_front() {
            Some((number, ahead)) if ahead.lease() == job.lease() => number,
            Some(_) => {
                return Err(Fault::Garbage("jobs came in another order than they were taken".to_owned()));
            }
            None => self.hand_over(job, job.job().timeout.or(timeout)),
        };
        self.current = Some(number);
        let begun = Instant::now();
        let mut stopping: Option<Stopping> = None;
        let mut has_waited = false;
        loop {
            while let Some(line) = self.line()? {
                match hear(self.lines.get(line), number, self.ahead.back().map_or(number, |last| last.0), job)
                {
                    Ok(Heard::Answer(result)) => {
                        self.answered(job, has_waited.then_some(begun));
                        return Ok(result);
                    }
                    Ok(Heard::GivenBack(from)) if self.given_back(from, number, feed) => {
                        if stopping.is_some() {
                            self.current = None;
                            return Ok(Err(JobError::retry("it was stopped before it was begun")));
                        }
                        // It was about to begin it: here it counts as begun, so that it is handed over again.
                        number = self.hand_over(job, job.job().timeout.or(timeout));
                        self.current = Some(number);
                    }
                    Ok(Heard::GivenBack(_)) => {}
                    Ok(Heard::Nothing) => {}
                    Err(why) => return Err(Fault::Garbage(why)),
                }
                self.pong_due = None;
            }
            if self.over {
                return Err(self.why_over().await);
            }
            if stopping.is_none() {
                self.take_ahead(feed, timeout, config);
            }
            let now = Instant::now();
            self.see_to_time(now, begun, stopping.as_ref(), config)?;
            if let Err(fault) = self.flush() {
                return Err(self.why(fault).await);
            }
            let at = self.next_time(begun, stopping.as_ref());
            let stopped = stop_of(job, self.grace.saturating_add(REAP_MAX), stopping.is_some());
            has_waited = true;
            if let Event::Other(reason) = self.wait(stopped, Some(at)).await {
                stopping = Some(self.stop(number, reason));
            }
        }
    }

    /// The job under way has its answer. One that was there before it was waited for shares the time of its neighbours.
    fn answered(&mut self, job: &JobContext, waited_since: Option<Instant>) {
        self.current = None;
        self.pong_due = None;
        if let Some(begun) = waited_since {
            job.lasted(begun.elapsed());
        }
    }

    fn hand_over(&mut self, job: &JobContext, timeout: Option<Duration>) -> u64 {
        self.sent += 1;
        write_job(&mut self.out, self.sent, job, timeout);
        self.sent
    }

    /// Hands over what it shall do next, as far as it takes it.
    fn take_ahead(&mut self, feed: &mut dyn Feed, timeout: Option<Duration>, config: &Config) {
        let last = config.recycle_after.unwrap_or(u64::MAX);
        while self.more
            && self.recalling.is_none()
            && self.ahead.len() + 1 < self.hello.pipeline()
            && self.sent < last
            && self.out.len() < AHEAD_BYTES_MAX
        {
            let Some(job) = feed.ahead() else {
                self.more = false;
                return;
            };
            let number = self.hand_over(&job, job.job().timeout.or(timeout));
            self.ahead.push_back((number, job));
        }
    }

    /// Takes back what was taken ahead, up to where it was recalled; whether that is the job under way too.
    fn given_back(&mut self, from: u64, number: u64, feed: &mut dyn Feed) -> bool {
        let Some(last) = self.recalling.take() else { return false };
        let before = self.ahead.len();
        self.ahead.retain(|(number, _)| !(from..=last).contains(number));
        feed.give_back(before - self.ahead.len());
        (from..=last).contains(&number)
    }

    /// Does what is due, and says what is overdue.
    fn see_to_time(
        &mut self,
        now: Instant,
        begun: Instant,
        stopping: Option<&Stopping>,
        config: &Config,
    ) -> Result<(), Fault> {
        if let Some(stopping) = stopping.filter(|stopping| now >= stopping.kill_at) {
            return Err(Fault::Unheeding(stopping.reason));
        }
        if self.pong_due.is_some_and(|due| now >= due) {
            return Err(Fault::Hung(config.ping_timeout.get()));
        }
        if !self.ahead.is_empty() && now >= begun + RECALL_AFTER {
            if self.recalling.is_none() {
                self.recalling = Some(self.sent);
                self.more = false;
                self.out.extend_from_slice(RECALL);
            }
            let asked = self.ahead.iter().find_map(|(_, job)| job.stop_reason());
            if let Some(reason) = asked.filter(|_| now >= begun + RECALL_AFTER + RECALL_MAX) {
                return Err(Fault::Unheeding(reason));
            }
        }
        if now >= self.ping_at {
            self.ping_at = now + config.ping_every.get();
            if self.hello.can("ping") && self.pong_due.is_none() {
                self.pings += 1;
                write_ping(&mut self.out, self.pings);
                self.pong_due = Some(now + config.ping_timeout.get());
            }
        }
        Ok(())
    }

    fn next_time(&self, begun: Instant, stopping: Option<&Stopping>) -> Instant {
        let recall = match (self.ahead.is_empty(), self.recalling.is_some()) {
            (true, _) => None,
            (false, false) => Some(begun + RECALL_AFTER),
            // Whether one of them is asked to stop is looked at now and then.
            (false, true) => Some(Instant::now() + RECALL_MAX / 2),
        };
        let times = [Some(self.ping_at), self.pong_due, recall, stopping.map(|stopping| stopping.kill_at)];
        times.into_iter().flatten().min().unwrap_or(self.ping_at)
    }

    /// Tells it that its job is to end; one that does not understand that is killed at once.
    fn stop(&mut self, number: u64, reason: StopReason) -> Stopping {
        let grace = match reason {
            StopReason::Fenced | StopReason::Shutdown => self.grace.min(GRACE_HURRIED_MAX),
            StopReason::Cancel | StopReason::Timeout => self.grace,
        };
        let heeds = self.hello.can("cancel");
        if heeds {
            write_cancel(&mut self.out, number, reason, grace);
        }
        Stopping { reason, kill_at: Instant::now() + if heeds { grace } else { Duration::ZERO } }
    }

    /// Listens to what it says while it is at no job.
    ///
    /// # Errors
    /// It failed, and must be replaced.
    pub(crate) async fn idle(&mut self, config: &Config) -> Result<(), Fault> {
        self.read_now();
        loop {
            while let Some(line) = self.line()? {
                let line = self.lines.get(line);
                match Said::read(line) {
                    Ok(Said::Log { level, message, .. }) => log(&level, &message, None),
                    Ok(Said::Recalled { .. }) => self.recalling = None,
                    Ok(Said::Pong { .. } | Said::Progress { .. } | Said::Output { .. } | Said::Unknown) => {}
                    Ok(_) => return Err(Fault::Garbage(format!("an answer to no job: `{}`", excerpt(line)))),
                    Err(why) => return Err(Fault::Garbage(format!("`{}`: {why}", excerpt(line)))),
                }
                self.pong_due = None;
            }
            if self.has_ended() {
                return Err(self.why_over().await);
            }
            let now = Instant::now();
            // Where nothing was heard for long, whether it answers is asked before a job is put at stake.
            if now >= self.ping_at && self.pong_due.is_none() && self.hello.can("ping") {
                self.pings += 1;
                write_ping(&mut self.out, self.pings);
                self.pong_due = Some(now + config.ping_timeout.get());
            }
            self.ping_at = self.ping_at.max(now + config.ping_every.get() / 2);
            if let Err(fault) = self.flush() {
                return Err(self.why(fault).await);
            }
            match self.pong_due {
                None => return Ok(()),
                Some(due) if now >= due => return Err(Fault::Hung(config.ping_timeout.get())),
                Some(due) => {
                    let _: Event<()> = self.wait(std::future::pending(), Some(due)).await;
                }
            }
        }
    }
}

/// Waits until a job is asked to stop, for the first time.
async fn stop_of(job: &JobContext, grace: Duration, was_asked: bool) -> StopReason {
    match was_asked {
        false => job.stopped_within(grace).await,
        true => std::future::pending().await,
    }
}

/// Takes a line in while job `number` is under way, and those up to `last` are handed over.
fn hear(line: &[u8], number: u64, last: u64, job: &JobContext) -> Result<Heard, String> {
    let wrong = |why: &str| format!("`{}`: {why}", excerpt(line));
    let own = |said: u64| match said {
        _ if said == number => Ok(()),
        _ if said < number => Err(wrong("that job is answered already")),
        _ if said <= last => Err(wrong(&format!("job {number} comes first"))),
        _ => Err(wrong("it was handed no such job")),
    };
    match Said::read(line).map_err(|why| wrong(&why))? {
        Said::Done { job: said, given, follow } => {
            own(said)?;
            let output = given.take().map_err(|why| wrong(&why))?;
            Ok(Heard::Answer(enqueue(job, &follow).map(|()| output)))
        }
        Said::Fail { job: said, error } => {
            own(said)?;
            Ok(Heard::Answer(Err(error)))
        }
        Said::Progress { job: said, percent, message } => {
            if said == number {
                job.progress(percent, message);
            }
            Ok(Heard::Nothing)
        }
        Said::Output { job: said, given } => {
            let output = given.take().map_err(|why| wrong(&why))?;
            if said == number {
                job.write(&output.bytes);
            }
            Ok(Heard::Nothing)
        }
        Said::Log { job: said, level, message } => {
            log(&level, &message, Some(job).filter(|_| said.is_none_or(|said| said == number)));
            Ok(Heard::Nothing)
        }
        Said::Recalled { from } => Ok(Heard::GivenBack(from)),
        Said::Hello => Err(wrong("it has said hello before")),
        Said::Pong { .. } | Said::Unknown => Ok(Heard::Nothing),
    }
}

/// Jobs that become real if this one ends well.
fn enqueue(job: &JobContext, follow: &[&serde_json::value::RawValue]) -> Result<(), JobError> {
    let read = |text: &&serde_json::value::RawValue| Job::from_json(text.get().as_bytes());
    let jobs: Result<Vec<_>, _> = follow.iter().map(read).collect();
    let jobs = jobs.map_err(|error| JobError::dead(format!("a job in `follow` is none: {error}")))?;
    jobs.into_iter().for_each(|next| job.follow(next));
    Ok(())
}

/// Takes in what it says when no job is expected of it any more.
pub(crate) fn hear_last(line: &[u8]) {
    if let Ok(Said::Log { level, message, .. }) = Said::read(line) {
        log(&level, &message, None);
    }
}

fn log(level: &str, message: &str, job: Option<&JobContext>) {
    let text: String = message.chars().flat_map(crate::message::printable).collect();
    let id = job.map(|job| job.id().to_string()).unwrap_or_default();
    let kind = job.map(|job| job.job().kind.to_string()).unwrap_or_default();
    match level {
        "error" => tracing::error!(id, "type" = kind, "{text}"),
        "warn" | "warning" => tracing::warn!(id, "type" = kind, "{text}"),
        "debug" => tracing::debug!(id, "type" = kind, "{text}"),
        "trace" => tracing::trace!(id, "type" = kind, "{text}"),
        _ => tracing::info!(id, "type" = kind, "{text}"),
    }
}
