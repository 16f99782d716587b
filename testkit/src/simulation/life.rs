//! The life of a manager, which can stand still and end anywhere.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use ganger_core::BoxFuture;
use tokio::time::Instant;

/// One incarnation: its tasks live on it and die with it, as in `kill -9`: between two polls, without a last
/// word. Frozen, as by `kill -STOP` or by a host that is suspended, none of them is polled until it thaws.
pub struct Life {
    /// The incarnation.
    pub incarnation: u64,
    dead: AtomicBool,
    frozen: AtomicBool,
    polls_left: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sleepers: Vec<Waker>,
    over_at: Option<Instant>,
    thawed_at: Option<Instant>,
}

impl Life {
    /// A life that ends after so many polls of its tasks, if nothing ends it before.
    pub fn new(incarnation: u64, polls: u64) -> Arc<Self> {
        Arc::new(Life {
            incarnation,
            dead: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
            polls_left: AtomicU64::new(polls),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// When it ended, if it has.
    pub fn over_at(&self) -> Option<Instant> {
        self.state().over_at
    }

    /// Ends it now, frozen or not.
    pub fn end(&self) {
        if !self.dead.swap(true, Ordering::Relaxed) {
            let mut state = self.state();
            state.over_at = Some(Instant::now());
            let sleepers = std::mem::take(&mut state.sleepers);
            drop(state);
            sleepers.into_iter().for_each(Waker::wake);
        }
    }

    /// Stops it where it is.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        if self.frozen.swap(false, Ordering::Relaxed) {
            let mut state = self.state();
            state.thawed_at = Some(Instant::now());
            state.sleepers.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Whether it stands still.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    /// When it last went on after standing still.
    pub fn thawed_at(&self) -> Option<Instant> {
        self.state().thawed_at
    }

    /// Lets it end only when it is told to.
    pub fn spare(&self) {
        self.polls_left.store(u64::MAX, Ordering::Relaxed);
    }

    /// Runs a task on it.
    pub fn spawn(self: &Arc<Self>, task: BoxFuture<'static, ()>) {
        tokio::spawn(Mortal { life: self.clone(), task: Some(task), known: None });
    }

    /// Counts a poll; whether it is the last.
    fn tick(&self) {
        if self.polls_left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.end();
        }
    }
}

/// A task that ends with a [`Life`].
struct Mortal {
    life: Arc<Life>,
    task: Option<BoxFuture<'static, ()>>,
    known: Option<Waker>,
}

impl Future for Mortal {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let frozen = self.life.is_frozen();
        if !frozen {
            self.life.tick();
        }
        if self.life.is_over() {
            self.task = None;
            return Poll::Ready(());
        }
        if self.known.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            self.known = Some(cx.waker().clone());
            self.life.state().sleepers.push(cx.waker().clone());
        }
        if frozen {
            return Poll::Pending;
        }
        let Some(task) = &mut self.task else { return Poll::Ready(()) };
        let polled = task.as_mut().poll(cx);
        if polled.is_ready() || self.life.is_over() {
            self.task = None;
            return Poll::Ready(());
        }
        polled
    }
}
