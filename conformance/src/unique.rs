//! The group of unique keys: of the sink, of exchanges and of orders.

use ganger_core::{
    Batch, Enqueued, Exchange, Filter, Job, JobId, Order, Refused, RefusedKind, Settlement, State, Timestamp,
    Unique, Verdict,
};

use crate::{
    Jobs, Store, TestManager,
    manager::{Held, LONG, held, room, room_for_any},
    soon,
};

/// Opens the store, if it takes jobs and honours `unique`.
async fn open(store: &impl Store) -> Option<TestManager> {
    let manager = TestManager::open(store).await;
    let can = manager.provider.capabilities();
    (can.sink && can.unique).then_some(manager)
}

/// A job of a key, in the states in which jobs hold theirs by default.
fn of(key: &str, label: &str) -> Job {
    during(key, label, &[State::Scheduled, State::Ready, State::Running])
}

fn during(key: &str, label: &str, states: &[State]) -> Job {
    let mut job = Jobs::one(label);
    job.rare_mut().unique = Some(Unique { key: key.into(), states: states.to_vec() });
    job
}

async fn enqueue(manager: &TestManager, jobs: Vec<Job>) -> Vec<Result<Enqueued, Refused>> {
    soon("enqueueing", manager.sink().enqueue(Batch::new(jobs))).await.unwrap()
}

/// Enqueues one job that is taken.
async fn take_key(manager: &TestManager, job: Job) -> JobId {
    enqueue(manager, vec![job]).await.remove(0).expect("nobody holds the key").id
}

/// Who holds a key, as a job of it that is refused learns it; a job that is taken cancels itself.
async fn holder(manager: &TestManager, key: &str) -> Option<JobId> {
    match enqueue(manager, vec![of(key, "probe")]).await.remove(0) {
        Ok(stored) => {
            assert!(soon("cancelling", manager.sink().cancel(&stored.id)).await.unwrap());
            None
        }
        Err(refused) => {
            assert_eq!(refused.kind, RefusedKind::Duplicate, "{refused}");
            let holder = refused.holder.clone().expect("a duplicate names its holder");
            assert!(refused.message.contains(&holder.to_string()), "{refused}");
            Some(holder)
        }
    }
}

/// A job whose unique key another job holds is refused, and that job is named.
pub async fn a_job_whose_unique_key_another_job_holds_is_refused_and_that_job_is_named(store: impl Store) {
    let Some(manager) = open(&store).await else { return };
    let batch = vec![of("k", "0"), of("k", "1"), of("other \n\t\0 ü", "2"), Jobs::one("3"), of("k", "4")];
    let answers = enqueue(&manager, batch).await;
    let first = answers[0].as_ref().unwrap().id.clone();
    for refused in [&answers[1], &answers[4]] {
        let refused = refused.as_ref().unwrap_err();
        assert_eq!((refused.kind, refused.holder.as_ref()), (RefusedKind::Duplicate, Some(&first)));
    }
    assert_eq!(holder(&manager, "k").await, Some(first));
    let other = answers[2].as_ref().unwrap().id.clone();
    assert_eq!(holder(&manager, "other \n\t\0 ü").await, Some(other));
    let held = manager.take(10).await;
    assert_eq!(held.iter().map(Held::label).collect::<Vec<_>>(), ["0", "2", "3"]);
}

/// A job holds its unique key exactly while it is in the states that it names.
pub async fn a_job_holds_its_unique_key_exactly_while_it_is_in_the_states_that_it_names(store: impl Store) {
    let Some(manager) = open(&store).await else { return };
    through_a_life(&store, &manager).await;
    with_fewer_states(&manager).await;
    after_the_end(&manager).await;
}

/// By default the key is held from the first schedule to the end, whoever holds the job, and whatever that is.
async fn through_a_life(store: &impl Store, manager: &TestManager) {
    let later = Job { run_at: Some(Timestamp::now().plus(store.lease())), ..of("k", "0") };
    let id = take_key(manager, later).await;
    let held_by = Some(id.clone());
    assert_eq!(holder(manager, "k").await, held_by, "scheduled");
    let claimed = manager.await_claim(room(1), LONG).await;
    assert_eq!(holder(manager, "k").await, held_by, "running");
    assert!(manager.say(claimed[0].lease, Verdict::Retry { at: Timestamp::now() }).await);
    assert_eq!(holder(manager, "k").await, held_by, "waits for a retry");
    let claimed = manager.await_claim(room(1), LONG).await;
    assert!(manager.say(claimed[0].lease, Verdict::Release).await);
    assert_eq!(holder(manager, "k").await, held_by, "released");
    assert_eq!(manager.claim(room(1), store.lease()).await.len(), 1);
    let other = TestManager::open(store).await;
    let taken = other.await_claim(room_for_any(1), LONG).await;
    assert_eq!(holder(manager, "k").await, held_by, "taken over");
    assert!(other.say(taken[0].lease, Verdict::Park { until: None }).await);
    assert_eq!(holder(manager, "k").await, held_by, "parked");
    let taken = other.await_claim(room_for_any(1), LONG).await;
    assert!(other.say(taken[0].lease, Verdict::Done).await);
    assert_eq!(holder(manager, "k").await, None, "done");

    for end in [Verdict::Dead { reason: "no luck".into() }, Verdict::Expired, Verdict::Cancelled] {
        let id = take_key(manager, of("k", "1")).await;
        let claimed = manager.take(1).await;
        assert_eq!(claimed[0].id(), id);
        assert!(manager.say(claimed[0].lease, end.clone()).await);
        assert_eq!(holder(manager, "k").await, None, "{end:?}");
    }
}

async fn with_fewer_states(manager: &TestManager) {
    let waits = [State::Scheduled, State::Ready];
    let first = take_key(manager, during("waits", "a", &waits)).await;
    assert_eq!(holder(manager, "waits").await, Some(first.clone()));
    let running = manager.take(1).await;
    assert_eq!(running[0].id(), first);
    let second = take_key(manager, during("waits", "b", &waits)).await;
    assert_eq!(holder(manager, "waits").await, Some(second.clone()), "one runs, one waits");
    assert!(manager.say(running[0].lease, Verdict::Done).await);
    assert_eq!(holder(manager, "waits").await, Some(second), "the end of one is not the other's");
    let claimed = manager.take(1).await;
    assert!(manager.say(claimed[0].lease, Verdict::Done).await);

    let first = take_key(manager, during("runs", "a", &[State::Running])).await;
    take_key(manager, during("runs", "b", &[State::Running])).await;
    let running = manager.take(1).await;
    assert_eq!(holder(manager, "runs").await, Some(first));
    assert!(manager.say(running[0].lease, Verdict::Done).await);
    let last = manager.take(1).await;
    assert!(manager.say(last[0].lease, Verdict::Done).await);
}

/// An end holds the key as long as it is on record.
async fn after_the_end(manager: &TestManager) {
    let dead = take_key(manager, during("dead", "a", &[State::Ready, State::Dead])).await;
    let claimed = manager.take(1).await;
    assert_eq!(holder(manager, "dead").await, None, "running is not among them");
    assert!(manager.say(claimed[0].lease, Verdict::Dead { reason: "no luck".into() }).await);
    assert_eq!(holder(manager, "dead").await, Some(dead.clone()));
    let mut kept = during("done", "a", &[State::Done]);
    kept.keep_at_least(ganger_core::Period::secs(60));
    let done = take_key(manager, kept).await;
    let claimed = manager.take(1).await;
    assert!(manager.say(claimed[0].lease, Verdict::Done).await);
    assert_eq!(holder(manager, "done").await, Some(done.clone()));
    let can = manager.provider.capabilities();
    if let Some(admin) = manager.provider.admin().filter(|_| can.admin) {
        let both = Filter::ids(vec![dead, done]);
        assert_eq!(admin.order(Order::Remove, &both).await.unwrap(), 2);
        assert_eq!(holder(manager, "dead").await, None, "its record is gone");
        assert_eq!(holder(manager, "done").await, None, "its record is gone");
    }
}

/// Of several that enqueue the same unique key at once one is taken.
pub async fn of_several_that_enqueue_the_same_unique_key_at_once_one_is_taken(store: impl Store) {
    let Some(manager) = open(&store).await else { return };
    let other = TestManager::open(&store).await;
    for round in 0..4 {
        let key = format!("k{round}");
        let mut racers = tokio::task::JoinSet::new();
        for n in 0..16 {
            let sink = if n % 2 == 0 { manager.sink() } else { other.sink() };
            let job = of(&key, &n.to_string());
            racers.spawn(async move { sink.enqueue(Batch::new(vec![job])).await.unwrap().remove(0) });
        }
        let answers = soon("sixteen answers", racers.join_all()).await;
        let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(taken.len(), 1);
        let winner = taken[0].as_ref().unwrap().id.clone();
        let names = |one: &Result<Enqueued, Refused>| one.as_ref().unwrap_err().holder.clone();
        assert!(refused.iter().all(|one| names(one) == Some(winner.clone())));
    }
    assert_eq!(manager.take(100).await.len(), 4);
}

/// A job is never refused as its own duplicate.
pub async fn a_job_is_never_refused_as_its_own_duplicate(store: impl Store) {
    let Some(manager) = open(&store).await else { return };
    let batch = Batch::new(vec![of("k", "0"), of("k", "1")]);
    let first = soon("enqueueing", manager.sink().enqueue(batch.clone())).await.unwrap();
    let again = soon("enqueueing again", manager.sink().enqueue(batch)).await.unwrap();
    let id = |answers: &[Result<Enqueued, Refused>]| answers[0].as_ref().unwrap().id.clone();
    assert_eq!(id(&first), id(&again));
    assert!(again[1].is_err());

    let named = || Job { id: Some("mine".parse().unwrap()), ..of("named", "2") };
    take_key(&manager, named()).await;
    let answer = enqueue(&manager, vec![named()]).await.remove(0);
    assert!(matches!(answer, Ok(Enqueued { existed: true, state: State::Ready, .. })), "{answer:?}");
    assert_eq!(manager.take(10).await.len(), 2);
    let answer = enqueue(&manager, vec![named()]).await.remove(0);
    assert!(matches!(answer, Ok(Enqueued { existed: true, state: State::Running, .. })), "{answer:?}");
}

/// The record of a job that ended cancelled as a duplicate names who held its key.
async fn assert_ended_as_duplicate(manager: &TestManager, id: &JobId, of: &JobId) {
    let states = manager.sink().states(std::slice::from_ref(id)).await.unwrap();
    assert_eq!(states, [Some(State::Cancelled)]);
    let can = manager.provider.capabilities();
    if let Some(admin) = manager.provider.admin().filter(|_| can.admin) {
        let view = admin.show(id).await.unwrap().expect("its record stays a while");
        let reason = view.reason.unwrap_or_default();
        assert!(reason.contains(&of.to_string()), "`{reason}` does not name {of}");
    }
}

/// A producer's entry whose unique key another job holds is leased as its duplicate; else it holds the key from then
/// on.
pub async fn a_producers_entry_whose_unique_key_another_job_holds_is_leased_as_its_duplicate_else_it_holds_the_key_from_then_on(
    store: impl Store,
) {
    let Some(manager) = open(&store).await else { return };
    for label in ["0", "1", "2"] {
        let job = if label == "1" { Jobs::one(label) } else { of("k", label) };
        if !store.push(job.to_json().into_bytes()).await {
            return;
        }
    }
    let token = manager.token();
    let claimed = held(token, manager.claim_as(token, room(10), store.lease()).await);
    let duplicates = |all: &[Held]| -> Vec<Option<JobId>> {
        all.iter().map(|one| one.leased.record.duplicate_of.as_deref().cloned()).collect()
    };
    let first = claimed[0].id();
    assert_eq!(duplicates(&claimed), [None, None, Some(first.clone())]);
    let give = Exchange { token, settle: Vec::new(), room: room(10), lease: store.lease() };
    let again = held(token, manager.exchange(&give).await.leased);
    assert_eq!(duplicates(&again), duplicates(&claimed), "the same token again");
    assert_eq!(holder(&manager, "k").await, Some(first.clone()));
    let verdict = Verdict::Duplicate { of: Box::new(first.clone()) };
    assert!(manager.say(claimed[2].lease, verdict).await);
    assert_ended_as_duplicate(&manager, &claimed[2].id(), &first).await;
    assert!(manager.say(claimed[1].lease, Verdict::Done).await);

    // Its manager is gone: it holds the key in other hands too, and is no duplicate of itself.
    let other = TestManager::open(&store).await;
    let taken = other.await_claim(room_for_any(10), LONG).await;
    assert_eq!((taken[0].id(), taken[0].leased.record.duplicate_of.as_deref()), (first.clone(), None));
    assert_eq!(holder(&manager, "k").await, Some(first.clone()));
    assert!(other.say(taken[0].lease, Verdict::Release).await);
    assert_eq!(holder(&manager, "k").await, Some(first));
    let taken = other.await_claim(room_for_any(10), LONG).await;
    assert!(other.say(taken[0].lease, Verdict::Done).await);
    assert_eq!(holder(&manager, "k").await, None);

    let stored = take_key(&manager, of("k", "stored")).await;
    store.push(of("k", "late").to_json().into_bytes()).await;
    let mut both = manager.take(10).await;
    both.sort_by_key(Held::label);
    assert_eq!(duplicates(&both), [Some(stored), None]);
}

/// A follow-up job whose unique key another job holds ends cancelled, and its record names that job.
pub async fn a_follow_up_job_whose_unique_key_another_job_holds_ends_cancelled_and_its_record_names_that_job(
    store: impl Store,
) {
    let Some(manager) = open(&store).await else { return };
    if !manager.provider.capabilities().follow {
        return;
    }
    let parent = take_key(&manager, of("parents", "parent")).await;
    let other =
        take_key(&manager, Job { run_at: Some(Timestamp::now().plus(LONG)), ..of("k", "other") }).await;
    let running = manager.take(1).await;
    let mut done = Settlement::new(running[0].lease, Verdict::Done);
    let follow = [of("k", "a"), Jobs::one("b"), of("parents", "c"), of("parents", "d")];
    let ids: Vec<JobId> = (1..=follow.len()).map(|n| parent.child(n)).collect();
    let with_id = |(job, id): (Job, &JobId)| Job { id: Some(id.clone()), ..job };
    done.more_mut().follow = follow.into_iter().zip(&ids).map(with_id).collect();
    assert!(manager.settle(done).await);
    let mut followed = manager.take(10).await;
    followed.sort_by_key(Held::label);
    let labels: Vec<String> = followed.iter().map(Held::label).collect();
    assert_eq!(labels, ["b", "c"], "the parent's own key is free by then");
    assert_ended_as_duplicate(&manager, &ids[0], &other).await;
    assert_ended_as_duplicate(&manager, &ids[3], &ids[2]).await;
    assert_eq!(holder(&manager, "parents").await, Some(ids[2].clone()));
}

/// Retrying a job whose unique key another job holds by now leaves it as it is.
pub async fn retrying_a_job_whose_unique_key_another_job_holds_by_now_leaves_it_as_it_is(store: impl Store) {
    let Some(manager) = open(&store).await else { return };
    let can = manager.provider.capabilities();
    let Some(admin) = manager.provider.admin().filter(|_| can.admin) else { return };
    let retry = async |id: &JobId| {
        soon("an order", admin.order(Order::Retry, &Filter::ids(vec![id.clone()]))).await.unwrap()
    };
    for cancelled in [false, true] {
        let first = take_key(&manager, of("k", "first")).await;
        let state = if cancelled { State::Cancelled } else { State::Dead };
        if cancelled {
            assert!(manager.sink().cancel(&first).await.unwrap());
        } else {
            let claimed = manager.take(1).await;
            assert!(manager.say(claimed[0].lease, Verdict::Dead { reason: "no luck".into() }).await);
        }
        assert_eq!(admin.holder("k").await.unwrap(), None);
        let second = take_key(&manager, of("k", "second")).await;
        assert_eq!(admin.holder("k").await.unwrap(), Some(second.clone()));
        assert_eq!(retry(&first).await, 0);
        let states = manager.sink().states(&[first.clone(), second]).await.unwrap();
        assert_eq!(states, [Some(state), Some(State::Ready)]);
        let claimed = manager.take(10).await;
        assert_eq!(claimed.iter().map(Held::label).collect::<Vec<_>>(), ["second"]);
        assert!(manager.say(claimed[0].lease, Verdict::Done).await);
        assert_eq!(retry(&first).await, 1);
        assert_eq!(holder(&manager, "k").await, Some(first.clone()), "it holds its key again");
        let claimed = manager.await_claim(room(10), LONG).await;
        assert_eq!(claimed[0].id(), first);
        assert!(manager.say(claimed[0].lease, Verdict::Done).await);
        assert_eq!(holder(&manager, "k").await, None);
    }
}
