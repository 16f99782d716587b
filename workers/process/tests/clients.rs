//! The clients in `clients/` answer every job, whatever the program's functions do, and stay.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use std::time::Duration;

use ganger_core::{Advice, DynWorker, Job, JobContext, JobError, Output};
use rig::{Belt, context, job, printed, run, slot};
use serde_json::{Value, json};

/// A program of `clients/tests`, whose lines are short.
async fn program(command: &str, name: &str) -> Box<dyn DynWorker> {
    let path = format!("{}/../../clients/tests/{name}", env!("CARGO_MANIFEST_DIR"));
    // Nothing is left beside the client.
    let env = json!({"PYTHONDONTWRITEBYTECODE": "1"});
    slot(&json!({}), &json!({"command": command, "params": [path], "env": env, "line_max": "64KiB"})).await
}

async fn end(worker: &mut Box<dyn DynWorker>, job: JobContext) -> Result<Output, JobError> {
    let mut belt = Belt::of([job]);
    run(worker, &mut belt).await.unwrap();
    belt.ends.pop().expect("the job was answered").1
}

async fn does(worker: &mut Box<dyn DynWorker>, deed: &str) -> Result<Output, JobError> {
    end(worker, job(&json!({"do": deed}))).await
}

/// Each deed fails in these words, and the program stays.
async fn fails(worker: &mut Box<dyn DynWorker>, deeds: &[(&str, Advice, &str)]) {
    let before = does(worker, "pid").await.unwrap().text();
    for (deed, advice, part) in deeds {
        let error = does(worker, deed).await.expect_err(deed);
        assert!(error.message().contains(part), "{deed}: {part:?} is not in {error}");
        assert_eq!(error.advice(), *advice, "{deed}: {error}");
        assert_eq!(does(worker, "pid").await.unwrap().text(), before, "{deed}: the program stays");
    }
}

/// What it says while it works comes whole, in as many lines as it takes.
async fn says(worker: &mut Box<dyn DynWorker>) {
    let before = does(worker, "pid").await.unwrap().text();
    let job = job(&json!({"do": "says"}));
    end(worker, job.clone()).await.unwrap();
    assert_eq!(printed(&job), format!("{}{}", "ä\n".repeat(50_000), "\0".repeat(50_000)));
    assert_eq!(does(worker, "pid").await.unwrap().text(), before, "the program stays");
}

const RETRY: Advice = Advice::Retry;
const DEAD: Advice = Advice::Dead;

#[tokio::test]
async fn the_python_client_answers_whatever_a_function_raises_or_returns() {
    let mut worker = program("python3", "odd.py").await;
    let deeds = [
        ("raises_half", RETRY, "ValueError: a?b"),
        ("progresses_by_text", RETRY, "could not convert string to float"),
        ("object", DEAD, "what it returned is no JSON"),
        ("set", DEAD, "what it returned is no JSON"),
        ("nan", DEAD, "what it returned is no JSON"),
        ("too_long", DEAD, "longer than a line may be"),
        ("follows_no_json", DEAD, "no JSON"),
        ("exits", RETRY, "SystemExit: 3"),
        ("is_cancelled", RETRY, "CancelledError"),
        ("unspeakable", RETRY, "Unspeakable"),
        ("unspeakable_dead", DEAD, "UnspeakableDead, which cannot be shown"),
        ("unfinished", RETRY, "Unfinished, which cannot be shown"),
        ("retries_soon", RETRY, "could not convert string to float"),
        ("retries_never", Advice::RetryAfter(Duration::from_secs(1_000_000_000)), "later"),
        ("raises_much", RETRY, "ValueError: ää"),
        ("recurses", RETRY, "RecursionError"),
        ("no_such", RETRY, "KeyError"),
    ];
    fails(&mut worker, &deeds).await;
    assert_eq!(does(&mut worker, "half").await.unwrap().text(), "a?b");
    let halves: Value = serde_json::from_str(&does(&mut worker, "halves").await.unwrap().text()).unwrap();
    assert_eq!(halves, json!({"name": ["a?b"]}));
}

#[tokio::test]
async fn the_python_client_takes_functions_of_every_kind() {
    let mut worker = program("python3", "odd.py").await;
    let of = |kind: &str, params: Value| context(Job::new(kind, &params).unwrap());
    assert_eq!(end(&mut worker, of("callable", json!({"n": 7}))).await.unwrap().text(), "7");
    assert_eq!(end(&mut worker, of("fixed", json!(null))).await.unwrap().text(), "1");
    for (kind, params) in [("fixed", json!([1, 2])), ("partial", json!({"m": 1})), ("callable", json!([]))] {
        let error = end(&mut worker, of(kind, params)).await.unwrap_err();
        assert!(error.message().contains("the params do not fit"), "{kind}: {error}");
        assert_eq!(error.advice(), DEAD);
    }
}

#[tokio::test]
async fn what_a_python_program_prints_does_no_harm() {
    let mut worker = program("python3", "odd.py").await;
    says(&mut worker).await;
    assert_eq!(does(&mut worker, "prints").await.unwrap().text(), "a tool\n");
}

#[tokio::test]
async fn the_javascript_client_answers_whatever_a_function_throws_or_returns() {
    let mut worker = program("node", "odd.mjs").await;
    let deeds = [
        ("raises_half", RETRY, "Error: a\u{fffd}b"),
        ("function", DEAD, "what it returned is no JSON: a function"),
        ("circle", DEAD, "what it returned is no JSON"),
        ("bigint", DEAD, "what it returned is no JSON"),
        ("too_long", DEAD, "longer than a line may be"),
        ("follows_no_json", DEAD, "no JSON"),
        ("throws_nothing", RETRY, "undefined"),
        ("throws_symbol", RETRY, "Symbol(s)"),
        ("throws_bare", RETRY, "cannot be shown"),
        ("rejects_bare", RETRY, "cannot be shown"),
        ("throws_no_text", RETRY, "7"),
        ("throws_dead_bare", DEAD, "cannot be shown"),
        ("retries_soon", RETRY, "later"),
        ("retries_never", Advice::RetryAfter(Duration::from_secs(1_000_000_000)), "later"),
        ("raises_much", RETRY, "Error: ää"),
        ("then_throws", RETRY, "no then"),
        ("recurses", RETRY, "RangeError"),
        ("no_such", RETRY, "TypeError"),
    ];
    fails(&mut worker, &deeds).await;
    assert_eq!(does(&mut worker, "half").await.unwrap().text(), "a\u{fffd}b \\ud83d");
    let halves: Value = serde_json::from_str(&does(&mut worker, "halves").await.unwrap().text()).unwrap();
    assert_eq!(halves, json!({"name": ["a\u{fffd}b"]}));
}

#[tokio::test]
async fn what_a_javascript_program_prints_does_no_harm() {
    let mut worker = program("node", "odd.mjs").await;
    says(&mut worker).await;
    assert_eq!(does(&mut worker, "prints").await.unwrap().text(), "a tool\n");
}
