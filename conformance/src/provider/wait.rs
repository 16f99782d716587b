//! Obligations of `Provider::wait`.

use futures_util::FutureExt;
use ganger_core::Timestamp;

use crate::{
    Jobs, Store, TestManager,
    manager::{LONG, room, room_for_any},
    soon,
};

/// Waiting takes nothing.
pub async fn waiting_takes_nothing(store: impl Store) {
    let manager = TestManager::open(&store).await;
    manager.put(&store, Jobs::many(1)).await;
    for _ in 0..3 {
        soon("a wait with a job ready", manager.provider.wait(&room(1))).await.unwrap();
    }
    assert_eq!(manager.take(10).await.len(), 1);
}

/// Waiting returns when a job becomes ready, due, or free of its lease.
pub async fn waiting_returns_when_a_job_becomes_ready_due_or_free_of_its_lease(store: impl Store) {
    let (manager, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    let (ready, ()) =
        tokio::join!(manager.await_claim(room(1), store.lease()), other.put(&store, Jobs::many(1)));
    assert_eq!(ready[0].label(), "0");

    let free = other.await_claim(room_for_any(1), LONG).await;
    assert_eq!(free[0].lease.index, ready[0].lease.index);

    if manager.provider.capabilities().schedule && manager.provider.capabilities().sink {
        let mut job = Jobs::one("due");
        job.run_at = Some(Timestamp::now().plus(store.lease()));
        other.enqueue(vec![job]).await;
        assert_eq!(manager.await_claim(room(1), LONG).await[0].label(), "due");
    }
}

/// Waiting may return although there is nothing: the exchange after it then yields nothing, at once.
pub async fn waiting_may_return_although_there_is_nothing(store: impl Store) {
    let manager = TestManager::open(&store).await;
    for _ in 0..3 {
        let _ = manager.provider.wait(&room(1)).now_or_never();
        assert!(manager.claim(room(1), LONG).await.is_empty());
    }
}

/// A wait that is dropped loses nothing.
pub async fn a_wait_that_is_dropped_loses_nothing(store: impl Store) {
    let (manager, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    let room = room(1);
    let _ = manager.provider.wait(&room).now_or_never();
    let wait = manager.provider.wait(&room);
    other.put(&store, Jobs::many(1)).await;
    drop(wait);
    let _ = manager.provider.wait(&room).now_or_never();
    assert_eq!(manager.await_claim(room.clone(), LONG).await[0].label(), "0");
}
