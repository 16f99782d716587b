//! What a slot is at: seen by the slot, by the one who watches its run, and by the pool's supervisor.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use ganger_core::{JobContext, LeaseRef, StopReason};

/// A slot's batch: what is running, and what it has not begun.
pub(crate) struct Board {
    /// The pool's count of moves when the slot was started.
    pub(crate) epoch: u32,
    retired: AtomicBool,
    state: Mutex<State>,
    /// The slot's task.
    task: OnceLock<Waker>,
    /// It owes a sign of life.
    asked: AtomicBool,
}

#[derive(Default)]
struct State {
    /// A batch was taken, and its end not told.
    busy: bool,
    /// The slot has a worker that it closes when it ends: an idle one, or one that has begun its batch.
    keeps: bool,
    current: Option<JobContext>,
    /// What comes after it. The first `ahead` of them are with the worker, which gets them ready.
    rest: VecDeque<JobContext>,
    ahead: usize,
    /// The run that was under way when the slot was given up: whatever it yields is not wanted.
    disowned: Option<LeaseRef>,
}

impl Board {
    pub(crate) fn new(epoch: u32) -> Self {
        Board {
            epoch,
            retired: AtomicBool::new(false),
            state: Mutex::default(),
            task: OnceLock::new(),
            asked: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the slot was given up.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// The slot's task is at work: what it owed, it has given.
    pub(super) fn sign(&self, task: &Waker) {
        self.task.get_or_init(|| task.clone());
        if self.asked.load(Ordering::Relaxed) {
            self.asked.store(false, Ordering::Release);
        }
    }

    /// Asks the slot's task for a sign of life; whether it still owes the last one, and so cannot go on where it is.
    pub(super) fn ask_for_sign(&self) -> bool {
        let owes = self.asked.swap(true, Ordering::AcqRel);
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
        owes
    }

    /// Lays down a batch.
    pub(super) fn load(&self, batch: &mut VecDeque<JobContext>) {
        let mut state = self.state();
        state.busy = true;
        // Whether its worker can begin is to be seen, and may take long.
        state.keeps = false;
        if state.rest.is_empty() {
            std::mem::swap(&mut state.rest, batch);
        } else {
            state.rest.append(batch);
        }
    }

    /// The next job, which is under way from now on, and whether it was taken ahead; `None` at the end of the batch.
    pub(super) fn next(&self) -> Option<(JobContext, bool)> {
        let mut state = self.state();
        let next = if self.is_retired() { None } else { state.rest.pop_front() };
        state.current.clone_from(&next);
        state.keeps |= next.is_some();
        let was_ahead = state.ahead > 0;
        state.ahead = state.ahead.saturating_sub(1);
        next.map(|run| (run, was_ahead))
    }

    /// The first job that is not begun and not taken ahead: it is now, if nothing asks it to stop.
    pub(super) fn take_ahead(&self) -> Option<JobContext> {
        let mut state = self.state();
        let run = state.rest.get(state.ahead).filter(|run| run.stop_reason().is_none()).cloned()?;
        state.ahead += 1;
        Some(run)
    }

    /// So many jobs, the last ones taken ahead, are with the worker no more.
    pub(super) fn give_back_ahead(&self, count: usize) {
        let mut state = self.state();
        state.ahead = state.ahead.saturating_sub(count);
    }

    /// Whether jobs are taken ahead.
    pub(super) fn is_ahead(&self) -> bool {
        self.state().ahead > 0
    }

    /// What is under way.
    pub(crate) fn current(&self) -> Option<JobContext> {
        self.state().current.clone()
    }

    /// What is under way if it is another than `seen`; and what has not begun and is not taken ahead, since the run
    /// under way waits.
    pub(super) fn look(&self, seen: Option<LeaseRef>, rest: &mut VecDeque<JobContext>) -> Option<JobContext> {
        let mut state = self.state();
        state.take_rest(rest);
        state.current.as_ref().filter(|run| Some(run.lease()) != seen).cloned()
    }

    /// Takes what has not begun and is not taken ahead.
    pub(super) fn take_rest(&self, rest: &mut VecDeque<JobContext>) {
        self.state().take_rest(rest);
    }

    /// Takes what has not begun: the worker has returned or is gone, and with it what it had taken ahead.
    pub(super) fn take_all(&self, rest: &mut VecDeque<JobContext>) {
        let mut state = self.state();
        state.ahead = 0;
        state.take_rest(rest);
    }

    /// The batch has ended; whether that is still to be told. Whoever retires a slot tells it.
    pub(super) fn ended(&self) -> bool {
        std::mem::take(&mut self.state().busy)
    }

    /// Whether a batch was taken whose end is not told.
    pub(super) fn is_busy(&self) -> bool {
        self.state().busy
    }

    /// The slot has a worker at rest, or has none any more.
    pub(super) fn keep(&self, keeps: bool) {
        self.state().keeps = keeps;
    }

    /// Whether the slot has a worker that it will close.
    pub(super) fn keeps(&self) -> bool {
        self.state().keeps
    }

    /// Nothing is under way any more; which run is disowned.
    pub(super) fn end(&self) -> Option<LeaseRef> {
        let mut state = self.state();
        state.current = None;
        state.disowned
    }

    /// Gives the slot up.
    pub(super) fn retire(&self) -> Left {
        let mut state = self.state();
        self.retired.store(true, Ordering::Release);
        let current = state.current.take();
        state.disowned = current.as_ref().map(JobContext::lease);
        // The worker may be at them, or will be: nobody is told a thing by it.
        state.rest.iter().take(state.ahead).for_each(|run| run.ask_to_stop(StopReason::Fenced));
        state.ahead = 0;
        Left { current, rest: std::mem::take(&mut state.rest), busy: std::mem::take(&mut state.busy) }
    }
}

impl State {
    fn take_rest(&mut self, rest: &mut VecDeque<JobContext>) {
        rest.extend(self.rest.drain(self.ahead.min(self.rest.len())..));
    }
}

/// What a slot was at when it was given up.
pub(super) struct Left {
    pub(super) current: Option<JobContext>,
    /// What it had not begun.
    pub(super) rest: VecDeque<JobContext>,
    /// The end of its batch was not told.
    pub(super) busy: bool,
}
