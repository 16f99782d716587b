//! Following one job: its states, how far it is, and what its runs print, as it comes.
//!
//! A run's output is not copied for those who follow it: they read it where it is kept anyway, each from its own
//! place. So a follower that comes late begins at the beginning, none holds up a run, and one that is too slow misses
//! what is cut there, and is told how much.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::poll_fn,
    hash::{DefaultHasher, Hash, Hasher},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

use tokio::sync::Notify;

use crate::{JobContext, JobId, LeaseRef, OutputBuffer, State, Stream, Timestamp};

/// What a follower of a job sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Live {
    /// The job is in this state now, as its manager has it: a moment before the store does.
    State {
        /// Since when.
        at: Timestamp,
        /// The state.
        state: State,
        /// Of a job that runs, the number of the run, from 1.
        attempt: Option<u32>,
        /// The error of the run that led there.
        error: Option<String>,
    },
    /// The run printed this.
    Output {
        /// The number of the run, from 1.
        attempt: u32,
        /// To which of its streams.
        stream: Stream,
        /// Where in that stream it begins.
        start: u64,
        /// What it printed.
        bytes: Vec<u8>,
    },
    /// The run is this far along.
    Progress {
        /// 0 to 100.
        percent: u8,
        /// In words.
        message: String,
    },
    /// The follower was too slow or came too late: so much of what the run printed it cannot see any more.
    Missed {
        /// Of which of its streams.
        stream: Stream,
        /// So many bytes.
        bytes: u64,
    },
    /// The follower was too slow, and has missed so many changes of state.
    Skipped(u64),
}

/// How many bytes of output a follower is given at once.
pub const PIECE_MAX: usize = 64 << 10;

/// How many changes of state wait for a slow follower. With each beginning waits what that run printed.
const TURNS_MAX: usize = 16;

/// Who follows which jobs.
#[derive(Default)]
pub(crate) struct Followed {
    /// A bit for each of the jobs: most others are told from them by it, without the lock.
    bits: AtomicU64,
    by_id: Mutex<HashMap<JobId, Vec<Arc<Trail>>>>,
}

/// What one follower has not yet seen, but for the output.
#[derive(Default)]
struct Trail {
    news: Mutex<News>,
    wake: Notify,
}

#[derive(Default)]
struct News {
    turns: VecDeque<Turn>,
    lost: u64,
    progress: Option<(u8, String)>,
}

/// A change of state.
#[derive(Clone)]
enum Turn {
    Began { at: Timestamp, run: JobContext },
    State { at: Timestamp, state: State, error: Option<String> },
}

impl Trail {
    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, turn: Turn) {
        let mut news = self.news();
        if news.turns.len() == TURNS_MAX {
            news.turns.pop_front();
            news.lost += 1;
        }
        news.turns.push_back(turn);
        drop(news);
        self.wake.notify_one();
    }
}

impl Followed {
    fn by_id(&self) -> MutexGuard<'_, HashMap<JobId, Vec<Arc<Trail>>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a job is followed. One atomic read while none is.
    pub(crate) fn has(&self, id: &JobId) -> bool {
        self.may_have(id) && self.by_id().contains_key(id)
    }

    fn may_have(&self, id: &JobId) -> bool {
        let bits = self.bits.load(Ordering::SeqCst);
        bits != 0 && bits & bit(id) != 0
    }

    /// Sets the bits anew. Under the lock.
    fn set_bits(&self, by_id: &HashMap<JobId, Vec<Arc<Trail>>>) {
        self.bits.store(by_id.keys().fold(0, |bits, id| bits | bit(id)), Ordering::SeqCst);
    }

    fn each(&self, id: &JobId, tell: impl Fn(&Trail)) {
        if self.may_have(id)
            && let Some(trails) = self.by_id().get(id)
        {
            trails.iter().for_each(|trail| tell(trail));
        }
    }

    pub(crate) fn began(&self, run: &JobContext, at: Timestamp) {
        // From the beginning, so that what it prints is there for a follower that looks when it has ended.
        run.watch();
        self.each(run.id(), |trail| trail.add(Turn::Began { at, run: run.clone() }));
    }

    pub(crate) fn state(&self, id: &JobId, at: Timestamp, state: State, error: Option<&str>) {
        self.each(id, |trail| trail.add(Turn::State { at, state, error: error.map(str::to_owned) }));
    }

    pub(crate) fn progress(&self, id: &JobId, percent: u8, message: &str) {
        self.each(id, |trail| {
            trail.news().progress = Some((percent, message.to_owned()));
            trail.wake.notify_one();
        });
    }

    pub(crate) fn follow(self: &Arc<Self>, id: &JobId) -> Follower {
        let trail = Arc::<Trail>::default();
        let mut by_id = self.by_id();
        by_id.entry(id.clone()).or_default().push(trail.clone());
        self.set_bits(&by_id);
        drop(by_id);
        Follower {
            followed: self.clone(),
            id: id.clone(),
            trail,
            run: None,
            at: [0; 2],
            first: Stream::Stdout,
            progressed: false,
        }
    }
}

impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followed").field("bits", &self.bits).finish_non_exhaustive()
    }
}

/// A job's bit among 64.
fn bit(id: &JobId) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    1 << (hasher.finish() % 64)
}

/// Follows one job through all its runs in one manager. Dropped, it follows no more.
pub struct Follower {
    followed: Arc<Followed>,
    id: JobId,
    trail: Arc<Trail>,
    run: Option<JobContext>,
    /// So much of each of the run's streams has been seen.
    at: [u64; 2],
    /// Which stream is looked at first: they take turns, so that none waits for the other's end.
    first: Stream,
    /// The last thing seen was progress: something else has its turn.
    progressed: bool,
}

impl Follower {
    /// The job.
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// The number of the run that it reads from; `None` if no run is known here.
    pub fn attempt(&self) -> Option<u32> {
        self.run.as_ref().map(JobContext::attempt)
    }

    /// Gives it the run that is under way; the manager's, for a follower that comes late.
    pub fn attach(&mut self, run: JobContext) {
        if self.run.is_none() {
            run.watch();
            // Its beginning is no news any more.
            let known =
                |turn: &Turn| matches!(turn, Turn::Began { run: began, .. } if began.lease() == run.lease());
            let mut news = self.trail.news();
            news.turns.retain(|turn| !known(turn));
            news.progress = news.progress.take().or_else(|| run.progressed());
            drop(news);
            self.run = Some(run);
        }
    }

    /// Where in which run's two streams it has come to, less `behind` bytes of each; for
    /// [`resume`](Follower::resume).
    pub fn place(&self, behind: [usize; 2]) -> Option<String> {
        let [out, err] = [0, 1].map(|stream| self.at[stream].saturating_sub(behind[stream] as u64));
        self.run.as_ref().map(|run| format!("{}-{out}-{err}", run_mark(run)))
    }

    /// Goes on at the [`place`](Follower::place) of an earlier follower, if that run is the one under way.
    pub fn resume(&mut self, place: &str) {
        let known = place.split_once('-').and_then(|(mark, at)| {
            let (out, err) = at.split_once('-')?;
            Some((mark, [out.parse().ok()?, err.parse().ok()?]))
        });
        if let (Some((mark, at)), Some(run)) = (known, &self.run)
            && run_mark(run) == mark
        {
            self.at = at;
        }
    }

    /// Waits for the next thing to see. Never ends by itself: the caller knows which state is an end. May be dropped
    /// at any time.
    pub async fn next(&mut self) -> Live {
        loop {
            let (trail, watch) = (self.trail.clone(), self.run.as_ref().map(JobContext::watch));
            let mut woken = pin!(trail.wake.notified());
            let mut printed = pin!(watch.as_ref().map(|watch| watch.printed.notified()));
            // Armed before the look, so that what comes in between is not missed.
            woken.as_mut().enable();
            if let Some(printed) = printed.as_mut().as_pin_mut() {
                printed.enable();
            }
            if let Some(live) = self.try_next() {
                return live;
            }
            poll_fn(|cx| {
                let printed = printed.as_mut().as_pin_mut();
                let ready = woken.as_mut().poll(cx).is_ready()
                    || printed.is_some_and(|printed| printed.poll(cx).is_ready());
                if ready { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    /// The next thing to see, if it is there.
    pub fn try_next(&mut self) -> Option<Live> {
        if !self.progressed
            && let Some(live) = self.take_progress()
        {
            return Some(live);
        }
        self.progressed = false;
        // What a run printed is seen before how it ended.
        self.printed().or_else(|| self.turn()).or_else(|| self.take_progress())
    }

    fn take_progress(&mut self) -> Option<Live> {
        let (percent, message) = self.trail.news().progress.take()?;
        self.progressed = true;
        Some(Live::Progress { percent, message })
    }

    fn printed(&mut self) -> Option<Live> {
        let (first, second) = (self.first, self.first.other());
        let live = self.printed_to(first).or_else(|| self.printed_to(second))?;
        if let Live::Output { stream, .. } = &live {
            self.first = stream.other();
        }
        Some(live)
    }

    fn printed_to(&mut self, stream: Stream) -> Option<Live> {
        let run = self.run.as_ref()?;
        let at = &mut self.at[stream as usize];
        let (missed, bytes) = run.output_from(stream, *at, PIECE_MAX);
        if missed > 0 {
            *at += missed;
            return Some(Live::Missed { stream, bytes: missed });
        }
        if bytes.is_empty() {
            return None;
        }
        let start = *at;
        *at += bytes.len() as u64;
        Some(Live::Output { attempt: run.attempt(), stream, start, bytes })
    }

    fn turn(&mut self) -> Option<Live> {
        let mut news = self.trail.news();
        if news.lost > 0 {
            return Some(Live::Skipped(std::mem::take(&mut news.lost)));
        }
        let turn = news.turns.pop_front()?;
        drop(news);
        Some(match turn {
            Turn::State { at, state, error } => Live::State { at, state, attempt: None, error },
            Turn::Began { at, run } => {
                let attempt = Some(run.attempt());
                if self.run.as_ref().is_none_or(|known| known.lease() != run.lease()) {
                    (self.run, self.at) = (Some(run), [0; 2]);
                }
                Live::State { at, state: State::Running, attempt, error: None }
            }
        })
    }
}

/// Tells a run from others, also from one of the same number after a restart; it is no token.
fn run_mark(run: &JobContext) -> String {
    let LeaseRef { token, index } = run.lease();
    format!("{:08x}.{}.{index}", token.incarnation as u32, token.seq)
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("id", &self.id).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut by_id = self.followed.by_id();
        if let Some(trails) = by_id.get_mut(&self.id) {
            trails.retain(|trail| !Arc::ptr_eq(trail, &self.trail));
            if trails.is_empty() {
                by_id.remove(&self.id);
            }
        }
        self.followed.set_bits(&by_id);
    }
}

/// What a run that is followed has beside its output.
#[derive(Default)]
pub(crate) struct Watch {
    /// It printed something.
    pub(crate) printed: Notify,
    /// Its streams, once the manager has taken them.
    pub(crate) rest: Mutex<[Option<OutputBuffer>; 2]>,
}

impl Watch {
    pub(crate) fn rest(&self) -> MutexGuard<'_, [Option<OutputBuffer>; 2]> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
