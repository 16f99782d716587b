//! What the store promises about leases beyond the conformance suite.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use ganger_core::{
    Admin, Beat, Exchange, Filter, Hold, Order, Page, Room, Settlement, Sink, Spend, State, Timestamp, Token,
    Verdict,
};
use support::{File, LONG, Manager, check_places, job, jobs, name, names, room};

fn beat(incarnation: u64) -> Beat {
    Beat {
        incarnation,
        host: "h".into(),
        pid: 1,
        version: "v".into(),
        types: Vec::new(),
        guarded: Vec::new(),
        draining: false,
        started: Timestamp::from_millis(0),
        lease_millis: 600_000,
    }
}

#[tokio::test]
async fn p6_the_jobs_of_a_dead_manager_are_free_at_once_those_of_a_living_one_are_not() {
    let file = File::new();
    let (first, other) = (file.open().await, file.open().await);
    first.put(jobs(3)).await;
    assert_eq!(first.take(2).await.len(), 2);
    assert_eq!(names(&other.take(9).await), ["2"], "the others are leased for ten minutes");
    assert!(other.take(9).await.is_empty());
    drop(first);
    other.source.wait(&room(9)).await.unwrap();
    let taken = other.take(9).await;
    assert_eq!(names(&taken), ["0"], "a suspect is leased alone");
    assert!(taken[0].1.record.suspect);
    assert_eq!(names(&other.take(9).await), ["1"]);
    check_places(&file.foreign());
}

#[tokio::test]
async fn p7_a_poison_job_is_counted_and_takes_no_neighbour_along() {
    let file = File::new();
    let watcher = file.open().await;
    watcher.put(jobs(4)).await;
    // The first manager dies with all four; from then on one dies only when it holds the poison.
    let victim = file.open().await;
    assert_eq!(names(&victim.take(9).await), ["0", "1", "2", "3"]);
    drop(victim);
    let mut poison = Vec::new();
    while poison.len() < 4 {
        let victim = file.open().await;
        let held = victim.take(9).await;
        assert_eq!(held.len(), 1, "a suspect is leased alone");
        assert!(held[0].1.record.suspect);
        assert_eq!(held[0].1.record.spent, 0, "a lost run spends no retry");
        if names(&held) == ["0"] {
            poison.push(held[0].1.record.clone());
            continue;
        }
        assert_eq!(held[0].1.record.crashes, 0, "a neighbour is never counted");
        assert!(victim.say(held[0].0, Verdict::Done).await);
    }
    assert_eq!(poison.iter().map(|record| record.crashes).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(poison[3].attempts.len(), 3, "the lost runs are on record");
    assert_eq!(poison[3].attempts[0].outcome, "lost");
    let done = Filter { states: Some(vec![State::Done]), ..Filter::default() };
    assert_eq!(watcher.source.count(&done).await.unwrap(), 3);
    check_places(&file.foreign());
}

#[tokio::test]
async fn p7_one_job_that_has_lost_runs_is_leased_only_where_there_is_room_for_one() {
    let file = File::new();
    let manager = file.open().await;
    manager.put(jobs(2)).await;
    let held = manager.take(1).await;
    let mut lost = Settlement::new(held[0].0, Verdict::Retry { at: Timestamp::from_millis(0) });
    lost.spend = Spend::Crash;
    assert!(manager.settle(lost).await);
    let without = Room { crashed: false, ..room(9) };
    let (_, answer) = manager.exchange(Vec::new(), without.clone()).await;
    assert_eq!(answer.leased.iter().map(name).collect::<Vec<_>>(), ["1"]);
    assert!(manager.exchange(Vec::new(), without).await.1.leased.is_empty());
    let (_, answer) = manager.exchange(Vec::new(), room(9)).await;
    assert_eq!((answer.leased[0].record.crashes, answer.leased.len()), (1, 1));
}

#[tokio::test]
async fn p6_after_an_absence_of_all_managers_a_living_holder_is_given_a_third_of_its_lease() {
    let file = File::new();
    let (first, other) = (file.open().await, file.open().await);
    first.put(jobs(1)).await;
    let lease = Duration::from_millis(900);
    let give = Exchange { token: first.token(), settle: Vec::new(), room: room(1), lease };
    let held = first.source.exchange(&give).await.unwrap();
    assert_eq!(held.leased.len(), 1);
    // Nobody speaks until the lease has run out: the machine slept, say.
    other.source.wait(&room(1)).await.unwrap();
    assert!(other.take(1).await.is_empty(), "the lease ran out, but the store saw no manager for longer");
    let lease_ref = ganger_core::LeaseRef { token: give.token, index: 0 };
    let holds = first.source.renew(&beat(give.token.incarnation), &[lease_ref]).await.unwrap();
    assert_eq!(holds, [Hold::Held], "its holder comes first");
    assert!(other.take(1).await.is_empty());
    assert!(first.say(lease_ref, Verdict::Done).await);
}

#[tokio::test]
async fn p6_a_shorter_absence_soon_after_a_longer_one_counts_too() {
    let file = File::new();
    let (first, other) = (file.open().await, file.open().await);
    first.put(jobs(1)).await;
    let give = |lease| Exchange {
        token: first.token(),
        settle: Vec::new(),
        room: room(1),
        lease: Duration::from_millis(lease),
    };
    let long = give(1200);
    assert_eq!(first.source.exchange(&long).await.unwrap().leased.len(), 1);
    other.source.wait(&room(1)).await.unwrap();
    assert!(other.take(1).await.is_empty());
    assert!(first.say(ganger_core::LeaseRef { token: long.token, index: 0 }, Verdict::Done).await);

    first.put(jobs(1)).await;
    let short = give(450);
    assert_eq!(first.source.exchange(&short).await.unwrap().leased.len(), 1);
    other.source.wait(&room(1)).await.unwrap();
    assert!(other.take(1).await.is_empty(), "the store saw no manager for two thirds of this lease");
    assert!(first.say(ganger_core::LeaseRef { token: short.token, index: 0 }, Verdict::Done).await);
}

#[tokio::test]
async fn p3_a_settlement_of_a_lease_that_was_taken_over_changes_nothing() {
    let file = File::new();
    let (first, other) = (file.open().await, file.open().await);
    first.put(jobs(1)).await;
    let give = Exchange {
        token: first.token(),
        settle: Vec::new(),
        room: room(1),
        lease: Duration::from_millis(20),
    };
    first.source.exchange(&give).await.unwrap();
    let taken = loop {
        other.source.wait(&room(1)).await.unwrap();
        let taken = other.take(1).await;
        if !taken.is_empty() {
            break taken;
        }
    };
    let old = ganger_core::LeaseRef { token: give.token, index: 0 };
    for verdict in [Verdict::Done, Verdict::Dead { reason: "late".into() }, Verdict::Cancelled] {
        assert!(!first.say(old, verdict).await);
    }
    assert_eq!(first.source.renew(&beat(give.token.incarnation), &[old]).await.unwrap(), [Hold::Lost]);
    assert!(other.say(taken[0].0, Verdict::Done).await);
    check_places(&file.foreign());
}

#[tokio::test]
async fn p4_an_exchange_of_settlements_only_is_remembered_too() {
    let file = File::new();
    let manager = file.open().await;
    manager.put(jobs(2)).await;
    let held = manager.take(2).await;
    let give = Exchange {
        token: manager.token(),
        settle: held.iter().map(|(lease, _)| Settlement::new(*lease, Verdict::Done)).collect(),
        room: Room::none(),
        lease: LONG,
    };
    for _ in 0..3 {
        assert_eq!(manager.source.exchange(&give).await.unwrap().stale, []);
    }
    let late = Exchange { token: manager.token(), ..give };
    assert_eq!(
        manager.source.exchange(&late).await.unwrap().stale.len(),
        2,
        "under another token they are late"
    );
}

#[tokio::test]
async fn p9_a_cancelled_run_ends_cancelled_whatever_its_verdict_but_done() {
    let file = File::new();
    let manager = file.open().await;
    let ids = manager.put(jobs(5)).await;
    let held = manager.take(5).await;
    for id in &ids {
        assert!(manager.source.cancel(id).await.unwrap());
    }
    let leases: Vec<_> = held.iter().map(|(lease, _)| *lease).collect();
    let holds = manager.source.renew(&beat(leases[0].token.incarnation), &leases).await.unwrap();
    assert_eq!(holds, [Hold::Cancel; 5]);
    let verdicts = [
        Verdict::Done,
        Verdict::Release,
        Verdict::Retry { at: Timestamp::now() },
        Verdict::Dead { reason: "failed".into() },
        Verdict::Park { until: None },
    ];
    for (lease, verdict) in leases.iter().zip(verdicts) {
        assert!(manager.say(*lease, verdict).await);
    }
    let mut expected = vec![Some(State::Cancelled); 5];
    expected[0] = Some(State::Done);
    assert_eq!(Sink::states(&*manager.source, &ids).await.unwrap(), expected);
    assert!(manager.take(9).await.is_empty());
    check_places(&file.foreign());
}

#[tokio::test]
async fn a_claim_lists_its_holder_and_a_parked_job_waits_for_its_time() {
    let file = File::new();
    let manager = file.open().await;
    let ids = manager.put(jobs(2)).await;
    let held = manager.take(1).await;
    let view = manager.source.show(&ids[0]).await.unwrap().unwrap();
    assert_eq!(view.state, State::Running);
    assert_eq!(view.holder, Some(format!("{:016x}", held[0].0.token.incarnation)));
    let until = Timestamp::now().plus(LONG);
    assert!(manager.say(held[0].0, Verdict::Park { until: Some(until) }).await);
    let view = manager.source.show(&ids[0]).await.unwrap().unwrap();
    assert_eq!((view.state, view.retrying, view.run_at), (State::Scheduled, false, Some(until)));
    let due_now = manager.source.order(Order::Retry, &Filter::ids(vec![ids[0].clone()])).await.unwrap();
    assert_eq!(due_now, 1);
    assert_eq!(names(&manager.take(1).await), ["0"], "in its old place");
}

#[tokio::test]
async fn a_type_without_room_holds_no_other_back() {
    let file = File::new();
    let manager = file.open().await;
    manager.put((0..2000).map(|_| job(r#"{"type":"slow"}"#)).collect()).await;
    manager.put(jobs(3)).await;
    assert_eq!(names(&manager.take(2).await), ["0", "1"]);
    let room = room(1);
    let waits = tokio::time::timeout(Duration::from_secs(20), manager.source.wait(&room));
    waits.await.expect("one is ready").unwrap();
    assert_eq!(names(&manager.take(2).await), ["2"]);
}

#[tokio::test]
async fn queues_and_types_are_merged_by_priority_and_order() {
    let file = File::new();
    let manager = file.open().await;
    let mut all = Vec::new();
    for n in 0..600u32 {
        let (queue, priority) = (["a", "b", "c"][n as usize % 3], n % 2);
        all.push(job(&format!(r#"{{"type":"test","name":"{n}","queue":"{queue}","priority":{priority}}}"#)));
    }
    manager.put(all).await;
    let mut order = Vec::new();
    loop {
        let (_, answer) = manager.exchange(Vec::new(), room(70)).await;
        if answer.leased.is_empty() {
            break;
        }
        assert_eq!(answer.more, order.len() + answer.leased.len() < 600);
        order.extend(answer.leased.iter().map(|leased| name(leased).parse::<u32>().unwrap()));
    }
    let expected: Vec<u32> = (0..600).filter(|n| n % 2 == 1).chain((0..600).filter(|n| n % 2 == 0)).collect();
    assert_eq!(order, expected);
}

#[tokio::test]
async fn an_id_is_the_same_however_often_a_batch_is_repeated() {
    let file = File::new();
    let manager = file.open().await;
    let batch = ganger_core::Batch { token: u128::MAX - 1, jobs: jobs(5) };
    let first = manager.source.enqueue(batch.clone()).await.unwrap();
    let again = manager.source.enqueue(batch).await.unwrap();
    for (first, again) in first.into_iter().zip(again) {
        let (first, again) = (first.unwrap(), again.unwrap());
        assert_eq!((first.id, first.existed, again.existed), (again.id, false, true));
    }
    let all = manager.source.list(&Filter::default(), &Page::default()).await.unwrap();
    assert_eq!(all.len(), 5);
    let nobody = Token { incarnation: 5, seq: 5 };
    assert!(!manager.say(ganger_core::LeaseRef { token: nobody, index: 0 }, Verdict::Done).await);
}

#[tokio::test]
async fn one_process_has_one_writer_for_a_file_by_whatever_name() {
    let file = File::new();
    let first = file.open().await;
    let link = file.path().with_file_name("link.db");
    std::os::unix::fs::symlink(file.path(), &link).unwrap();
    let other = Manager::open(&link).await;
    assert!(std::sync::Arc::ptr_eq(first.source.spool(), other.source.spool()));
    drop((first, other));
    let again = file.open().await;
    again.put(jobs(1)).await;
}
