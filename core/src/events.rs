//! What happens to jobs, told to whoever listens: the console, `--wait`, `logs -f`, an embedding program.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::{Follower, JobContext, JobId, State, Stream, Timestamp, follow::Followed};

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
    Output {
        /// To which of its streams.
        stream: Stream,
        /// What it printed.
        bytes: Vec<u8>,
    },
    /// A run is this far along.
    Progress {
        /// 0 to 100.
        percent: u8,
        /// In words.
        message: String,
    },
}

/// The events of a manager, for who [listens](Events::listen) to all jobs or [follows](Events::follow) one. Bounded, and
/// lossy for who is too slow: it is told how much it missed. Costs an atomic read or two a batch while nobody listens,
/// and of a job nothing but a look-up while another one is followed.
#[derive(Clone, Debug)]
pub struct Events {
    all: broadcast::Sender<Arc<[Event]>>,
    followed: Arc<Followed>,
}

/// How many batches of events a slow listener may lag behind before it misses some.
pub const EVENTS_LAG_MAX: usize = 1024;

impl Default for Events {
    fn default() -> Self {
        Events { all: broadcast::Sender::new(EVENTS_LAG_MAX), followed: Arc::default() }
    }
}

impl Events {
    /// Whether anyone listens to all jobs: if not, there is no need to make events.
    pub fn heard(&self) -> bool {
        self.all.receiver_count() > 0
    }

    /// Tells the listeners.
    pub fn tell(&self, events: Vec<Event>) {
        if !events.is_empty() {
            // No listener is no fault.
            let _ = self.all.send(events.into());
        }
    }

    /// Listens from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<[Event]>> {
        self.all.subscribe()
    }

    /// Follows a job from now on. Of a run that is under way already only the manager knows: see
    /// [`Status::follow`](crate::Status::follow).
    pub fn follow(&self, id: &JobId) -> Follower {
        self.followed.follow(id)
    }

    /// Whether someone follows a job; the manager's.
    pub fn is_followed(&self, id: &JobId) -> bool {
        self.followed.has(id)
    }

    /// Tells those who follow a job that it runs; the manager's.
    pub fn began(&self, run: &JobContext, at: Timestamp) {
        self.followed.began(run, at);
    }

    /// Tells those who follow a job its state, when what its run printed is taken; the manager's.
    pub fn changed(&self, id: &JobId, at: Timestamp, state: State, error: Option<&str>) {
        self.followed.state(id, at, state, error);
    }

    pub(crate) fn progress(&self, id: &JobId, percent: u8, message: &str) {
        self.followed.progress(id, percent, message);
    }
}
