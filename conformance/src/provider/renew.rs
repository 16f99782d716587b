//! Obligations of `Provider::renew`.

use std::time::Duration;

use ganger_core::{Hold, LeaseRef, State, Verdict};

use crate::{
    Jobs, Store, TestManager, eventually,
    manager::{Held, LONG, held, room, room_for_any},
    soon,
};

async fn claim(manager: &TestManager, n: u32, lease: Duration) -> Vec<Held> {
    let token = manager.token();
    held(token, manager.claim_as(token, room(n), lease).await)
}

/// A lease that is held is extended, also if it ran out but was not taken.
pub async fn a_lease_that_is_held_is_extended_also_if_it_ran_out_but_was_not_taken(store: impl Store) {
    let (manager, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    manager.put(&store, Jobs::many(4)).await;
    let kept = claim(&manager, 1, store.lease()).await;
    // Leased later, so when this one is free the first lease would be over too.
    let glass = claim(&manager, 3, store.lease()).await;
    assert_eq!(manager.renew(&[kept[0].lease]).await, [Hold::Held]);
    let taken = other.await_claim(room_for_any(10), LONG).await;
    assert_ne!(taken[0].label(), kept[0].label(), "its lease was extended");

    let leases: Vec<LeaseRef> = glass.iter().map(|held| held.lease).collect();
    let holds = manager.renew(&leases).await;
    for (held, hold) in glass.iter().zip(holds) {
        let expected = if held.label() == taken[0].label() { Hold::Lost } else { Hold::Held };
        assert_eq!(hold, expected, "job {}", held.label());
    }
    assert!(other.claim(room_for_any(10), LONG).await.is_empty(), "all others are held again");
    assert!(manager.say(kept[0].lease, Verdict::Done).await);
}

/// A lease that was taken or settled is answered as lost.
pub async fn a_lease_that_was_taken_or_settled_is_answered_as_lost(store: impl Store) {
    let (manager, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    manager.put(&store, Jobs::many(3)).await;
    let settled = claim(&manager, 2, LONG).await;
    assert!(manager.say(settled[0].lease, Verdict::Done).await);
    let lost = claim(&manager, 1, store.lease()).await;
    other.await_claim(room_for_any(1), LONG).await;
    let asked = [settled[0].lease, settled[1].lease, lost[0].lease];
    assert_eq!(manager.renew(&asked).await, [Hold::Lost, Hold::Held, Hold::Lost]);
}

/// A held job that someone asked to cancel is answered as such.
pub async fn a_held_job_that_someone_asked_to_cancel_is_answered_as_such(store: impl Store) {
    let manager = TestManager::open(&store).await;
    if !manager.provider.capabilities().sink {
        return;
    }
    let ids = manager.enqueue(Jobs::many(2)).await;
    let held = manager.take(2).await;
    let leases: Vec<LeaseRef> = held.iter().map(|held| held.lease).collect();
    assert!(manager.sink().cancel(&ids[1]).await.unwrap());
    for _ in 0..2 {
        assert_eq!(manager.renew(&leases).await, [Hold::Held, Hold::Cancel]);
    }
    assert!(manager.say(leases[1], Verdict::Cancelled).await);
    assert_eq!(manager.renew(&leases).await, [Hold::Held, Hold::Lost]);
}

/// An open item of a named token that is left out is ready again, with nothing spent.
pub async fn an_open_item_of_a_named_token_that_is_left_out_is_ready_again_with_nothing_spent(
    store: impl Store,
) {
    let (manager, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    manager.put(&store, Jobs::many(4)).await;
    let token = manager.token();
    let mine = held(token, manager.claim_as(token, room(3), LONG).await);
    let elsewhere = manager.take(1).await;
    assert_eq!(manager.renew(&[mine[1].lease]).await, [Hold::Held]);
    let theirs = other.take(10).await;
    assert_eq!(theirs.iter().map(Held::label).collect::<Vec<_>>(), ["0", "2"]);
    for held in &theirs {
        let record = &held.leased.record;
        assert_eq!((record.spent, record.crashes, record.suspect), (0, 0, false));
    }
    assert!(!manager.say(mine[0].lease, Verdict::Done).await, "it was given up");
    assert!(manager.say(mine[1].lease, Verdict::Done).await);
    assert!(manager.say(elsewhere[0].lease, Verdict::Done).await, "a token that was not named is as it was");
}

/// Left out of a renewal, a job that someone asked to cancel has ended: it is leased to nobody.
pub async fn a_cancelled_item_that_is_left_out_has_ended(store: impl Store) {
    let (manager, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    if !manager.provider.capabilities().sink {
        return;
    }
    let mut jobs = Jobs::many(2);
    jobs.iter_mut().for_each(|job| job.keep_at_least(ganger_core::Period::secs(60)));
    let ids = manager.enqueue(jobs).await;
    let held = manager.take(2).await;
    assert!(manager.sink().cancel(&ids[1]).await.unwrap());
    assert_eq!(manager.renew(&[held[0].lease]).await, [Hold::Held]);
    assert!(other.claim(room_for_any(10), LONG).await.is_empty(), "it is leased to nobody");
    let states = manager.sink().states(&ids).await.unwrap();
    assert_eq!(states, [Some(State::Running), Some(State::Cancelled)]);
}

/// The beat is kept for a lease, also when nothing is held.
pub async fn the_beat_is_kept_for_a_lease_also_when_nothing_is_held(store: impl Store) {
    let (manager, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    if !manager.provider.capabilities().sink {
        return;
    }
    assert!(manager.renew(&[]).await.is_empty());
    soon("a renewal", other.provider.renew(&other.beat(store.lease()), &[])).await.unwrap();
    let first = manager.beat(LONG).incarnation;
    let known = |beats: &[ganger_core::Beat]| beats.iter().any(|beat| beat.incarnation == first);
    assert!(known(&other.sink().managers().await.unwrap()));
    eventually("the end of a beat that is not renewed", async || {
        let beats = manager.sink().managers().await.unwrap();
        assert!(known(&beats));
        beats.len() == 1
    })
    .await;
}
