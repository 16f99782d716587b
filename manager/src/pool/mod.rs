//! A pool does the jobs of one type: N slots, each a task with its worker value; a slot takes, works, hands back.
//!
//! Exchanges put jobs in by the batch, slots take them out by the batch, under one lock each. How many jobs may
//! wait here is bounded by time: what the pool finished in the last quarter of a second beyond what it is at
//! anyway, so that a pool of slow jobs keeps none that another manager could do.

mod board;
mod feed;
mod recent;
mod slot;
mod supervise;
mod thread;
mod watch;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};

use compact_str::CompactString;
use ganger_core::{JobContext, PoolFigures, Slots, StopReason, WorkerTraits};
use serde_json::value::RawValue;

use self::{board::Board, recent::Recent};
pub(crate) use self::{
    feed::release,
    slot::{panic_text, start_slots},
    supervise::supervise,
    watch::HURRIED_GRACE,
};
use crate::{judge::Policy, source::Source, spawn::Spawn};

/// At most so many jobs wait in a pool, beyond one for each free slot.
pub(crate) const PREFETCH_MAX: u32 = 4096;

/// At most so many bytes of jobs wait in a pool, beyond one job for each free slot.
const QUEUED_BYTES_MAX: usize = 8 << 20;

/// How long a source waits at most for another to take its turn.
const YIELD: Duration = Duration::from_millis(5);

/// The largest batch that a slot takes.
const BATCH_MAX: u64 = 64;

/// How long a slot's batch should take at most: what waits in it waits behind its neighbours.
const BATCH_NANOS: u64 = 100_000;

/// The same where the worker takes jobs ahead: its runs wait for another process, which is woken once a batch. Between two
/// batches it waits for the manager.
const AHEAD_NANOS: u64 = 12_000_000;

/// After a run that waited for something, so many batches are of one job: nothing shall wait behind a waiter.
const SINGLES: u32 = 1024;

/// The slots of one type, and the jobs that wait for them.
pub(crate) struct Pool {
    pub(crate) kind: CompactString,
    /// Its number in the house.
    pub(crate) index: u32,
    pub(crate) slots: u32,
    pub(crate) policy: Policy,
    pub(crate) timeout: Option<Duration>,
    pub(crate) traits: WorkerTraits,
    pub(crate) makers: Arc<dyn Slots>,
    /// A failure handler's own params, which each of its jobs gets that has none.
    pub(crate) params: Option<Box<RawValue>>,
    sources: Arc<[Arc<Source>]>,
    state: Mutex<State>,
    /// Nothing more is started: what slots have not begun comes back.
    closing: AtomicBool,
    boards: Vec<Mutex<Arc<Board>>>,
    spawn: Mutex<Arc<dyn Spawn>>,
    /// Counts the moves to another runtime.
    moves: AtomicU32,
    /// Counts those of them that its own runs made necessary.
    holds: AtomicU32,
}

/// A job that waits for a slot.
pub(crate) struct Queued {
    pub(crate) run: JobContext,
    /// Its bytes.
    pub(crate) weight: usize,
}

struct State {
    /// The worker takes jobs ahead.
    ahead: bool,
    queue: VecDeque<Queued>,
    bytes: usize,
    idle: Vec<(u32, Waker)>,
    is_idle: Vec<bool>,
    busy: u32,
    /// Room that exchanges under way have asked for.
    reserved: u32,
    /// What the pool may hold beyond its free slots, as of the last look.
    prefetch: u32,
    recent: Recent,
    /// The mean run, in nanoseconds; 0 before the first.
    mean: u64,
    singles: u32,
    /// Its workers cannot be made just now.
    sick: bool,
    /// Sources to be rung when there is room.
    starving: Vec<u32>,
    last_asked: Option<u32>,
    /// Since when the last one to ask lets the others go first.
    yielded: Option<Duration>,
}

/// What a pool has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PoolRoom {
    /// So many jobs.
    pub(crate) jobs: u32,
    /// It runs low: worth an exchange by itself.
    pub(crate) hungry: bool,
    /// Jobs wait in it.
    pub(crate) works: bool,
    /// Another provider was let go first: ask again soon.
    pub(crate) yielded: bool,
}

/// What a pool is made from.
pub(crate) struct PoolSetup {
    pub(crate) kind: CompactString,
    pub(crate) index: u32,
    pub(crate) slots: u32,
    pub(crate) policy: Policy,
    pub(crate) timeout: Option<Duration>,
    pub(crate) traits: WorkerTraits,
    pub(crate) makers: Arc<dyn Slots>,
    pub(crate) params: Option<Box<RawValue>>,
    pub(crate) sources: Arc<[Arc<Source>]>,
    pub(crate) spawn: Arc<dyn Spawn>,
}

impl Pool {
    pub(crate) fn new(setup: PoolSetup) -> Self {
        let PoolSetup { kind, index, slots, policy, timeout, traits, makers, params, sources, spawn } = setup;
        let boards = (0..slots).map(|_| Mutex::new(Arc::new(Board::new(0)))).collect();
        let state = State {
            ahead: traits.ahead,
            queue: VecDeque::new(),
            bytes: 0,
            idle: Vec::new(),
            is_idle: vec![false; slots as usize],
            busy: 0,
            reserved: 0,
            prefetch: 0,
            recent: Recent::default(),
            mean: 0,
            singles: 0,
            sick: false,
            starving: Vec::new(),
            last_asked: None,
            yielded: None,
        };
        Pool {
            kind,
            index,
            slots,
            policy,
            timeout,
            traits,
            makers,
            params,
            sources,
            state: Mutex::new(state),
            closing: AtomicBool::new(false),
            boards,
            spawn: Mutex::new(spawn),
            moves: AtomicU32::new(0),
            holds: AtomicU32::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the pool holds now.
    pub(crate) fn figures(&self) -> PoolFigures {
        let state = self.state();
        PoolFigures { slots: self.slots, busy: state.busy, queued: state.queue.len() as u32 }
    }

    /// How many jobs there is room for just now.
    pub(crate) fn room_now(&self) -> u32 {
        self.state().room(self.slots)
    }

    /// How many jobs a source may ask for, and whether that is urgent. A source that is told of no or little
    /// room is rung when there is more.
    pub(crate) fn room(&self, source: u32, now: Duration) -> PoolRoom {
        let mut state = self.state();
        state.prefetch = state.recent.sum(now).saturating_sub(self.slots).min(PREFETCH_MAX);
        let jobs = state.room(self.slots);
        let hungry = state.is_hungry(self.slots);
        let works = !state.queue.is_empty();
        state.starving.retain(|waiting| *waiting != source);
        let others = state.starving.len() as u32;
        let yields = hungry && jobs == 1 && others > 0 && state.lets_another_first(source, now);
        if !hungry || yields {
            state.starving.push(source);
        }
        if yields {
            self.ring(&state.starving, Some(source));
            return PoolRoom { jobs: 0, hungry: false, works, yielded: true };
        }
        let jobs = if jobs > 1 { jobs.div_ceil(others + 1) } else { jobs };
        PoolRoom { jobs, hungry, works, yielded: false }
    }

    /// An exchange is sent that asks for so many.
    pub(crate) fn reserve(&self, source: u32, jobs: u32) {
        let mut state = self.state();
        state.reserved += jobs;
        state.last_asked = Some(source);
        state.yielded = None;
    }

    /// It was answered, or is not waited for any more.
    pub(crate) fn unreserve(&self, jobs: u32) {
        let mut state = self.state();
        state.reserved = state.reserved.saturating_sub(jobs);
        self.ring_if_hungry(&state);
    }

    /// Puts jobs into the queue and wakes slots for them. Jobs that come back are those that must be released:
    /// the pool is closing or cannot work.
    pub(crate) fn push(&self, jobs: &mut Vec<Queued>) {
        let mut state = self.state();
        if state.sick || self.closing.load(Ordering::Acquire) {
            return;
        }
        state.bytes += jobs.iter().map(|job| job.weight).sum::<usize>();
        state.queue.extend(jobs.drain(..));
        let wake = state.pop_idle();
        drop(state);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Puts jobs that were taken but not begun back to the front, in their order. Jobs that come back must be
    /// released.
    fn give_back(&self, jobs: &mut VecDeque<JobContext>) {
        let mut state = self.state();
        if state.sick || self.closing.load(Ordering::Acquire) {
            return;
        }
        while let Some(run) = jobs.pop_back() {
            let weight = run.job().weight();
            state.bytes += weight;
            state.queue.push_front(Queued { run, weight });
        }
        let wake = state.pop_idle();
        drop(state);
        wake.into_iter().for_each(Waker::wake);
    }

    /// A slot takes its next batch; `None` when it is to end.
    fn poll_take(
        &self,
        slot: u32,
        board: &Board,
        into: &mut VecDeque<JobContext>,
        waker: &Waker,
    ) -> Poll<Option<()>> {
        let mut state = self.state();
        if board.is_retired() || (self.closing.load(Ordering::Acquire) && state.queue.is_empty()) {
            return Poll::Ready(None);
        }
        if state.queue.is_empty() || state.sick {
            state.rest(slot, waker);
            return Poll::Pending;
        }
        let count = state.batch().min(state.queue.len());
        let State { queue, bytes, .. } = &mut *state;
        into.extend(queue.drain(..count).map(|job| {
            *bytes -= job.weight;
            job.run
        }));
        state.busy += 1;
        self.ring_if_hungry(&state);
        Poll::Ready(Some(()))
    }

    /// Jobs of a source whose leases may be lost are not begun: in a process that stood still, the keeper may not
    /// have had its turn to say so.
    fn fence_overdue(&self, batch: &VecDeque<JobContext>, now: Duration) {
        let mut looked = None;
        for run in batch {
            let away = match looked {
                Some((origin, away)) if origin == run.origin() => away,
                _ => self.source(run).is_away(now),
            };
            looked = Some((run.origin(), away));
            if away {
                run.ask_to_stop(StopReason::Fenced);
            }
        }
    }

    /// A slot has ended its batch: so many runs, which took so long, of which one waited for something.
    fn finished(&self, runs: u32, nanos: u64, waited: bool, now: Duration) {
        let mut state = self.state();
        state.busy = state.busy.saturating_sub(1);
        state.singles = if waited { SINGLES } else { state.singles.saturating_sub(1) };
        if runs > 0 {
            state.recent.add(now, runs);
            let mean = nanos / u64::from(runs);
            state.mean = if state.mean == 0 { mean.max(1) } else { (state.mean * 7 + mean) / 8 + 1 };
        }
        self.ring_if_hungry(&state);
    }

    /// Its workers cannot be made, or can again. What waits must be released: it is returned.
    fn set_sick(&self, sick: bool) -> Vec<JobContext> {
        let mut state = self.state();
        state.sick = sick;
        if sick { state.take_all() } else { self.wake_all(state) }
    }

    fn wake_all(&self, mut state: MutexGuard<'_, State>) -> Vec<JobContext> {
        let wake: Vec<_> = state.idle.drain(..).collect();
        state.is_idle.fill(false);
        self.ring_if_hungry(&state);
        drop(state);
        wake.into_iter().for_each(|(_, waker)| waker.wake());
        Vec::new()
    }

    /// Starts nothing more. What waits must be released: it is returned, in its order.
    pub(crate) fn close(&self) -> Vec<JobContext> {
        let mut state = self.state();
        self.closing.store(true, Ordering::Release);
        let waiting = state.take_all();
        self.wake_all(state);
        waiting
    }

    /// Whether nothing more is started.
    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// The boards of all slots, as they are now.
    pub(crate) fn each_board(&self, mut look: impl FnMut(u32, &Arc<Board>)) {
        (0..self.slots).for_each(|slot| look(slot, &self.board(slot)));
    }

    /// The board of a slot, as it is now.
    fn board(&self, slot: u32) -> Arc<Board> {
        self.boards[slot as usize].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a slot has a worker that is still to be closed. Where one lets go of its own, the house is told.
    pub(crate) fn keeps_workers(&self) -> bool {
        let mut keeps = false;
        self.each_board(|_, board| keeps |= board.keeps());
        keeps
    }

    /// Asks all runs under way to stop.
    pub(crate) fn stop_all(&self, reason: StopReason) {
        self.each_board(|_, board| {
            if let Some(run) = board.current() {
                run.ask_to_stop(reason);
            }
        });
    }

    fn ring_if_hungry(&self, state: &State) {
        // They stay on the list until they look: who looks first sees that others wait.
        if !state.starving.is_empty() && state.is_hungry(self.slots) {
            self.ring(&state.starving, None);
        }
    }

    fn ring(&self, sources: &[u32], but: Option<u32>) {
        for source in sources.iter().filter(|source| Some(**source) != but) {
            if let Some(source) = self.sources.get(*source as usize) {
                source.bell.notify_one();
            }
        }
    }

    fn spawner(&self) -> Arc<dyn Spawn> {
        self.spawn.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The source that a run came from.
    fn source(&self, run: &JobContext) -> &Arc<Source> {
        &self.sources[run.origin() as usize]
    }
}

impl State {
    /// How many jobs there is room for beyond those that wait and those that are asked for.
    fn room(&self, slots: u32) -> u32 {
        if self.sick {
            return 0;
        }
        let free = slots.saturating_sub(self.busy);
        let waiting = (self.queue.len() as u32).saturating_add(self.reserved);
        let may_wait = if self.bytes >= QUEUED_BYTES_MAX { free } else { free.max(self.prefetch) };
        may_wait.saturating_sub(waiting)
    }

    /// Whether a source that asked last waits a moment, so that another gets its turn.
    fn lets_another_first(&mut self, source: u32, now: Duration) -> bool {
        if self.last_asked != Some(source) {
            return false;
        }
        now < *self.yielded.get_or_insert(now) + YIELD
    }

    /// Whether there is room and less than half of what may wait does.
    fn is_hungry(&self, slots: u32) -> bool {
        let room = self.room(slots);
        let waiting = (self.queue.len() as u32).saturating_add(self.reserved);
        room > 0 && waiting <= room
    }

    /// How many jobs a slot takes at once.
    fn batch(&self) -> usize {
        if self.ahead {
            let quick = (AHEAD_NANOS / self.mean.max(1)).clamp(1, BATCH_MAX) as usize;
            // No more than its share: they run one after the other, and elsewhere at once.
            let share = self.queue.len().div_ceil(self.is_idle.len().max(1)).max(1);
            return if self.mean == 0 { 1 } else { quick.min(share) };
        }
        if self.singles > 0 || self.mean == 0 {
            return 1;
        }
        (BATCH_NANOS / self.mean).clamp(1, BATCH_MAX) as usize
    }

    /// The wakers of as many idle slots as the queue has batches for.
    fn pop_idle(&mut self) -> Vec<Waker> {
        let wanted = self.queue.len().div_ceil(self.batch());
        let from = self.idle.len().saturating_sub(wanted);
        let woken = self.idle.drain(from..);
        let mut wakers = Vec::with_capacity(woken.len());
        for (slot, waker) in woken {
            self.is_idle[slot as usize] = false;
            wakers.push(waker);
        }
        wakers
    }

    /// The slot waits for work.
    fn rest(&mut self, slot: u32, waker: &Waker) {
        if std::mem::replace(&mut self.is_idle[slot as usize], true) {
            if let Some((_, known)) = self.idle.iter_mut().find(|(known, _)| *known == slot) {
                known.clone_from(waker);
            }
        } else {
            self.idle.push((slot, waker.clone()));
        }
    }

    fn take_all(&mut self) -> Vec<JobContext> {
        self.bytes = 0;
        self.queue.drain(..).map(|job| job.run).collect()
    }
}
