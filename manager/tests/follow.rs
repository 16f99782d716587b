//! Following one job as it runs.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod setup;

use std::sync::Arc;

use ganger_core::{EVENTS_LAG_MAX, Follower, JobContext, Live, Output, State, Stream};
use ganger_worker_function::function;
use serde_json::Value;
use setup::{Ledger, acts, ends, enqueue, job, start};
use tokio::sync::Semaphore;

/// What a follower sees until the job has ended.
async fn story(follower: &mut Follower) -> Vec<String> {
    let mut story = Vec::new();
    loop {
        let live = follower.next().await;
        let end = matches!(&live, Live::State { state, .. } if state.is_end());
        story.push(told(live));
        if end {
            return story;
        }
    }
}

fn told(live: Live) -> String {
    match live {
        Live::State { state, attempt, error, .. } => {
            format!("{state} {} {}", attempt.unwrap_or_default(), error.as_deref().unwrap_or("-"))
        }
        Live::Output { attempt, stream, start, bytes } => {
            let mark = if stream == Stream::Stderr { "!" } else { "" };
            format!("{attempt}:{start}{mark} {}", String::from_utf8_lossy(&bytes))
        }
        Live::Progress { percent, message } => format!("{percent} % {message}"),
        Live::Missed { stream, bytes } => format!("missed {bytes} of {}", stream.as_str()),
        Live::Skipped(states) => format!("missed {states} states"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_sees_every_run_from_its_beginning_to_its_end() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger)]).await;
    let mut follower = running.events().follow(&"a".parse().unwrap());
    let text = r#"{"id":"a","type":"t","params":["fail","write"],"retries":1}"#;
    let others = (0..3).map(|_| job(r#"{"type":"t","params":"write"}"#));
    let ids = enqueue(&provider, others.chain([job(text)])).await;
    assert_eq!(
        story(&mut follower).await,
        ["running 1 -", "scheduled 0 failed as told", "running 2 -", "2:0 written", "done 0 -"]
    );
    ends(&provider, &ids).await;
    assert_eq!(follower.try_next(), None, "of the other jobs it hears nothing");
}

/// A worker that prints its params, line by line, each when it is let.
fn printer(lets: &Arc<Semaphore>) -> ganger_worker_function::CodeWorker {
    let lets = lets.clone();
    function("print", move |lines: Vec<Value>, job: JobContext| {
        let lets = lets.clone();
        async move {
            for (n, line) in lines.iter().enumerate() {
                lets.acquire().await.unwrap().forget();
                job.write(format!("{}\n", line.as_str().unwrap_or_default()).as_bytes());
                job.progress(n as u8 + 1, "lines");
            }
            Ok(Output::default())
        }
    })
}

#[tokio::test(start_paused = true)]
async fn who_comes_late_sees_all_that_was_printed_once() {
    let lets = Arc::new(Semaphore::new(0));
    let (running, provider) = start(vec![printer(&lets)]).await;
    let id = "a".parse().unwrap();
    let mut first = running.events().follow(&id);
    let ids = enqueue(&provider, [job(r#"{"id":"a","type":"print","params":["one","two","three"]}"#)]).await;
    lets.add_permits(1);
    let mut seen = Vec::new();
    while !seen.iter().any(|line: &String| line.contains("one")) {
        seen.push(told(first.next().await));
    }
    let mut late = running.status().follow(&id);
    assert_eq!(late.attempt(), Some(1));
    assert_eq!((told(late.next().await), told(late.next().await)), ("1 % lines".into(), "1:0 one\n".into()));
    let mut later = running.status().follow(&id);
    later.resume("another.1.0-1-0");
    later.resume(&late.place([2, 0]).unwrap());
    lets.add_permits(2);
    ends(&provider, &ids).await;
    assert_eq!(story(&mut late).await, ["3 % lines", "1:4 two\nthree\n", "done 0 -"]);
    assert_eq!(story(&mut later).await, ["3 % lines", "1:2 e\ntwo\nthree\n", "done 0 -"]);
}

#[tokio::test(start_paused = true)]
async fn f33_one_who_never_looks_costs_a_bounded_memory_and_is_told_what_it_missed() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger)]).await;
    let mut follower = running.events().follow(&"a".parse().unwrap());
    let text = r#"{"id":"a","type":"t","params":"fail","retries":400,"backoff":{"initial":"1ms","factor":1,"jitter":0}}"#;
    let ids = enqueue(&provider, [job(text)]).await;
    assert_eq!(ends(&provider, &ids).await[0].state, Some(State::Dead));
    assert_eq!(told(follower.next().await), format!("missed {} states", 2 * 401 - 16));
    let story = story(&mut follower).await;
    assert_eq!((story.len(), story.last().unwrap().as_str()), (16, "dead 0 failed as told"));
}

#[tokio::test(start_paused = true)]
async fn a_follower_of_one_job_makes_no_events_of_the_others() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger)]).await;
    let events = running.events();
    let _follower = events.follow(&"quiet".parse().unwrap());
    assert!(!events.heard() && events.is_followed(&"quiet".parse().unwrap()));
    let ids = enqueue(&provider, (0..EVENTS_LAG_MAX).map(|_| job(r#"{"type":"t","params":"write"}"#))).await;
    ends(&provider, &ids).await;
    assert!(!events.is_followed(&ids[0]));
}
