//! Jobs go through: from the provider to a worker and back.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod setup;

use ganger_core::{JobContext, JobError, State};
use ganger_worker_function::function;
use setup::{Ledger, acts, ends, enqueue, job, start, states};

#[tokio::test(start_paused = true)]
async fn jobs_are_done_once_each() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger)]).await;
    let ids = enqueue(&provider, (0..1_000).map(|_| job(r#"{"type":"t"}"#))).await;
    let ended = ends(&provider, &ids).await;
    assert!(ended.iter().all(|end| end.state == Some(State::Done) && end.runs == 1));
    assert_eq!(ledger.count(), 1_000);
    running.drain();
    running.ended().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn raw_bytes_are_read_and_done() {
    let ledger = Ledger::default();
    let (_running, provider) = start(vec![acts("t", &ledger)]).await;
    provider.push_all((0..500).map(|n| format!(r#"{{"type":"t","params":{n}}}"#).into()));
    setup::eventually("all raw jobs done", || provider.waiting() == 0).await;
    assert_eq!(ledger.count(), 500);
}

#[tokio::test(start_paused = true)]
async fn output_is_kept_for_who_asked() {
    let (_running, provider) =
        start(vec![function("say", |text: String, _: JobContext| async move { Ok::<_, JobError>(text) })])
            .await;
    let ids = enqueue(
        &provider,
        [
            job(r#"{"type":"say","params":"kept","capture_output":true}"#),
            job(r#"{"type":"say","params":"not kept"}"#),
        ],
    )
    .await;
    let ended = ends(&provider, &ids).await;
    assert_eq!(ended[0].output.as_ref().unwrap().text(), "kept");
    assert!(ended[1].output.is_none());
    assert_eq!(states(&provider, &ids).await, [State::Done, State::Done]);
}
