//! ganger inside a program: a worker of its own, a store in a file, an end that is waited for.
#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::time::Duration;

use ganger::{Batch, Job, JobContext, JobError, Output, Sink, State, config::Syntax, function};
use serde_json::json;

async fn double(number: u64, _: JobContext) -> Result<String, JobError> {
    if number == 13 {
        return Err(JobError::dead("not this one"));
    }
    Ok((2 * number).to_string())
}

async fn put(sink: &dyn Sink, number: u64) -> ganger::JobId {
    let mut job = Job::new("double", &number).unwrap();
    job.capture_output = true;
    let answers = sink.enqueue(Batch::new(vec![job])).await.unwrap();
    answers.into_iter().next().unwrap().unwrap().id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_does_jobs_with_a_function_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let running = ganger::builtin()
        .provider("disk", json!({ "db_name": folder.path().join("jobs.db") }))
        .worker(function("double", double).slots(2))
        .start()
        .await
        .unwrap();
    let sink = running.sink(None).expect("start waits until a local store is open");
    let (good, bad) = (put(&*sink, 21).await, put(&*sink, 13).await);
    let mut open = vec![good.clone(), bad];
    while !open.is_empty() {
        let ended = tokio::time::timeout(Duration::from_secs(60), sink.ended(&open)).await.unwrap().unwrap();
        for end in ended {
            let wanted = if end.id == good { State::Done } else { State::Dead };
            assert_eq!(end.state, Some(wanted), "{:?}", end.error);
            if end.id == good {
                assert_eq!(end.output.as_ref().map(Output::text).as_deref(), Some("42"));
            }
            open.retain(|id| *id != end.id);
        }
    }
    let figures = running.status().report().by_type["double"];
    assert_eq!((figures.runs, figures.done, figures.dead), (2, 1, 1));
    running.drain();
    running.ended().await.unwrap();
}

#[test]
fn what_does_not_fit_is_told_before_anything_runs() {
    let fault = |ganger: ganger::Ganger| ganger.plan().err().expect("it does not fit").to_string();
    let twice = ganger::builtin().plugin(ganger::plugins::PLUGINS[0]);
    assert!(fault(twice).contains("load only one of them"));
    assert!(fault(ganger::builtin().provider("dsik", json!({}))).contains("`dsik`"));
    let options = ganger::builtin().provider("disk", json!({ "db_nmae": "x" }));
    assert!(fault(options).contains("unknown field `db_nmae`"));
    let text = ganger::builtin().config_str("workers:\n  - cli: {wokers: 1}\n", Syntax::Yaml);
    assert!(
        fault(text)
            .starts_with("the config:2:11: worker `cli` has no option `wokers` (did you mean `workers`?)")
    );
    assert!(fault(ganger::builtin().config_file("/nowhere/ganger.toml")).contains("/nowhere/ganger.toml"));
}

#[test]
fn without_a_config_it_is_what_the_binary_is_without_a_file() {
    let plan = ganger::builtin().worker(function("double", double)).plan().unwrap();
    let names: Vec<&str> = plan.providers.iter().map(|provider| provider.name.as_str()).collect();
    assert_eq!(names, ["disk"]);
    assert!(plan.workers.iter().any(|worker| worker.name == "double"));
    assert!(plan.workers.iter().any(|worker| worker.name == "cli"));
    assert!(plan.intakes.iter().all(|intake| !intake.configured), "a default port that is taken is no error");
    let own = ganger::builtin().provider("memory", json!({})).plan().unwrap();
    assert!(
        own.intakes.is_empty() && own.workers.is_empty(),
        "a program with a store of its own opens nothing else"
    );
}

#[test]
fn an_intake_without_a_store_gets_one() {
    let text = "[[providers]]\nhttp = { listen_on = \"127.0.0.1:0\" }\n[[workers]]\nhttp = {}\n";
    let plan = ganger::builtin().config_str(text, Syntax::Toml).plan().unwrap();
    assert_eq!(plan.providers.len(), 1, "ganger.db is opened and drained");
    assert_eq!(plan.intakes[0].into.as_deref(), Some(plan.providers[0].name.as_str()));
    let text =
        "[[providers]]\nhttp = {}\n[[providers]]\ndisk = { name = \"mine\" }\n[[workers]]\nhttp = {}\n";
    let plan = ganger::builtin().config_str(text, Syntax::Toml).plan().unwrap();
    assert_eq!(plan.providers.len(), 1);
    assert_eq!(plan.intakes[0].into.as_deref(), Some("mine"), "the config's own disk provider");
}

#[test]
fn p11_a_config_prints_no_secret() {
    let mut registry = ganger::Registry::default();
    ganger::plugins::PLUGINS.iter().for_each(|plugin| registry.add(*plugin).unwrap());
    let text = "stats_token: canary\nproviders:\n  - http: {token: canary}\nworkers:\n  - http: {}\n";
    let config = ganger::Config::parse(text, Syntax::Yaml, &registry).unwrap();
    assert!(!format!("{config:?}").contains("canary"), "{config:?}");
}
