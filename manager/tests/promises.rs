//! The promises that are the manager's own, each failing if it is not kept.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod setup;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use ganger_core::{
    Entry, Job, JobContext, JobError, Output, ProviderOptions, Sink, State, StopReason, WorkerOptions,
};
use ganger_manager::{Manager, Running, UnknownType};
use ganger_provider_memory::MemoryProvider;
use ganger_worker_function::function;
use setup::{
    Ledger, TestClock, acts, add, ends, enqueue, eventually, job, memory, pass, plan_with, start, states,
};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn p2_a_failing_job_runs_once_and_its_retries() {
    let ledger = Ledger::default();
    let (_running, provider) = start(vec![acts("t", &ledger)]).await;
    let ids = enqueue(&provider, [job(r#"{"id":"a","type":"t","params":"fail","retries":3}"#)]).await;
    let ended = ends(&provider, &ids).await;
    assert_eq!((ended[0].state, ended[0].runs), (Some(State::Dead), 4));
    let runs: Vec<_> = ledger.starts().into_iter().map(|(_, run)| run).collect();
    assert_eq!(runs, [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn p2_retries_wait_for_their_backoff() {
    let ledger = Ledger::default();
    let (_running, provider) = start(vec![acts("t", &ledger)]).await;
    let began = Instant::now();
    let text =
        r#"{"type":"t","params":["fail","fail","ok"],"retries":2,"backoff":{"initial":"10s","jitter":0}}"#;
    let ids = enqueue(&provider, [job(text)]).await;
    assert_eq!(ends(&provider, &ids).await[0].state, Some(State::Done));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(31), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failed_run_and_nothing_more() {
    let ledger = Ledger::default();
    let (_running, provider) = start(vec![acts("t", &ledger).slots(1)]).await;
    let ids = enqueue(
        &provider,
        [job(r#"{"type":"t","params":["panic","ok"],"retries":1}"#), job(r#"{"type":"t"}"#)],
    )
    .await;
    let ended = ends(&provider, &ids).await;
    assert_eq!((ended[0].state, ended[0].runs), (Some(State::Done), 2));
    assert_eq!((ended[1].state, ended[1].runs), (Some(State::Done), 1));
}

#[tokio::test(start_paused = true)]
async fn a_run_is_stopped_at_its_timeout() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger).timeout(Duration::from_secs(90))]).await;
    let began = Instant::now();
    let ids = enqueue(
        &provider,
        [
            job(r#"{"type":"t","params":{"sleep":5000},"timeout":"2s"}"#),
            job(r#"{"type":"t","params":{"sleep":5000}}"#),
        ],
    )
    .await;
    let ended = ends(&provider, &ids[..1]).await;
    assert_eq!(ended[0].state, Some(State::Dead));
    assert!(ended[0].error.as_ref().unwrap().contains("timed out after 2s"), "{:?}", ended[0].error);
    assert!(began.elapsed() < Duration::from_secs(3));
    ends(&provider, &ids[1..]).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(90) && took < Duration::from_secs(91), "{took:?}");
    eventually("both runs dropped", || ledger.running() == 0).await;
    assert_eq!(running.status().report().by_type["t"].failed, 2);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_heeds_its_stop_may_end_by_itself() {
    let heard = Arc::new(Mutex::new(None));
    let told = heard.clone();
    let polite = function("polite", move |_: (), job: JobContext| {
        let told = told.clone();
        async move {
            let reason = job.stopped().await;
            pass(Duration::from_secs(1)).await;
            *told.lock().unwrap() = Some(reason);
            Err::<(), _>(JobError::retry("stopped"))
        }
    });
    let (_running, provider) = start(vec![polite]).await;
    let ids = enqueue(&provider, [job(r#"{"type":"polite","timeout":"5s"}"#)]).await;
    let ended = ends(&provider, &ids).await;
    assert_eq!(*heard.lock().unwrap(), Some(StopReason::Timeout));
    assert!(ended[0].error.as_ref().unwrap().contains("timed out"), "{:?}", ended[0].error);
}

#[tokio::test(start_paused = true)]
async fn p9_a_running_job_is_cancelled_within_a_third_of_a_lease() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger)]).await;
    let text = r#"{"type":"t","params":{"sleep":5000},"retries":5}"#;
    let ids = enqueue(&provider, [job(text)]).await;
    eventually("it runs", || ledger.running() == 1).await;
    let began = Instant::now();
    assert!(provider.cancel(&ids[0]).await.unwrap());
    let ended = ends(&provider, &ids).await;
    assert_eq!(ended[0].state, Some(State::Cancelled));
    assert!(began.elapsed() <= Duration::from_millis(5_100), "{:?}", began.elapsed());
    assert_eq!((ledger.running(), ledger.count()), (0, 1));
    assert_eq!(running.status().report().by_type["t"].cancelled, 1);
}

#[tokio::test(start_paused = true)]
async fn p9_a_job_that_waits_in_a_pool_is_cancelled_unrun() {
    let ledger = Ledger::default();
    let (_running, provider) = start(vec![acts("t", &ledger).slots(1)]).await;
    let ids = enqueue(
        &provider,
        [job(r#"{"type":"t","params":{"sleep":60}}"#), job(r#"{"type":"t"}"#), job(r#"{"type":"t"}"#)],
    )
    .await;
    eventually("the first runs", || ledger.running() == 1).await;
    assert!(provider.cancel(&ids[1]).await.unwrap());
    let ended = ends(&provider, &ids).await;
    let states: Vec<_> = ended.iter().map(|end| end.state.unwrap()).collect();
    assert_eq!(states, [State::Done, State::Cancelled, State::Done]);
    assert_eq!(ledger.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn p8_bytes_that_are_no_job_go_to_the_dead_letters_and_block_nothing() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger)]).await;
    provider.push_all([
        Bytes::from_static(b"not json"),
        Bytes::from_static(br#"{"type":"t"}"#),
        Bytes::from_static(b"\xff\xfe"),
        Bytes::from_static(br#"{"type":"t","retries":"3"}"#),
        Bytes::from_static(br#"{"type":"failure_handler.mail"}"#),
        Bytes::from_static(br#"{"type":"t","limit":{"key":"k","concurrency":1}}"#),
        Bytes::from(vec![b' '; 2 << 20]),
        Bytes::from_static(br#"{"type":"t"}"#),
    ]);
    eventually("nothing waits", || provider.waiting() == 0).await;
    assert_eq!(ledger.count(), 2);
    let reasons: Vec<_> = provider.dead_letters().into_iter().map(|(_, _, reason)| reason).collect();
    assert_eq!(reasons.len(), 6, "{reasons:?}");
    assert!(reasons.iter().all(|reason| reason.starts_with("malformed: ")), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("does not support `limit`")), "{reasons:?}");
    let report = running.status().report();
    assert_eq!(report.by_provider["memory"].dead, 6);
}

#[tokio::test(start_paused = true)]
async fn a_raw_job_keeps_its_id_and_its_delay_over_every_claim() {
    let ledger = Ledger::default();
    let (_running, provider) = start(vec![acts("t", &ledger)]).await;
    let began = Instant::now();
    let text = r#"{"type":"t","params":["fail","ok"],"retries":1,"delay":"60s"}"#;
    provider.push_raw(Bytes::from_static(text.as_bytes()));
    eventually("it is done", || provider.waiting() == 0).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(60) && took < Duration::from_secs(63), "{took:?}");
    let starts = ledger.starts();
    assert_eq!((starts.len(), starts[0].1, starts[1].1), (2, 1, 2));
    assert_eq!(starts[0].0, starts[1].0);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_expired_before_it_ran_is_not_run() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger).slots(1)]).await;
    let ids = enqueue(
        &provider,
        [job(r#"{"type":"t","params":{"sleep":60}}"#), job(r#"{"type":"t","max_age":"10s"}"#)],
    )
    .await;
    let ended = ends(&provider, &ids).await;
    assert_eq!((ended[0].state, ended[1].state), (Some(State::Done), Some(State::Expired)));
    assert_eq!(running.status().report().by_type["t"].expired, 1);
}

#[tokio::test(start_paused = true)]
async fn p7_a_lost_worker_spends_crashes_and_the_job_is_dead_at_the_last() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger)]).await;
    let ids = enqueue(&provider, [job(r#"{"type":"t","params":"lost","retries":50}"#)]).await;
    let ended = ends(&provider, &ids).await;
    assert_eq!((ended[0].state, ledger.count()), (Some(State::Dead), 3));
    assert_eq!(running.status().report().by_type["t"].lost, 3);
    assert!(provider.dead_letters()[0].2.contains("crashed"));
}

#[tokio::test(start_paused = true)]
async fn jobs_that_follow_become_real_with_the_end_of_their_parent() {
    let ledger = Ledger::default();
    let parent = function("parent", |fails: bool, job: JobContext| async move {
        job.follow(Job::from_json(br#"{"type":"t"}"#).unwrap());
        job.follow(Job::from_json(br#"{"id":"named","type":"t"}"#).unwrap());
        if fails { Err(JobError::dead("no")) } else { Ok(()) }
    });
    let (_running, provider) = start(vec![parent, acts("t", &ledger)]).await;
    let bad = enqueue(&provider, [job(r#"{"id":"bad","type":"parent","params":true}"#)]).await;
    ends(&provider, &bad).await;
    let good = enqueue(&provider, [job(r#"{"id":"good","type":"parent","params":false}"#)]).await;
    ends(&provider, &good).await;
    let follow: Vec<_> = ["good/1", "named"].iter().map(|id| id.parse().unwrap()).collect();
    let ended = ends(&provider, &follow).await;
    assert!(ended.iter().all(|end| end.state == Some(State::Done)));
    assert_eq!(ledger.count(), 2);
    assert_eq!(provider.states(&["bad/1".parse().unwrap()]).await.unwrap(), [None]);
}

#[tokio::test(start_paused = true)]
async fn b10_an_unknown_type_waits_for_a_worker_and_starves_nobody() {
    let ledger = Ledger::default();
    let (_running, provider) = start(vec![acts("t", &ledger)]).await;
    provider.push_all((0..10).map(|_| Bytes::from_static(br#"{"type":"nobody"}"#)));
    provider.push_all((0..10).map(|_| Bytes::from_static(br#"{"type":"t"}"#)));
    eventually("the known ones are done", || ledger.count() == 10).await;
    pass(Duration::from_secs(60)).await;
    assert_eq!((provider.waiting(), provider.dead_letters().len()), (10, 0), "set aside, not lost");
}

/// A manager to which unknown types are dead, and another that does the type `elsewhere`.
async fn with_one_elsewhere() -> (Arc<MemoryProvider>, Running, Running) {
    let (ledger, clock) = (Ledger::default(), TestClock::new());
    let provider = memory(&clock);
    let mut plan = add(plan_with(&provider, &clock), acts("t", &ledger));
    plan.unknown = UnknownType::Dead;
    let running = Manager::start(plan).await.unwrap();
    let mut other = add(plan_with(&provider, &clock), acts("elsewhere", &ledger));
    other.incarnation = 0xdef;
    (provider, running, Manager::start(other).await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn b10_by_policy_an_unknown_type_is_dead_unless_a_live_manager_does_it() {
    let (provider, _running, other) = with_one_elsewhere().await;
    while provider.managers().await.unwrap().len() < 2 {
        pass(Duration::from_millis(10)).await;
    }
    other.drain();
    other.ended().await.unwrap();
    provider.push_raw(Bytes::from_static(br#"{"type":"elsewhere"}"#));
    provider.push_raw(Bytes::from_static(br#"{"type":"nobody"}"#));
    eventually("one is dead", || provider.dead_letters().len() == 1).await;
    assert!(provider.dead_letters()[0].2.contains("no worker does type `nobody`"));
    assert_eq!(provider.waiting(), 1);
}

#[tokio::test(start_paused = true)]
async fn b10_by_policy_an_unknown_type_is_dead_also_where_the_store_gives_what_it_is_asked_for() {
    let (provider, _running, other) = with_one_elsewhere().await;
    enqueue(&provider, (0..250).map(|_| job(r#"{"type":"nobody"}"#))).await;
    eventually("all are dead", || provider.dead_letters().len() == 250).await;
    assert!(provider.dead_letters()[0].2.contains("no worker does type `nobody`"));

    let ids = enqueue(&provider, [job(r#"{"type":"elsewhere","params":"slow"}"#)]).await;
    pass(Duration::from_secs(60)).await;
    assert_eq!(ends(&provider, &ids).await[0].state, Some(State::Done), "somebody does it");
    other.drain();
    other.ended().await.unwrap();
    let ids = enqueue(&provider, [job(r#"{"type":"elsewhere"}"#)]).await;
    assert_eq!(ends(&provider, &ids).await[0].state, Some(State::Dead), "nobody does it any more");
}

#[tokio::test(start_paused = true)]
async fn failure_handlers_run_in_order_and_have_none_of_their_own() {
    let (ledger, clock) = (Ledger::default(), TestClock::new());
    let provider = memory(&clock);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut plan = add(plan_with(&provider, &clock), acts("t", &ledger));
    for name in ["first", "second"] {
        let seen = seen.clone();
        let handler = function(name, move |params: String, job: JobContext| {
            let seen = seen.clone();
            async move {
                let failure = job.failure()?.ok_or_else(|| JobError::dead("no record"))?;
                let error = failure.error.unwrap_or_default();
                seen.lock().unwrap().push(format!("{} {params} {error}", job.id()));
                if params == "first" { Err(JobError::dead("the handler fails too")) } else { Ok(()) }
            }
        });
        plan = plan.handler(ganger_manager::HandlerPlan {
            name: name.into(),
            workers: handler.workers,
            options: handler.options,
            params: Some(serde_json::value::to_raw_value(name).unwrap()),
        });
    }
    let running = Manager::start(plan).await.unwrap();
    let ids = enqueue(&provider, [job(r#"{"id":"a","type":"t","params":"dead"}"#)]).await;
    assert_eq!(ends(&provider, &ids).await[0].state, Some(State::Dead));
    let handlers: Vec<_> = ["a/failed/1", "a/failed/2"].iter().map(|id| id.parse().unwrap()).collect();
    eventually("both handlers have run", || seen.lock().unwrap().len() == 2).await;
    let ended = ends(&provider, &handlers).await;
    assert_eq!((ended[0].state, ended[1].state), (Some(State::Dead), Some(State::Done)));
    assert_eq!(*seen.lock().unwrap(), ["a/failed/1 first dead as told", "a/failed/2 second dead as told"]);
    let stored = provider.dead_letters();
    let told = |entry: &Entry| matches!(entry, Entry::Job(job) if job.params.is_some());
    assert!(
        stored.iter().all(|(id, entry, _)| told(entry) == (id.to_string() == "a")),
        "a handler's are its own"
    );
    assert_eq!(provider.states(&["a/failed/1/failed/1".parse().unwrap()]).await.unwrap(), [None]);
    let report = running.status().report();
    assert_eq!(report.by_type["failure_handler.first"].dead, 1);
    assert_eq!(report.by_type["failure_handler.second"].done, 1);
}

#[tokio::test(start_paused = true)]
async fn b12_a_retried_job_leaves_no_task_behind() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger)]).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let ids = enqueue(&provider, [job(r#"{"type":"t"}"#)]).await;
    ends(&provider, &ids).await;
    let before = tasks();
    let text = r#"{"type":"t","params":"fail","retries":5,"backoff":{"initial":"1ms","max":"1ms"}}"#;
    let ids = enqueue(&provider, (0..100).map(|_| job(text))).await;
    ends(&provider, &ids).await;
    assert_eq!(ledger.count(), 601);
    assert_eq!(tasks(), before);
    running.drain();
    running.ended().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn b1_long_jobs_do_not_starve_the_manager() {
    let ledger = Ledger::default();
    let options = ProviderOptions { target: 100.0, ..ProviderOptions::default() };
    let clock = TestClock::new();
    let provider = memory(&clock);
    let plan = setup::bare_plan(&clock).opened("memory", options, provider.clone());
    let _running = Manager::start(add(plan, acts("t", &ledger).slots(8))).await.unwrap();
    let long = enqueue(&provider, [job(r#"{"type":"t","params":{"sleep":70}}"#)]).await;
    let short = (0..200).map(|_| job(r#"{"type":"t","params":{"sleep":0.2}}"#));
    let short = enqueue(&provider, short).await;
    let began = Instant::now();
    ends(&provider, &short).await;
    let more = enqueue(&provider, (0..10).map(|_| job(r#"{"type":"t"}"#))).await;
    ends(&provider, &more).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(states(&provider, &long).await, [State::Running]);
}

#[tokio::test(start_paused = true)]
async fn a_target_bounds_the_jobs_of_a_second() {
    let (ledger, clock) = (Ledger::default(), TestClock::new());
    let provider = memory(&clock);
    let options = ProviderOptions { target: 50.0, ..ProviderOptions::default() };
    let plan = setup::bare_plan(&clock).opened("memory", options, provider.clone());
    let _running = Manager::start(add(plan, acts("t", &ledger))).await.unwrap();
    let began = Instant::now();
    let ids = enqueue(&provider, (0..500).map(|_| job(r#"{"type":"t"}"#))).await;
    ends(&provider, &ids).await;
    let took = began.elapsed().as_secs_f64();
    assert!((9.0..11.0).contains(&took), "{took} s for 500 jobs at 50 a second");
}

#[tokio::test(start_paused = true)]
async fn b11_a_type_that_is_busy_holds_up_no_other() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("slow", &ledger).slots(4), acts("quick", &ledger)]).await;
    // Raw bytes, whose type the store cannot see: the worst case.
    provider.push_all((0..50).map(|_| Bytes::from_static(br#"{"type":"slow","params":{"sleep":20}}"#)));
    provider.push_all((0..50).map(|_| Bytes::from_static(br#"{"type":"quick"}"#)));
    let began = Instant::now();
    eventually("all quick ones started", || ledger.count() >= 54).await;
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    let slow = running.status().report().pools["slow"];
    assert_eq!((slow.busy, slow.queued), (4, 0), "what has no room is set aside, for others to do");
    eventually("the slow ones are done too", || provider.waiting() == 0).await;
    assert_eq!(ledger.count(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_pool_of_slow_jobs_keeps_none_that_another_manager_could_do() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger).slots(3)]).await;
    let ids = enqueue(&provider, (0..20).map(|_| job(r#"{"type":"t","params":{"sleep":30}}"#))).await;
    eventually("all slots work", || ledger.running() == 3).await;
    pass(Duration::from_secs(1)).await;
    let held = states(&provider, &ids).await.into_iter().filter(|state| *state == State::Running).count();
    assert_eq!(held, 3);
    let figures = running.status().report().pools["t"];
    assert_eq!((figures.slots, figures.busy, figures.queued), (3, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn slots_bound_what_runs_at_once() {
    let ledger = Ledger::default();
    let (_running, provider) = start(vec![acts("t", &ledger).slots(7)]).await;
    let ids = enqueue(&provider, (0..100).map(|_| job(r#"{"type":"t","params":{"sleep":1}}"#))).await;
    ends(&provider, &ids).await;
    assert_eq!(ledger.most(), 7);
}

#[tokio::test(start_paused = true)]
async fn two_providers_share_a_pool_fairly() {
    let (ledger, clock) = (Ledger::default(), TestClock::new());
    let (one, two) = (memory(&clock), memory(&clock));
    let plan = setup::bare_plan(&clock).opened("one", ProviderOptions::default(), one.clone()).opened(
        "two",
        ProviderOptions::default(),
        two.clone(),
    );
    let _running = Manager::start(add(plan, acts("t", &ledger).slots(1))).await.unwrap();
    let text = r#"{"type":"t","params":{"sleep":1}}"#;
    let ids =
        [enqueue(&one, (0..100).map(|_| job(text))).await, enqueue(&two, (0..100).map(|_| job(text))).await];
    pass(Duration::from_secs(50)).await;
    for (provider, ids) in [(&one, &ids[0]), (&two, &ids[1])] {
        let done = states(provider, ids).await.into_iter().filter(|state| *state == State::Done).count();
        assert!((15..=35).contains(&done), "{done} of one provider's jobs in 50 s");
    }
}

#[tokio::test(start_paused = true)]
async fn p10_what_waits_in_a_pool_is_bounded_in_bytes() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger).slots(2)]).await;
    let big = format!(r#"{{"type":"t","params":["{}"]}}"#, "x".repeat(900_000));
    for _ in 0..100 {
        provider.push_raw(Bytes::from(big.clone()));
    }
    let mut most = 0;
    eventually("all done", || {
        most = most.max(running.status().report().pools["t"].queued);
        provider.waiting() == 0
    })
    .await;
    assert!(most <= 20, "{most} jobs of 900 kB waited in the pool");
    assert_eq!(ledger.count(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_be_made_turns_readiness_off_and_loses_no_job() {
    use ganger_core::{
        BoxFuture, DynWorker, SlotContext, Slots, WorkerContext, WorkerError, WorkerTraits, Workers,
    };
    struct Flaky(Arc<dyn Workers>, Instant);
    struct FlakySlots(Arc<dyn Slots>, Instant);
    impl Workers for Flaky {
        fn traits(&self) -> WorkerTraits {
            self.0.traits()
        }
        fn share<'a>(&'a self, cx: &'a WorkerContext) -> BoxFuture<'a, Result<Arc<dyn Slots>, WorkerError>> {
            Box::pin(
                async move { Ok(Arc::new(FlakySlots(self.0.share(cx).await?, self.1)) as Arc<dyn Slots>) },
            )
        }
    }
    impl Slots for FlakySlots {
        fn create<'a>(
            &'a self,
            cx: &'a SlotContext,
        ) -> BoxFuture<'a, Result<Box<dyn DynWorker>, WorkerError>> {
            Box::pin(async move {
                if self.1.elapsed() < Duration::from_secs(20) {
                    return Err(WorkerError::new("its tool is missing"));
                }
                self.0.create(cx).await
            })
        }
    }
    let (ledger, clock) = (Ledger::default(), TestClock::new());
    let provider = memory(&clock);
    let inner = acts("t", &ledger);
    let flaky = Arc::new(Flaky(inner.workers, Instant::now()));
    let plan = plan_with(&provider, &clock).worker("t", WorkerOptions::default(), flaky);
    let running = Manager::start(plan).await.unwrap();
    let ids = enqueue(&provider, (0..30).map(|_| job(r#"{"type":"t"}"#))).await;
    let status = running.status();
    eventually("readiness is off", || !status.ready().is_ready()).await;
    assert!(status.ready().reasons[0].contains("its tool is missing"), "{:?}", status.ready());
    let ended = ends(&provider, &ids).await;
    assert!(ended.iter().all(|end| end.state == Some(State::Done) && end.runs == 1));
    eventually("readiness is on again", || status.ready().is_ready()).await;
}

#[tokio::test(start_paused = true)]
async fn events_tell_every_state_of_a_job() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger)]).await;
    let mut events = running.events().listen();
    let text = r#"{"id":"a","type":"t","params":["fail","write"],"retries":1,"capture_output":true}"#;
    let ids = enqueue(&provider, [job(text)]).await;
    ends(&provider, &ids).await;
    let mut told = Vec::new();
    while let Ok(batch) = events.try_recv() {
        told.extend(batch.iter().map(|event| match &event.what {
            ganger_core::What::State { state, error } => {
                format!("{state} {}", error.as_deref().unwrap_or("-"))
            }
            other => format!("{other:?}"),
        }));
    }
    let output = format!(
        "{:?}",
        ganger_core::What::Output { stream: ganger_core::Stream::Stdout, bytes: b"written".to_vec() }
    );
    assert_eq!(told, ["running -", "scheduled failed as told", "running -", &output, "done -"]);
}

#[tokio::test(start_paused = true)]
async fn jobs_count_for_the_intake_that_they_came_through() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger)]).await;
    let mut through_http = job(r#"{"type":"t"}"#);
    through_http.rare_mut().via = Some("http".into());
    let ids = enqueue(&provider, [through_http, job(r#"{"type":"t"}"#)]).await;
    ends(&provider, &ids).await;
    let report = running.status().report();
    assert_eq!((report.by_provider["http"].done, report.by_provider["memory"].done), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn b21_a_stop_of_one_job_never_reaches_the_next() {
    let ledger = Ledger::default();
    let (_running, provider) = start(vec![acts("t", &ledger).slots(1)]).await;
    let mut jobs = Vec::new();
    for _ in 0..20 {
        jobs.push(job(r#"{"type":"t","params":{"sleep":600},"timeout":"1s"}"#));
        jobs.push(job(r#"{"type":"t","params":{"sleep":0.5},"timeout":"1s"}"#));
    }
    let ids = enqueue(&provider, jobs).await;
    let ended = ends(&provider, &ids).await;
    for pair in ended.chunks(2) {
        assert_eq!((pair[0].state, pair[1].state), (Some(State::Dead), Some(State::Done)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_is_started_at_once_when_a_slot_is_free() {
    let (_running, provider) =
        start(vec![function("t", |_: (), _: JobContext| async { Ok::<_, JobError>(Output::default()) })])
            .await;
    for _ in 0..50 {
        let began = Instant::now();
        let ids = enqueue(&provider, [job(r#"{"type":"t"}"#)]).await;
        ends(&provider, &ids).await;
        assert!(began.elapsed() <= Duration::from_millis(1), "{:?}", began.elapsed());
        pass(Duration::from_millis(700)).await;
    }
}
