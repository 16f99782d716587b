//! What tests wait by, in place of sleeps: each waits for something that happens, says what, and has a deadline.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

/// How long anything may take that should happen soon, on the slowest machine. No test passes by waiting for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that should happen soon.
///
/// # Panics
/// It did not happen within [`PATIENCE`]; `what` says what that is.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} has not happened within {PATIENCE:?}"),
    }
}

/// Looks again and again, until a condition holds that nothing tells of. Where something can tell, use a [`Signal`].
///
/// # Panics
/// It did not within [`PATIENCE`].
pub async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    eventually_within(PATIENCE, what, holds).await;
}

/// Like [`eventually`], for what takes longer.
///
/// # Panics
/// It did not within `limit`.
pub async fn eventually_within(limit: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let look = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let held = tokio::time::timeout(limit, look).await;
    assert!(held.is_ok(), "{what} has not happened within {limit:?}");
}

/// Something that a test waits for, told by whoever sees it happen. Its clones are one.
#[derive(Clone, Debug)]
pub struct Signal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    what: String,
    times: watch::Sender<u64>,
}

impl Signal {
    /// A signal of what `what` says, as "a job starts".
    pub fn new(what: &str) -> Self {
        Signal(Arc::new(Inner { what: what.to_owned(), times: watch::Sender::new(0) }))
    }

    /// Tells that it happened, once more. Whoever waits, or will wait, learns it.
    pub fn tell(&self) {
        self.0.times.send_modify(|times| *times += 1);
    }

    /// How often it has happened.
    pub fn times(&self) -> u64 {
        *self.0.times.borrow()
    }

    /// Waits until it has happened at least so often, counted from the start: nothing told before is missed.
    ///
    /// # Panics
    /// It has not within [`PATIENCE`].
    pub async fn told(&self, times: u64) {
        let mut seen = self.0.times.subscribe();
        let waited = tokio::time::timeout(PATIENCE, seen.wait_for(|seen| *seen >= times)).await;
        // The sender lives in self: only the deadline ends the wait early.
        assert!(waited.is_ok(), "{}: told {} of {times} times in {PATIENCE:?}", self.0.what, self.times());
    }
}

/// Holds those who come to it until it is opened, and tells how many came. Its clones are one.
#[derive(Clone, Debug)]
pub struct Gate {
    came: Signal,
    open: watch::Sender<bool>,
}

impl Gate {
    /// A shut gate; `what` says who comes, as "a job at the store".
    pub fn shut(what: &str) -> Self {
        Gate { came: Signal::new(what), open: watch::Sender::new(false) }
    }

    /// Comes to the gate, and goes on once it is open.
    pub async fn pass(&self) {
        self.came.tell();
        let mut open = self.open.subscribe();
        // The sender lives in self.
        let _ = open.wait_for(|open| *open).await;
    }

    /// Waits until at least so many have come, counted from the start.
    ///
    /// # Panics
    /// They have not within [`PATIENCE`].
    pub async fn reached(&self, times: u64) {
        self.came.told(times).await;
    }

    /// Lets all go on, those too who come later.
    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_told_before_it_is_waited_for_is_not_missed() {
        let signal = Signal::new("a step");
        signal.tell();
        signal.clone().tell();
        signal.told(2).await;
        assert_eq!(signal.times(), 2);
        let other = signal.clone();
        let (..) = tokio::join!(signal.told(3), async { other.tell() });
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_happens_is_named_with_how_often_it_did() {
        let signal = Signal::new("a job starts");
        signal.tell();
        let panic = tokio::spawn(async move { signal.told(2).await }).await.unwrap_err().into_panic();
        let message = panic.downcast_ref::<String>().unwrap();
        assert_eq!(message, "a job starts: told 1 of 2 times in 20s");
        let hangs = tokio::spawn(soon("the end", std::future::pending::<()>())).await.unwrap_err();
        let message = hangs.into_panic().downcast_ref::<String>().unwrap().clone();
        assert_eq!(message, "the end has not happened within 20s");
    }

    #[tokio::test]
    async fn a_gate_holds_who_comes_until_it_is_opened() {
        let gate = Gate::shut("a job at the gate");
        let held = tokio::spawn({
            let gate = gate.clone();
            async move { gate.pass().await }
        });
        gate.reached(1).await;
        assert!(!held.is_finished());
        gate.open();
        soon("the end of who was held", held).await.unwrap();
        gate.pass().await;
        gate.reached(2).await;
    }
}
