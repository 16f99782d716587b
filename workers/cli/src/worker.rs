//! The worker: hands each run to its slot's thread, and sees to it that a run that must stop does.

use std::{
    collections::VecDeque,
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use ganger_child::{Ask, Base, Confinement, Killer, Watch, check_name, listen_to_children};
use ganger_core::{
    Feed, HANDLER_PREFIX, JobContext, JobError, LeaseRef, OptionsError, Output, Period, SlotContext,
    StopReason, Worker, WorkerContext, WorkerError,
};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::{
    command::{self, Common},
    config::Config,
    exits::Exits,
    keep::{Keep, KeepOutput},
    line::Template,
    params::Params,
    slot::{Ended, Order, Slot},
    turns::Turns,
};

/// How long a killed command may take to be gone; a process that waits for a device cannot be killed.
const KILL_MAX: Duration = Duration::from_secs(5);

/// How long beyond its grace a command is given to be killed and reaped, before the manager drops its run.
const REAP_MAX: Duration = Duration::from_secs(1);

/// How long a command may take to stop where the manager has no time: another one is about to run the job, or this
/// one is at the end of its own grace.
const GRACE_HURRIED_MAX: Duration = Duration::from_millis(750);

/// Behind a command that takes longer, the jobs that were handed over with it are taken back: others may do them.
const RECALL_AFTER: Duration = Duration::from_millis(10);

/// Runs commands.
#[derive(Debug)]
pub struct Cli {
    entry: Arc<Entry>,
    name: String,
    /// Made at the first job: an entry without jobs has no threads.
    slot: Option<Slot>,
    /// Jobs that the slot's thread has, to begin them one after the other without a word from here.
    ahead: VecDeque<Handed>,
    /// The time limit of jobs that have none of their own, as the last one showed it.
    timeout: Option<Option<Duration>>,
}

/// A job that was handed to the slot's thread.
#[derive(Debug)]
struct Handed {
    lease: LeaseRef,
    number: u64,
    turns: Arc<Turns>,
    /// The limit among its params.
    longest: Option<Duration>,
    ended: oneshot::Receiver<Ended>,
}

/// What the slots of an entry share.
#[derive(Debug)]
pub struct Entry {
    common: Arc<Common>,
    killer: Arc<Killer>,
    watch: Arc<Watch>,
}

impl Worker for Cli {
    const NAME: &'static str = "cli";
    const ONE_THREAD: bool = true;
    const AHEAD: bool = true;
    const RUNS_COMMANDS: bool = true;

    type Config = Config;
    type Params = Params;
    type Shared = Arc<Entry>;

    fn check(config: &Config, params: &Params) -> Result<(), OptionsError> {
        command::check(config, params)
    }

    fn about(config: &Config) -> Option<String> {
        config.limits.as_ref().map(|limits| limits.about("job"))
    }

    async fn share(config: Config, cx: &WorkerContext) -> Result<Arc<Entry>, WorkerError> {
        config.env.0.iter().try_for_each(|(name, _)| check_name(name)).map_err(WorkerError::new)?;
        let template = Template::of(&config);
        let is_handler = cx.name.starts_with(HANDLER_PREFIX);
        if is_handler && template.is_some() {
            return Err(WorkerError::new(
                "the values `{id}`, `{name}` and `{params.…}` are for workers: a failure handler finds the failed \
                 job on its standard input and in GANGER_FAILED_*",
            ));
        }
        if is_handler && config.command.is_none() && config.shell.is_none() {
            tracing::warn!(
                worker = cx.name,
                "the entry has no `command`: as a failure handler it has nothing to run, add one"
            );
        }
        if listen_to_children() {
            tracing::warn!("SIGCHLD was ignored, which hides how commands end: it is back at its default");
        }
        let cannot =
            |what: &str, error: std::io::Error| WorkerError::new(format!("cli cannot {what}: {error}"));
        let watch = Watch::of(&cx.run, config.orphan_after.get())
            .map_err(|error| cannot("start the watcher that ends commands with ganger", error))?;
        let nothing = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(|error| cannot("open /dev/null", error))?;
        let confinement = Confinement::new(config.wanted())
            .map_err(|why| WorkerError::new(format!("commands cannot be started so: {why}")))?;
        let variables = Confinement::variables(confinement.as_ref()).into_iter();
        let base = Base::new(variables, &config.env_pass, &config.env, watch.mark());
        let exits = Exits::new(&config);
        let keep = match &config.keep_output {
            Some(KeepOutput::Files(files)) => {
                let keep = Keep::new(files);
                Some(keep.map_err(|error| cannot(&format!("keep output in {}", files.dir), error))?)
            }
            Some(KeepOutput::Store) | None => None,
        };
        let keep = keep.map(Arc::new);
        let confinement = confinement.map(Arc::new);
        let common =
            Arc::new(Common { config, template, base, exits, keep, confinement, nothing: nothing.into() });
        Ok(Arc::new(Entry { common, killer: Arc::new(Killer::new()), watch }))
    }

    async fn create(entry: &Arc<Entry>, cx: &SlotContext) -> Result<Self, WorkerError> {
        let name = format!("{}-{}", cx.name, cx.slot);
        Ok(Cli { entry: Arc::clone(entry), name, slot: None, ahead: VecDeque::new(), timeout: None })
    }

    /// Runs the command. Dropped before its end, it has killed the command's group when the drop returns; the
    /// slot's thread, which nobody waits for, then lets the system forget it.
    async fn work(&mut self, params: Params, job: &JobContext) -> Result<Output, JobError> {
        let handed = self.hand_over(params, job, left(job))?;
        self.attend(handed, job, &mut Alone).await
    }

    /// The slot's thread has the next jobs before it needs them: between two commands it waits for nobody.
    async fn batch(&mut self, feed: &mut dyn Feed) -> Result<(), WorkerError> {
        while let Some(job) = feed.next() {
            if job.job().timeout.is_none() {
                self.timeout = Some(left(&job));
            }
            let handed = match self.ahead.pop_front() {
                Some(handed) => Ok(handed),
                None => job.params().and_then(|params| self.hand_over(params, &job, left(&job))),
            };
            let result = match handed {
                Ok(handed) => {
                    self.take_ahead(feed);
                    self.attend(handed, &job, feed).await
                }
                Err(error) => Err(error),
            };
            feed.done(result);
        }
        if !self.ahead.is_empty() {
            // The slot was given up, and what was taken ahead with it.
            self.ahead.clear();
            self.slot = None;
        }
        Ok(())
    }
}

impl Cli {
    fn slot(&mut self) -> Result<&Slot, JobError> {
        if self.slot.is_none() {
            let Entry { common, killer, watch } = &*self.entry;
            let started = Slot::start(&self.name, Arc::clone(common), Arc::clone(killer), watch);
            self.slot =
                Some(started.map_err(|error| JobError::lost(format!("no thread for this slot: {error}")))?);
        }
        self.slot.as_ref().ok_or_else(|| JobError::lost("no thread for this slot"))
    }

    /// Hands a job to the slot's thread, to be begun after those that it has.
    fn hand_over(
        &mut self,
        params: Params,
        job: &JobContext,
        limit: Option<Duration>,
    ) -> Result<Handed, JobError> {
        // None at all is a fault that the run finds.
        let longest = params.timeout.map(Period::get).filter(|longest| !longest.is_zero());
        let slot = self.slot()?;
        let (number, turns) = (slot.turns.order(), Arc::clone(&slot.turns));
        let (reply, ended) = oneshot::channel();
        if !slot.order(Order { number, params, job: job.clone(), limit, at: Instant::now(), reply }) {
            self.slot = None;
            return Err(JobError::lost("the thread of this slot has ended"));
        }
        Ok(Handed { lease: job.lease(), number, turns, longest, ended })
    }

    /// Hands over what the slot shall do next.
    fn take_ahead(&mut self, feed: &mut dyn Feed) {
        while let Some(job) = feed.ahead() {
            let Some(limit) = job.job().timeout.map(Some).or(self.timeout) else { return feed.give_back(1) };
            match job.params().and_then(|params| self.hand_over(params, &job, limit)) {
                Ok(handed) => self.ahead.push_back(handed),
                // It is told so in its turn.
                Err(_) => return feed.give_back(1),
            }
        }
    }

    /// Takes back what was handed over after a job and has not begun.
    fn recall(&mut self, number: u64, feed: &mut dyn Feed) {
        if let Some(slot) = self.slot.as_ref().filter(|_| !self.ahead.is_empty()) {
            let count = slot.turns.take_back_after(number).min(self.ahead.len());
            self.ahead.truncate(self.ahead.len() - count);
            feed.give_back(count);
        }
    }

    /// Sees a job to its end.
    async fn attend(
        &mut self,
        handed: Handed,
        job: &JobContext,
        feed: &mut dyn Feed,
    ) -> Result<Output, JobError> {
        let Handed { lease, number, turns, longest, mut ended } = handed;
        if lease != job.lease() {
            self.slot = None;
            return Err(JobError::lost("jobs came in another order than they were taken"));
        }
        let grace = self.entry.common.config.grace.get();
        let mut run = KillOnDrop { turns, number };
        let mut limit = std::pin::pin!(sleep(longest.unwrap_or_default()));
        let reason = loop {
            tokio::select! {
                biased;
                told = &mut ended => match told {
                    Ok(Ended { begun: false, .. }) if job.stop_reason().is_some() => {
                        self.recall(run.number, feed);
                        return Err(unbegun());
                    }
                    Ok(Ended { begun: false, .. }) => {
                        let again = self.hand_over(job.params()?, job, left(job))?;
                        ended = again.ended;
                        run = KillOnDrop { turns: again.turns, number: again.number };
                    }
                    told => return finish(told),
                },
                reason = job.stopped_within(grace.saturating_add(REAP_MAX)) => break reason,
                () = &mut limit, if longest.is_some() => break StopReason::Timeout,
                () = sleep(RECALL_AFTER), if !self.ahead.is_empty() => self.recall(run.number, feed),
            }
        };
        self.recall(run.number, feed);
        let result = stop(&run, grace, reason, &mut ended).await;
        drop(run);
        result.unwrap_or_else(|| {
            // The thread keeps what cannot be killed; the next job gets a new one.
            self.slot = None;
            Err(JobError::lost(format!(
                "{}, and could not be killed within {} s: it waits for a device",
                because(reason),
                KILL_MAX.as_secs()
            )))
        })
    }
}

/// How long a run may take from now on, if it has a deadline.
fn left(job: &JobContext) -> Option<Duration> {
    job.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
}

/// The feed of a job that comes by itself.
struct Alone;

impl Feed for Alone {
    fn next(&mut self) -> Option<JobContext> {
        None
    }
    fn done(&mut self, _: Result<Output, JobError>) {}
}

fn unbegun() -> JobError {
    JobError::retry("it was stopped before it was begun")
}

/// Kills the command of a run whose future is dropped, or sees to it that it is not begun.
struct KillOnDrop {
    turns: Arc<Turns>,
    number: u64,
}

impl KillOnDrop {
    fn ask(&self, ask: Ask) -> bool {
        self.turns.ask(self.number, ask)
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.ask(Ask::Kill);
    }
}

type Ending = Result<Ended, oneshot::error::RecvError>;

fn finish(ended: Ending) -> Result<Output, JobError> {
    match ended {
        Ok(ended) => ended.result,
        Err(_) => Err(JobError::lost("the thread of this slot ended in the middle of the run")),
    }
}

/// TERM to the whole group, a grace, KILL to the whole group. `None` if it cannot be killed.
async fn stop(
    run: &KillOnDrop,
    grace: Duration,
    reason: StopReason,
    ended: &mut oneshot::Receiver<Ended>,
) -> Option<Result<Output, JobError>> {
    let grace = match reason {
        StopReason::Fenced | StopReason::Shutdown => grace.min(GRACE_HURRIED_MAX),
        StopReason::Cancel | StopReason::Timeout => grace,
    };
    if !run.ask(Ask::Stop) {
        return Some(Err(unbegun()));
    }
    let ending = match timeout(grace, &mut *ended).await {
        Ok(ending) => ending,
        Err(_) => {
            run.ask(Ask::Kill);
            timeout(KILL_MAX, ended).await.ok()?
        }
    };
    Some(match ending {
        Ok(Ended { asked: Some(ask), how: Some(how), .. }) => Err(stopped(reason, ask, &how)),
        // It had ended before it was asked, or never started.
        other => finish(other),
    })
}

fn stopped(reason: StopReason, ask: Ask, how: &str) -> JobError {
    JobError::retry(match ask {
        Ask::Stop => format!("{}; told to stop, it ended: {how}", because(reason)),
        Ask::Kill => format!("{}; it did not stop in time and was killed", because(reason)),
    })
}

fn because(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Cancel => "the job was cancelled",
        StopReason::Fenced => "the job's lease may be lost",
        StopReason::Shutdown => "ganger shuts down",
        StopReason::Timeout => "the command took longer than its timeout",
    }
}
