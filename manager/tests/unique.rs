//! Unique keys under a manager: what is a duplicate does not run, and is counted and told.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod setup;

use std::time::Duration;

use ganger_core::{JobId, State};
use setup::{Ledger, acts, ends, enqueue, eventually, job, start, states};

#[tokio::test(start_paused = true)]
async fn a_pushed_duplicate_is_not_run_and_counts_as_cancelled() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger).slots(3)]).await;
    let pushed = r#"{"type":"t","params":{"sleep":5},"unique":{"key":"k"}}"#;
    provider.push_all((0..3).map(|_| pushed.as_bytes().into()));
    eventually("two are cancelled", || {
        running.status().report().by_type.get("t").is_some_and(|figures| figures.cancelled == 2)
    })
    .await;
    assert_eq!(ledger.running(), 1);
    eventually("one is done", || running.status().report().by_type["t"].done == 1).await;
    assert_eq!(ledger.count(), 1, "one has run");
    provider.push_raw(pushed);
    eventually("the next is done", || running.status().report().by_type["t"].done == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_is_held_until_the_last_retry() {
    let ledger = Ledger::default();
    let (_running, provider) = start(vec![acts("t", &ledger)]).await;
    let failing =
        job(r#"{"id":"a","type":"t","params":"fail","retries":2,"backoff":{"initial":"10s","factor":1},
            "unique":{"key":"k"}}"#);
    let ids = enqueue(&provider, [failing]).await;
    let sink: &dyn ganger_core::Sink = &*provider;
    let refused = async || {
        let again = job(r#"{"type":"t","unique":{"key":"k"}}"#);
        let answer = sink.enqueue(ganger_core::Batch::new(vec![again])).await.unwrap().remove(0);
        answer.err().and_then(|refused| refused.holder)
    };
    for run in 1..=2 {
        eventually("it waits for a retry", || ledger.count() == run).await;
        setup::pass(Duration::from_secs(1)).await;
        assert_eq!(states(&provider, &ids).await, [State::Scheduled]);
        assert_eq!(refused().await, Some("a".parse::<JobId>().unwrap()));
    }
    assert_eq!(ends(&provider, &ids).await[0].state, Some(State::Dead));
    assert_eq!(refused().await, None);
}
