//! The judge, over every shape of outcome, policy, attempt and clock.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{sync::Arc, time::Duration};

use ganger_core::{
    Attempt, Backoff, FailureRecord, HANDLER_PREFIX, Job, JobContext, JobError, JobId, LeaseRef, Malformed,
    Outcome, Output, Period, Record, Settlement, Spend, State, Stream, Timestamp, Token, Verdict,
    WorkerOptions,
};
use ganger_manager::{
    UnknownType,
    judge::{CRASHED, Case, NOT_WORTH_A_RETRY, Policy, RETRIES_SPENT, Run, judge},
};
use proptest::prelude::*;

fn lease() -> LeaseRef {
    LeaseRef { token: Token { incarnation: 7, seq: 3 }, index: 5 }
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000)
}

fn policy() -> Policy {
    Policy {
        handlers: Arc::new(["mail".into(), "store".into()]),
        manager: Arc::from("host:1"),
        ..Policy::of(&WorkerOptions::default())
    }
}

fn job(text: &str) -> Job {
    let mut job = Job::from_json(text.as_bytes()).unwrap();
    job.accept(now());
    job
}

fn ran(job: &Job, record: &Record, outcome: Outcome) -> Settlement {
    let run = Run { started: now(), took: Duration::from_millis(20), side: None, usage: None };
    judge(Case { lease: lease(), job: Some(job), record, run: Some(run) }, outcome, &policy(), now())
}

fn attempt(settlement: &Settlement) -> &Attempt {
    settlement.more.as_ref().and_then(|more| more.attempt.as_ref()).expect("an attempt is on record")
}

fn follows(settlement: &Settlement) -> &[Job] {
    settlement.more.as_ref().map_or(&[], |more| &more.follow)
}

fn dead(settlement: &Settlement) -> &str {
    match &settlement.verdict {
        Verdict::Dead { reason } => reason,
        other => panic!("not dead but {other:?}"),
    }
}

#[test]
fn a_quick_job_that_is_done_settles_with_nothing_to_carry() {
    let job = job(r#"{"type":"t"}"#);
    let case =
        Case { lease: lease(), job: Some(&job), record: &Record::default(), run: Some(Run::default()) };
    let settlement = judge(case, Outcome::Done(Output::new("x")), &policy(), now());
    assert_eq!((settlement.verdict, settlement.spend), (Verdict::Done, Spend::Nothing));
    assert!(settlement.more.is_none());
}

#[test]
fn what_a_quick_job_wrote_is_kept() {
    let job = job(r#"{"type":"t"}"#);
    for stream in [Stream::Stdout, Stream::Stderr] {
        let context = JobContext::detached(job.clone());
        context.write_to(stream, b"hello");
        let run = Some(Run { side: context.take_side(), ..Run::default() });
        let case = Case { lease: lease(), job: Some(&job), record: &Record::default(), run };
        let settlement = judge(case, Outcome::Done(Output::default()), &policy(), now());
        let attempt = attempt(&settlement);
        assert_eq!([&*attempt.output, &*attempt.stderr].concat(), "hello");
    }
}

#[test]
fn a_failed_job_is_run_again_after_its_backoff_and_spends_a_retry() {
    let job = job(r#"{"id":"a","type":"t","retries":3,"backoff":{"initial":"2s","jitter":0}}"#);
    let record = Record { spent: 1, ..Record::default() };
    let settlement = ran(&job, &record, Outcome::Failed(JobError::retry("no")));
    assert_eq!(settlement.verdict, Verdict::Retry { at: now().plus(Duration::from_secs(4)) });
    assert_eq!(settlement.spend, Spend::Retry);
    let attempt = attempt(&settlement);
    assert_eq!((attempt.number, attempt.outcome.as_str(), attempt.millis), (2, "failed", 20));
    assert_eq!((attempt.error.as_deref(), attempt.manager.as_str()), (Some("no"), "host:1"));
    assert!(follows(&settlement).is_empty());
}

#[test]
fn three_retries_are_four_runs() {
    let job = job(r#"{"type":"t","retries":3}"#);
    for (spent, retries) in [(0, true), (1, true), (2, true), (3, false)] {
        let record = Record { spent, ..Record::default() };
        let settlement = ran(&job, &record, Outcome::TimedOut);
        assert_eq!(matches!(settlement.verdict, Verdict::Retry { .. }), retries, "after {spent}");
    }
}

#[test]
fn retry_after_waits_as_long_as_it_says() {
    let job = job(r#"{"type":"t","retries":1}"#);
    let wait = Duration::from_secs(77);
    let settlement = ran(&job, &Record::default(), Outcome::Failed(JobError::retry_after(wait, "busy")));
    assert_eq!(settlement.verdict, Verdict::Retry { at: now().plus(wait) });
}

#[test]
fn a_dead_job_becomes_its_first_failure_handlers_job() {
    let mut job = job(r#"{"id":"a","type":"t","headers":{"tenant":"7"}}"#);
    job.name = Some("label".into());
    let settlement = ran(&job, &Record::default(), Outcome::Failed(JobError::retry("no")));
    assert_eq!((dead(&settlement), settlement.spend), (RETRIES_SPENT, Spend::Nothing));
    let [handler] = follows(&settlement) else { panic!("one handler follows") };
    assert_eq!(handler.id, Some(JobId::failed(&"a".parse().unwrap(), 1)));
    assert_eq!(handler.kind, format!("{HANDLER_PREFIX}mail"));
    assert_eq!(handler.header("tenant"), Some("7"));
    let failure: FailureRecord = JobContext::detached(handler.clone()).failure().unwrap().unwrap();
    assert_eq!((failure.state, failure.reason.as_str()), (State::Dead, RETRIES_SPENT));
    assert_eq!(failure.error.as_deref(), Some("no"));
    assert_eq!((failure.attempts.len(), failure.job.id), (1, job.id));
}

#[test]
fn a_handlers_end_is_told_to_the_dead_job_and_the_next_handler_follows() {
    let dead_job = job(r#"{"id":"a","type":"t"}"#);
    let first = ran(&dead_job, &Record::default(), Outcome::Failed(JobError::dead("no")));
    let [handler] = follows(&first) else { panic!("one handler follows") };
    for (outcome, state, error) in [
        (Outcome::Done(Output::default()), State::Done, None),
        (Outcome::Failed(JobError::dead("mail is down")), State::Dead, Some("mail is down")),
    ] {
        let second = ran(handler, &Record::default(), outcome);
        let more = second.more.as_ref().unwrap();
        let handled = more.handled.as_ref().unwrap();
        assert_eq!((handled.job.to_string(), handled.handler.as_str()), ("a".to_owned(), "mail"));
        assert_eq!((handled.state, handled.error.as_deref()), (state, error));
        let [next] = more.follow.as_slice() else { panic!("the next handler follows") };
        assert_eq!(next.id.as_ref().unwrap().to_string(), "a/failed/2");
        assert_eq!(next.kind, "failure_handler.store");
        let last = ran(next, &Record::default(), Outcome::Failed(JobError::dead("no")));
        assert!(follows(&last).is_empty(), "after the last handler nothing follows");
        assert_eq!(last.more.unwrap().handled.unwrap().handler, "store");
    }
}

#[test]
fn a_handlers_retry_is_no_end() {
    let dead_job = job(r#"{"id":"a","type":"t"}"#);
    let first = ran(&dead_job, &Record::default(), Outcome::Failed(JobError::dead("no")));
    let mut handler = follows(&first)[0].clone();
    handler.retries = Some(1);
    let settlement = ran(&handler, &Record::default(), Outcome::Failed(JobError::retry("later")));
    assert!(matches!(settlement.verdict, Verdict::Retry { .. }));
    let more = settlement.more.unwrap();
    assert!(more.handled.is_none() && more.follow.is_empty());
}

#[test]
fn a_lost_run_spends_a_crash_and_at_the_last_the_job_is_dead() {
    let job = job(r#"{"id":"a","type":"t","retries":9}"#);
    let lost = || Outcome::Failed(JobError::lost("killed"));
    let settlement = ran(&job, &Record { crashes: 1, ..Record::default() }, lost());
    assert!(matches!(settlement.verdict, Verdict::Retry { .. }));
    assert_eq!(settlement.spend, Spend::Crash);
    let settlement = ran(&job, &Record { crashes: 2, ..Record::default() }, lost());
    assert_eq!((dead(&settlement), settlement.spend), (CRASHED, Spend::Crash));
    assert_eq!(follows(&settlement).len(), 1);
}

#[test]
fn discard_is_done_with_its_error_and_dead_is_dead_at_once() {
    let job = job(r#"{"type":"t","retries":5}"#);
    let settlement = ran(&job, &Record::default(), Outcome::Failed(JobError::discard("not wanted")));
    assert_eq!(settlement.verdict, Verdict::Done);
    assert_eq!(attempt(&settlement).error.as_deref(), Some("not wanted"));
    let settlement = ran(&job, &Record::default(), Outcome::Failed(JobError::dead("never")));
    assert_eq!((dead(&settlement), settlement.spend), (NOT_WORTH_A_RETRY, Spend::Nothing));
}

#[test]
fn p9_after_the_mark_everything_but_done_ends_cancelled() {
    let job = job(r#"{"type":"t","retries":5}"#);
    let record = Record { cancel: true, ..Record::default() };
    assert_eq!(ran(&job, &record, Outcome::Done(Output::default())).verdict, Verdict::Done);
    for outcome in [
        Outcome::Failed(JobError::retry("no")),
        Outcome::TimedOut,
        Outcome::Panicked("no".into()),
        Outcome::Released,
        Outcome::Expired,
        Outcome::Crashed,
    ] {
        let settlement = ran(&job, &record, outcome);
        assert_eq!((settlement.verdict, settlement.spend), (Verdict::Cancelled, Spend::Nothing));
        assert!(settlement.more.is_none_or(|more| more.follow.is_empty()));
    }
}

#[test]
fn a_duplicate_ends_cancelled_and_names_the_job_that_holds_its_key() {
    let job = job(r#"{"type":"t","unique":{"key":"k"},"retries":5}"#);
    let holder: Box<JobId> = Box::new("holder".parse().unwrap());
    let settlement = ran(&job, &Record::default(), Outcome::Duplicate(holder.clone()));
    assert_eq!(settlement.verdict.state(), State::Cancelled);
    assert_eq!((settlement.verdict, settlement.spend), (Verdict::Duplicate { of: holder }, Spend::Nothing));
    assert!(settlement.more.is_none_or(|more| more.follow.is_empty()));
}

#[test]
fn p8_what_is_no_job_is_dead_with_the_reason() {
    let case = Case { lease: lease(), job: None, record: &Record::default(), run: None };
    let settlement = judge(case, Outcome::Malformed(Malformed::whole("no JSON")), &policy(), now());
    assert_eq!(dead(&settlement), "malformed: no JSON");
}

#[test]
fn b10_an_unknown_type_is_set_aside_or_dead_by_policy_never_dropped() {
    let job = job(r#"{"id":"a","type":"nobody"}"#);
    let record = Record::default();
    let case = || Case { lease: lease(), job: Some(&job), record: &record, run: None };
    let settlement = judge(case(), Outcome::NoWorker, &policy(), now());
    assert_eq!(settlement.verdict, Verdict::Park { until: None });
    let strict = Policy { unknown: UnknownType::Dead, ..policy() };
    let settlement = judge(case(), Outcome::NoWorker, &strict, now());
    assert_eq!(dead(&settlement), "no worker does type `nobody`");
    assert_eq!(follows(&settlement).len(), 1);
}

#[test]
fn output_is_held_to_its_limit_and_its_tail_to_four_kibibytes() {
    let job = job(r#"{"type":"t","capture_output":true}"#);
    let policy = Policy { output_max: 10_000, ..policy() };
    let run = Run { started: now(), took: Duration::from_secs(1), side: None, usage: None };
    let case = Case { lease: lease(), job: Some(&job), record: &Record::default(), run: Some(run) };
    let settlement = judge(case, Outcome::Done(Output::new(vec![b'x'; 50_000])), &policy, now());
    let more = settlement.more.unwrap();
    let output = more.output.unwrap();
    assert_eq!((output.bytes.len(), output.cut), (10_000, 40_000));
    assert_eq!(more.attempt.unwrap().output.len(), 4_096);
}

#[test]
fn the_end_of_each_stream_is_in_the_record_and_only_the_output_is_handed_on() {
    let job = job(r#"{"type":"t","capture_output":true,"retries":1}"#);
    for outcome in [Outcome::Done(Output::default()), Outcome::Failed(JobError::retry("no"))] {
        let context = JobContext::detached(job.clone());
        context.write(b"out");
        context.write_to(Stream::Stderr, &[b'x'; 5_000]);
        context.write_to(Stream::Stderr, b"err");
        let side = context.take_side();
        let run = Run { started: now(), took: Duration::from_secs(1), side, usage: None };
        let case = Case { lease: lease(), job: Some(&job), record: &Record::default(), run: Some(run) };
        let settlement = judge(case, outcome, &policy(), now());
        let Attempt { output, stderr, .. } = attempt(&settlement);
        assert_eq!((output.as_str(), stderr.len(), stderr.ends_with("xerr")), ("out", 4_096, true));
        assert_eq!(settlement.more.unwrap().output.unwrap().text(), "out");
    }
}

#[test]
fn a_worker_may_have_the_output_kept_of_a_job_that_does_not_ask() {
    let job = job(r#"{"type":"t","retries":1}"#);
    for keeps in [true, false] {
        let context = JobContext::detached(job.clone());
        context.write(b"out");
        if keeps {
            context.keep_output();
        }
        let side = context.take_side();
        let run = Run { started: now(), took: Duration::ZERO, side, usage: None };
        let case = Case { lease: lease(), job: Some(&job), record: &Record::default(), run: Some(run) };
        let settlement = judge(case, Outcome::Done(Output::default()), &policy(), now());
        let output = settlement.more.and_then(|more| more.output);
        assert_eq!(output.map(|output| output.text()), keeps.then(|| "out".to_owned()));
    }
}

/// Every outcome, by a number and a message.
fn outcome(which: u8, text: String, wait: u64) -> Outcome {
    match which {
        0 => Outcome::Done(Output::new(text)),
        1 => Outcome::Failed(JobError::retry(text)),
        2 => Outcome::Failed(JobError::retry_after(Duration::from_millis(wait), text)),
        3 => Outcome::Failed(JobError::discard(text)),
        4 => Outcome::Failed(JobError::dead(text)),
        5 => Outcome::Failed(JobError::lost(text)),
        6 => Outcome::TimedOut,
        7 => Outcome::Panicked(text),
        8 => Outcome::Cancelled,
        9 => Outcome::Released,
        10 => Outcome::Expired,
        11 => Outcome::Malformed(Malformed::whole(text)),
        12 => Outcome::NoWorker,
        13 => Outcome::Duplicate(Box::new("holder".parse().unwrap())),
        _ => Outcome::Crashed,
    }
}

prop_compose! {
    fn any_record()(
        spent: u32, crashes: u32, suspect: bool, cancel: bool, runs in proptest::collection::vec(any::<u32>(), 0..12)
    ) -> Record {
        let attempts = runs.into_iter().map(|number| Attempt {
            number, started: now(), millis: 0, outcome: "failed".into(), note: None, error: None,
            output: String::new(), stderr: String::new(), manager: String::new(), usage: None,
        }).collect();
        Record { spent, crashes, suspect, cancel, attempts, ..Record::default() }
    }
}

prop_compose! {
    fn any_job()(
        id in proptest::option::of("[a-z]{1,20}"), retries: Option<u32>, capture: bool, keep: bool, handler: bool
    ) -> Job {
        let kind = if handler { format!("{HANDLER_PREFIX}mail") } else { "t".to_owned() };
        let id = id.map(|id| if handler { format!("{id}/failed/1") } else { id });
        let mut job = Job {
            kind: kind.into(), id: id.map(|id| id.parse().unwrap()), retries, capture_output: capture,
            ..Job::default()
        };
        if keep {
            job.keep_at_least(Period::secs(60));
        }
        if handler {
            let dead = Job { id: Some("dead".parse().unwrap()), ..Job::default() };
            let failure = FailureRecord {
                job: Job { kind: "t".into(), ..dead }, state: State::Dead, reason: "r".into(), error: None,
                attempts: Vec::new(), at: now(),
            };
            job.rare_mut().input = Some(failure.to_raw());
        }
        job
    }
}

prop_compose! {
    fn any_policy()(
        retries: u32, max_crashes in 1u32.., unknown: bool, output_max in 0usize..10_000, handlers in 0usize..3,
        factor: f64, jitter: f64, initial in 0u64..1 << 40, max in 0u64..1 << 40
    ) -> Policy {
        let names = ["mail", "store"];
        let handlers = names[..handlers].iter().map(|name| (*name).into());
        Policy {
            retries, max_crashes,
            unknown: if unknown { UnknownType::Dead } else { UnknownType::Park },
            output_max,
            backoff: Backoff { initial: Period::millis(initial), factor, max: Period::millis(max), jitter },
            handlers: handlers.collect(),
            manager: Arc::from("m"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_case_is_judged_by_the_table(
        which in 0u8..15, text in "\\PC{0,40}", wait: u64, record in any_record(), job in any_job(),
        policy in any_policy(), clock: i64, took: u64, ran: bool,
    ) {
        let now = Timestamp::from_millis(clock);
        let run = || ran.then(|| Run { started: now, took: Duration::from_nanos(took), side: None, usage: None });
        let case = || Case { lease: lease(), job: Some(&job), record: &record, run: run() };
        let judged = judge(case(), outcome(which, text.clone(), wait), &policy, now);
        let again = judge(case(), outcome(which, text.clone(), wait), &policy, now);
        prop_assert_eq!(&judged.verdict, &again.verdict, "the same case is judged the same");

        prop_assert_eq!(judged.lease, lease());
        let state = judged.verdict.state();
        let is_handler = job.kind.starts_with(HANDLER_PREFIX);
        let more = judged.more.as_deref();
        let follows = more.map_or(0, |more| more.follow.len());

        // What is done stays done; after the mark, everything else is cancelled.
        if which == 0 {
            prop_assert_eq!(state, State::Done);
        } else if record.cancel {
            prop_assert_eq!(state, State::Cancelled);
        }
        // A retry is spent with a retry and only then, a crash only by a lost run.
        let retries = job.retries.unwrap_or(policy.retries);
        let is_retry = matches!(judged.verdict, Verdict::Retry { .. });
        match judged.spend {
            Spend::Retry => prop_assert!(is_retry && record.spent < retries),
            Spend::Crash => prop_assert_eq!(which, 5),
            Spend::Nothing => prop_assert!(!is_retry),
        }
        // No retry lies in the past, none further away than a hundred years.
        if let Verdict::Retry { at } = judged.verdict {
            prop_assert!(at >= now && at <= now.plus(ganger_core::PERIOD_MAX));
        }
        // Handlers follow a bad end of a job with an id, never of a handler that is the last.
        if is_handler {
            prop_assert_eq!(more.is_some_and(|more| more.handled.is_some()), state.is_end() && job.id.is_some());
            prop_assert!(follows <= usize::from(state.is_end() && policy.handlers.len() == 2));
        } else {
            let wanted = matches!(state, State::Dead | State::Expired) && job.id.is_some();
            prop_assert_eq!(follows, usize::from(wanted && !policy.handlers.is_empty()));
        }
        // A settlement that nothing happened for carries nothing.
        if matches!(judged.verdict, Verdict::Release | Verdict::Park { .. }) {
            prop_assert!(more.is_none());
        }
        if let Some(output) = more.and_then(|more| more.output.as_ref()) {
            prop_assert!(output.bytes.len() <= policy.output_max);
        }
    }
}
