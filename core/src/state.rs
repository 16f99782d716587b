//! Where a job is in its life.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A job's state: `scheduled → ready → running → done | dead | cancelled | expired`. A retry goes back to
/// `scheduled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits for its time: a first schedule or a retry.
    Scheduled,
    /// Waits for a worker.
    Ready,
    /// Leased by a manager.
    Running,
    /// Ended well.
    Done,
    /// Ended badly: retries or crashes spent, or not worth a retry. A dead letter.
    Dead,
    /// Ended by an order.
    Cancelled,
    /// Not started by its `expires_at`.
    Expired,
}

impl State {
    /// Every state, in the order of a job's life.
    pub const ALL: [State; 7] = [
        State::Scheduled,
        State::Ready,
        State::Running,
        State::Done,
        State::Dead,
        State::Cancelled,
        State::Expired,
    ];

    /// Whether the job has ended; only an order leaves an end.
    pub const fn is_end(self) -> bool {
        matches!(self, State::Done | State::Dead | State::Cancelled | State::Expired)
    }

    /// The state's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Scheduled => "scheduled",
            State::Ready => "ready",
            State::Running => "running",
            State::Done => "done",
            State::Dead => "dead",
            State::Cancelled => "cancelled",
            State::Expired => "expired",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no state (scheduled, ready, running, done, dead, cancelled, expired)")]
pub struct StateError(String);

impl FromStr for State {
    type Err = StateError;

    fn from_str(text: &str) -> Result<Self, StateError> {
        State::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| StateError(text.to_owned()))
    }
}
