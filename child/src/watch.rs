//! The watcher: a process of its own that outlives ganger by a moment, and takes ganger's children with it.
//!
//! It sees the groups that run on a [`Board`] that both processes share, and learns of ganger's end from a pipe
//! that ganger alone holds open. See `docs/decisions` for why it is made by fork.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use ganger_core::Secret;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, kill_process_group},
    thread::{NanosleepRelativeResult, nanosleep},
};

use crate::{
    environment::RUN,
    marked::kill_marked,
    sys::{Board, Notes, SEATS, fork_watcher, monotonic_millis},
};

/// How often ganger gives a sign of life, and how often the watcher looks.
const BEAT: Duration = Duration::from_secs(1);

/// How often the watcher looks for processes once ganger is gone, 20 ms apart: a child that is between fork and
/// exec does not carry the mark yet, and one that forks all the time takes a few rounds.
const ROUNDS_MAX: u32 = 250;

/// So many rounds in a row that find nothing end it.
const ROUNDS_CLEAN: u32 = 5;

/// The watcher of one run of ganger. Dropped, it kills what the run left behind.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    beat: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    board: Board,
    /// `GANGER_RUN=…`.
    mark: Vec<u8>,
    /// Its other end is the watcher's: closed, it wakes the watcher for its last work.
    pipe: Mutex<OwnedFd>,
    free: Mutex<Vec<usize>>,
    over: AtomicBool,
}

/// The watchers that this process has had, by run; of each run the last one.
static WATCHES: Mutex<Vec<Known>> = Mutex::new(Vec::new());

struct Known {
    run: Secret,
    watch: Weak<Watch>,
    /// How many the run has had: one that is about to end must not take a later one's commands for its own.
    count: u32,
}

impl Watch {
    /// The watcher of a run; started if it is the first time. The shortest `patience` of a run counts.
    ///
    /// # Errors
    /// The system refuses a process, a pipe or a thread.
    pub fn of(run: &Secret, patience: Duration) -> io::Result<Arc<Watch>> {
        let mut watches = WATCHES.lock().unwrap_or_else(PoisonError::into_inner);
        let place = watches.iter().position(|known| known.run == *run).unwrap_or_else(|| {
            watches.push(Known { run: run.clone(), watch: Weak::new(), count: 0 });
            watches.len() - 1
        });
        let known = &mut watches[place];
        let watch = match known.watch.upgrade() {
            Some(watch) => watch,
            None => {
                let watch = Arc::new(Watch::start(mark(run, known.count))?);
                known.count += 1;
                known.watch = Arc::downgrade(&watch);
                watch
            }
        };
        let millis = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        watch.shared.board.notes().patience.fetch_min(millis, Relaxed);
        Ok(watch)
    }

    fn start(mark: Vec<u8>) -> io::Result<Watch> {
        let board = Board::new()?;
        board.notes().patience.store(u64::MAX, Relaxed);
        board.notes().beat.store(monotonic_millis(), Relaxed);
        let pipe = Mutex::new(fork(&board, &mark)?);
        let free = Mutex::new((0..SEATS).rev().collect());
        let shared = Arc::new(Shared { board, mark, pipe, free, over: AtomicBool::new(false) });
        let beating = Arc::clone(&shared);
        let beat = thread::Builder::new()
            .name("ganger-beat".into())
            .stack_size(256 << 10)
            .spawn(move || beating.beat())?;
        Ok(Watch { shared, beat: Some(beat) })
    }

    /// A place on the board for a slot. Where none is left the slot goes without: its commands are found by
    /// their mark alone.
    pub(crate) fn seat(self: &Arc<Self>) -> Seat {
        let place = self.shared.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Seat { watch: Arc::clone(self), place }
    }

    /// What every process of this run has in its environment: `GANGER_RUN=…`.
    pub fn mark(&self) -> &[u8] {
        &self.shared.mark
    }
}

/// `GANGER_RUN=<run>`; for the second watcher of a run `GANGER_RUN=<run>.1`.
fn mark(run: &Secret, earlier: u32) -> Vec<u8> {
    match earlier {
        0 => format!("{RUN}={}", run.reveal()).into_bytes(),
        _ => format!("{RUN}={}.{earlier}", run.reveal()).into_bytes(),
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
        if let Some(beat) = self.beat.take() {
            beat.thread().unpark();
            let _ = beat.join();
        }
    }
}

impl Shared {
    /// Gives signs of life, and starts a new watcher where somebody killed the old one.
    fn beat(&self) {
        while !self.over.load(Relaxed) {
            self.board.notes().beat.store(monotonic_millis(), Relaxed);
            let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
            if is_broken(&pipe) {
                match fork(&self.board, &self.mark) {
                    Ok(new) => {
                        tracing::warn!("the watcher of commands had ended; a new one is running");
                        *pipe = new;
                    }
                    Err(error) => tracing::error!(%error, "the watcher of commands has ended"),
                }
            }
            drop(pipe);
            thread::park_timeout(BEAT);
        }
    }
}

fn is_broken(pipe: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::ERR)
}

/// Starts a watcher; its life hangs on the pipe returned.
fn fork(board: &Board, mark: &[u8]) -> io::Result<OwnedFd> {
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
    fork_watcher(theirs.as_fd(), || watch(&theirs, board.notes(), mark))?;
    Ok(ours)
}

/// A slot's place on the board.
#[derive(Debug)]
pub(crate) struct Seat {
    watch: Arc<Watch>,
    place: Option<usize>,
}

impl Seat {
    /// Tells the watcher which group runs here; `None` when none does any more.
    pub(crate) fn set(&self, group: Option<Pid>) {
        if let Some(place) = self.place.and_then(|place| self.watch.shared.board.notes().groups.get(place)) {
            place.store(group.map_or(0, |pid| pid.as_raw_nonzero().get()), Relaxed);
        }
    }

    /// What every process of this run has in its environment.
    pub(crate) fn mark(&self) -> &[u8] {
        self.watch.mark()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.set(None);
        let free = &self.watch.shared.free;
        free.lock().unwrap_or_else(PoisonError::into_inner).extend(self.place);
    }
}

/// What the watcher does, after the fork: no allocation, no lock, no panic.
fn watch(pipe: &OwnedFd, notes: &Notes, mark: &[u8]) {
    let look = Timespec { tv_sec: BEAT.as_secs() as i64, tv_nsec: 0 };
    loop {
        // Asks for nothing, so that only the pipe's end wakes it.
        let mut fds = [PollFd::new(pipe, PollFlags::empty())];
        if poll(&mut fds, Some(&look)).is_ok_and(|ready| ready > 0) {
            break;
        }
        let silent = monotonic_millis().saturating_sub(notes.beat.load(Relaxed));
        if silent > notes.patience.load(Relaxed) {
            kill_groups(notes);
            kill_marked(&[mark]);
        }
    }
    let mut clean = 0;
    for _ in 0..ROUNDS_MAX {
        kill_groups(notes);
        clean = if kill_marked(&[mark]) == 0 { clean + 1 } else { 0 };
        if clean == ROUNDS_CLEAN {
            return;
        }
        let pause = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        if !matches!(nanosleep(&pause), NanosleepRelativeResult::Ok) {
            continue;
        }
    }
}

fn kill_groups(notes: &Notes) {
    for group in &notes.groups {
        if let Some(leader) = Pid::from_raw(group.load(Relaxed)) {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}
