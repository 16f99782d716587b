//! The worker: a program for each slot, started when there is work, given its jobs, and replaced when it fails.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ganger_child::{Base, Confinement, Keeper, Umask, Watch, check_name, find, listen_to_children};
use ganger_core::{Feed, JobContext, JobError, Output, SlotContext, Worker, WorkerContext, WorkerError};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use crate::{breaker::Breaker, child::Child, config::Config, fault::Fault, message::type_of};

/// How long the making of a slot's worker may take: less than the manager allows.
const START_MAX: Duration = Duration::from_secs(25);

/// Has jobs done by a program that stays.
#[derive(Debug)]
pub struct Process {
    entry: Arc<Entry>,
    slot: u32,
    child: Option<Child>,
    /// The time limit of jobs that have none of their own, as the last one showed it.
    timeout: Option<Duration>,
}

/// What the slots of an entry share.
#[derive(Debug)]
pub struct Entry {
    pub(crate) name: String,
    pub(crate) config: Config,
    pub(crate) base: Base,
    pub(crate) breaker: Breaker,
    watch: Arc<Watch>,
    confinement: Option<Arc<Confinement>>,
}

impl Entry {
    pub(crate) fn line_max(&self) -> usize {
        usize::try_from(self.config.line_max.get()).unwrap_or(usize::MAX)
    }

    /// What keeps one of its programs.
    pub(crate) fn keeper(&self) -> Keeper {
        let keeper = Keeper::new(&self.watch).stopped_by(self.config.kill_signal);
        let mut keeper = keeper.confined(self.confinement.clone());
        keeper.set_umask(self.config.umask.map(|Umask(mask)| mask));
        keeper
    }
}

/// The params of its jobs: any JSON, which the program reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Params;

impl<'de> Deserialize<'de> for Params {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Params)
    }
}

impl JsonSchema for Params {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Params".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "whatever the program takes" })
    }
}

impl Worker for Process {
    const NAME: &'static str = "process";
    const ONE_THREAD: bool = true;
    const AHEAD: bool = true;

    type Config = Config;
    type Params = Params;
    type Shared = Arc<Entry>;

    fn about(config: &Config) -> Option<String> {
        config.limits.as_ref().map(|limits| limits.about("program"))
    }

    async fn share(config: Config, cx: &WorkerContext) -> Result<Arc<Entry>, WorkerError> {
        config.env.0.iter().try_for_each(|(name, _)| check_name(name)).map_err(WorkerError::new)?;
        if config.command.is_empty() {
            return Err(WorkerError::new("`command` is empty: name the program that does the jobs"));
        }
        if listen_to_children() {
            tracing::warn!("SIGCHLD was ignored, which hides how programs end: it is back at its default");
        }
        let watch = Watch::of(&cx.run, config.orphan_after.get()).map_err(|error| {
            WorkerError::new(format!(
                "process cannot start the watcher that ends programs with ganger: {error}"
            ))
        })?;
        let confinement = Confinement::new(config.wanted())
            .map_err(|why| WorkerError::new(format!("programs cannot be started so: {why}")))?;
        let variables = Confinement::variables(confinement.as_ref()).into_iter();
        let base = Base::new(variables, &config.env_pass, &config.env, watch.mark());
        let missing = base.with(&ganger_child::Env::default());
        if let Err(error) = missing.and_then(|(_, path)| find(&config.command, &path).map(drop)) {
            tracing::error!(worker = cx.name, %error, "its jobs will wait until that is mended");
        }
        let breaker = Breaker::new(config.backoff, config.breaker);
        let confinement = confinement.map(Arc::new);
        Ok(Arc::new(Entry { name: cx.name.clone(), config, base, breaker, watch, confinement }))
    }

    /// # Errors
    /// Its programs fail, and the time for the next try has not come: readiness says so.
    async fn create(entry: &Arc<Entry>, cx: &SlotContext) -> Result<Self, WorkerError> {
        if let Some(why) = entry.breaker.refusal() {
            return Err(WorkerError::new(why));
        }
        let mut made = Process { entry: Arc::clone(entry), slot: cx.slot, child: None, timeout: None };
        // After failures a slot takes jobs only with a program that is up; one that needs longer is waited for later.
        if entry.breaker.is_open() && entry.config.start_timeout.get() <= START_MAX {
            made.make_ready().await?;
        }
        Ok(made)
    }

    async fn work(&mut self, _: Params, job: &JobContext) -> Result<Output, JobError> {
        let mut one = One { job: Some(job.clone()), result: None };
        match (self.batch(&mut one).await, one.result) {
            (_, Some(result)) => result,
            (Err(error), None) => Err(JobError::lost(format!("it was not begun: {error}"))),
            (Ok(()), None) => Err(JobError::lost("it was not begun")),
        }
    }

    async fn close(&mut self) {
        if let Some(child) = self.child.take() {
            child.close(self.entry.config.grace.get()).await;
        }
    }

    async fn batch(&mut self, feed: &mut dyn Feed) -> Result<(), WorkerError> {
        self.make_ready().await?;
        let Some(child) = &mut self.child else { return Ok(()) };
        child.more = !self.entry.breaker.is_parting();
        loop {
            let Some(job) = feed.next() else {
                // The slot was given up in the middle: what was taken ahead is stopped with the program.
                if !child.ahead.is_empty() {
                    child.kill().await;
                    self.child = None;
                }
                return Ok(());
            };
            if job.job().timeout.is_none() {
                let now = Instant::now();
                self.timeout = job.deadline().map(|deadline| deadline.saturating_duration_since(now));
            }
            match child.do_job(feed, &job, self.timeout, &self.entry.config).await {
                Ok(result) => {
                    self.entry.breaker.finished();
                    feed.done(result);
                }
                Err(fault) => {
                    self.replace(&fault, Some(&job)).await;
                    let ahead = self.child.take().map_or(0, |child| child.ahead.len());
                    if ahead > 0 && fault.counts() {
                        self.entry.breaker.part();
                    }
                    feed.give_back(ahead);
                    feed.done(Err(fault.error(ahead)));
                    return Ok(());
                }
            }
            if child.ahead.is_empty() && child.is_worn(&self.entry) {
                return Ok(());
            }
        }
    }
}

impl Process {
    /// Sees to it that there is a program that takes jobs. No job is begun meanwhile.
    async fn make_ready(&mut self) -> Result<(), WorkerError> {
        loop {
            if let Some(child) = &mut self.child {
                if child.is_worn(&self.entry) {
                    if let Some(worn) = self.child.take() {
                        tokio::spawn(worn.close(self.entry.config.grace.get()));
                    }
                    continue;
                }
                match child.idle(&self.entry.config).await {
                    Ok(()) => return Ok(()),
                    Err(fault) => {
                        self.replace(&fault, None).await;
                        self.child = None;
                    }
                }
            }
            if let Some(why) = self.entry.breaker.refusal() {
                return Err(WorkerError::new(why));
            }
            tokio::time::sleep(self.entry.breaker.wait()).await;
            let wanted = type_of(&self.entry.name);
            match Child::start(&self.entry, self.slot, Some(wanted)).await {
                Ok(child) => {
                    self.child = Some(child);
                    return Ok(());
                }
                Err(why) => {
                    let why = format!("`{}` does not start: {why}", self.entry.config.command);
                    self.entry.breaker.not_started(&why);
                    return Err(WorkerError::new(why));
                }
            }
        }
    }

    /// Kills a program that failed; nothing of it runs when this returns.
    async fn replace(&mut self, fault: &Fault, job: Option<&JobContext>) {
        let Some(child) = &mut self.child else { return };
        child.kill().await;
        let words = format!("`{}`: {}", self.entry.config.command, fault.words());
        match job {
            Some(job) => {
                job.write(&child.warden.tail());
                tracing::warn!(worker = self.entry.name, slot = self.slot, id = %job.id(), "{words}");
            }
            None => tracing::warn!(worker = self.entry.name, slot = self.slot, "{words}"),
        }
        if fault.counts() {
            self.entry.breaker.died(&words);
        }
    }
}

/// A batch of one.
struct One {
    job: Option<JobContext>,
    result: Option<Result<Output, JobError>>,
}

impl Feed for One {
    fn next(&mut self) -> Option<JobContext> {
        self.job.take()
    }
    fn done(&mut self, result: Result<Output, JobError>) {
        self.result = Some(result);
    }
}
