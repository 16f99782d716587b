//! The end: what runs may finish, the rest goes back, nothing is lost and nothing is spent.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod setup;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ganger_core::{BoxFuture, DynIntake, IntakeContext, IntakeSink, ProviderError, State, Stop};
use ganger_manager::{HandlerPlan, IntakePlan, Manager, ManagerError, PlanError};
use setup::{
    Ledger, TestClock, acts, add, ends, enqueue, eventually, job, memory, pass, plan_with, start, states,
};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn what_runs_may_finish_within_the_grace_and_the_rest_goes_back() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger).slots(2)]).await;
    let ids = enqueue(&provider, (0..6).map(|_| job(r#"{"type":"t","params":{"sleep":5}}"#))).await;
    eventually("two run", || ledger.running() == 2).await;
    let began = Instant::now();
    running.drain();
    running.ended().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(6));
    let states = states(&provider, &ids).await;
    assert_eq!(&states[..2], [State::Done, State::Done]);
    assert!(states[2..].iter().all(|state| *state == State::Ready), "{states:?}");
    assert_eq!(ledger.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_finish_within_the_grace_is_handed_back_with_nothing_spent() {
    let (ledger, clock) = (Ledger::default(), TestClock::new());
    let provider = memory(&clock);
    let mut plan = add(plan_with(&provider, &clock), acts("t", &ledger));
    plan.grace = Duration::from_secs(10);
    let running = Manager::start(plan).await.unwrap();
    let ids = enqueue(&provider, [job(r#"{"type":"t","params":[{"sleep":1000}]}"#)]).await;
    eventually("it runs", || ledger.running() == 1).await;
    let began = Instant::now();
    running.drain();
    running.ended().await.unwrap();
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(12), "{took:?}");
    assert_eq!((ledger.running(), states(&provider, &ids).await), (0, vec![State::Ready]));
    // No retry, no crash: the next manager's run is again its first, and no suspect's.
    let mut other = add(plan_with(&provider, &clock), acts("t", &ledger));
    other.incarnation = 0xdef;
    let _other = Manager::start(other).await.unwrap();
    eventually("it runs again", || ledger.count() == 2).await;
    assert_eq!(ledger.starts()[1].1, 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_order_ends_at_once_still_handing_back() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger)]).await;
    let ids = enqueue(&provider, (0..5).map(|_| job(r#"{"type":"t","params":{"sleep":1000}}"#))).await;
    eventually("they run", || ledger.running() == 5).await;
    running.drain();
    pass(Duration::from_secs(1)).await;
    let began = Instant::now();
    running.hurry();
    running.ended().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(states(&provider, &ids).await.iter().all(|state| *state == State::Ready));
}

#[tokio::test(start_paused = true)]
async fn an_idle_manager_ends_at_once() {
    let (running, _provider) = start(vec![acts("t", &Ledger::default())]).await;
    let began = Instant::now();
    running.drain();
    running.ended().await.unwrap();
    running.ended().await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(50), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_large_backlog_is_drained_in_the_middle_without_a_loss() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger)]).await;
    let ids = enqueue(&provider, (0..8_000).map(|_| job(r#"{"type":"t"}"#))).await;
    eventually("some are done", || ledger.count() > 1_000).await;
    running.drain();
    running.ended().await.unwrap();
    let all = states(&provider, &ids).await;
    let done = all.iter().filter(|state| **state == State::Done).count();
    let ready = all.iter().filter(|state| **state == State::Ready).count();
    assert_eq!((done, done + ready), (ledger.count(), 8_000));
}

#[tokio::test(start_paused = true)]
async fn a_drain_says_so_in_readiness() {
    let ledger = Ledger::default();
    let (running, provider) = start(vec![acts("t", &ledger)]).await;
    enqueue(&provider, [job(r#"{"type":"t","params":{"sleep":5}}"#)]).await;
    eventually("it runs", || ledger.running() == 1).await;
    running.drain();
    assert_eq!(running.status().ready().reasons, ["shutting down"]);
    running.ended().await.unwrap();
}

/// Takes one job in when it starts, and notes when it is stopped.
struct OneShot(Arc<Mutex<Vec<&'static str>>>);

impl DynIntake for OneShot {
    fn run(self: Box<Self>, into: IntakeSink, stop: Stop) -> BoxFuture<'static, Result<(), ProviderError>> {
        Box::pin(async move {
            into.sink.enqueue(ganger_core::Batch::new(vec![job(r#"{"id":"in","type":"t"}"#)])).await?;
            self.0.lock().unwrap().push("took in");
            stop.wait().await;
            self.0.lock().unwrap().push("stopped");
            Ok(())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_intake_stores_into_its_sink_and_ends_with_the_drain() {
    let (ledger, clock) = (Ledger::default(), TestClock::new());
    let provider = memory(&clock);
    let log = Arc::new(Mutex::new(Vec::new()));
    let (told, kinds) = (log.clone(), Arc::new(Mutex::new(Vec::new())));
    let seen = kinds.clone();
    let intake = IntakePlan {
        name: "one".into(),
        open: Arc::new(move |cx: IntakeContext| {
            seen.lock().unwrap().extend(cx.catalog.names().into_iter().map(str::to_owned));
            let told = told.clone();
            Box::pin(async move { Ok(Box::new(OneShot(told)) as Box<dyn DynIntake>) })
        }),
        into: None,
        configured: false,
    };
    let plan = add(plan_with(&provider, &clock), acts("t", &ledger)).intake(intake);
    let running = Manager::start(plan).await.unwrap();
    let ids = ["in".parse().unwrap()];
    eventually("it was taken in", || !log.lock().unwrap().is_empty()).await;
    assert_eq!(ends(&provider, &ids).await[0].state, Some(State::Done));
    running.drain();
    running.ended().await.unwrap();
    assert_eq!(*log.lock().unwrap(), ["took in", "stopped"]);
    assert_eq!(*kinds.lock().unwrap(), ["t"]);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_taken_stops_the_start() {
    let clock = TestClock::new();
    let provider = memory(&clock);
    let intake = IntakePlan {
        name: "http".into(),
        open: Arc::new(|_| Box::pin(async { Err(ProviderError::fatal("127.0.0.1:80 is taken")) })),
        into: Some("memory".into()),
        configured: true,
    };
    let plan = add(plan_with(&provider, &clock), acts("t", &Ledger::default())).intake(intake);
    let error = Manager::start(plan).await.unwrap_err();
    assert_eq!(error.to_string(), "provider `http`: 127.0.0.1:80 is taken");
}

fn refused(plan: ganger_manager::Plan) -> PlanError {
    plan.check().unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn b9_a_type_without_workers_is_refused_at_the_start() {
    let clock = TestClock::new();
    let provider = memory(&clock);
    let plan = add(plan_with(&provider, &clock), acts("t", &Ledger::default()).slots(0));
    let ManagerError::Plan(error) = Manager::start(plan).await.unwrap_err() else { panic!() };
    assert_eq!(error.to_string(), "worker `t`: `workers` must be at least 1, or leave the entry out");
}

#[tokio::test(start_paused = true)]
async fn b9_a_worker_that_cannot_be_set_up_stops_the_start() {
    use ganger_core::{Slots, WorkerContext, WorkerError, WorkerTraits, Workers};
    struct Bad;
    impl Workers for Bad {
        fn traits(&self) -> WorkerTraits {
            WorkerTraits::default()
        }
        fn share<'a>(&'a self, _: &'a WorkerContext) -> BoxFuture<'a, Result<Arc<dyn Slots>, WorkerError>> {
            Box::pin(async { Err(WorkerError::new("`bucket` is missing")) })
        }
    }
    let clock = TestClock::new();
    let plan = plan_with(&memory(&clock), &clock).worker("disk", Default::default(), Arc::new(Bad));
    let error = Manager::start(plan).await.unwrap_err();
    assert_eq!(error.to_string(), "worker `disk`: `bucket` is missing");
}

#[tokio::test(start_paused = true)]
async fn b16_a_plan_that_does_not_fit_is_refused_in_words() {
    let clock = TestClock::new();
    let provider = memory(&clock);
    let good = || add(plan_with(&provider, &clock), acts("t", &Ledger::default()));
    assert!(good().check().is_ok());
    assert!(refused(setup::bare_plan(&clock)).to_string().contains("no provider"));
    assert!(refused(add(good(), acts("t", &Ledger::default()))).to_string().contains("two workers"));
    let prefixed = add(good(), acts("failure_handler.x", &Ledger::default()));
    assert!(refused(prefixed).to_string().contains("are for failure handlers"));
    let twice = plan_with(&provider, &clock).opened("memory", Default::default(), provider.clone());
    assert!(refused(twice).to_string().contains("two providers are named `memory`"));
    let worker = acts("h", &Ledger::default());
    let handler =
        HandlerPlan { name: "h".into(), workers: worker.workers, options: worker.options, params: None };
    let twice = good().handler(handler.clone()).handler(handler);
    assert!(refused(twice).to_string().contains("two failure handlers are named `h`"));
    let intake = IntakePlan {
        name: "http".into(),
        open: Arc::new(|_| Box::pin(async { Err(ProviderError::fatal("never opened")) })),
        into: Some("disk".into()),
        configured: false,
    };
    let message = refused(good().intake(intake)).to_string();
    assert_eq!(
        message,
        "`http` stores its jobs into `disk`, but there is no such provider (there is `memory`)"
    );
}
