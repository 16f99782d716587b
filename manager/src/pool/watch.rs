//! Watches a run that waits: its timeout, and whether it is asked to stop.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ganger_core::{BoxFuture, JobContext, LeaseRef, StopReason};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Pool, board::Board};

/// How long a run that heeds its stop may take to end.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(5);

/// How long it may take when its lease or its manager is about to end.
pub(crate) const HURRIED_GRACE: Duration = Duration::from_secs(1);

/// How long a run that heeds its stop may take to end: what it asked for, where there is time for it.
/// A fenced one must have ended before its lease has.
pub(super) fn grace(reason: StopReason, run: &JobContext, pool: &Pool) -> Duration {
    match reason {
        StopReason::Cancel | StopReason::Timeout => STOP_GRACE.max(run.stop_grace()),
        StopReason::Fenced => HURRIED_GRACE.min(pool.source(run).lease() / 6),
        StopReason::Shutdown => HURRIED_GRACE,
    }
}

/// Watches the runs of one slot, one after the other.
#[derive(Default)]
pub(super) struct Watch {
    seen: Option<LeaseRef>,
    run: Option<JobContext>,
    asked: Option<BoxFuture<'static, StopReason>>,
    timer: Option<Pin<Box<Sleep>>>,
    stopping: Option<StopReason>,
    /// While it takes its time to end: its lease is in danger.
    fenced: Option<BoxFuture<'static, ()>>,
    /// A run of the batch has waited for something.
    pub(super) waited: bool,
}

impl Watch {
    /// Looks after the run under way, which waits; ready when it must be given up. Whatever of its batch has not
    /// begun goes back to the pool: it shall not wait behind a waiter.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        board: &Arc<Board>,
        pool: &Pool,
        rest: &mut VecDeque<JobContext>,
    ) -> Poll<StopReason> {
        self.waited = true;
        if let Some(run) = board.look(self.seen, rest) {
            self.turn_to(run);
        }
        if !rest.is_empty() {
            pool.give_back(rest);
        }
        if self.stopping.is_none() {
            match self.poll_reason(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(reason) => {
                    let Some(run) = self.run.as_ref().filter(|run| run.heeds_stop()) else {
                        return Poll::Ready(reason);
                    };
                    let (grace, fenced) = (grace(reason, run, pool), run.clone());
                    self.stopping = Some(reason);
                    self.fenced = Some(Box::pin(async move { fenced.fenced().await }));
                    self.set_timer(Instant::now() + grace);
                }
            }
        }
        self.hurry(cx, pool);
        match (&mut self.timer, self.stopping) {
            (Some(timer), Some(reason)) => timer.as_mut().poll(cx).map(|()| reason),
            _ => Poll::Pending,
        }
    }

    /// A run that takes its time to end has none left once its lease is in danger.
    fn hurry(&mut self, cx: &mut Context<'_>, pool: &Pool) {
        let is_fenced = self.fenced.as_mut().is_some_and(|fenced| fenced.as_mut().poll(cx).is_ready());
        if let (true, Some(run), Some(timer)) = (is_fenced, &self.run, &self.timer) {
            let end = (Instant::now() + grace(StopReason::Fenced, run, pool)).min(timer.deadline());
            self.fenced = None;
            self.set_timer(end);
        }
    }

    fn poll_reason(&mut self, cx: &mut Context<'_>) -> Poll<StopReason> {
        if let Some(asked) = &mut self.asked
            && let Poll::Ready(reason) = asked.as_mut().poll(cx)
        {
            self.asked = None;
            return Poll::Ready(reason);
        }
        if let (Some(timer), Some(run)) = (&mut self.timer, &self.run)
            && timer.as_mut().poll(cx).is_ready()
        {
            run.ask_to_stop(StopReason::Timeout);
            return Poll::Ready(StopReason::Timeout);
        }
        Poll::Pending
    }

    fn turn_to(&mut self, run: JobContext) {
        self.seen = Some(run.lease());
        self.stopping = None;
        self.fenced = None;
        match run.deadline() {
            Some(at) => self.set_timer(Instant::from_std(at)),
            None => self.timer = None,
        }
        let watched = run.clone();
        self.asked = Some(Box::pin(async move { watched.stop_asked().await }));
        self.run = Some(run);
    }

    fn set_timer(&mut self, at: Instant) {
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(sleep_until(at))),
        }
    }
}
