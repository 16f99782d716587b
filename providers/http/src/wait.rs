//! Waiting for a job's end, whichever process runs it.

use std::{slice, time::Duration};

use ganger_core::{Ended, JobId, State};
use tokio::time::{sleep, timeout};

use crate::intake::Door;

/// How long to leave a store alone that did not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// How often to look, while ganger stops, whether a job still runs.
const LOOK: Duration = Duration::from_millis(250);

/// The longest wait for a single answer of the store.
const STORE_LIMIT: Duration = Duration::from_secs(5);

/// Waits for a job's end, at most `limit`. While ganger stops only a job that runs is waited for: one that has not
/// begun is done after the restart.
pub(crate) async fn until_end(door: &Door, id: &JobId, limit: Duration) -> Option<Ended> {
    let mut end = std::pin::pin!(end(door, id));
    let mut over = std::pin::pin!(sleep(limit));
    tokio::select! {
        biased;
        ended = &mut end => return Some(ended),
        () = &mut over => return None,
        () = door.stop.wait() => {}
    }
    tokio::select! {
        biased;
        ended = &mut end => Some(ended),
        () = &mut over => None,
        () = not_running(door, id) => None,
    }
}

async fn end(door: &Door, id: &JobId) -> Ended {
    loop {
        match door.sink.sink.ended(slice::from_ref(id)).await {
            Ok(ended) => {
                if let Some(ended) = ended.into_iter().find(|ended| ended.id == *id) {
                    return ended;
                }
            }
            Err(error) => {
                tracing::debug!(intake = door.name, %error, "the store does not tell how jobs end; asked again");
            }
        }
        sleep(AGAIN).await;
    }
}

async fn not_running(door: &Door, id: &JobId) {
    loop {
        match state(door, id).await {
            Some(state) if state == State::Running || state.is_end() => sleep(LOOK).await,
            _ => return,
        }
    }
}

/// A job's state now, where the store can tell.
pub(crate) async fn state(door: &Door, id: &JobId) -> Option<State> {
    let asked = timeout(STORE_LIMIT, door.sink.sink.states(slice::from_ref(id))).await;
    asked.ok()?.ok()?.into_iter().next()?
}

/// Cancels a job whose client has gone.
pub(crate) async fn cancel(door: &Door, id: &JobId) {
    match timeout(STORE_LIMIT, door.sink.sink.cancel(id)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(intake = door.name, job = %id, %error, "the job of a client that left is not cancelled");
        }
        Err(_) => {
            tracing::warn!(intake = door.name, job = %id, "the job of a client that left is not cancelled")
        }
    }
}
