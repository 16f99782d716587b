//! What happens to jobs, told to whoever listens: the console, `--wait`, `logs -f`, an embedding program.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::{JobId, State, Timestamp};

/// Something that happened to a job.
#[derive(Clone, Debug)]
pub struct Event {
    /// The job.
    pub id: JobId,
    /// Its type.
    pub kind: String,
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum What {
    /// It is in this state now; a run's error goes with it.
    State {
        /// The new state.
        state: State,
        /// The error of the run that led there.
        error: Option<String>,
    },
    /// A run printed this.
    Output(Vec<u8>),
    /// A run is this far along.
    Progress {
        /// 0 to 100.
        percent: u8,
        /// In words.
        message: String,
    },
}

/// The events of a manager. Bounded, and lossy for a listener that is too slow: it is told how many it missed.
/// Costs one atomic read a batch while nobody listens.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Arc<[Event]>>);

/// How many batches of events a slow listener may lag behind before it misses some.
pub const EVENTS_LAG_MAX: usize = 1024;

impl Default for Events {
    fn default() -> Self {
        Events(broadcast::Sender::new(EVENTS_LAG_MAX))
    }
}

impl Events {
    /// Whether anyone listens: if not, there is no need to make events.
    pub fn heard(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Tells the listeners.
    pub fn tell(&self, events: Vec<Event>) {
        if !events.is_empty() {
            // No listener is no fault.
            let _ = self.0.send(events.into());
        }
    }

    /// Listens from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<[Event]>> {
        self.0.subscribe()
    }
}
