//! How the runs of a job end, and the workers that make them end so.

use std::{sync::Arc, time::Duration};

use ganger_core::{
    Backoff, BoxFuture, DynWorker, Feed, HANDLER_PREFIX, Job, JobContext, JobError, Output, Period,
    SlotContext, Slots, WorkerContext, WorkerError, WorkerTraits, Workers,
};
use serde::{Deserialize, Serialize};

use super::{Chance, Ledger, Life};

/// How a run ends that does not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    /// An error that may pass.
    Error,
    /// An error that names its own wait.
    RetryAfter,
    /// A panic.
    Panic,
    /// Never, so that its timeout ends it.
    Hang,
    /// An error that no other run would mend.
    Dead,
    /// The work is not wanted any more.
    Discard,
    /// The run is lost, without proof against the job.
    Lost,
    /// The whole manager goes down with it.
    Poison,
}

/// How a job ends that takes its manager with it every time.
pub const POISON: How = How::Poison;

/// What a job's params say of its runs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Fate {
    /// How those end that do not end well.
    pub how: How,
    /// How many do not, before one does.
    pub fails: u32,
    /// How long each takes, in milliseconds.
    pub millis: u64,
    /// How many jobs follow from the one that ends well.
    pub follow: u32,
    /// It waits to be asked to stop, and then takes so many milliseconds to end.
    pub heeds: Option<u64>,
}

impl Fate {
    /// Ends well, at once.
    pub const WELL: Fate = Fate { how: How::Error, fails: 0, millis: 1, follow: 0, heeds: None };

    /// Draws one: some runs last about as long as a lease, most are quick.
    pub fn draw(chance: &mut Chance, lease: Duration) -> Self {
        use How::{Dead, Discard, Error, Hang, Lost, Panic, RetryAfter};
        let how = chance.one_of(&[Error, Error, RetryAfter, Panic, Hang, Dead, Discard, Lost]);
        let fails = if chance.hits(60) { 0 } else { chance.between(1, 3) as u32 };
        let long = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let millis = match chance.below(10) {
            0 | 1 => chance.between(long * 2 / 5, long * 7 / 5),
            2..4 => chance.between(20, long.min(2_000)),
            _ => chance.between(0, 10),
        };
        let follow = if chance.hits(20) { chance.between(1, 2) as u32 } else { 0 };
        let heeds = chance.hits(15).then(|| chance.between(0, 800));
        Fate { how, fails, millis, follow, heeds }
    }

    /// A job of this fate.
    pub fn job(self, kind: &str, name: &str, retries: u32) -> Job {
        let mut job = Job::new(kind, &self).expect("a fate is plain JSON");
        job.name = Some(name.into());
        job.retries = Some(retries);
        job.timeout = (self.how == How::Hang).then_some(Duration::from_millis(700 + self.millis));
        job.rare_mut().backoff =
            Some(Backoff { initial: Period::millis(200), max: Period::secs(4), ..Backoff::default() });
        job
    }

    /// The fate of a job. A failure handler's stands in its config, as all its params do: it ends well.
    pub fn of(job: &Job) -> Option<Self> {
        if job.kind.starts_with(HANDLER_PREFIX) {
            return job.params.is_none().then_some(Fate::WELL);
        }
        serde_json::from_str(job.params_text()).ok()
    }

    /// Whether a run that is the last is one that ends well, if it ends as done.
    pub fn ends_well(self) -> bool {
        self.how != How::Discard || self.fails == 0
    }

    /// How often it runs when nothing hits it, and whether it ends dead.
    pub fn plain_course(self, retries: u32, max_crashes: u32) -> (u32, bool) {
        match self.how {
            _ if self.fails == 0 => (1, false),
            How::Dead => (1, true),
            How::Discard => (1, false),
            How::Lost if self.fails >= max_crashes => (max_crashes, true),
            How::Lost => (self.fails + 1, false),
            _ if self.fails > retries => (retries + 1, true),
            _ => (self.fails + 1, false),
        }
    }
}

/// Workers that do jobs as their fate says, and tell the ledger.
#[derive(Clone)]
pub struct FateWorkers {
    /// The ledger of the world.
    pub ledger: Arc<Ledger>,
    /// The life of the manager that has them.
    pub life: Arc<Life>,
}

impl Workers for FateWorkers {
    fn traits(&self) -> WorkerTraits {
        WorkerTraits::default()
    }

    fn share<'a>(&'a self, _: &'a WorkerContext) -> BoxFuture<'a, Result<Arc<dyn Slots>, WorkerError>> {
        let slots: Arc<dyn Slots> = Arc::new(self.clone());
        Box::pin(async { Ok(slots) })
    }
}

impl Slots for FateWorkers {
    fn create<'a>(&'a self, _: &'a SlotContext) -> BoxFuture<'a, Result<Box<dyn DynWorker>, WorkerError>> {
        let worker: Box<dyn DynWorker> = Box::new(self.clone());
        Box::pin(async { Ok(worker) })
    }
}

impl DynWorker for FateWorkers {
    fn run<'a>(&'a mut self, feed: &'a mut dyn Feed) -> BoxFuture<'a, Result<(), WorkerError>> {
        Box::pin(async move {
            while let Some(job) = feed.next() {
                let result = self.work(&job).await;
                feed.done(result);
            }
            Ok(())
        })
    }
}

impl FateWorkers {
    async fn work(&self, job: &JobContext) -> Result<Output, JobError> {
        let fate: Fate = job.params()?;
        let _run = self.ledger.start(job, &fate);
        let Some(heeds) = fate.heeds.map(Duration::from_millis) else { return self.course(job, fate).await };
        tokio::select! {
            biased;
            ended = self.course(job, fate) => ended,
            _ = job.stopped_within(heeds) => {
                tokio::time::sleep(heeds).await;
                Err(JobError::retry("stopped as it was asked to"))
            }
        }
    }

    async fn course(&self, job: &JobContext, fate: Fate) -> Result<Output, JobError> {
        if fate.millis > 0 {
            tokio::time::sleep(Duration::from_millis(fate.millis)).await;
        }
        let spent = match fate.how {
            How::Lost => job.record().crashes,
            _ => job.record().spent,
        };
        if spent >= fate.fails {
            for n in 0..fate.follow {
                job.follow(Fate::WELL.job(&job.job().kind, &format!("follow-up {n}"), 0));
            }
            return Ok(Output::default());
        }
        match fate.how {
            How::Error => Err(JobError::retry("as its fate says")),
            How::RetryAfter => Err(JobError::retry_after(Duration::from_millis(700), "as its fate says")),
            How::Dead => Err(JobError::dead("as its fate says")),
            How::Discard => Err(JobError::discard("as its fate says")),
            How::Lost => Err(JobError::lost("as its fate says")),
            How::Panic => panic!("as its fate says"),
            How::Hang => std::future::pending().await,
            How::Poison => {
                self.life.end();
                std::future::pending().await
            }
        }
    }
}
