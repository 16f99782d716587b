//! What `forward` promises.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use compact_str::CompactString;
use ganger_core::{
    Advice, Batch, Beat, BoxFuture, Ended, Enqueued, FailureRecord, Job, JobContext, JobError, JobId, Output,
    ProviderError, Refused, RefusedKind, Secret, Sink, Sinks, SlotContext, State, Timestamp, Worker,
    WorkerContext, WorkerError,
};
use ganger_worker_forward::{Forward, ForwardConfig};
use serde_json::json;

type Fault = fn() -> Result<Refused, ProviderError>;

/// Keeps what it is given; answers a known id as existing.
#[derive(Default)]
struct Kept {
    jobs: Mutex<Vec<Job>>,
    fault: Mutex<Option<Fault>>,
}

impl Sink for Kept {
    fn enqueue(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Result<Enqueued, Refused>>, ProviderError>> {
        if let Some(fault) = *self.fault.lock().unwrap() {
            let answer = fault().map(|refused| vec![Err(refused)]);
            return Box::pin(async move { answer });
        }
        let mut jobs = self.jobs.lock().unwrap();
        let answers = batch.jobs.into_iter().map(|mut job| {
            let id = job.accept(Timestamp::from_millis(0)).clone();
            let existed = jobs.iter().any(|known| known.id.as_ref() == Some(&id));
            if !existed {
                jobs.push(job);
            }
            Ok(Enqueued { id, existed, state: State::Ready })
        });
        let answers: Vec<_> = answers.collect();
        Box::pin(async move { Ok(answers) })
    }
    fn states<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Option<State>>, ProviderError>> {
        Box::pin(async move { Ok(vec![None; ids.len()]) })
    }
    fn ended<'a>(&'a self, _: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Ended>, ProviderError>> {
        Box::pin(std::future::pending())
    }
    fn managers(&self) -> BoxFuture<'_, Result<Vec<Beat>, ProviderError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn ready_types(&self) -> BoxFuture<'_, Result<Vec<CompactString>, ProviderError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn cancel<'a>(&'a self, _: &'a JobId) -> BoxFuture<'a, Result<bool, ProviderError>> {
        Box::pin(async { Ok(false) })
    }
}

#[derive(Clone, Default)]
struct Places(Arc<Kept>);

impl Sinks for Places {
    fn find(&self, name: Option<&str>) -> Option<Arc<dyn Sink>> {
        (name == Some("redis")).then(|| self.0.clone() as Arc<dyn Sink>)
    }
    fn names(&self) -> Vec<String> {
        vec!["redis".into(), "asleep".into()]
    }
}

async fn forward(to: Option<&str>, places: &Places) -> Result<Forward, WorkerError> {
    let cx = WorkerContext {
        name: "forward".into(),
        slots: 1,
        sinks: Arc::new(places.clone()),
        run: Secret::new("run"),
    };
    let shared = Forward::share(ForwardConfig { to: to.map(str::to_owned) }, &cx).await?;
    Forward::create(&shared, &SlotContext { name: "forward".into(), slot: 0 }).await
}

fn context(params: serde_json::Value) -> JobContext {
    let mut job = Job::new("forward", &params).unwrap();
    job.id = Some("parent".parse().unwrap());
    JobContext::detached(job)
}

async fn run(places: &Places, to: Option<&str>, context: &JobContext) -> Result<Output, JobError> {
    let params = context.params()?;
    forward(to, places).await.unwrap().work(params, context).await
}

fn failure(job: Job, params: serde_json::Value, id: &str) -> JobContext {
    let record = FailureRecord {
        job,
        state: State::Dead,
        reason: "retries spent".into(),
        error: Some("exit 1".into()),
        attempts: Vec::new(),
        at: Timestamp::from_millis(0),
    };
    let mut handler = Job::new("failure_handler.forward", &params).unwrap();
    handler.id = Some(id.parse().unwrap());
    handler.rare_mut().input = Some(record.to_raw());
    JobContext::detached(handler)
}

#[tokio::test]
async fn hands_a_job_on_once_however_often_it_runs() {
    let places = Places::default();
    let context = context(json!({"job": {"type": "cli", "params": {"command": "date"}, "retries": 2}}));
    for _ in 0..2 {
        let output = run(&places, Some("redis"), &context).await.unwrap();
        assert_eq!(output.text(), "parent/1 is in `redis`\n");
    }
    let jobs = places.0.jobs.lock().unwrap();
    assert_eq!(jobs.len(), 1);
    assert_eq!((jobs[0].kind.as_str(), jobs[0].retries), ("cli", Some(2)));
    assert_eq!(jobs[0].params_text(), r#"{"command":"date"}"#);
}

#[tokio::test]
async fn a_jobs_own_place_and_id_count_more() {
    let places = Places::default();
    let context = context(json!({"to": "redis", "job": {"type": "t", "id": "mine"}}));
    run(&places, None, &context).await.unwrap();
    assert_eq!(places.0.jobs.lock().unwrap()[0].id, Some("mine".parse().unwrap()));
}

#[tokio::test]
async fn a_place_that_is_not_there_is_named_at_the_start() {
    let error = forward(Some("reddis"), &Places::default()).await.err().unwrap().to_string();
    assert!(error.contains("`reddis`") && error.contains("redis, asleep"), "{error}");
}

#[tokio::test]
async fn what_cannot_help_is_dead_and_what_may_pass_is_tried_again() {
    let places = Places::default();
    let dead = [
        json!({}),
        json!({"job": {"params": {}}}),
        json!({"job": {"type": "failure_handler.cli"}}),
        json!({"to": "nowhere", "job": {"type": "t"}}),
        json!({"type": "t", "job": {"type": "t"}}),
        json!({"jobs": []}),
    ];
    for params in dead {
        let error = run(&places, Some("redis"), &context(params.clone())).await.unwrap_err();
        assert_eq!(error.advice(), Advice::Dead, "{params}: {error}");
    }
    let job = json!({"job": {"type": "t"}});
    let error = run(&places, Some("asleep"), &context(job.clone())).await.unwrap_err();
    assert_eq!(error.advice(), Advice::Retry, "{error}");
    let faults: [(Fault, Advice); 5] = [
        (|| Err(ProviderError::transient("gone")), Advice::Retry),
        (|| Err(ProviderError::fatal("no permission")), Advice::Dead),
        (|| Ok(Refused::new(RefusedKind::Full, "full")), Advice::Retry),
        (|| Ok(Refused::unsupported("`unique`")), Advice::Dead),
        (|| Ok(Refused::duplicate("holder".parse().unwrap())), Advice::Discard),
    ];
    for (fault, advice) in faults {
        *places.0.fault.lock().unwrap() = Some(fault);
        let error = run(&places, Some("redis"), &context(job.clone())).await.unwrap_err();
        assert_eq!(error.advice(), advice, "{error}");
    }
}

#[tokio::test]
async fn as_failure_handler_hands_on_the_job_that_failed_as_a_new_one() {
    let places = Places::default();
    let job = Job::from_json(
        br#"{"type":"cli","id":"a","params":{"command":"false"},"retries":1,"headers":{"tenant":"7"},
            "expires_at":"2020-01-01T00:00:00Z","run_at":"2019-01-01T00:00:00Z"}"#,
    );
    let context = failure(job.unwrap(), json!({"to": "redis"}), "a/failed/1");
    run(&places, None, &context).await.unwrap();
    run(&places, None, &context).await.unwrap();
    let jobs = places.0.jobs.lock().unwrap();
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0].id, Some("a/failed/1/1".parse().unwrap()));
    assert_eq!((jobs[0].kind.as_str(), jobs[0].header("tenant")), ("cli", Some("7")));
    assert_eq!((jobs[0].run_at, jobs[0].expires_at), (None, None));
}

#[tokio::test]
async fn as_failure_handler_hands_on_the_record_as_params_of_a_type() {
    let places = Places::default();
    let job = Job::from_json(br#"{"type":"cli","id":"a","params":{"command":"false"}}"#).unwrap();
    run(&places, Some("redis"), &failure(job, json!({"type": "tell"}), "a/failed/1")).await.unwrap();
    let jobs = places.0.jobs.lock().unwrap();
    let record: FailureRecord = serde_json::from_str(jobs[0].params_text()).unwrap();
    assert_eq!(jobs[0].kind, "tell");
    assert_eq!((record.error.as_deref(), record.job.kind.as_str()), (Some("exit 1"), "cli"));
}

#[tokio::test]
async fn a_circle_of_failures_ends() {
    let places = Places::default();
    let job = || Job::from_json(br#"{"type":"cli","id":"a"}"#).unwrap();
    let id = format!("a{}", "/failed/1/1".repeat(8));
    let context = failure(job(), json!({"to": "redis"}), &format!("{id}/failed/1"));
    let error = run(&places, None, &context).await.unwrap_err();
    assert!(error.message().contains("circle"), "{error}");
}
