//! The process group of a slot's child, as the two sides see it that may signal and reap it.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cgroup::Cage;

/// Guards a group against a signal that comes when its number belongs to somebody else: signals are sent, and
/// the number is given up, under one lock.
#[derive(Debug, Default)]
pub struct Group {
    state: Mutex<State>,
    asked: Condvar,
    stop: StopSignal,
}

/// The signal that tells a child to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "they are what signal(7) says they are")]
pub enum StopSignal {
    #[default]
    #[serde(rename = "TERM", alias = "SIGTERM")]
    Term,
    #[serde(rename = "INT", alias = "SIGINT")]
    Int,
    #[serde(rename = "QUIT", alias = "SIGQUIT")]
    Quit,
    #[serde(rename = "HUP", alias = "SIGHUP")]
    Hup,
    #[serde(rename = "ABRT", alias = "SIGABRT")]
    Abrt,
    #[serde(rename = "USR1", alias = "SIGUSR1")]
    Usr1,
    #[serde(rename = "USR2", alias = "SIGUSR2")]
    Usr2,
    #[serde(rename = "KILL", alias = "SIGKILL")]
    Kill,
}

impl StopSignal {
    fn signal(self) -> Signal {
        match self {
            StopSignal::Term => Signal::TERM,
            StopSignal::Int => Signal::INT,
            StopSignal::Quit => Signal::QUIT,
            StopSignal::Hup => Signal::HUP,
            StopSignal::Abrt => Signal::ABORT,
            StopSignal::Usr1 => Signal::USR1,
            StopSignal::Usr2 => Signal::USR2,
            StopSignal::Kill => Signal::KILL,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    asked: Option<Ask>,
    /// Where the child has a control group: a kill is for all that is in it.
    cage: Option<Arc<Cage>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    Starting,
    Running(Pid),
}

/// What a command was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    /// To stop, politely.
    Stop,
    /// Nothing: it is killed.
    Kill,
}

impl Group {
    pub(crate) fn new(stop: StopSignal) -> Self {
        Group { stop, ..Group::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A command is going to be started.
    pub fn begin(&self) {
        *self.lock() = State { phase: Phase::Starting, ..State::default() };
    }

    /// It was started, and leads a group of its number. What was asked meanwhile happens now.
    pub(crate) fn started(&self, leader: Pid, cage: Option<Arc<Cage>>) {
        let mut state = self.lock();
        state.phase = Phase::Running(leader);
        state.cage = cage;
        if let Some(ask) = state.asked {
            self.send(&state, leader, ask);
        }
    }

    /// Asks it to stop, or kills it and all its group. False if it was over already.
    pub fn ask(&self, ask: Ask) -> bool {
        let mut state = self.lock();
        match state.phase {
            Phase::Idle => return false,
            Phase::Starting => {}
            Phase::Running(leader) => self.send(&state, leader, ask),
        }
        state.asked = state.asked.max(Some(ask));
        self.asked.notify_all();
        true
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Option<Ask> {
        self.lock().asked
    }

    /// Waits until something is asked, at most so long; what was asked.
    pub fn wait_asked(&self, time: Duration) -> Option<Ask> {
        let unasked = |state: &mut State| state.asked.is_none();
        let waited = self.asked.wait_timeout_while(self.lock(), time, unasked);
        waited.unwrap_or_else(PoisonError::into_inner).0.asked
    }

    /// Kills what is left of the group and gives its number up; the leader has ended and can be reaped. Of one that was
    /// asked to stop all that it started is killed. What it was asked before that.
    pub(crate) fn end(&self) -> Option<Ask> {
        let mut state = self.lock();
        let cage = state.cage.take();
        if let Phase::Running(leader) = state.phase {
            self.send(&state, leader, Ask::Kill);
        }
        if let Some(cage) = cage.filter(|_| state.asked.is_some()) {
            cage.kill();
        }
        state.phase = Phase::Idle;
        state.asked
    }

    fn send(&self, state: &State, leader: Pid, ask: Ask) {
        // What is gone cannot be signalled, and need not be.
        match ask {
            Ask::Kill => {
                signal(leader, Signal::KILL);
                if let Some(cage) = &state.cage {
                    cage.kill();
                }
            }
            Ask::Stop => {
                signal(leader, self.stop.signal());
                // A stopped process hears of it only when it goes on.
                signal(leader, Signal::CONT);
            }
        }
    }
}

fn signal(leader: Pid, signal: Signal) {
    if kill_process_group(leader, signal).is_err() {
        // The leader may have left its group, which is empty then.
        let _ = kill_process(leader, signal);
    }
}
