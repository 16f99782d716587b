//! Obligations of `Provider::wait`.

use futures_util::FutureExt;
use ganger_core::{Exchange, Room, Settlement, Timestamp, Verdict};

use crate::{
    Jobs, Store, TestManager,
    manager::{Held, LONG, held, labels, room, room_for_any},
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

/// A wait that claims answers as an exchange would, with no suspect.
pub async fn a_wait_that_claims_answers_as_an_exchange_would_with_no_suspect(store: impl Store) {
    let (manager, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    if !manager.provider.capabilities().wait_and_claim {
        return;
    }
    for round in 0..5 {
        let give = order(&manager, room(2));
        let label = round.to_string();
        let pushes = async { assert!(store.push(Jobs::one(&label).to_json().into_bytes()).await) };
        let (answer, ()) =
            tokio::join!(soon("a job to come", manager.provider.wait_and_claim(&give)), pushes);
        let leased = match answer.unwrap() {
            Some(answer) => {
                assert!(answer.stale.is_empty());
                answer.leased
            }
            None => manager.exchange(&give).await.leased,
        };
        let held = held(give.token, leased);
        assert_eq!(held.iter().map(Held::label).collect::<Vec<_>>(), [label]);
        assert!(other.take(10).await.is_empty(), "it is leased to nobody else");
        assert!(manager.say(held[0].lease, Verdict::Done).await);
    }
    other.put(&store, vec![Jobs::one("lost")]).await;
    assert_eq!(other.await_claim(room(1), store.lease()).await.len(), 1);
    let give = order(&manager, room_for_any(1));
    // Until its lease has run out.
    while soon("a lease to run out", manager.provider.wait_and_claim(&give)).await.unwrap().is_some_and(
        |answer| {
            assert!(answer.leased.is_empty(), "a suspect is an exchange's to claim");
            true
        },
    ) {}
    assert_eq!(manager.await_claim(room_for_any(1), LONG).await[0].label(), "lost");
}

/// An exchange under the token of a wait settles, and answers what the wait has claimed.
pub async fn an_exchange_under_the_token_of_a_wait_settles_and_answers_what_the_wait_has_claimed(
    store: impl Store,
) {
    let (manager, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    if !manager.provider.capabilities().wait_and_claim {
        return;
    }
    manager.put(&store, vec![Jobs::one("before")]).await;
    let mut before = manager.take(1).await;
    for round in 0..5 {
        let mut give = order(&manager, room(10));
        let wait = manager.provider.wait_and_claim(&give);
        let push = store.push(Jobs::one(&round.to_string()).to_json().into_bytes());
        // Whether it has claimed when it is dropped, nobody knows.
        let pushed = tokio::select! {
            biased;
            _ = wait => None,
            pushed = push => Some(pushed),
        };
        assert_eq!(pushed, Some(true), "nothing was there to wait for");
        give.settle = vec![Settlement::new(before[0].lease, Verdict::Done)];
        let answer = manager.exchange(&give).await;
        assert!(answer.stale.is_empty());
        let again = manager.exchange(&give).await;
        assert_eq!(labels(&again.leased), labels(&answer.leased), "the same token again");
        assert!(!manager.say(before[0].lease, Verdict::Done).await, "it was settled");
        assert_eq!(labels(&answer.leased), [round.to_string()]);
        before = held(give.token, answer.leased);
    }
    assert!(other.take(10).await.is_empty(), "all are leased to one");
}

/// A wait whose token was exchanged claims nothing.
pub async fn a_wait_whose_token_was_exchanged_claims_nothing(store: impl Store) {
    let (manager, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    if !manager.provider.capabilities().wait_and_claim {
        return;
    }
    for round in 0..5 {
        let give = order(&manager, room(10));
        let (waits, token) = (manager.provider.clone(), give.token);
        let wait = tokio::spawn(async move { waits.wait_and_claim(&give).await });
        let settle_only = Exchange { token, settle: Vec::new(), room: Room::none(), lease: LONG };
        assert!(manager.exchange(&settle_only).await.leased.is_empty());
        assert!(store.push(Jobs::one(&round.to_string()).to_json().into_bytes()).await);
        assert_eq!(other.await_claim(room(10), LONG).await[0].label(), round.to_string());
        wait.abort();
    }
}

/// What a manager waits with.
fn order(manager: &TestManager, room: Room) -> Exchange {
    Exchange { token: manager.token(), settle: Vec::new(), room, lease: LONG }
}
