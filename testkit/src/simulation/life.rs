//! The life of a manager, which can end anywhere.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use ganger_core::BoxFuture;

/// One incarnation: its tasks live on it and die with it, as in `kill -9`: between two polls, without a last word.
pub struct Life {
    /// The incarnation.
    pub incarnation: u64,
    dead: AtomicBool,
    polls_left: AtomicU64,
    sleepers: Mutex<Vec<Waker>>,
}

impl Life {
    /// A life that ends after so many polls of its tasks, if nothing ends it before.
    pub fn new(incarnation: u64, polls: u64) -> Arc<Self> {
        Arc::new(Life {
            incarnation,
            dead: AtomicBool::new(false),
            polls_left: AtomicU64::new(polls),
            sleepers: Mutex::default(),
        })
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Ends it now.
    pub fn end(&self) {
        self.dead.store(true, Ordering::Relaxed);
        let sleepers = std::mem::take(&mut *self.sleepers.lock().unwrap_or_else(PoisonError::into_inner));
        sleepers.into_iter().for_each(Waker::wake);
    }

    /// Lets it end only when it is told to.
    pub fn spare(&self) {
        self.polls_left.store(u64::MAX, Ordering::Relaxed);
    }

    /// Runs a task on it.
    pub fn spawn(self: &Arc<Self>, task: BoxFuture<'static, ()>) {
        tokio::spawn(self.mortal(task));
    }

    /// A future that ends with it: `None` if it ended first.
    pub fn mortal<F: Future>(self: &Arc<Self>, task: F) -> Mortal<F> {
        Mortal { life: self.clone(), task: Some(Box::pin(task)), known: None }
    }

    /// Counts a poll; whether it is the last.
    fn tick(&self) {
        if self.polls_left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.end();
        }
    }
}

/// A future that ends with a [`Life`].
pub struct Mortal<F> {
    life: Arc<Life>,
    task: Option<Pin<Box<F>>>,
    known: Option<Waker>,
}

impl<F: Future> Future for Mortal<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.life.tick();
        if self.life.is_over() {
            self.task = None;
            return Poll::Ready(());
        }
        if self.known.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            self.known = Some(cx.waker().clone());
            self.life.sleepers.lock().unwrap_or_else(PoisonError::into_inner).push(cx.waker().clone());
        }
        let Some(task) = &mut self.task else { return Poll::Ready(()) };
        let polled = task.as_mut().poll(cx).map(drop);
        if polled.is_ready() || self.life.is_over() {
            self.task = None;
            return Poll::Ready(());
        }
        polled
    }
}
