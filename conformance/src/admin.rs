//! The group of looking at stored jobs and giving orders about them.

use std::sync::Arc;

use ganger_core::{
    Admin, Attempt, Filter, Hold, Job, JobId, Order, Page, Settlement, Spend, State, Stranded, Timestamp,
    Verdict,
};

use crate::{
    Jobs, Store, TestManager,
    manager::{Held, KIND, LONG, room_for_any},
};

/// Opens the store, if it can be looked at.
async fn open(store: &impl Store) -> Option<(TestManager, Arc<dyn Admin>)> {
    let manager = TestManager::open(store).await;
    let can = manager.provider.capabilities();
    let admin = manager.provider.admin().filter(|_| can.admin)?;
    can.sink.then_some((manager, admin))
}

async fn order(admin: &Arc<dyn Admin>, order: Order, ids: &[JobId]) -> u64 {
    admin.order(order, &Filter::ids(ids.to_vec())).await.unwrap()
}

async fn state(admin: &Arc<dyn Admin>, id: &JobId) -> Option<State> {
    admin.show(id).await.unwrap().map(|view| view.state)
}

/// Retrying a dead, cancelled or expired job makes it ready with its budgets restored; a scheduled one is due now.
pub async fn retrying_a_dead_cancelled_or_expired_job_makes_it_ready_with_its_budgets_restored_a_scheduled_one_is_due_now(
    store: impl Store,
) {
    let Some((manager, admin)) = open(&store).await else { return };
    let ids = manager.enqueue(Jobs::many(3)).await;
    let held = manager.take(3).await;
    let verdicts = [Verdict::Dead { reason: "retries spent".into() }, Verdict::Cancelled, Verdict::Expired];
    for (held, verdict) in held.iter().zip(verdicts) {
        let mut end = Settlement::new(held.lease, verdict);
        end.spend = Spend::Retry;
        assert!(manager.settle(end).await);
    }
    assert_eq!(order(&admin, Order::Retry, &ids).await, 3);
    let again = manager.take(10).await;
    assert_eq!(again.iter().map(Held::id).collect::<Vec<_>>(), ids);
    assert!(again.iter().all(|held| held.leased.record.spent == 0 && held.leased.record.crashes == 0));

    if manager.provider.capabilities().schedule {
        let mut later = Jobs::one("later");
        later.run_at = Some(Timestamp::now().plus(LONG));
        let later = manager.enqueue(vec![later]).await;
        assert!(admin.show(&later[0]).await.unwrap().unwrap().run_at.is_some());
        assert_eq!(order(&admin, Order::Retry, &later).await, 1);
        let view = admin.show(&later[0]).await.unwrap().unwrap();
        assert_eq!((view.state, view.run_at), (State::Ready, None), "it waits for no time any more");
        assert_eq!(manager.await_claim(room_for_any(1), LONG).await[0].label(), "later");
    }
}

/// Cancelling a waiting job ends it at once; a running one is marked, and its holder learns it by renewal.
pub async fn cancelling_a_waiting_job_ends_it_at_once_a_running_one_is_marked_and_its_holder_learns_it_by_renewal(
    store: impl Store,
) {
    let Some((manager, admin)) = open(&store).await else { return };
    let ids = manager.enqueue(Jobs::many(2)).await;
    let held = manager.take(1).await;
    assert_eq!(order(&admin, Order::Cancel, &ids).await, 2);
    assert_eq!(state(&admin, &ids[1]).await, Some(State::Cancelled));
    assert_eq!(state(&admin, &ids[0]).await, Some(State::Running));
    assert_eq!(manager.renew(&[held[0].lease]).await, [Hold::Cancel]);
    assert!(manager.say(held[0].lease, Verdict::Cancelled).await);
    assert_eq!(state(&admin, &ids[0]).await, Some(State::Cancelled));
    assert_eq!(order(&admin, Order::Cancel, &ids).await, 0, "jobs that have ended are passed over");
}

/// Removing a job that is not running forgets it; a running one is passed over.
pub async fn removing_a_job_that_is_not_running_forgets_it_a_running_one_is_passed_over(store: impl Store) {
    let Some((manager, admin)) = open(&store).await else { return };
    let ids = manager.enqueue(Jobs::many(3)).await;
    let held = manager.take(2).await;
    assert!(manager.say(held[1].lease, Verdict::Dead { reason: "no luck".into() }).await);
    assert_eq!(order(&admin, Order::Remove, &ids).await, 2);
    assert_eq!(state(&admin, &ids[0]).await, Some(State::Running));
    assert_eq!((state(&admin, &ids[1]).await, state(&admin, &ids[2]).await), (None, None));
    assert!(manager.say(held[0].lease, Verdict::Done).await, "the running one is undisturbed");
    assert!(manager.take(10).await.is_empty());
}

/// Recovering brings each stranded job back once, and leaves one that may still run where it is.
pub async fn recovering_brings_each_stranded_job_back_once_and_leaves_one_that_may_still_run_where_it_is(
    store: impl Store,
) {
    let Some((manager, admin)) = open(&store).await else { return };
    if !manager.provider.capabilities().recover {
        assert_eq!(admin.recover().await.unwrap(), Stranded::default());
        return;
    }
    assert_eq!(admin.stranded().await.unwrap().jobs, 0);
    let bytes = |name: &str| format!(r#"{{"type":"{KIND}","name":"{name}"}}"#).into_bytes();
    for name in ["a", "b", "c"] {
        assert!(
            store.strand(bytes(name), name == "c").await,
            "a store that recovers has a way to strand a job"
        );
    }
    let found = admin.stranded().await.unwrap();
    assert_eq!((found.jobs, found.held), (2, 1));
    assert!(!found.caution.is_empty());
    assert!(manager.take(10).await.is_empty(), "a look changes nothing");
    let back = admin.recover().await.unwrap();
    assert_eq!((back.jobs, back.held), (2, 1));
    let again = admin.recover().await.unwrap();
    assert_eq!((again.jobs, again.held), (0, 1));
    let mut names: Vec<String> = manager.take(10).await.iter().map(Held::label).collect();
    names.sort();
    assert_eq!(names, ["a", "b"]);
}

/// A list is newest first, filtered, and read page by page.
pub async fn a_list_is_newest_first_filtered_and_read_page_by_page(store: impl Store) {
    let Some((manager, admin)) = open(&store).await else { return };
    let ids = manager.enqueue(Jobs::many(5)).await;
    manager.enqueue(vec![Jobs::of("other", "x")]).await;
    let filter = Filter { kind: Some(KIND.into()), ..Filter::default() };
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = admin.list(&filter, &Page { limit: 2, after }).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        seen.extend(page.into_iter().map(|view| view.id));
    }
    let newest_first: Vec<JobId> = ids.iter().rev().cloned().collect();
    assert_eq!(seen, newest_first);
    assert_eq!(admin.count(&filter).await.unwrap(), 5);
    assert_eq!(admin.count(&Filter::default()).await.unwrap(), 6);
    manager.take(2).await;
    let running = Filter { states: Some(vec![State::Running]), ..filter };
    assert_eq!(admin.count(&running).await.unwrap(), 2);
    let counts = admin.counts().await.unwrap();
    let of = |kind: &str, state| {
        counts.iter().filter(|one| one.kind == kind && one.state == state).map(|one| one.count).sum::<u64>()
    };
    assert_eq!((of(KIND, State::Ready), of(KIND, State::Running), of("other", State::Ready)), (3, 2, 1));
}

/// A dead letter tells its reason and its runs.
pub async fn a_dead_letter_tells_its_reason(store: impl Store) {
    let Some((manager, admin)) = open(&store).await else { return };
    let ids = manager.enqueue(Jobs::many(1)).await;
    let held = manager.take(1).await;
    assert!(manager.say(held[0].lease, Verdict::Dead { reason: "no luck".into() }).await);
    let view = admin.show(&ids[0]).await.unwrap().expect("a dead letter stays until an order");
    assert_eq!((view.state, view.reason.as_deref()), (State::Dead, Some("no luck")));
    assert!(view.ended_at.is_some() && view.holder.is_none());
    assert_eq!(view.job.and_then(|job| job.name).as_deref(), Some("0"));
    assert!(admin.show(&"never".parse().unwrap()).await.unwrap().is_none());
}

/// All that a filter sets must hold, for orders too.
pub async fn all_that_a_filter_sets_must_hold_for_orders_too(store: impl Store) {
    let Some((manager, admin)) = open(&store).await else { return };
    let elsewhere = Job { queue: Some("elsewhere".into()), ..Jobs::one("0") };
    let ids = manager.enqueue(vec![Jobs::one("0"), elsewhere, Jobs::one("1"), Jobs::of("other", "0")]).await;
    let held = manager.take(1).await;
    let mut dead = Settlement::new(held[0].lease, Verdict::Dead { reason: "no luck".into() });
    dead.more_mut().attempt = Some(Attempt {
        number: 1,
        started: Timestamp::now(),
        millis: 1,
        outcome: "failed".into(),
        note: None,
        error: Some("the 7th disk is full".into()),
        output: String::new(),
        stderr: String::new(),
        manager: "conformance".into(),
        usage: None,
    });
    assert!(manager.settle(dead).await);
    let died = held[0].id();

    let kind = || Filter { kind: Some(KIND.into()), ..Filter::default() };
    let name = || Filter { name: Some("0".into()), ..kind() };
    let others: Vec<JobId> = ids[..2].iter().filter(|id| **id != died).cloned().collect();
    let cases = [
        (kind(), vec![&ids[0], &ids[1], &ids[2]]),
        (name(), vec![&ids[0], &ids[1]]),
        (Filter { queue: Some("elsewhere".into()), ..Filter::default() }, vec![&ids[1]]),
        (Filter { queue: Some("elsewhere".into()), name: Some("1".into()), ..kind() }, vec![]),
        (Filter { error: Some("disk is full".into()), ..kind() }, vec![&died]),
        (Filter { error: Some("disk is empty".into()), ..kind() }, vec![]),
        (Filter { ids: Some(ids[1..].to_vec()), ..name() }, vec![&ids[1]]),
        (Filter { ids: Some(Vec::new()), ..Filter::default() }, vec![]),
        (Filter { states: Some(vec![State::Dead, State::Done]), ..Filter::default() }, vec![&died]),
    ];
    for (filter, expected) in &cases {
        let mut expected: Vec<JobId> = expected.iter().map(|id| (*id).clone()).collect();
        let listed = admin.list(filter, &Page::default()).await.unwrap();
        let mut listed: Vec<JobId> = listed.into_iter().map(|view| view.id).collect();
        listed.sort_by_key(JobId::to_string);
        expected.sort_by_key(JobId::to_string);
        assert_eq!(listed, expected, "{filter:?}");
        assert_eq!(admin.count(filter).await.unwrap(), expected.len() as u64, "{filter:?}");
    }
    assert_eq!(admin.order(Order::Cancel, &name()).await.unwrap(), 1, "the dead one is passed over");
    assert_eq!(state(&admin, &others[0]).await, Some(State::Cancelled));
    assert_eq!(state(&admin, &ids[2]).await, Some(State::Ready));
    assert_eq!(state(&admin, &ids[3]).await, Some(State::Ready));
}
