//! What a running job knows of itself, and what it may do.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};

use crate::{
    Event, Events, FailureRecord, Job, JobError, JobId, LeaseRef, OptionsError, OutputBuffer, Record, Stream,
    Timestamp, Usage, What, follow::Watch, params::read_params,
};

/// A running job: its params, its attempt, its deadline, and what it may do while it runs. Cheap to clone.
#[derive(Clone)]
pub struct JobContext(Arc<Run>);

struct Run {
    job: Job,
    id: JobId,
    lease: LeaseRef,
    origin: u32,
    record: Record,
    events: Events,
    output_max: usize,
    stop: AtomicU8,
    /// How long the run may take to end once it is asked to, in milliseconds and one; 0 if it does not heed.
    heeds: AtomicU64,
    stopped: Notify,
    deadline: OnceLock<Instant>,
    usage: OnceLock<Usage>,
    lasted: OnceLock<Duration>,
    side: Mutex<Option<Box<Side>>>,
    /// Made when someone follows the run.
    watch: OnceLock<Arc<Watch>>,
}

/// What a run leaves beside its result.
#[derive(Debug, Default)]
pub struct Side {
    /// What it wrote.
    pub output: Option<OutputBuffer>,
    /// What it wrote to standard error, where its worker keeps that apart.
    pub stderr: Option<OutputBuffer>,
    /// Its output is to be kept with the job's record, as [`Job::capture_output`] asks for it.
    pub keep_output: bool,
    /// Jobs that become real if it ends well.
    pub follow: Vec<Job>,
    /// How far along it said that it is.
    pub progress: Option<(u8, String)>,
    /// The media type of what it wrote, if it said so.
    pub content_type: Option<String>,
    /// What its record is to say beside.
    pub note: Option<String>,
}

impl Side {
    /// What was written to a stream.
    pub fn stream(&self, stream: Stream) -> Option<&OutputBuffer> {
        match stream {
            Stream::Stdout => self.output.as_ref(),
            Stream::Stderr => self.stderr.as_ref(),
        }
    }

    fn stream_mut(&mut self, stream: Stream) -> &mut Option<OutputBuffer> {
        match stream {
            Stream::Stdout => &mut self.output,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// Why a run is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The job is cancelled.
    Cancel,
    /// Its lease is lost, or may be: whatever it yields would be stale.
    Fenced,
    /// ganger shuts down and its grace is over.
    Shutdown,
    /// It is longer than its timeout.
    Timeout,
}

impl StopReason {
    fn from_code(code: u8) -> Option<Self> {
        [StopReason::Cancel, StopReason::Fenced, StopReason::Shutdown, StopReason::Timeout]
            .into_iter()
            .find(|reason| *reason as u8 + 1 == code)
    }
}

/// Beside the reason: the lease is in danger too.
const FENCED: u8 = 0x80;

/// What a [`JobContext`] is made from.
#[derive(Debug)]
pub struct JobStart {
    /// The job; its id is set.
    pub job: Job,
    /// The lease it runs under.
    pub lease: LeaseRef,
    /// Which provider it came from: the manager's own number.
    pub origin: u32,
    /// What happened to it so far.
    pub record: Record,
    /// Where its output and progress are told.
    pub events: Events,
    /// How much of what it writes is kept.
    pub output_max: usize,
}

impl JobContext {
    /// Starts a context; the manager's, or a test's.
    pub fn new(start: JobStart) -> Self {
        let JobStart { job, lease, origin, record, events, output_max } = start;
        let id = job.id.clone().unwrap_or_else(|| JobId::claimed(lease));
        JobContext(Arc::new(Run {
            job,
            id,
            lease,
            origin,
            record,
            events,
            output_max,
            stop: AtomicU8::new(0),
            heeds: AtomicU64::new(0),
            stopped: Notify::new(),
            deadline: OnceLock::new(),
            usage: OnceLock::new(),
            lasted: OnceLock::new(),
            side: Mutex::new(None),
            watch: OnceLock::new(),
        }))
    }

    /// A context for trying a worker by hand: no lease, no listeners.
    pub fn detached(job: Job) -> Self {
        let token = crate::Token { incarnation: 1, seq: 1 };
        JobContext::new(JobStart {
            job,
            lease: LeaseRef { token, index: 0 },
            origin: 0,
            record: Record::default(),
            events: Events::default(),
            output_max: crate::OUTPUT_MAX,
        })
    }

    /// The job.
    pub fn job(&self) -> &Job {
        &self.0.job
    }

    /// The job's id.
    pub fn id(&self) -> &JobId {
        &self.0.id
    }

    /// The lease it runs under.
    pub fn lease(&self) -> LeaseRef {
        self.0.lease
    }

    /// Which provider it came from: the manager's own number.
    pub fn origin(&self) -> u32 {
        self.0.origin
    }

    /// What happened to it so far.
    pub fn record(&self) -> &Record {
        &self.0.record
    }

    /// The number of this run, from 1.
    pub fn attempt(&self) -> u32 {
        self.0.record.next_run()
    }

    /// A header of the job.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.job.header(name)
    }

    /// The params, read as the worker's type.
    ///
    /// # Errors
    /// A [`JobError::dead`] that says what does not fit: another run would find the same params.
    pub fn params<P: DeserializeOwned>(&self) -> Result<P, JobError> {
        let text = self.0.job.params_text();
        serde_json::from_str(text).map_err(|error| {
            // Read again for the place of what does not fit.
            let told = read_params::<P>(self.0.job.params.as_deref()).err();
            self.unfit(&told.unwrap_or_else(|| OptionsError::whole(error.to_string())))
        })
    }

    /// The error of a job whose params the worker refuses, in the words in which [`Worker::check`](crate::Worker::check)
    /// refuses it: another run would find the same params.
    pub fn unfit(&self, error: &OptionsError) -> JobError {
        JobError::dead(error.of_job(&self.0.job.kind))
    }

    /// What a failure-handler job works on, as JSON; `None` in any other job.
    pub fn input(&self) -> Option<&RawValue> {
        self.0.job.rare().input.as_deref()
    }

    /// What a failure-handler job works on; `None` in any other job.
    ///
    /// # Errors
    /// The record cannot be read: another version wrote it.
    pub fn failure(&self) -> Result<Option<FailureRecord>, JobError> {
        match self.input() {
            None => Ok(None),
            Some(raw) => serde_json::from_str(raw.get())
                .map(Some)
                .map_err(|error| JobError::dead(format!("the failure record cannot be read: {error}"))),
        }
    }

    /// When the run is stopped, if it has a timeout.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline.get().copied()
    }

    /// Sets the deadline, once; the manager's.
    pub fn set_deadline(&self, at: Instant) {
        let _ = self.0.deadline.set(at);
    }

    /// Whether the run is asked to stop, and why.
    pub fn stop_reason(&self) -> Option<StopReason> {
        StopReason::from_code(self.0.stop.load(Ordering::Acquire) & !FENCED)
    }

    /// Asks the run to stop; the first reason stays. The manager's.
    pub fn ask_to_stop(&self, reason: StopReason) {
        let code = reason as u8 + 1;
        let first = self.0.stop.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire).is_ok();
        let fenced =
            reason == StopReason::Fenced && self.0.stop.fetch_or(FENCED, Ordering::AcqRel) & FENCED == 0;
        if first || fenced {
            self.0.stopped.notify_waiters();
        }
    }

    /// Waits until the run is asked to stop. May be dropped at any time.
    ///
    /// A run that has waited for this is given a moment to end by itself when it is asked to; any other run is
    /// dropped at once.
    pub async fn stopped(&self) -> StopReason {
        self.stopped_within(Duration::ZERO).await
    }

    /// Waits as [`stopped`](JobContext::stopped) does, for a run that may take up to `grace` to end. It has that
    /// time after a cancel or a timeout; where its lease is in danger or the manager ends, it has a moment only.
    pub async fn stopped_within(&self, grace: Duration) -> StopReason {
        let millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.0.heeds.store(millis.saturating_add(1), Ordering::Release);
        self.stop_asked().await
    }

    /// Whether the run waits, or has waited, to be asked to stop.
    pub fn heeds_stop(&self) -> bool {
        self.0.heeds.load(Ordering::Acquire) != 0
    }

    /// How long the run said that it may take to end; zero if it did not say.
    pub fn stop_grace(&self) -> Duration {
        Duration::from_millis(self.0.heeds.load(Ordering::Acquire).saturating_sub(1))
    }

    /// Waits as [`stopped`](JobContext::stopped) does, without a promise to heed it; the manager's.
    pub async fn stop_asked(&self) -> StopReason {
        self.when(JobContext::stop_reason).await
    }

    /// Waits until its lease is lost, or may be, also when it was asked to stop for another reason before; the
    /// manager's. May be dropped at any time.
    pub async fn fenced(&self) {
        self.when(|run| (run.0.stop.load(Ordering::Acquire) & FENCED != 0).then_some(())).await;
    }

    async fn when<T>(&self, look: impl Fn(&Self) -> Option<T>) -> T {
        loop {
            let mut notified = std::pin::pin!(self.0.stopped.notified());
            // Armed before the look, so that a stop in between is not missed.
            notified.as_mut().enable();
            if let Some(seen) = look(self) {
                return seen;
            }
            notified.await;
        }
    }

    /// Adds to the run's output: kept up to its limit (head and tail beyond it), and told to who listens.
    pub fn write(&self, bytes: &[u8]) {
        self.write_to(Stream::Stdout, bytes);
    }

    /// Adds to one of the run's streams, each kept up to the limit by itself. What goes to [`Stream::Stderr`] is no
    /// part of the job's output: its end is in the run's record, and who listens is told.
    pub fn write_to(&self, stream: Stream, bytes: &[u8]) {
        self.side(|side| {
            side.stream_mut(stream).get_or_insert_with(|| OutputBuffer::new(self.0.output_max)).write(bytes)
        });
        if let Some(watch) = self.0.watch.get() {
            watch.printed.notify_waiters();
        }
        if self.0.events.heard() {
            self.tell(What::Output { stream, bytes: bytes.to_vec() });
        }
    }

    /// What is kept of one of the run's streams from byte `at` on, at most `max` bytes; before it, how many bytes from
    /// there on are not.
    pub fn output_from(&self, stream: Stream, at: u64, max: usize) -> (u64, Vec<u8>) {
        let side = self.lock();
        if let Some(written) = side.as_ref().and_then(|side| side.stream(stream)) {
            return written.since(at, max);
        }
        let rest = self.0.watch.get().map(|watch| watch.rest());
        let rest = rest.as_ref().and_then(|rest| rest[stream as usize].as_ref());
        rest.map_or((0, Vec::new()), |rest| rest.since(at, max))
    }

    /// What those have who follow the run.
    pub(crate) fn watch(&self) -> Arc<Watch> {
        self.0.watch.get_or_init(Arc::default).clone()
    }

    /// Says how far along the run is, 0 to 100.
    pub fn progress(&self, percent: u8, message: impl Into<String>) {
        let (percent, message) = (percent.min(100), message.into());
        self.0.events.progress(&self.0.id, percent, &message);
        if self.0.events.heard() {
            self.tell(What::Progress { percent, message: message.clone() });
        }
        // For who follows from later on.
        self.side(|side| side.progress = Some((percent, message)));
    }

    /// How far along the run has said that it is.
    pub(crate) fn progressed(&self) -> Option<(u8, String)> {
        self.lock().as_ref().and_then(|side| side.progress.clone())
    }

    /// Enqueues a job that becomes real together with this one's end, if it ends well.
    pub fn follow(&self, job: Job) {
        self.side(|side| side.follow.push(job));
    }

    /// Says what the run used, once, at its end.
    pub fn used(&self, usage: Usage) {
        let _ = self.0.usage.set(usage);
    }

    /// What the run used, if its worker said so.
    pub fn usage(&self) -> Option<&Usage> {
        self.0.usage.get()
    }

    /// Says how long the run took, once, at its end: where that is not what it looks like from outside, since jobs are
    /// taken ahead ([`Feed::ahead`](crate::Feed::ahead)) and their ends told together.
    pub fn lasted(&self, time: Duration) {
        let _ = self.0.lasted.set(time);
    }

    /// How long the run took, if its worker said so.
    pub fn duration(&self) -> Option<Duration> {
        self.0.lasted.get().copied()
    }

    /// Whether somebody waits for the job's end: whoever does has its record kept.
    pub fn is_waited_for(&self) -> bool {
        self.0.job.rare().keep.is_some()
    }

    /// Says of which media type the run's output is.
    pub fn content_type(&self, media: impl Into<String>) {
        self.side(|side| side.content_type = Some(media.into()));
    }

    /// Has the run's output kept with the job's record, whether or not the job asks for that.
    pub fn keep_output(&self) {
        self.side(|side| side.keep_output = true);
    }

    /// Leaves a note in the run's record; the last one stays.
    pub fn note(&self, text: impl Into<String>) {
        self.side(|side| side.note = Some(text.into()));
    }

    /// Takes what the run left beside its result; the manager's.
    pub fn take_side(&self) -> Option<Box<Side>> {
        let mut side = self.lock();
        if let (Some(watch), Some(side)) = (self.0.watch.get(), side.as_ref()) {
            // Those who follow may not have read it all.
            *watch.rest() = Stream::ALL.map(|stream| side.stream(stream).cloned());
        }
        side.take()
    }

    fn side<R>(&self, change: impl FnOnce(&mut Side) -> R) -> R {
        change(self.lock().get_or_insert_default())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<Side>>> {
        self.0.side.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, what: What) {
        let event =
            Event { id: self.0.id.clone(), kind: self.0.job.kind.to_string(), at: Timestamp::now(), what };
        self.0.events.tell(vec![event]);
    }
}

impl fmt::Debug for JobContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobContext")
            .field("id", &self.0.id)
            .field("kind", &self.0.job.kind)
            .finish_non_exhaustive()
    }
}

/// Tells a task that it should stop. Cheap to clone; the other side is a [`Stopper`].
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Stops every [`Stop`] that was made from it, also when it is dropped.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

impl Default for Stopper {
    fn default() -> Self {
        Stopper(watch::Sender::new(false))
    }
}

impl Stopper {
    /// A handle for a task.
    pub fn handle(&self) -> Stop {
        Stop(self.0.subscribe())
    }

    /// Asks all tasks to stop.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Whether it is time to stop.
    pub fn is_set(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits until it is time to stop. May be dropped at any time.
    pub async fn wait(&self) {
        let mut receiver = self.0.clone();
        // An error means that the stopper is gone, which is a stop too.
        let _ = receiver.wait_for(|stop| *stop).await;
    }
}
