//! The sink's group.

use ganger_core::{
    Batch, Enqueued, Job, JobId, Refused, RefusedKind, Room, Settlement, State, Timestamp, Verdict,
};

use crate::{
    Jobs, Store, TestManager,
    manager::{Held, LONG, labels, room, room_for_any, room_of},
    soon,
};

/// Opens the store, if it has a sink.
async fn open(store: &impl Store) -> Option<TestManager> {
    let manager = TestManager::open(store).await;
    manager.provider.capabilities().sink.then_some(manager)
}

async fn enqueue(manager: &TestManager, batch: Batch) -> Vec<Result<Enqueued, Refused>> {
    soon("enqueueing", manager.sink().enqueue(batch)).await.unwrap()
}

fn with_id(id: &str, label: &str) -> Job {
    Job { id: Some(id.parse().unwrap()), ..Jobs::one(label) }
}

/// An acknowledged job survives the end of the process.
pub async fn an_acknowledged_job_survives_the_end_of_the_process(store: impl Store) {
    let Some(manager) = open(&store).await else { return };
    if !manager.provider.capabilities().durable {
        return;
    }
    let ids = manager.enqueue(Jobs::many(20)).await;
    let held = manager.take(2).await;
    assert!(manager.say(held[0].lease, Verdict::Done).await);
    assert!(manager.say(held[1].lease, Verdict::Release).await);
    if !store.kill().await {
        soon("closing", manager.provider.close()).await.unwrap();
    }
    drop(manager);
    let next = TestManager::open(&store).await;
    let left = next.claim(room(100), LONG).await;
    let expected: Vec<String> = (1..20).map(|n| n.to_string()).collect();
    assert_eq!(labels(&left), expected);
    let states = next.sink().states(&ids[1..]).await.unwrap();
    assert!(states.iter().all(|state| *state == Some(State::Running)));
}

/// A job without an id is given one.
pub async fn a_job_without_an_id_is_given_one(store: impl Store) {
    let Some(manager) = open(&store).await else { return };
    let mut jobs = Jobs::many(2);
    jobs.push(with_id("mine", "2"));
    let ids = manager.enqueue(jobs).await;
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids[2].to_string(), "mine");
    let leased: Vec<JobId> = manager.take(10).await.iter().map(Held::id).collect();
    assert_eq!(leased, ids);
}

/// The same id with the same content again answers the existing job, as long as its id is known.
pub async fn the_same_id_with_the_same_content_again_answers_the_existing_job_as_long_as_its_id_is_known(
    store: impl Store,
) {
    let Some(manager) = open(&store).await else { return };
    let answer = enqueue(&manager, Batch::new(vec![with_id("mine", "0")])).await;
    assert!(matches!(&answer[..], [Ok(Enqueued { existed: false, state: State::Ready, .. })]));
    let again = enqueue(&manager, Batch::new(vec![with_id("mine", "0")])).await;
    assert!(matches!(&again[..], [Ok(Enqueued { existed: true, state: State::Ready, .. })]));
    let twice = enqueue(&manager, Batch::new(vec![with_id("other", "1"), with_id("other", "1")])).await;
    assert!(matches!(&twice[..], [Ok(Enqueued { existed: false, .. }), Ok(Enqueued { existed: true, .. })]));
    let held = manager.take(10).await;
    assert_eq!(held.iter().map(Held::label).collect::<Vec<_>>(), ["0", "1"]);
    let running = enqueue(&manager, Batch::new(vec![with_id("mine", "0")])).await;
    assert!(matches!(&running[..], [Ok(Enqueued { existed: true, state: State::Running, .. })]));
}

/// The same id with other content is refused.
pub async fn the_same_id_with_other_content_is_refused(store: impl Store) {
    let Some(manager) = open(&store).await else { return };
    manager.enqueue(vec![with_id("mine", "0")]).await;
    let answer = enqueue(&manager, Batch::new(vec![with_id("mine", "1")])).await;
    assert!(matches!(&answer[..], [Err(Refused { kind: RefusedKind::Conflict, .. })]), "{answer:?}");
    let held = manager.take(10).await;
    assert_eq!(held.iter().map(Held::label).collect::<Vec<_>>(), ["0"]);
}

/// A field that the provider does not support is refused by name.
pub async fn a_field_that_the_provider_does_not_support_is_refused_by_name(store: impl Store) {
    let Some(manager) = open(&store).await else { return };
    let can = manager.provider.capabilities();
    let fields = [
        ("unique", can.unique, r#"{"type":"test","unique":{"key":"k"}}"#),
        ("limit", can.limit, r#"{"type":"test","limit":{"key":"k","concurrency":1}}"#),
        ("after", can.after, r#"{"type":"test","after":["b"]}"#),
    ];
    for (name, _, json) in fields.iter().filter(|(_, supported, _)| !supported) {
        let job = Job::from_json(json.as_bytes()).unwrap();
        match &enqueue(&manager, Batch::new(vec![job])).await[..] {
            [Err(refused)] => {
                assert_eq!(refused.kind, RefusedKind::Unsupported);
                assert!(refused.message.contains(name), "{refused} does not name `{name}`");
            }
            taken => panic!("`{name}` would be ignored: {taken:?}"),
        }
    }
}

/// Refusing one job of a batch disturbs no other.
pub async fn refusing_one_job_of_a_batch_disturbs_no_other(store: impl Store) {
    let Some(manager) = open(&store).await else { return };
    manager.enqueue(vec![with_id("mine", "0")]).await;
    let batch = vec![Jobs::one("1"), with_id("mine", "other"), Jobs::one("2")];
    let answer = enqueue(&manager, Batch::new(batch)).await;
    assert!(matches!(&answer[..], [Ok(_), Err(_), Ok(_)]), "{answer:?}");
    let held = manager.take(10).await;
    assert_eq!(held.iter().map(Held::label).collect::<Vec<_>>(), ["0", "1", "2"]);
}

/// The same batch token again stores nothing twice.
pub async fn the_same_batch_token_again_stores_nothing_twice(store: impl Store) {
    let Some(manager) = open(&store).await else { return };
    let batch = Batch::new(Jobs::many(3));
    let ids = |answers: Vec<Result<Enqueued, Refused>>| -> Vec<JobId> {
        answers.into_iter().map(|answer| answer.unwrap().id).collect()
    };
    let first = ids(enqueue(&manager, batch.clone()).await);
    assert_eq!(ids(enqueue(&manager, batch).await), first);
    assert_eq!(manager.take(10).await.len(), 3);
}

/// A job waits until its time.
pub async fn a_job_waits_until_its_time(store: impl Store) {
    let Some(manager) = open(&store).await else { return };
    if !manager.provider.capabilities().schedule {
        return;
    }
    let later = Job { run_at: Some(Timestamp::now().plus(LONG)), ..Jobs::one("later") };
    let soon = Job { run_at: Some(Timestamp::now().plus(store.lease())), ..Jobs::one("soon") };
    let ids = manager.enqueue(vec![later, soon]).await;
    assert_eq!(manager.sink().states(&ids[..1]).await.unwrap(), [Some(State::Scheduled)]);
    assert_eq!(manager.await_claim(room(10), LONG).await[0].label(), "soon");
    assert!(manager.take(10).await.is_empty());
}

/// The states of jobs are told in order, also of one that is not known.
pub async fn the_states_of_jobs_are_told_in_order(store: impl Store) {
    let Some(manager) = open(&store).await else { return };
    let mut ids = manager.enqueue(Jobs::many(3)).await;
    ids.insert(1, "never".parse().unwrap());
    manager.take(1).await;
    let states = manager.sink().states(&ids).await.unwrap();
    assert_eq!(states, [Some(State::Running), None, Some(State::Ready), Some(State::Ready)]);
}

/// Every type of which a job is ready is named, whether or not a manager does it.
pub async fn every_type_of_which_a_job_is_ready_is_named_one_of_which_none_is_may_be(store: impl Store) {
    let Some(manager) = open(&store).await else { return };
    manager.enqueue(vec![Jobs::of("nobodys", "a"), Jobs::of("lost", "b"), Jobs::one("c")]).await;
    let lost = manager.await_claim(room_of(&[("lost", 1)]), store.lease()).await;
    manager.take(1).await;
    let named = async |kind: &str| manager.sink().ready_types().await.unwrap().iter().any(|one| one == kind);
    assert!(named("nobodys").await);
    // A suspect waits for a claim of its own: it is taken over and handed back.
    let again = manager.await_claim(Room { suspect: true, ..room_of(&[("lost", 1)]) }, LONG).await;
    assert_eq!(again[0].label(), lost[0].label());
    assert!(manager.say(again[0].lease, Verdict::Release).await);
    assert!(named("lost").await);
}

/// One who waits for a job learns its end, whichever manager ran it.
pub async fn one_who_waits_for_a_job_learns_its_end_whoever_ran_it(store: impl Store) {
    let Some(manager) = open(&store).await else { return };
    let other = TestManager::open(&store).await;
    let mut jobs = Jobs::many(2);
    jobs.iter_mut().for_each(|job| job.keep_at_least(ganger_core::Period::secs(60)));
    let ids = manager.enqueue(jobs).await;
    let held = other.take(2).await;
    let sink = manager.sink();
    let wait = soon("the end of a job", sink.ended(&ids));
    let mut dead = Settlement::new(held[1].lease, Verdict::Dead { reason: "no luck".into() });
    dead.more_mut().output = Some(ganger_core::Output::new("last words"));
    let (ended, applied) = tokio::join!(wait, other.settle(dead));
    assert!(applied);
    let ended = ended.unwrap();
    assert_eq!(ended.len(), 1);
    assert_eq!((&ended[0].id, ended[0].state), (&ids[1], Some(State::Dead)));
    assert_eq!(ended[0].output.as_ref().map(ganger_core::Output::text).as_deref(), Some("last words"));
    let never = ["never".parse().unwrap()];
    let unknown = soon("an answer about a job that never was", sink.ended(&never)).await.unwrap();
    assert_eq!(unknown[0].state, None);
    assert!(other.claim(room_for_any(10), LONG).await.is_empty());
}
