//! The worker: hands each run to its slot's thread, and sees to it that a run that must stop does.

use std::{
    fs::File,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use ganger_child::{Ask, Base, Confinement, Killer, Watch, check_name, listen_to_children};
use ganger_core::{
    Feed, HANDLER_PREFIX, JobContext, JobError, OptionsError, Output, Period, SlotContext, StopReason,
    Worker, WorkerContext, WorkerError,
};
use tokio::time::{sleep, timeout};

use crate::{
    command::{self, Common},
    config::Config,
    exits::Exits,
    keep::{Keep, KeepOutput},
    line::Template,
    params::Params,
    slot::{Ended, Handed, Order, Slot},
    turns::{Told, Turns},
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
    /// The time limit of jobs that have none of their own, as the last one showed it.
    timeout: Option<Option<Duration>>,
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
        Ok(Cli { entry: Arc::clone(entry), name, slot: None, timeout: None })
    }

    /// Runs the command. Dropped before its end, it has killed the command's group when the drop returns; the
    /// slot's thread, which nobody waits for, then lets the system forget it.
    async fn work(&mut self, params: Params, job: &JobContext) -> Result<Output, JobError> {
        let handed = self.hand_over(params, job, left(job), Turns::give_now)?;
        self.attend(handed, job, &mut Alone).await
    }

    /// The slot's thread has the next jobs before it needs them: between two commands it waits for nobody.
    async fn batch(&mut self, feed: &mut dyn Feed) -> Result<(), WorkerError> {
        while let Some(job) = feed.next() {
            if job.job().timeout.is_none() {
                self.timeout = Some(left(&job));
            }
            let handed = match self.slot.as_mut().and_then(|slot| slot.ahead.pop_front()) {
                Some(handed) => Ok(handed),
                None => self.hand_over_now(&job),
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
        // The slot was given up, and what was taken ahead with it.
        self.slot.take_if(|slot| !slot.ahead.is_empty());
        Ok(())
    }
}

impl Cli {
    fn slot(&mut self) -> Result<&mut Slot, JobError> {
        if self.slot.is_none() {
            let Entry { common, killer, watch } = &*self.entry;
            let started = Slot::start(&self.name, Arc::clone(common), Arc::clone(killer), watch);
            self.slot =
                Some(started.map_err(|error| JobError::lost(format!("no thread for this slot: {error}")))?);
        }
        self.slot.as_mut().ok_or_else(|| JobError::lost("no thread for this slot"))
    }

    /// Hands a job to the slot's thread.
    fn hand_over(
        &mut self,
        params: Params,
        job: &JobContext,
        limit: Option<Duration>,
        give: impl FnOnce(&Turns<Order, Ended>, Order) -> Option<u64>,
    ) -> Result<Handed, JobError> {
        // None at all is a fault that the run finds.
        let longest = params.timeout.map(Period::get).filter(|longest| !longest.is_zero());
        match give(&self.slot()?.turns, Order { params, job: job.clone(), limit }) {
            Some(number) => Ok(Handed { number, lease: job.lease(), longest }),
            None => {
                self.slot = None;
                Err(JobError::lost("the thread of this slot has ended"))
            }
        }
    }

    /// Hands over the job that is under way, to be begun at once: nothing is ahead.
    fn hand_over_now(&mut self, job: &JobContext) -> Result<Handed, JobError> {
        self.hand_over(job.params()?, job, left(job), Turns::give_now)
    }

    /// Hands over what the slot shall do next.
    fn take_ahead(&mut self, feed: &mut dyn Feed) {
        while let Some(job) = feed.ahead() {
            let limit = job.job().timeout.map(Some).or(self.timeout);
            let handed = limit.and_then(|limit| {
                // What is wrong with it is told in its turn.
                self.hand_over(job.params().ok()?, &job, limit, Turns::give).ok()
            });
            match (handed, &mut self.slot) {
                (Some(handed), Some(slot)) => slot.ahead.push_back(handed),
                _ => return feed.give_back(1),
            }
        }
    }

    /// Takes back what was handed over after a job and has not begun.
    fn recall(&mut self, number: u64, feed: &mut dyn Feed) {
        if let Some(slot) = self.slot.as_mut().filter(|slot| !slot.ahead.is_empty()) {
            let count = slot.turns.take_back_after(number);
            slot.ahead.truncate(slot.ahead.len() - count);
            feed.give_back(count);
        }
    }

    /// Takes back all that is ahead, of which the thread begins none.
    fn recall_all(&mut self, feed: &mut dyn Feed) {
        if let Some(slot) = &mut self.slot {
            slot.turns.take_back_after(0);
            feed.give_back(slot.ahead.len());
            slot.ahead.clear();
        }
    }

    /// Sees a job to its end.
    async fn attend(
        &mut self,
        handed: Handed,
        job: &JobContext,
        feed: &mut dyn Feed,
    ) -> Result<Output, JobError> {
        let Handed { mut number, lease, longest } = handed;
        if lease != job.lease() {
            self.slot = None;
            return Err(JobError::lost("jobs came in another order than they were taken"));
        }
        let Some(turns) = self.slot.as_ref().map(|slot| Arc::clone(&slot.turns)) else {
            return Err(JobError::lost("the thread of this slot has ended"));
        };
        let guard = KillOnDrop(Some(Arc::clone(&turns)));
        let grace = self.entry.common.config.grace.get();
        let mut limit = pin!(sleep(longest.unwrap_or_default()));
        let reason = loop {
            let has_more = self.slot.as_ref().is_some_and(|slot| !slot.ahead.is_empty());
            tokio::select! {
                biased;
                told = turns.told(number) => {
                    match &told {
                        Told::Ended(_) => {}
                        Told::Gone => self.slot = None,
                        Told::Stale => {
                            self.recall_all(feed);
                            if job.stop_reason().is_none() {
                                number = self.hand_over_now(job)?.number;
                                continue;
                            }
                        }
                    }
                    guard.disarm();
                    return finish(told);
                }
                reason = job.stopped_within(grace.saturating_add(REAP_MAX)) => break reason,
                () = &mut limit, if longest.is_some() => break StopReason::Timeout,
                () = sleep(RECALL_AFTER), if has_more => self.recall(number, feed),
            }
        };
        self.recall(number, feed);
        let result = stop(&turns, number, grace, reason).await;
        guard.disarm();
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

/// Kills the command of a run whose future is dropped, and sees to it that none behind it is begun.
struct KillOnDrop(Option<Arc<Turns<Order, Ended>>>);

impl KillOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(turns) = &self.0 {
            turns.kill();
        }
    }
}

fn finish(told: Told<Ended>) -> Result<Output, JobError> {
    match told {
        Told::Ended(ended) => ended.result,
        Told::Stale => Err(unbegun()),
        Told::Gone => Err(JobError::lost("the thread of this slot ended in the middle of the run")),
    }
}

/// TERM to the whole group, a grace, KILL to the whole group. `None` if it cannot be killed.
async fn stop(
    turns: &Turns<Order, Ended>,
    number: u64,
    grace: Duration,
    reason: StopReason,
) -> Option<Result<Output, JobError>> {
    let grace = match reason {
        StopReason::Fenced | StopReason::Shutdown => grace.min(GRACE_HURRIED_MAX),
        StopReason::Cancel | StopReason::Timeout => grace,
    };
    if !turns.ask(number, Ask::Stop) {
        return Some(Err(unbegun()));
    }
    let told = match timeout(grace, turns.told(number)).await {
        Ok(told) => told,
        Err(_) => {
            turns.ask(number, Ask::Kill);
            timeout(KILL_MAX, turns.told(number)).await.ok()?
        }
    };
    Some(match told {
        Told::Ended(Ended { asked: Some(ask), how: Some(how), .. }) => Err(stopped(reason, ask, &how)),
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
