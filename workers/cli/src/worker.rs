//! The worker: hands each run to its slot's thread, and sees to it that a run that must stop does.

use std::{fs::File, sync::Arc, time::Duration};

use ganger_child::{Ask, Base, Confinement, Group, Killer, Watch, check_name, listen_to_children};
use ganger_core::{
    HANDLER_PREFIX, JobContext, JobError, OptionsError, Output, Period, SlotContext, StopReason, Worker,
    WorkerContext, WorkerError,
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
};

/// How long a killed command may take to be gone; a process that waits for a device cannot be killed.
const KILL_MAX: Duration = Duration::from_secs(5);

/// How long beyond its grace a command is given to be killed and reaped, before the manager drops its run.
const REAP_MAX: Duration = Duration::from_secs(1);

/// How long a command may take to stop where the manager has no time: another one is about to run the job, or this
/// one is at the end of its own grace.
const GRACE_HURRIED_MAX: Duration = Duration::from_millis(750);

/// Runs commands.
#[derive(Debug)]
pub struct Cli {
    entry: Arc<Entry>,
    name: String,
    /// Made at the first job: an entry without jobs has no threads.
    slot: Option<Slot>,
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
        Ok(Cli { entry: Arc::clone(entry), name: format!("{}-{}", cx.name, cx.slot), slot: None })
    }

    /// Runs the command. Dropped before its end, it has killed the command's group when the drop returns; the
    /// slot's thread, which nobody waits for, then lets the system forget it.
    async fn work(&mut self, params: Params, job: &JobContext) -> Result<Output, JobError> {
        let grace = self.entry.common.config.grace.get();
        let longest = params.timeout.map(Period::get);
        let slot = self.slot()?;
        let group = Arc::clone(&slot.group);
        let (reply, mut ended) = oneshot::channel();
        if !slot.order(Order { params, job: job.clone(), reply }) {
            self.slot = None;
            return Err(JobError::lost("the thread of this slot has ended"));
        }
        let guard = KillOnDrop(&group);
        let reason = tokio::select! {
            biased;
            ended = &mut ended => return finish(ended),
            reason = job.stopped_within(grace.saturating_add(REAP_MAX)) => reason,
            () = sleep(longest.unwrap_or_default()), if longest.is_some() => StopReason::Timeout,
        };
        let result = stop(&group, grace, reason, &mut ended).await;
        drop(guard);
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
}

/// Kills the command of a run whose future is dropped.
struct KillOnDrop<'a>(&'a Group);

impl Drop for KillOnDrop<'_> {
    fn drop(&mut self) {
        self.0.ask(Ask::Kill);
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
    group: &Group,
    grace: Duration,
    reason: StopReason,
    ended: &mut oneshot::Receiver<Ended>,
) -> Option<Result<Output, JobError>> {
    let grace = match reason {
        StopReason::Fenced | StopReason::Shutdown => grace.min(GRACE_HURRIED_MAX),
        StopReason::Cancel | StopReason::Timeout => grace,
    };
    group.ask(Ask::Stop);
    let ending = match timeout(grace, &mut *ended).await {
        Ok(ending) => ending,
        Err(_) => {
            group.ask(Ask::Kill);
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
