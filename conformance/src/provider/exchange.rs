//! Obligations of `Provider::exchange`.

use std::time::Duration;

use ganger_core::{
    Attempt, Entry, Exchange, Hold, JobId, LeaseRef, Room, Settlement, Spend, State, Timestamp, Token,
    Verdict,
};

use crate::{
    Jobs, Store, TestManager,
    manager::{Held, LONG, held, labels, room, room_for_any, room_of},
    soon,
};

/// Two jobs under one short lease, of which another manager has taken one, alone: the other's lease has run out
/// as well, and it is taken by nobody. The one that was taken, and the lease of the one that was not.
async fn one_of_two_is_taken(
    store: &impl Store,
    first: &TestManager,
    other: &TestManager,
) -> (Held, LeaseRef, LeaseRef) {
    first.put(store, Jobs::many(2)).await;
    let token = first.token();
    let both = held(token, first.claim_as(token, room(2), store.lease()).await);
    assert_eq!(both.len(), 2);
    let taken = other.await_claim(room_for_any(10), LONG).await;
    assert_eq!(taken.len(), 1, "a suspect is leased alone");
    let (lost, left): (Vec<Held>, Vec<Held>) =
        both.into_iter().partition(|held| held.label() == taken[0].label());
    (taken[0].clone(), lost[0].lease, left[0].lease)
}

/// A settlement under a lease that is still held is applied, also if the lease ran out but was not taken.
pub async fn a_settlement_under_a_lease_that_is_still_held_is_applied_also_if_the_lease_ran_out_but_was_not_taken(
    store: impl Store,
) {
    let (first, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    first.put(&store, Jobs::many(1)).await;
    let held = first.take(1).await;
    assert!(first.say(held[0].lease, Verdict::Done).await);
    assert!(other.take(10).await.is_empty(), "a job that is done is leased to nobody");

    let (_, _, left) = one_of_two_is_taken(&store, &first, &other).await;
    assert!(first.say(left, Verdict::Done).await, "its lease ran out, but nobody took it");
    assert!(other.claim(room_for_any(10), LONG).await.is_empty());
}

/// A settlement under a lease that is lost changes nothing and is reported stale.
pub async fn a_settlement_under_a_lease_that_is_lost_changes_nothing_and_is_reported_stale(
    store: impl Store,
) {
    let (first, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    let (taken, lost, _) = one_of_two_is_taken(&store, &first, &other).await;
    for verdict in [Verdict::Done, Verdict::Release, Verdict::Dead { reason: "late".into() }] {
        let mut late = Settlement::new(lost, verdict);
        late.spend = Spend::Retry;
        late.more_mut().follow = vec![with_id(Jobs::one("follow-up of a stale settlement"))];
        assert!(!first.settle(late).await, "the lease is lost");
    }
    assert_eq!(other.renew(&[taken.lease]).await, [Hold::Held], "the new holder is undisturbed");
    assert!(other.say(taken.lease, Verdict::Release).await);
    let again = other.await_claim(room_for_any(1), LONG).await;
    assert_eq!((again[0].label(), again[0].leased.record.spent), (taken.label(), 0));
    assert!(other.say(again[0].lease, Verdict::Done).await);
    assert!(!other.say(again[0].lease, Verdict::Done).await, "it is settled already");

    let nobody = LeaseRef { token: Token { incarnation: 7, seq: 7 }, index: 0 };
    assert!(!first.say(nobody, Verdict::Done).await, "a lease that never was");
    assert!(!other.drain().await.contains("follow-up of a stale settlement"));
}

/// Follow-up jobs of a settlement become real together with it.
pub async fn follow_up_jobs_of_a_settlement_become_real_together_with_it(store: impl Store) {
    let manager = TestManager::open(&store).await;
    if !manager.provider.capabilities().follow {
        return;
    }
    manager.put(&store, Jobs::many(1)).await;
    let held = manager.take(1).await;
    let mut done = Settlement::new(held[0].lease, Verdict::Done);
    let ids: Vec<JobId> = (1..=2).map(|n| held[0].id().child(n)).collect();
    let labelled = ids.iter().zip(["a", "b"]);
    done.more_mut().follow =
        labelled.map(|(id, label)| ganger_core::Job { id: Some(id.clone()), ..Jobs::one(label) }).collect();
    assert!(manager.settle(done).await);
    let followed = manager.take(10).await;
    assert_eq!(followed.iter().map(Held::label).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(followed.iter().map(Held::id).collect::<Vec<_>>(), ids);
}

/// A leased job is leased to nobody else until its lease runs out.
pub async fn a_leased_job_is_leased_to_nobody_else_until_its_lease_runs_out(store: impl Store) {
    let (first, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    first.put(&store, Jobs::many(3)).await;
    let mine = first.take(1).await;
    let theirs = other.claim(room_for_any(10), LONG).await;
    assert_eq!(labels(&theirs), ["1", "2"]);
    assert!(other.claim(room_for_any(10), LONG).await.is_empty());
    assert!(first.say(mine[0].lease, Verdict::Release).await);
    first.claim(room(1), store.lease()).await;
    assert_eq!(other.await_claim(room_for_any(1), LONG).await[0].label(), "0");
}

/// A claim leases at most what the room allows, by type, in all and in bytes (one job is always allowed).
pub async fn a_claim_leases_at_most_what_the_room_allows_by_type_in_all_and_in_bytes_one_job_is_always_allowed(
    store: impl Store,
) {
    let manager = TestManager::open(&store).await;
    assert!(manager.claim(Room::none(), LONG).await.is_empty());
    let types = ["a", "b", "c"];
    let jobs = types.iter().flat_map(|kind| (0..4).map(move |n| Jobs::of(kind, &format!("{kind}{n}"))));
    manager.put(&store, jobs.collect()).await;
    assert!(manager.claim(Room::none(), LONG).await.is_empty());
    let in_all = Room { jobs: 2, ..room_of(&[("a", 3), ("b", 3), ("c", 3)]) };
    assert_eq!(manager.claim(in_all, LONG).await.len(), 2);
    if manager.provider.capabilities().filter {
        let leased = manager.claim(room_of(&[("b", 3), ("c", 1)]), LONG).await;
        let mut labels = labels(&leased);
        labels.sort();
        assert_eq!(labels, ["b0", "b1", "b2", "c0"]);
    }
    manager.claim(room_of(&[("a", 9), ("b", 9), ("c", 9)]), LONG).await;

    let wide: Vec<_> = (0..4)
        .map(|n| {
            let mut job = ganger_core::Job::new("a", &"x".repeat(1000)).unwrap();
            job.name = Some(format!("wide{n}").into());
            job
        })
        .collect();
    manager.put(&store, wide).await;
    let narrow = Room { bytes: 2500, ..room_of(&[("a", 9)]) };
    assert_eq!(manager.claim(narrow, LONG).await.len(), 2);
    let nearly_none = Room { bytes: 1, ..room_of(&[("a", 9)]) };
    assert_eq!(manager.claim(nearly_none, LONG).await.len(), 1, "one job is always allowed");
}

/// Jobs of one queue and priority are leased in the order in which they were enqueued.
pub async fn jobs_of_one_queue_and_priority_are_leased_in_the_order_in_which_they_were_enqueued(
    store: impl Store,
) {
    let manager = TestManager::open(&store).await;
    manager.put(&store, Jobs::many(10)).await;
    manager.put(&store, (10..20).map(|n| Jobs::one(&n.to_string())).collect()).await;
    let expected: Vec<String> = (0..20).map(|n: u32| n.to_string()).collect();
    let mut order = Vec::new();
    for n in [7, 1, 12] {
        let held = manager.take(n).await;
        order.extend(held.iter().map(Held::label));
        // A release puts a job back in its place.
        assert!(manager.say(held[0].lease, Verdict::Release).await);
        let again = manager.take(1).await;
        assert_eq!(again[0].label(), held[0].label());
    }
    assert_eq!(order, expected);
}

/// Where the provider orders by priority, a higher one comes first.
pub async fn a_job_of_a_higher_priority_is_leased_first_where_the_provider_orders(store: impl Store) {
    let manager = TestManager::open(&store).await;
    if !manager.provider.capabilities().priority {
        return;
    }
    let with = |priority, label| ganger_core::Job { priority, ..Jobs::one(label) };
    manager.put(&store, vec![with(-1, "low"), with(0, "a"), with(7, "high"), with(0, "b")]).await;
    let order: Vec<String> = manager.take(10).await.iter().map(Held::label).collect();
    assert_eq!(order, ["high", "a", "b", "low"]);
}

/// A job whose lease ran out becomes a suspect, and is leased alone, as the only one of its claim.
pub async fn a_job_whose_lease_ran_out_becomes_a_suspect_and_is_leased_alone_as_the_only_one_of_its_claim(
    store: impl Store,
) {
    let (first, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    let (taken, ..) = one_of_two_is_taken(&store, &first, &other).await;
    assert!(taken.leased.record.suspect);
    assert_eq!((taken.leased.record.crashes, taken.leased.record.spent), (0, 0), "that proves nothing yet");

    let ready: Vec<_> = (2..4).map(|n| Jobs::one(&n.to_string())).collect();
    first.put(&store, ready).await;
    let no_suspects = other.claim(room(1), LONG).await;
    assert_eq!(labels(&no_suspects), ["2"], "a room without suspects leases none");
    let suspect = other.await_claim(room_for_any(10), LONG).await;
    assert_eq!(suspect.len(), 1, "a suspect is the only one of its claim");
    assert!(suspect[0].leased.record.suspect, "with room for one, it comes first");
    assert_eq!(labels(&other.claim(room_for_any(10), LONG).await), ["3"]);
}

/// A suspect's lease is durable before the claim is answered; a suspect whose lease ran out has one crash more.
pub async fn a_suspects_lease_is_durable_before_the_claim_is_answered_a_suspect_whose_lease_ran_out_has_one_crash_more(
    store: impl Store,
) {
    let (first, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    first.put(&store, Jobs::many(1)).await;
    first.claim(room(1), store.lease()).await;
    let suspect = other.await_claim(room_for_any(1), store.lease()).await;
    assert_eq!(suspect[0].leased.record.crashes, 0);

    // Leased later and for as long: once this one's lease has run out, the suspect's has.
    first.put(&store, vec![Jobs::one("later")]).await;
    first.claim(room(1), store.lease()).await;
    let unproven = Room { crashed: false, ..room_for_any(1) };
    let later = other.await_claim(unproven.clone(), LONG).await;
    assert_eq!(later[0].label(), "later", "who may run none that has lost runs is not given the suspect");
    assert!(other.say(later[0].lease, Verdict::Done).await);
    let crashed = first.await_claim(room_for_any(1), LONG).await;
    assert_eq!((crashed[0].leased.record.crashes, crashed[0].leased.record.suspect), (1, true));

    assert!(first.say(crashed[0].lease, Verdict::Release).await);
    assert!(first.claim(unproven, LONG).await.is_empty(), "it has lost runs already");
    let again = first.await_claim(room_for_any(1), LONG).await;
    assert_eq!(again[0].leased.record.crashes, 1, "a release spends nothing");

    if store.kill().await {
        let next = TestManager::open(&store).await;
        let lost = next.await_claim(room_for_any(1), LONG).await;
        assert_eq!(lost[0].leased.record.crashes, 2, "the claim that the kill cut off is known");
    }
}

/// The same token again gets the same answer.
pub async fn the_same_token_again_gets_the_same_answer(store: impl Store) {
    let manager = TestManager::open(&store).await;
    if !manager.provider.capabilities().repeat {
        return;
    }
    manager.put(&store, Jobs::many(4)).await;
    let held = manager.take(1).await;
    let mut retry = Settlement::new(held[0].lease, Verdict::Release);
    retry.spend = Spend::Retry;
    let never = LeaseRef { token: Token { incarnation: 7, seq: 7 }, index: 0 };
    let give = Exchange {
        token: manager.token(),
        settle: vec![retry, Settlement::new(never, Verdict::Done)],
        room: room(2),
        lease: LONG,
    };
    let answer = manager.exchange(&give).await;
    assert_eq!((labels(&answer.leased), &answer.stale), (vec!["0".into(), "1".into()], &vec![never]));
    for _ in 0..3 {
        let again = manager.exchange(&give).await;
        assert_eq!((labels(&again.leased), &again.stale), (labels(&answer.leased), &answer.stale));
        let indexes = |leased: &[ganger_core::Leased]| leased.iter().map(|one| one.index).collect::<Vec<_>>();
        assert_eq!(indexes(&again.leased), indexes(&answer.leased));
        assert_eq!(again.leased[0].record.spent, 1, "settled once, though it was told twice");
    }
    assert_eq!(manager.take(10).await.len(), 2, "and nothing more was leased");
}

/// A cancelled job is leased to nobody.
pub async fn a_cancelled_job_is_leased_to_nobody(store: impl Store) {
    let (manager, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    if !manager.provider.capabilities().sink {
        return;
    }
    let sink = manager.sink();
    let ids = manager.enqueue(Jobs::many(4)).await;
    assert!(sink.cancel(&ids[0]).await.unwrap());
    let held = manager.take(2).await;
    assert_eq!(held.iter().map(Held::label).collect::<Vec<_>>(), ["1", "2"]);
    for id in &ids[1..3] {
        assert!(sink.cancel(id).await.unwrap());
    }
    assert!(manager.say(held[0].lease, Verdict::Release).await);
    let mut retry = Settlement::new(held[1].lease, Verdict::Retry { at: Timestamp::now() });
    retry.spend = Spend::Retry;
    assert!(manager.settle(retry).await);
    let lost = manager.claim(room(1), store.lease()).await;
    assert_eq!(labels(&lost), ["3"]);
    assert!(sink.cancel(&ids[3]).await.unwrap());
    soon("the end of a cancelled job whose lease is lost", async {
        while sink.states(&ids).await.unwrap() != vec![Some(State::Cancelled); 4] {
            assert!(other.claim(room_for_any(10), LONG).await.is_empty());
            tokio::time::timeout(Duration::from_millis(20), other.provider.wait(&room_for_any(10)))
                .await
                .ok();
        }
    })
    .await;
    assert!(!sink.cancel(&ids[0]).await.unwrap(), "it has ended");
}

/// A retry waits for its time and carries what it spent and how its runs ended, the last ten.
pub async fn a_retried_job_comes_at_its_time_with_what_it_spent_and_its_last_ten_runs(store: impl Store) {
    let manager = TestManager::open(&store).await;
    if !manager.provider.capabilities().schedule {
        return;
    }
    manager.put(&store, Jobs::many(1)).await;
    for number in 1..=12 {
        let held = manager.await_claim(room(1), LONG).await;
        assert_eq!(held[0].leased.record.spent, number - 1);
        let mut retry = Settlement::new(held[0].lease, Verdict::Retry { at: Timestamp::now() });
        retry.spend = Spend::Retry;
        retry.more_mut().kind = Some(crate::manager::KIND.into());
        retry.more_mut().attempt = Some(attempt(number));
        assert!(manager.settle(retry).await);
    }
    let last = manager.await_claim(room(1), LONG).await;
    let attempts: Vec<u32> = last[0].leased.record.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(attempts, (3..=12).collect::<Vec<u32>>());
    let mut later = Settlement::new(last[0].lease, Verdict::Retry { at: Timestamp::now().plus(LONG) });
    later.more_mut().kind = Some(crate::manager::KIND.into());
    assert!(manager.settle(later).await);
    assert!(manager.take(1).await.is_empty(), "it is not due");
}

/// Bytes that a producer pushed keep the first claim's id and time at every later claim, and come as they were.
pub async fn pushed_bytes_come_as_they_were_and_keep_their_first_claim(store: impl Store) {
    let (manager, other) = (TestManager::open(&store).await, TestManager::open(&store).await);
    let bytes = b"{\"type\":\"test\", \"name\":\"raw\"}\n".to_vec();
    if !store.push(bytes.clone()).await {
        return;
    }
    let token = manager.token();
    let raw = held(token, manager.claim_as(token, room(1), store.lease()).await);
    let first = raw[0].leased.record.first;
    assert_eq!(first.map(|first| first.lease), Some(raw[0].lease));
    let lost = other.await_claim(room_for_any(1), LONG).await;
    assert_eq!(lost[0].leased.record.first, first);
    let mut parked = Settlement::new(lost[0].lease, Verdict::Park { until: None });
    parked.more_mut().kind = Some("test".into());
    assert!(other.settle(parked).await);
    let again = other.await_claim(room_for_any(1), LONG).await;
    assert_eq!(again[0].leased.record.first, first);
    assert!(matches!(&again[0].leased.entry, Entry::Raw(same) if *same == bytes));
}

fn attempt(number: u32) -> Attempt {
    Attempt {
        number,
        started: Timestamp::now(),
        millis: 1,
        outcome: "failed".into(),
        note: None,
        error: Some(format!("error {number}")),
        output: format!("printed {number}"),
        stderr: format!("complained {number}"),
        manager: "conformance".into(),
        usage: None,
    }
}

fn with_id(job: ganger_core::Job) -> ganger_core::Job {
    ganger_core::Job { id: Some(JobId::new()), ..job }
}
