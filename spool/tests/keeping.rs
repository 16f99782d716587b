//! How long finished jobs stay on record.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use ganger_core::{Admin, Filter, JobId, Order, Output, Page, Settlement, State, Verdict};
use ganger_spool::{Retention, SpoolOptions};
use support::{File, Manager, check_places, job, jobs};

async fn keeping(file: &File, time: Duration, count: u64) -> Manager {
    let options = SpoolOptions { retention: Some(Retention { time, count }), ..SpoolOptions::default() };
    Manager::with(&file.path(), options).await
}

const HOUR: Duration = Duration::from_secs(3600);

async fn finish_all(manager: &Manager) {
    loop {
        let held = manager.take(100).await;
        if held.is_empty() {
            return;
        }
        let settle = held.iter().map(|(lease, _)| Settlement::new(*lease, Verdict::Done)).collect();
        assert_eq!(manager.exchange(settle, ganger_core::Room::none()).await.1.stale, []);
    }
}

async fn known(manager: &Manager) -> Vec<JobId> {
    let page = Page { limit: 1000, after: None };
    manager.source.list(&Filter::default(), &page).await.unwrap().into_iter().map(|view| view.id).collect()
}

#[tokio::test]
async fn the_last_ones_are_kept_up_to_the_number() {
    let file = File::new();
    let manager = keeping(&file, HOUR, 30).await;
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.extend(manager.put(jobs(17)).await);
        finish_all(&manager).await;
    }
    let last: Vec<JobId> = ids[ids.len() - 30..].iter().rev().cloned().collect();
    assert_eq!(known(&manager).await, last);
    check_places(&file.foreign());
}

#[tokio::test]
async fn none_is_kept_if_none_is_wanted() {
    for (time, count) in [(Duration::ZERO, 100), (HOUR, 0)] {
        let file = File::new();
        let manager = keeping(&file, time, count).await;
        let ids = manager.put(jobs(5)).await;
        finish_all(&manager).await;
        assert!(known(&manager).await.is_empty());
        assert_eq!(manager.source.states(&ids[..1]).await.unwrap(), [None]);
        let rows: i64 = file.foreign().query_row("SELECT count(*) FROM job", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0);
    }
}

#[tokio::test]
async fn one_that_someone_waits_for_outlives_the_others() {
    let file = File::new();
    let manager = keeping(&file, Duration::ZERO, 0).await;
    let mut waited = jobs(3);
    waited[1].rare_mut().keep = Some(Duration::from_secs(60));
    let ids = manager.put(waited).await;
    let held = manager.take(3).await;
    let mut done = Settlement::new(held[1].0, Verdict::Done);
    done.more_mut().output = Some(Output::new("printed"));
    assert!(manager.settle(done).await);
    for at in [0, 2] {
        assert!(manager.say(held[at].0, Verdict::Done).await);
    }
    assert_eq!(known(&manager).await, [ids[1].clone()]);
    let ended = manager.source.ended(&ids).await.unwrap();
    let ends: Vec<_> = ended.iter().map(|end| (end.id.clone(), end.state, end.runs)).collect();
    let expected =
        [(ids[0].clone(), None, 0), (ids[1].clone(), Some(State::Done), 1), (ids[2].clone(), None, 0)];
    assert_eq!(ends, expected);
    assert_eq!(ended[1].output, Some(Output::new("printed")));
}

#[tokio::test]
async fn what_is_old_enough_is_forgotten_also_where_nothing_happens() {
    let file = File::new();
    let manager = keeping(&file, Duration::from_millis(50), 1000).await;
    let mut with_keep = jobs(4);
    with_keep[0].rare_mut().keep = Some(Duration::from_millis(50));
    manager.put(with_keep).await;
    finish_all(&manager).await;
    // Looked at from a connection of its own: nothing here makes the store write.
    let db = file.foreign();
    ganger_testkit::signal::eventually("the record of finished jobs is forgotten", async || {
        db.query_row("SELECT count(*) FROM job", [], |row| row.get::<_, i64>(0)).unwrap() == 0
    })
    .await;
}

#[tokio::test]
async fn dead_ones_stay_until_an_order() {
    let file = File::new();
    let manager = keeping(&file, Duration::ZERO, 0).await;
    let ids = manager.put(jobs(2)).await;
    for (lease, _) in manager.take(2).await {
        assert!(manager.say(lease, Verdict::Dead { reason: "no".into() }).await);
    }
    assert_eq!(known(&manager).await.len(), 2);
    assert_eq!(manager.source.order(Order::Remove, &Filter::ids(vec![ids[0].clone()])).await.unwrap(), 1);
    assert_eq!(manager.source.order(Order::Retry, &Filter::default()).await.unwrap(), 1);
    finish_all(&manager).await;
    assert!(known(&manager).await.is_empty());
}

#[tokio::test]
async fn a_job_that_an_order_brought_back_is_not_forgotten_with_its_first_end() {
    let file = File::new();
    let manager = keeping(&file, HOUR, 2).await;
    let ids = manager.put(vec![job(r#"{"type":"test","name":"back"}"#)]).await;
    manager.source.cancel(&ids[0]).await.unwrap();
    assert_eq!(manager.source.order(Order::Retry, &Filter::default()).await.unwrap(), 1);
    manager.put((0..5).map(|_| job(r#"{"type":"test","priority":1}"#)).collect()).await;
    let held = manager.take(5).await;
    for (lease, _) in held {
        assert!(manager.say(lease, Verdict::Done).await);
    }
    assert_eq!(manager.source.states(&ids).await.unwrap(), [Some(State::Ready)]);
    check_places(&file.foreign());
}
