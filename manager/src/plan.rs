//! The whole set-up as one value: made from the config or by an embedding program, checked, then run.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ganger_core::{
    BoxFuture, Catalog, Clock, DynIntake, DynProvider, Events, HANDLER_PREFIX, IntakeContext, OUTPUT_MAX,
    Provider, ProviderContext, ProviderError, ProviderOptions, Secret, TypeInfo, WorkerOptions, Workers,
    draw_incarnation, erase_provider,
};
use serde_json::value::RawValue;

use crate::{Runtimes, SystemClock};

/// How long a drain waits for running jobs by default.
pub const GRACE: Duration = Duration::from_secs(30);

/// Opens a provider; called again while it fails with a transient error.
pub type OpenProviderFn = Arc<
    dyn Fn(ProviderContext) -> BoxFuture<'static, Result<Arc<dyn DynProvider>, ProviderError>> + Send + Sync,
>;

/// Gets an intake ready; called again while it fails with a transient error.
pub type OpenIntakeFn =
    Arc<dyn Fn(IntakeContext) -> BoxFuture<'static, Result<Box<dyn DynIntake>, ProviderError>> + Send + Sync>;

/// Everything that a manager needs. Start from [`Plan::new`] and add to it.
#[derive(Clone)]
pub struct Plan {
    /// Where jobs come from.
    pub providers: Vec<ProviderPlan>,
    /// Where jobs come in.
    pub intakes: Vec<IntakePlan>,
    /// Who does them, one entry a type.
    pub workers: Vec<WorkerPlan>,
    /// What happens to dead jobs: in this order.
    pub handlers: Vec<HandlerPlan>,
    /// How long a drain waits for running jobs.
    pub grace: Duration,
    /// How much of a run's output is kept, in bytes.
    pub output_max: usize,
    /// What becomes of a job whose type nobody does.
    pub unknown: UnknownType,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where state changes, output and progress are told.
    pub events: Events,
    /// Marks this run of ganger: children carry it in their environment (`GANGER_RUN`).
    pub run: Secret,
    /// This machine's name, as it shows in the register of managers.
    pub host: String,
    /// The incarnation in all tokens. Drawn at random; set only by a simulation, which must be replayable.
    pub incarnation: u64,
    /// Where its tasks run.
    pub runtimes: Runtimes,
}

/// A provider of a [`Plan`].
#[derive(Clone)]
pub struct ProviderPlan {
    /// The instance's name.
    pub name: String,
    /// Opens it.
    pub open: OpenProviderFn,
    /// Options that every provider has.
    pub options: ProviderOptions,
}

/// An intake of a [`Plan`].
#[derive(Clone)]
pub struct IntakePlan {
    /// The instance's name.
    pub name: String,
    /// Gets it ready.
    pub open: OpenIntakeFn,
    /// The provider that its jobs are stored in; `None` is the first durable one that takes jobs in.
    pub into: Option<String>,
    /// Whether the address it listens on was asked for in the config.
    pub configured: bool,
}

/// A worker of a [`Plan`].
#[derive(Clone)]
pub struct WorkerPlan {
    /// The instance's name: the type of the jobs it does.
    pub name: String,
    /// Makes its workers.
    pub workers: Arc<dyn Workers>,
    /// Options that every worker has.
    pub options: WorkerOptions,
}

/// A failure handler of a [`Plan`]: its jobs are of the type `failure_handler.<name>`.
#[derive(Clone)]
pub struct HandlerPlan {
    /// The instance's name.
    pub name: String,
    /// Makes its workers.
    pub workers: Arc<dyn Workers>,
    /// Options that every worker has.
    pub options: WorkerOptions,
    /// The params of each of its jobs. They are given to a job when it runs and stored nowhere.
    pub params: Option<Box<RawValue>>,
}

/// What becomes of a job whose type no worker here does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownType {
    /// It is set aside until someone does its type.
    #[default]
    Park,
    /// It is dead, unless a live manager's beat names its type.
    Dead,
}

impl Default for Plan {
    fn default() -> Self {
        Plan::new()
    }
}

impl Plan {
    /// Nothing to do yet: no providers, no workers, everything else as it is by default.
    pub fn new() -> Plan {
        Plan {
            providers: Vec::new(),
            intakes: Vec::new(),
            workers: Vec::new(),
            handlers: Vec::new(),
            grace: GRACE,
            output_max: OUTPUT_MAX,
            unknown: UnknownType::default(),
            clock: Arc::new(SystemClock::new()),
            events: Events::default(),
            run: Secret::new(format!("{:016x}", draw_incarnation())),
            host: "localhost".to_owned(),
            incarnation: draw_incarnation(),
            runtimes: Runtimes::own(),
        }
    }

    /// Adds a provider that is opened when the manager starts.
    pub fn provider(mut self, name: &str, options: ProviderOptions, open: OpenProviderFn) -> Plan {
        self.providers.push(ProviderPlan { name: name.to_owned(), open, options });
        self
    }

    /// Adds a provider that is open already: an embedding program's own.
    pub fn opened<P: Provider>(self, name: &str, options: ProviderOptions, provider: Arc<P>) -> Plan {
        self.opened_dyn(name, options, erase_provider(provider))
    }

    /// Adds a provider that is open already and erased.
    pub fn opened_dyn(self, name: &str, options: ProviderOptions, provider: Arc<dyn DynProvider>) -> Plan {
        let open: OpenProviderFn = Arc::new(move |_| {
            let provider = provider.clone();
            Box::pin(async move { Ok(provider) })
        });
        self.provider(name, options, open)
    }

    /// Adds an intake.
    pub fn intake(mut self, intake: IntakePlan) -> Plan {
        self.intakes.push(intake);
        self
    }

    /// Adds a worker: `name` is the type of the jobs it does.
    pub fn worker(mut self, name: &str, options: WorkerOptions, workers: Arc<dyn Workers>) -> Plan {
        self.workers.push(WorkerPlan { name: name.to_owned(), workers, options });
        self
    }

    /// Adds a failure handler, after those that are there.
    pub fn handler(mut self, handler: HandlerPlan) -> Plan {
        self.handlers.push(handler);
        self
    }

    /// What jobs from outside may be: the workers' types, failure handlers left out.
    pub fn catalog(&self) -> Catalog {
        let info = |worker: &WorkerPlan| {
            let traits = worker.workers.traits();
            TypeInfo {
                kind: worker.name.as_str().into(),
                runs_commands: traits.runs_commands,
                carries: traits.carries,
                params: worker.workers.params_check(),
            }
        };
        Catalog::new(self.workers.iter().map(info).collect())
    }

    /// Checks that everything fits together, without opening anything.
    ///
    /// # Errors
    /// The first thing that does not fit, in words for the person who wrote the config.
    pub fn check(&self) -> Result<(), PlanError> {
        self.check_sources()?;
        self.check_pools()?;
        for intake in &self.intakes {
            let Some(into) = &intake.into else { continue };
            if !self.providers.iter().any(|provider| provider.name == *into) {
                return Err(PlanError(format!(
                    "`{}` stores its jobs into `{into}`, but there is no such provider (there {})",
                    intake.name,
                    names(self.providers.iter().map(|provider| provider.name.as_str()))
                )));
            }
        }
        Ok(())
    }

    fn check_sources(&self) -> Result<(), PlanError> {
        if self.providers.is_empty() {
            return Err(PlanError("there is no provider: add one, jobs must come from somewhere".into()));
        }
        let mut seen = HashSet::new();
        let sources = self.providers.iter().map(|provider| provider.name.as_str());
        for name in sources.chain(self.intakes.iter().map(|intake| intake.name.as_str())) {
            if !seen.insert(name) {
                return Err(PlanError(format!(
                    "two providers are named `{name}`: give one of them another `name`"
                )));
            }
        }
        for provider in &self.providers {
            let lease = provider.options.lease.map_or(ganger_core::LEASE, |lease| lease.get());
            if lease < Duration::from_secs(1) {
                return Err(PlanError(format!(
                    "provider `{}`: a lease of less than 1s cannot be kept",
                    provider.name
                )));
            }
        }
        Ok(())
    }

    fn check_pools(&self) -> Result<(), PlanError> {
        let mut seen = HashSet::new();
        for worker in &self.workers {
            if worker.name.starts_with(HANDLER_PREFIX) {
                return Err(PlanError(format!(
                    "worker `{}`: names that begin with `{HANDLER_PREFIX}` are for failure handlers",
                    worker.name
                )));
            }
            check_pool("worker", &worker.name, &worker.options, &mut seen)?;
        }
        seen.clear();
        for handler in &self.handlers {
            check_pool("failure handler", &handler.name, &handler.options, &mut seen)?;
        }
        Ok(())
    }
}

fn check_pool<'a>(
    what: &str,
    name: &'a str,
    options: &WorkerOptions,
    seen: &mut HashSet<&'a str>,
) -> Result<(), PlanError> {
    if !seen.insert(name) {
        return Err(PlanError(format!("two {what}s are named `{name}`: give one of them another `name`")));
    }
    if options.workers == 0 {
        return Err(PlanError(format!(
            "{what} `{name}`: `workers` must be at least 1, or leave the entry out"
        )));
    }
    if options.max_crashes == 0 {
        return Err(PlanError(format!("{what} `{name}`: `max_crashes` must be at least 1")));
    }
    if options.timeout.is_some_and(|limit| limit.get().is_zero()) {
        return Err(PlanError(format!(
            "{what} `{name}`: `timeout` is no time at all: leave it out for none"
        )));
    }
    Ok(())
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => "are none".to_owned(),
        1 => format!("is {}", names[0]),
        _ => format!("are {}", names.join(", ")),
    }
}

/// What does not fit in a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(String);
