//! Starts a plan, and is asked how it goes.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join_all};
use ganger_core::{
    Admin, Events, HANDLER_PREFIX, ProviderError, Sink, Sinks, Slots, Status, Stopper, WorkerContext,
    WorkerError, WorkerOptions, Workers,
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use crate::{
    Plan, PlanError,
    drain::{Drain, Open},
    house::{House, HouseSetup, HouseStatus, Phase, Pools},
    judge::{Policy, handler_kind},
    opening::{IntakeTask, SourceTask},
    pool::{Pool, PoolSetup, panic_text, start_slots, supervise},
    sinks::SourceSinks,
    source::Source,
    spawn::Spawn,
};

/// How long a worker's shared part may take to be made.
const SHARE_LIMIT: Duration = Duration::from_secs(60);

/// Starts managers.
#[derive(Clone, Copy, Debug)]
pub struct Manager;

impl Manager {
    /// Checks the plan, opens everything and begins to work.
    ///
    /// A store that is out of reach is tried again in the background, with readiness off meanwhile.
    ///
    /// # Errors
    /// The plan does not fit, a worker cannot be set up, or a provider or intake says that it never can be.
    pub async fn start(plan: Plan) -> Result<Running, ManagerError> {
        plan.check()?;
        let start = Start::new(plan)?;
        let house = start.house.clone();
        match start.run().await {
            Ok(running) => Ok(running),
            Err(error) => {
                house.go_to(Phase::Stopped);
                for provider in house.sources.iter().filter_map(|source| source.provider()) {
                    // It never came to work; an error here would hide the one that says why.
                    let _ = timeout(Duration::from_secs(5), provider.close()).await;
                }
                Err(error)
            }
        }
    }
}

/// A manager that is being started.
struct Start {
    plan: Plan,
    house: Arc<House>,
    workers: Arc<dyn Spawn>,
    sinks: Arc<SourceSinks>,
    pools: watch::Sender<Option<Arc<Pools>>>,
    open: watch::Sender<Open>,
    keepers: Stopper,
    intakes: Stopper,
}

impl Start {
    fn new(plan: Plan) -> Result<Self, ManagerError> {
        let sources: Arc<[Arc<Source>]> = (plan.providers.iter().zip(0u32..))
            .map(|(provider, index)| {
                Arc::new(Source::new(index, provider.name.clone(), provider.options.clone()))
            })
            .collect();
        let manager_spawn = plan.runtimes.manager().map_err(no_room)?;
        let workers = plan.runtimes.workers().map_err(no_room)?;
        let house = Arc::new(House::new(HouseSetup {
            clock: plan.clock.clone(),
            events: plan.events.clone(),
            output_max: plan.output_max,
            incarnation: plan.incarnation,
            policy: policy(&plan, &WorkerOptions::default()),
            sources: sources.clone(),
            manager_spawn,
            runtimes: plan.runtimes.clone(),
            workers: workers.clone(),
            host: plan.host.clone(),
        }));
        let open = Open { sources: plan.providers.len(), intakes: plan.intakes.len() };
        Ok(Start {
            plan,
            house,
            workers,
            sinks: Arc::new(SourceSinks(sources)),
            pools: watch::Sender::new(None),
            open: watch::Sender::new(open),
            keepers: Stopper::default(),
            intakes: Stopper::default(),
        })
    }

    async fn run(self) -> Result<Running, ManagerError> {
        self.open_providers().await?;
        let pools = self.make_pools().await?;
        let drain = Drain {
            house: self.house.clone(),
            pools: pools.clone(),
            grace: self.plan.grace,
            intakes: Stopper::default(),
            keepers: Stopper::default(),
            open: self.open.clone(),
        };
        for pool in pools.all() {
            start_slots(pool, &self.house);
            let what = format!("the supervisor of pool `{}`", pool.kind);
            self.house.spawn(what, supervise(pool.clone(), self.house.clone()));
        }
        self.pools.send_replace(Some(pools.clone()));
        if let Err(error) = self.open_intakes().await {
            self.house.go_to(Phase::Hurry);
            let house = self.house.clone();
            house.spawn("the drain".to_owned(), self.into_drain(drain).run());
            return Err(error);
        }
        let running = self.running(pools);
        let house = self.house.clone();
        let drain = self.into_drain(drain);
        house.spawn("the drain".to_owned(), drain.run());
        Ok(running)
    }

    /// The stoppers go to the drain: whoever drops them stops everything.
    fn into_drain(self, drain: Drain) -> Drain {
        Drain { intakes: self.intakes, keepers: self.keepers, ..drain }
    }

    fn running(&self, pools: Arc<Pools>) -> Running {
        let status = HouseStatus {
            house: self.house.clone(),
            kinds: pools.all().iter().map(|pool| pool.kind.clone()).collect(),
            source_names: self.house.sources.iter().map(|source| source.name.clone()).collect(),
            pools,
        };
        Running { house: self.house.clone(), sinks: self.sinks.clone(), status: Arc::new(status) }
    }

    async fn open_providers(&self) -> Result<(), ManagerError> {
        let mut firsts = Vec::new();
        for (plan, source) in self.plan.providers.iter().zip(self.house.sources.iter()) {
            let task = SourceTask {
                house: self.house.clone(),
                source: source.clone(),
                plan: plan.clone(),
                pools: self.pools.subscribe(),
                keepers: self.keepers.handle(),
                open: self.open.clone(),
            };
            let (first, told) = oneshot::channel();
            self.house.spawn(format!("provider `{}`", plan.name), task.run(first));
            firsts.push((plan.name.clone(), told));
        }
        self.first_attempts(firsts).await
    }

    async fn open_intakes(&self) -> Result<(), ManagerError> {
        let catalog = Arc::new(self.plan.catalog());
        let mut firsts = Vec::new();
        for plan in &self.plan.intakes {
            let task = IntakeTask {
                house: self.house.clone(),
                plan: plan.clone(),
                catalog: catalog.clone(),
                sinks: self.sinks.clone(),
                stop: self.intakes.handle(),
                open: self.open.clone(),
            };
            let (first, told) = oneshot::channel();
            self.house.spawn(format!("intake `{}`", plan.name), task.run(first));
            firsts.push((plan.name.clone(), told));
        }
        self.first_attempts(firsts).await
    }

    async fn first_attempts(
        &self,
        firsts: Vec<(String, oneshot::Receiver<Result<(), ProviderError>>)>,
    ) -> Result<(), ManagerError> {
        for (name, told) in firsts {
            match told.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(ManagerError::Provider { name, error: Arc::new(error) }),
                Err(_) => {
                    return Err(ManagerError::Stopped(format!("`{name}` panicked while it was opened")));
                }
            }
        }
        Ok(())
    }

    async fn make_pools(&self) -> Result<Arc<Pools>, ManagerError> {
        let workers = self.plan.workers.iter().map(|worker| {
            (worker.name.clone(), worker.name.as_str().into(), &worker.workers, &worker.options, None)
        });
        let handlers = self.plan.handlers.iter().map(|handler| {
            (
                handler.name.clone(),
                handler_kind(&handler.name),
                &handler.workers,
                &handler.options,
                handler.params.clone(),
            )
        });
        let all: Vec<_> = workers.chain(handlers).collect();
        let shares = all.iter().map(|(_, kind, workers, options, _)| {
            self.share((*workers).clone(), kind.to_string(), options.workers)
        });
        let mut pools = Vec::new();
        for (made, (index, (name, kind, workers, options, params))) in
            join_all(shares).await.into_iter().zip((0u32..).zip(&all))
        {
            let makers = made
                .map_err(|error| ManagerError::Worker { name: name.clone(), message: error.to_string() })?;
            let traits = workers.traits();
            let spawn = match traits.one_thread {
                true => self.plan.runtimes.one_thread().map_err(no_room)?,
                false => self.workers.clone(),
            };
            pools.push(Arc::new(Pool::new(PoolSetup {
                kind: kind.clone(),
                index,
                slots: options.workers,
                policy: policy(&self.plan, options),
                timeout: options.timeout.map(|timeout| timeout.get()),
                traits,
                makers,
                params: params.clone(),
                sources: self.house.sources.clone(),
                spawn,
            })));
        }
        Ok(Arc::new(Pools::new(pools)))
    }

    /// Makes what the slots of a worker share, on the workers' runtime.
    async fn share(
        &self,
        workers: Arc<dyn Workers>,
        name: String,
        slots: u32,
    ) -> Result<Arc<dyn Slots>, WorkerError> {
        let sinks: Arc<dyn Sinks> = self.sinks.clone();
        let plain = name.strip_prefix(HANDLER_PREFIX).unwrap_or(&name).to_owned();
        let cx = WorkerContext { name: plain, slots, sinks, run: self.plan.run.clone() };
        let (answer, made) = oneshot::channel();
        self.workers.spawn(Box::pin(async move {
            let sharing = std::panic::AssertUnwindSafe(workers.share(&cx)).catch_unwind();
            let made = match timeout(SHARE_LIMIT, sharing).await {
                Ok(Ok(made)) => made,
                Ok(Err(panic)) => Err(WorkerError::new(format!("it panicked: {}", panic_text(&*panic)))),
                Err(_) => Err(WorkerError::new(format!("setting it up took longer than {SHARE_LIMIT:?}"))),
            };
            // Whoever starts the manager may have gone.
            let _ = answer.send(made);
        }));
        made.await.unwrap_or_else(|_| Err(WorkerError::new("setting it up was cut off")))
    }
}

/// The rules of a type with these options.
fn policy(plan: &Plan, options: &WorkerOptions) -> Policy {
    Policy {
        unknown: plan.unknown,
        output_max: plan.output_max,
        handlers: plan.handlers.iter().map(|handler| handler.name.as_str().into()).collect(),
        manager: format!("{}:{}", plan.host, std::process::id()).into(),
        ..Policy::of(options)
    }
}

/// A manager at work. Dropped without a [`drain`](Running::drain), it stops where it is: its leases run out.
pub struct Running {
    house: Arc<House>,
    sinks: Arc<SourceSinks>,
    status: Arc<dyn Status>,
}

impl Running {
    /// Its figures and its readiness.
    pub fn status(&self) -> Arc<dyn Status> {
        self.status.clone()
    }

    /// What happens to its jobs.
    pub fn events(&self) -> Events {
        self.house.events.clone()
    }

    /// The sink of a provider; for `None` the default one: of the first durable provider that has a sink.
    /// `None` while that provider is not open yet.
    pub fn sink(&self, name: Option<&str>) -> Option<Arc<dyn Sink>> {
        self.sinks.find(name)
    }

    /// The admin face of a provider; for `None` that of the provider of the default sink.
    pub fn admin(&self, name: Option<&str>) -> Option<Arc<dyn Admin>> {
        self.sinks.admin(name)
    }

    /// Begins to end: asks for no more, hands back what has not started, lets the rest finish within the grace,
    /// then stops it and hands it back, and closes. Returns at once; see [`ended`](Running::ended).
    pub fn drain(&self) {
        self.house.go_to(Phase::Draining);
    }

    /// Ends without the grace, still handing everything back.
    pub fn hurry(&self) {
        self.house.go_to(Phase::Hurry);
    }

    /// Waits until the manager has ended. May be dropped, and called again.
    ///
    /// # Errors
    /// What stopped it, if it was not asked to.
    pub async fn ended(&self) -> Result<(), ManagerError> {
        self.house.ended().await
    }
}

fn no_room(error: std::io::Error) -> ManagerError {
    ManagerError::Stopped(format!("no threads to run on: {error}"))
}

impl Drop for Running {
    fn drop(&mut self) {
        self.house.go_to(Phase::Stopped);
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("phase", &self.house.phase()).finish_non_exhaustive()
    }
}

/// Why a manager did not start, or stopped.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ManagerError {
    /// The plan does not fit together.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A worker cannot be set up.
    #[error("worker `{name}`: {message}")]
    Worker {
        /// Its name.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// A provider or intake cannot be opened, or said at work that it cannot go on.
    #[error("provider `{name}`: {error}")]
    Provider {
        /// Its name.
        name: String,
        /// What it said.
        error: Arc<ProviderError>,
    },
    /// The system has no room for what it needs, or a part of ganger failed.
    #[error("{0}")]
    Stopped(String),
}
