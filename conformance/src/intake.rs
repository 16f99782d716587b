//! The intake's group.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use compact_str::CompactString;
use ganger_core::{
    Batch, Beat, BoxFuture, DynIntake, Ended, Enqueued, Events, IntakeSink, Job, JobId, ProviderError,
    Refused, Severity, Sink, State, Stopper,
};

use crate::{Gate, Jobs, soon};

/// What the suite needs of an intake's tests.
pub trait IntakeHarness: Send + Sync + 'static {
    /// Opens the intake on a free address.
    fn open(&self) -> impl Future<Output = Box<dyn DynIntake>> + Send;

    /// Hands a job in from outside, and returns when it is acknowledged (`true`) or turned away (`false`), also
    /// because nobody takes jobs in any more. Does not wait for the job's end.
    fn submit(&self, job: Job) -> impl Future<Output = bool> + Send;

    /// The error of opening it on an address that is taken, and that address; `None` for one that has none.
    fn open_on_a_taken_address(&self) -> impl Future<Output = Option<(ProviderError, String)>> + Send;
}

/// An address that is taken is a fatal error that names it.
pub async fn an_address_that_is_taken_is_a_fatal_error_that_names_it(harness: impl IntakeHarness) {
    let Some((error, address)) = soon("opening", harness.open_on_a_taken_address()).await else { return };
    assert_eq!(error.severity(), Severity::Fatal);
    assert!(error.to_string().contains(&address), "`{error}` does not name {address}");
}

/// A job is acknowledged only when its sink has it.
pub async fn a_job_is_acknowledged_only_when_its_sink_has_it(harness: impl IntakeHarness) {
    let intake = harness.open().await;
    let (sink, stopper) = (Arc::new(Basin::default()), Stopper::default());
    let run = intake.run(sink.named(), stopper.handle());
    let test = async {
        let gate = sink.shut();
        let submit = harness.submit(Jobs::one("held back"));
        tokio::pin!(submit);
        tokio::select! {
            biased;
            _ = &mut submit => panic!("it was acknowledged before the sink had it"),
            () = gate.reached(1) => {}
        }
        gate.open();
        assert!(soon("the acknowledgement", submit).await);
        assert_eq!(sink.labels(), ["held back"]);

        sink.fails.store(true, Ordering::SeqCst);
        let acknowledged = soon("an answer", harness.submit(Jobs::one("lost"))).await;
        assert!(!acknowledged, "the sink did not take it");
        sink.fails.store(false, Ordering::SeqCst);
        assert!(soon("the acknowledgement", harness.submit(Jobs::one("next"))).await);
        stopper.stop();
    };
    let (ended, ()) = tokio::join!(run, test);
    ended.expect("the intake ends well");
    assert_eq!(sink.labels(), ["held back", "next"]);
}

/// After `stop` nothing more is taken in.
pub async fn after_stop_nothing_more_is_taken_in(harness: impl IntakeHarness) {
    let intake = harness.open().await;
    let (sink, stopper) = (Arc::new(Basin::default()), Stopper::default());
    let run = intake.run(sink.named(), stopper.handle());
    let test = async {
        assert!(soon("the acknowledgement", harness.submit(Jobs::one("before"))).await);
        stopper.stop();
    };
    let (ended, ()) = tokio::join!(async { soon("the end after a stop", run).await }, test);
    ended.expect("the intake ends well");
    assert!(!soon("an answer", harness.submit(Jobs::one("after"))).await);
    assert_eq!(sink.labels(), ["before"]);
}

/// What is under way at the stop ends well.
pub async fn what_is_under_way_at_the_stop_ends_well(harness: impl IntakeHarness) {
    let intake = harness.open().await;
    let (sink, stopper) = (Arc::new(Basin::default()), Stopper::default());
    let run = intake.run(sink.named(), stopper.handle());
    let gate = sink.shut();
    let test = async {
        let stop = async {
            gate.reached(1).await;
            stopper.stop();
            // So that the intake sees the stop before its sink answers.
            tokio::task::yield_now().await;
            gate.open();
        };
        let (acknowledged, ()) = tokio::join!(harness.submit(Jobs::one("under way")), stop);
        assert!(acknowledged, "its sink has it");
    };
    let (ended, ()) = tokio::join!(soon("the end after a stop", run), soon("the acknowledgement", test));
    ended.expect("the intake ends well");
    assert_eq!(sink.labels(), ["under way"]);
}

/// A sink that holds jobs back, or fails, as a test tells it to. Its jobs never end.
#[derive(Default)]
pub struct Basin {
    jobs: Mutex<Vec<Job>>,
    gate: Mutex<Option<Gate>>,
    fails: AtomicBool,
}

impl Basin {
    fn named(self: &Arc<Self>) -> IntakeSink {
        IntakeSink { name: "basin".into(), sink: self.clone(), admin: None, events: Events::default() }
    }

    /// From now on jobs are held at a gate before they are taken.
    fn shut(&self) -> Gate {
        let gate = Gate::shut("a job at the sink");
        *self.gate.lock().unwrap() = Some(gate.clone());
        gate
    }

    fn labels(&self) -> Vec<String> {
        let jobs = self.jobs.lock().unwrap();
        jobs.iter().filter_map(|job| job.name.as_ref().map(|name| name.to_string())).collect()
    }
}

impl Sink for Basin {
    fn enqueue(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Result<Enqueued, Refused>>, ProviderError>> {
        Box::pin(async move {
            let gate = self.gate.lock().unwrap().clone();
            if let Some(gate) = gate {
                gate.pass().await;
            }
            if self.fails.load(Ordering::SeqCst) {
                return Err(ProviderError::transient("the sink is out of reach, as the test wants it"));
            }
            let mut jobs = self.jobs.lock().unwrap();
            let answers = batch.jobs.into_iter().map(|mut job| {
                let id = job.accept(ganger_core::Timestamp::now()).clone();
                jobs.push(job);
                Ok(Enqueued { id, existed: false, state: State::Ready })
            });
            Ok(answers.collect())
        })
    }

    fn states<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Option<State>>, ProviderError>> {
        let jobs = self.jobs.lock().unwrap();
        let known = |id: &JobId| jobs.iter().any(|job| job.id.as_ref() == Some(id)).then_some(State::Ready);
        let states = ids.iter().map(known).collect();
        Box::pin(async { Ok(states) })
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
