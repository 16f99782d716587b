//! How long a connection lasts.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// One connection's time. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Line(watch::Sender<Instant>);

impl Line {
    /// A line that lasts so long, and what is ready when its time is over.
    pub(crate) fn new(lasts: Duration) -> (Line, impl Future<Output = ()>) {
        let (line, mut until) = watch::channel(Instant::now() + lasts);
        let expired = async move {
            loop {
                let at = *until.borrow_and_update();
                tokio::select! {
                    () = sleep_until(at) => return,
                    // Without its line nobody can prolong it.
                    changed = until.changed() => if changed.is_err() {
                        return sleep_until(at).await;
                    }
                }
            }
        };
        (Line(line), expired)
    }

    /// From now on it lasts so long.
    pub(crate) fn last(&self, lasts: Duration) {
        self.0.send_replace(Instant::now() + lasts);
    }
}
