//! Stores that fail, hang, forget, and come back.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "setup/faulty.rs"]
mod faulty;
mod setup;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use faulty::{Fault, Faulty};
use ganger_core::{
    Batch, Capabilities, JobContext, ProviderError, ProviderOptions, Sink, State, erase_provider,
};
use ganger_manager::{Manager, ManagerError, Running};
use ganger_provider_memory::MemoryProvider;
use ganger_worker_function::function;
use setup::{Ledger, TestClock, acts, add, ends, enqueue, eventually, job, memory, pass, states};
use tokio::time::Instant;

struct House {
    running: Running,
    store: Arc<MemoryProvider>,
    line: Arc<Faulty>,
    ledger: Ledger,
}

async fn house() -> House {
    house_with(Faulty::new).await
}

async fn house_with(line: impl FnOnce(&Arc<MemoryProvider>) -> Arc<Faulty>) -> House {
    let (ledger, clock) = (Ledger::default(), TestClock::new());
    let store = memory(&clock);
    let line = line(&store);
    let plan = setup::bare_plan(&clock).opened_dyn("store", ProviderOptions::default(), line.clone());
    let running = Manager::start(add(plan, acts("t", &ledger).slots(4))).await.unwrap();
    House { running, store, line, ledger }
}

fn plain(count: usize) -> Vec<ganger_core::Job> {
    (0..count).map(|_| job(r#"{"type":"t"}"#)).collect()
}

#[tokio::test(start_paused = true)]
async fn p4_an_exchange_whose_answer_is_lost_is_repeated_with_its_token() {
    let house = house().await;
    for fault in [Fault::LoseReply, Fault::HangReply, Fault::Fail, Fault::Hang] {
        house.line.sent.lock().unwrap().clear();
        house.line.exchanges.lock().unwrap().push_back(fault);
        let ids = enqueue(&house.store, plain(3)).await;
        let ended = ends(&house.store, &ids).await;
        assert!(ended.iter().all(|end| end.state == Some(State::Done) && end.runs == 1), "{fault:?}");
        let sent = house.line.sent.lock().unwrap();
        assert_eq!(sent[0].0, sent[1].0, "{fault:?}: the same token");
    }
    assert_eq!(house.ledger.count(), 12);
    assert_eq!(house.running.status().report().stale, 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_remember_is_never_asked_twice_with_one_token() {
    let forgets =
        Capabilities { repeat: false, filter: true, schedule: true, follow: true, ..Capabilities::NONE };
    let house = house_with(|store| Faulty::able(store, forgets)).await;
    house.line.exchanges.lock().unwrap().extend([Fault::LoseReply, Fault::Fail]);
    let ids = enqueue(&house.store, plain(5)).await;
    let ended = ends(&house.store, &ids).await;
    assert!(ended.iter().all(|end| end.state == Some(State::Done)));
    let sent = house.line.sent.lock().unwrap();
    let tokens: HashSet<_> = sent.iter().map(|(token, ..)| *token).collect();
    assert_eq!(tokens.len(), sent.len());
}

#[tokio::test(start_paused = true)]
async fn p5_the_backlog_moves_again_soon_after_the_fault_heals() {
    for cut_for in [1, 5, 12, 60, 600] {
        let house = house().await;
        let text = r#"{"type":"t","params":{"sleep":0.5}}"#;
        let ids = enqueue(&house.store, (0..200).map(|_| job(text))).await;
        pass(Duration::from_secs(3)).await;
        house.line.cut.store(true, Ordering::SeqCst);
        pass(Duration::from_secs(cut_for)).await;
        if cut_for >= 5 {
            let ready = house.running.status().ready();
            assert!(ready.reasons.iter().any(|reason| reason.contains("provider `store`")), "{ready:?}");
        }
        let began = house.ledger.count();
        house.line.cut.store(false, Ordering::SeqCst);
        let healed = Instant::now();
        eventually("something runs", || house.ledger.count() > began).await;
        assert!(healed.elapsed() < Duration::from_secs(17), "cut for {cut_for} s: {:?}", healed.elapsed());
        let ended = ends(&house.store, &ids).await;
        assert!(ended.iter().all(|end| end.state == Some(State::Done)));
        eventually("readiness is back", || house.running.status().ready().is_ready()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn p5_a_call_that_hangs_is_given_up() {
    let house = house().await;
    house.line.exchanges.lock().unwrap().extend([Fault::Hang, Fault::Hang]);
    let began = Instant::now();
    let ids = enqueue(&house.store, plain(1)).await;
    ends(&house.store, &ids).await;
    assert!(began.elapsed() < Duration::from_secs(17), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn p6_long_jobs_keep_their_lease() {
    let house = house().await;
    let text = r#"{"type":"t","params":{"sleep":120}}"#;
    let ids = enqueue(&house.store, (0..4).map(|_| job(text))).await;
    // Renewals fail now and then, as they do.
    house.line.renewals.lock().unwrap().extend([Fault::Fail, Fault::LoseReply, Fault::Hang]);
    let ended = ends(&house.store, &ids).await;
    assert!(ended.iter().all(|end| end.state == Some(State::Done) && end.runs == 1));
    assert_eq!(house.ledger.count(), 4);
    assert!(house.line.most_held.load(Ordering::SeqCst) == 4);
    let renewals = house.line.renewed.load(Ordering::SeqCst);
    assert!((24..40).contains(&renewals), "{renewals} renewals in 120 s");
}

#[tokio::test(start_paused = true)]
async fn p6_what_cannot_be_renewed_is_stopped_at_two_thirds_of_its_lease() {
    let house = house().await;
    let ids = enqueue(&house.store, [job(r#"{"type":"t","params":[{"sleep":1000},"ok"]}"#)]).await;
    eventually("it runs", || house.ledger.running() == 1).await;
    house.line.cut.store(true, Ordering::SeqCst);
    let cut = Instant::now();
    eventually("it is stopped", || house.ledger.running() == 0).await;
    let after = cut.elapsed();
    assert!(after >= Duration::from_secs(4) && after <= Duration::from_millis(10_100), "{after:?}");
    house.line.cut.store(false, Ordering::SeqCst);
    // The lease was cut off, which proves nothing against the job: it is run again from the start.
    eventually("it runs again", || house.ledger.count() == 2).await;
    assert_eq!(states(&house.store, &ids).await, [State::Running]);
}

#[tokio::test(start_paused = true)]
async fn p6_what_was_claimed_long_ago_and_answered_late_is_stopped_in_time_too() {
    let house = house().await;
    // The keeper has just gone to sleep for a third of the lease when the answer comes.
    pass(Duration::from_millis(2_500)).await;
    house.line.exchanges.lock().unwrap().extend([
        Fault::HangReply,
        Fault::Fail,
        Fault::Fail,
        Fault::Fail,
        Fault::Fail,
    ]);
    let sent = Instant::now();
    enqueue(&house.store, [job(r#"{"type":"t","params":{"sleep":1000}}"#)]).await;
    eventually("it runs", || house.ledger.running() == 1).await;
    assert!(sent.elapsed() > Duration::from_secs(7), "{:?}", sent.elapsed());
    house.line.cut.store(true, Ordering::SeqCst);
    eventually("it is stopped", || house.ledger.running() == 0).await;
    let after = sent.elapsed();
    assert!(
        after <= Duration::from_millis(10_200),
        "two thirds of the lease from when it was asked for: {after:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn p6_a_renewal_counts_from_when_it_was_sent() {
    let house = house().await;
    enqueue(&house.store, [job(r#"{"type":"t","params":{"sleep":1000}}"#)]).await;
    eventually("it runs", || house.ledger.running() == 1).await;
    let renewed = house.line.renewed.load(Ordering::SeqCst);
    house.line.renewals.lock().unwrap().push_back(Fault::Late);
    eventually("it is renewed", || house.line.renewed.load(Ordering::SeqCst) > renewed).await;
    let sent = Instant::now();
    pass(Duration::from_millis(2_100)).await;
    assert_eq!(house.line.renewed.load(Ordering::SeqCst), renewed + 1, "answered, and the last for now");
    house.line.cut.store(true, Ordering::SeqCst);
    eventually("it is stopped", || house.ledger.running() == 0).await;
    let after = sent.elapsed();
    assert!(after >= Duration::from_secs(9) && after <= Duration::from_millis(10_200), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn p6_after_an_absence_it_settles_and_renews_before_it_asks() {
    let house = house().await;
    enqueue(&house.store, [job(r#"{"type":"t","params":{"sleep":1000}}"#)]).await;
    eventually("it runs", || house.ledger.running() == 1).await;
    house.line.cut.store(true, Ordering::SeqCst);
    eventually("it is stopped", || house.ledger.running() == 0).await;
    pass(Duration::from_secs(60)).await;
    house.line.sent.lock().unwrap().clear();
    let renewed = house.line.renewed.load(Ordering::SeqCst);
    house.line.cut.store(false, Ordering::SeqCst);
    eventually("it runs again", || house.ledger.count() == 2).await;
    let sent = house.line.sent.lock().unwrap();
    let asked = sent.iter().position(|(_, _, room)| !room.is_none()).unwrap();
    assert!(sent[..asked].iter().any(|(_, settled, _)| *settled == 1), "it settled first: {sent:?}");
    assert!(house.line.renewed.load(Ordering::SeqCst) > renewed);
}

#[tokio::test(start_paused = true)]
async fn p3_a_verdict_under_a_lost_lease_changes_nothing_and_is_counted() {
    let (ledger, clock) = (Ledger::default(), TestClock::new());
    let store = memory(&clock);
    let line = Faulty::new(&store);
    let plan = setup::bare_plan(&clock).opened_dyn("store", ProviderOptions::default(), line.clone());
    // It does not see that it is fenced: blocking code that a fence cannot stop.
    let deaf = ledger.clone();
    let worker = function("t", move |_: (), job: JobContext| {
        let ledger = deaf.clone();
        async move {
            let _running = ledger.start(&job);
            if ledger.count() == 1 {
                let _ = job.stopped().await;
                pass(Duration::from_millis(900)).await;
            }
            Ok::<_, ganger_core::JobError>(())
        }
    });
    let running = Manager::start(add(plan, worker)).await.unwrap();
    let ids = enqueue(&store, plain(1)).await;
    eventually("it runs", || ledger.running() == 1).await;
    // Another manager takes over while this one cannot renew.
    line.cut.store(true, Ordering::SeqCst);
    let mut other = setup::bare_plan(&clock).opened("store", ProviderOptions::default(), store.clone());
    other.incarnation = 0xdef;
    let _other = Manager::start(add(other, acts("t", &ledger))).await.unwrap();
    let ended = ends(&store, &ids).await;
    assert_eq!(ended[0].state, Some(State::Done));
    line.cut.store(false, Ordering::SeqCst);
    eventually("the stale verdict is counted", || running.status().report().stale == 1).await;
    assert_eq!(ledger.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn p7_a_suspect_is_run_alone_and_crashed_jobs_one_at_a_time() {
    let (ledger, clock) = (Ledger::default(), TestClock::new());
    let store = memory(&clock);
    // A manager that dies with eight jobs running, three times over.
    for incarnation in 1..=3 {
        let mut plan = setup::plan_with(&store, &clock);
        plan.incarnation = incarnation;
        let idle = Ledger::default();
        let running = Manager::start(add(plan, acts("t", &idle).slots(8))).await.unwrap();
        if incarnation == 1 {
            enqueue(&store, (0..8).map(|_| job(r#"{"type":"t","params":{"sleep":100}}"#))).await;
        }
        eventually("jobs run", || idle.count() >= if incarnation < 3 { 8 } else { 1 }).await;
        drop(running);
        pass(Duration::from_secs(40)).await;
    }
    let running =
        Manager::start(add(setup::plan_with(&store, &clock), acts("t", &ledger).slots(8))).await.unwrap();
    eventually("all have ended", || store.waiting() == 0).await;
    assert_eq!(ledger.most(), 1, "jobs that lost runs are run one at a time");
    let report = running.status().report();
    assert_eq!(report.by_type["t"].done + report.by_type["t"].dead, 8);
}

#[tokio::test(start_paused = true)]
async fn p7_a_manager_that_waits_for_work_takes_a_crashed_job_when_its_lease_runs_out() {
    let (ledger, clock) = (Ledger::default(), TestClock::new());
    let store = memory(&clock);
    enqueue(&store, [job(r#"{"id":"a","type":"t","params":{"sleep":100}}"#)]).await;
    // It is lost twice: the second loss counts against it.
    for incarnation in 1..=2 {
        let mut plan = setup::plan_with(&store, &clock);
        plan.incarnation = incarnation;
        let lost = Ledger::default();
        let running = Manager::start(add(plan, acts("t", &lost))).await.unwrap();
        eventually("it runs", || lost.count() == 1).await;
        drop(running);
    }
    // This one asks, hears that there is nothing, and waits, all before the lease has run out.
    let running = Manager::start(add(setup::plan_with(&store, &clock), acts("t", &ledger))).await.unwrap();
    let began = Instant::now();
    eventually("it runs", || ledger.running() == 1).await;
    let after = began.elapsed();
    assert!(after > Duration::from_secs(5) && after < Duration::from_secs(22), "{after:?}");
    // One that was never lost is done meanwhile.
    let ids = enqueue(&store, plain(1)).await;
    ends(&store, &ids).await;
    assert_eq!(ledger.running(), 1);
    running.drain();
    running.ended().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn p5_a_store_that_is_away_at_the_start_is_waited_for() {
    let (ledger, clock) = (Ledger::default(), TestClock::new());
    let store = memory(&clock);
    let there = Instant::now() + Duration::from_secs(30);
    let inner = store.clone();
    let open: ganger_manager::OpenProviderFn = Arc::new(move |_| {
        let inner = inner.clone();
        Box::pin(async move {
            if Instant::now() < there {
                return Err(ProviderError::transient("connection refused"));
            }
            Ok(erase_provider(inner))
        })
    });
    let plan = setup::bare_plan(&clock).provider("store", ProviderOptions::default(), open);
    let running = Manager::start(add(plan, acts("t", &ledger))).await.unwrap();
    let ready = running.status().ready();
    assert!(ready.reasons[0].contains("connection refused"), "{ready:?}");
    assert!(running.sink(None).is_none());
    let ids = enqueue(&store, plain(1)).await;
    ends(&store, &ids).await;
    assert!(there.elapsed() < Duration::from_secs(2));
    assert!(running.status().ready().is_ready() && running.sink(Some("store")).is_some());
}

#[tokio::test(start_paused = true)]
async fn p5_an_open_provider_is_called_until_it_answers_and_never_opened_again() {
    let (ledger, clock) = (Ledger::default(), TestClock::new());
    let store = memory(&clock);
    let (line, opened) = (Faulty::new(&store), Arc::new(AtomicU32::new(0)));
    let (inner, count) = (line.clone(), opened.clone());
    let open: ganger_manager::OpenProviderFn = Arc::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        let inner = inner.clone();
        Box::pin(async move { Ok(inner as Arc<dyn ganger_core::DynProvider>) })
    });
    let plan = setup::bare_plan(&clock).provider("store", ProviderOptions::default(), open);
    let running = Manager::start(add(plan, acts("t", &ledger))).await.unwrap();
    line.cut.store(true, Ordering::SeqCst);
    let ids = enqueue(&store, plain(3)).await;
    pass(Duration::from_secs(3_600)).await;
    assert!(!running.status().ready().is_ready());
    let calls = line.renewed.load(Ordering::SeqCst);
    assert!(calls > 3_600 / 6, "{calls} renewals were tried in an hour");
    line.cut.store(false, Ordering::SeqCst);
    let healed = Instant::now();
    let ended = ends(&store, &ids).await;
    assert!(ended.iter().all(|end| end.state == Some(State::Done)));
    assert!(healed.elapsed() < Duration::from_secs(17), "{:?}", healed.elapsed());
    eventually("readiness is back", || running.status().ready().is_ready()).await;
    assert_eq!(opened.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn what_will_not_pass_stops_the_manager_with_its_message() {
    let clock = TestClock::new();
    let open: ganger_manager::OpenProviderFn =
        Arc::new(|_| Box::pin(async { Err(ProviderError::refused("the file is of a newer format")) }));
    let plan = setup::bare_plan(&clock).provider("store", ProviderOptions::default(), open);
    let error = Manager::start(add(plan, acts("t", &Ledger::default()))).await.unwrap_err();
    let ManagerError::Provider { name, error } = error else { panic!("{error}") };
    assert_eq!((name.as_str(), error.is_refused()), ("store", true));

    let house = house().await;
    house.line.exchanges.lock().unwrap().push_back(Fault::Fatal);
    enqueue(&house.store, plain(1)).await;
    let error = house.running.ended().await.unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_follows_is_stored_first_where_a_provider_cannot_hold_it() {
    let cannot = Capabilities { repeat: true, filter: true, schedule: true, ..Capabilities::NONE };
    let clock = TestClock::new();
    let (source, spool) = (memory(&clock), memory(&clock));
    let line = Faulty::able(&source, cannot);
    let sink = NoSink(line.clone());
    let plan = setup::bare_plan(&clock)
        .opened_dyn("list", ProviderOptions::default(), Arc::new(sink))
        .opened("spool", ProviderOptions::default(), spool.clone());
    let handled = Arc::new(Mutex::new(Vec::new()));
    let told = handled.clone();
    let handler = function("keep", move |_: (), job: JobContext| {
        let told = told.clone();
        async move {
            told.lock().unwrap().push(job.id().to_string());
            Ok::<_, ganger_core::JobError>(())
        }
    });
    let plan = add(plan, acts("t", &Ledger::default())).handler(ganger_manager::HandlerPlan {
        name: "keep".into(),
        workers: handler.workers,
        options: handler.options,
        params: None,
    });
    let _running = Manager::start(plan).await.unwrap();
    let ids = enqueue(&source, [job(r#"{"id":"a","type":"t","params":"dead"}"#)]).await;
    assert_eq!(ends(&source, &ids).await[0].state, Some(State::Dead));
    eventually("the handler ran", || !handled.lock().unwrap().is_empty()).await;
    assert_eq!(*handled.lock().unwrap(), ["a/failed/1"]);
    assert!(spool.states(&["a/failed/1".parse().unwrap()]).await.unwrap()[0].is_some());
}

/// A provider that takes no jobs in.
struct NoSink(Arc<Faulty>);

impl ganger_core::DynProvider for NoSink {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    fn wait<'a>(
        &'a self,
        room: &'a ganger_core::Room,
    ) -> ganger_core::BoxFuture<'a, Result<(), ProviderError>> {
        self.0.wait(room)
    }
    fn exchange<'a>(
        &'a self,
        give: &'a ganger_core::Exchange,
    ) -> ganger_core::BoxFuture<'a, Result<ganger_core::Exchanged, ProviderError>> {
        self.0.exchange(give)
    }
    fn renew<'a>(
        &'a self,
        beat: &'a ganger_core::Beat,
        held: &'a [ganger_core::LeaseRef],
    ) -> ganger_core::BoxFuture<'a, Result<Vec<ganger_core::Hold>, ProviderError>> {
        self.0.renew(beat, held)
    }
    fn close(&self) -> ganger_core::BoxFuture<'_, Result<(), ProviderError>> {
        self.0.close()
    }
    fn sink(&self) -> Option<Arc<dyn Sink>> {
        None
    }
    fn admin(&self) -> Option<Arc<dyn ganger_core::Admin>> {
        None
    }
}

#[tokio::test(start_paused = true)]
async fn b24_a_store_that_is_away_during_a_drain_gets_its_jobs_back_later() {
    let house = house().await;
    let ids = enqueue(&house.store, (0..4).map(|_| job(r#"{"type":"t","params":{"sleep":5}}"#))).await;
    eventually("they run", || house.ledger.running() == 4).await;
    house.line.cut.store(true, Ordering::SeqCst);
    house.running.drain();
    tokio::time::timeout(Duration::from_secs(90), house.running.ended()).await.unwrap().unwrap();
    assert!(house.line.closed.load(Ordering::SeqCst));
    // Their leases run out, and another manager does them.
    let clock = TestClock::new();
    let ledger = Ledger::default();
    let mut other = setup::bare_plan(&clock).opened("store", ProviderOptions::default(), house.store.clone());
    other.incarnation = 0xdef;
    let _other = Manager::start(add(other, acts("t", &ledger))).await.unwrap();
    let ended = ends(&house.store, &ids).await;
    assert!(ended.iter().all(|end| end.state == Some(State::Done)));
    let batch = house.store.enqueue(Batch::new(vec![])).await.unwrap();
    assert!(batch.is_empty());
}

#[tokio::test(start_paused = true)]
async fn b32_an_idle_manager_does_next_to_nothing() {
    let house = house().await;
    pass(Duration::from_secs(60)).await;
    house.line.sent.lock().unwrap().clear();
    let renewed = house.line.renewed.load(Ordering::SeqCst);
    pass(Duration::from_secs(60)).await;
    let exchanges = house.line.sent.lock().unwrap().len();
    let renewals = house.line.renewed.load(Ordering::SeqCst) - renewed;
    assert!(exchanges <= 13 && renewals <= 13, "{exchanges} exchanges, {renewals} renewals in a minute");
}

/// As after `kill -CONT`, or when a laptop's lid is opened: everything is past its time at once.
#[tokio::test(start_paused = true)]
async fn p6_a_run_that_stood_still_past_its_time_is_given_time_to_end() {
    let (clock, ledger) = (TestClock::new(), Ledger::default());
    let store = memory(&clock);
    let seen = ledger.clone();
    let worker = function("t", move |_: (), job: JobContext| {
        let ledger = seen.clone();
        async move {
            let _running = ledger.start(&job);
            if ledger.count() == 1 {
                let _ = job.stopped_within(Duration::from_secs(2)).await;
                // tidy: allow(sleep), virtual: what the run takes to end
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            Ok::<_, ganger_core::JobError>(())
        }
    });
    let running = Manager::start(add(setup::plan_with(&store, &clock), worker)).await.unwrap();
    let ids = enqueue(&store, [job(r#"{"type":"t","timeout":"3s","retries":1}"#)]).await;
    eventually("it runs", || ledger.running() == 1).await;
    tokio::time::advance(Duration::from_secs(12)).await;
    ends(&store, &ids).await;
    assert_eq!(running.status().report().abandoned, 0, "it was not left behind");
}

/// It was asked to stop because of its timeout, and may take a minute to end; its lease lasts for less.
#[tokio::test(start_paused = true)]
async fn p6_a_run_that_takes_its_time_to_end_is_stopped_before_its_lease_ends() {
    let (clock, ledger) = (TestClock::new(), Ledger::default());
    let store = memory(&clock);
    let line = Faulty::new(&store);
    let seen = ledger.clone();
    let worker = function("t", move |_: (), job: JobContext| {
        let ledger = seen.clone();
        async move {
            let _running = ledger.start(&job);
            let _ = job.stopped_within(Duration::from_secs(60)).await;
            // tidy: allow(sleep), virtual: what the run takes to end
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok::<_, ganger_core::JobError>(())
        }
    });
    let plan = setup::bare_plan(&clock).opened_dyn("store", ProviderOptions::default(), line.clone());
    let _running = Manager::start(add(plan, worker)).await.unwrap();
    enqueue(&store, [job(r#"{"type":"t","timeout":"3s"}"#)]).await;
    eventually("it runs", || ledger.running() == 1).await;
    line.cut.store(true, Ordering::SeqCst);
    let cut = Instant::now();
    eventually("it is stopped", || ledger.running() == 0).await;
    assert!(cut.elapsed() <= Duration::from_millis(11_100), "{:?}", cut.elapsed());
}
