//! The intake: takes jobs in and makes them durable in a sink.

use std::sync::Arc;

use compact_str::CompactString;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::{Admin, BoxFuture, Clock, Events, Job, ParamsCheck, ProviderError, Sink, Stop};

/// What an intake is given when it is opened.
#[derive(Clone)]
pub struct IntakeContext {
    /// The instance's name: the plugin's, or the `name` in its config entry.
    pub name: String,
    /// The types that the config's workers do.
    pub catalog: Arc<Catalog>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Whether the address it listens on was asked for in the config: a default one that is taken is a warning.
    pub configured: bool,
}

/// Where an intake puts jobs, and where it looks for their ends.
#[derive(Clone)]
pub struct IntakeSink {
    /// The sink's name in the config.
    pub name: String,
    /// Where jobs become durable.
    pub sink: Arc<dyn Sink>,
    /// Looks at stored jobs, where the store can.
    pub admin: Option<Arc<dyn Admin>>,
    /// What happens to the jobs that this process runs.
    pub events: Events,
}

/// A provider that cannot lease: it takes jobs in (an HTTP request, a clock tick, standard input) and makes
/// them durable in a sink. In the config it stands among the providers.
pub trait Intake: Sized + Send + 'static {
    /// Its name in the config file.
    const NAME: &'static str;

    /// Its options in the config file.
    type Config: DeserializeOwned + JsonSchema + Send;

    /// Gets ready: binds its address, checks its options. Nothing is taken in yet.
    ///
    /// # Behavior
    /// - An address that is taken is a fatal error that names it.
    fn open(
        config: Self::Config,
        cx: IntakeContext,
    ) -> impl Future<Output = Result<Self, ProviderError>> + Send;

    /// Takes jobs in until `stop`, then lets what is under way end.
    ///
    /// # Behavior
    /// - A job is acknowledged only when its sink has it.
    /// - After `stop` nothing more is taken in.
    fn run(self, sink: IntakeSink, stop: Stop) -> impl Future<Output = Result<(), ProviderError>> + Send;
}

/// An [`Intake`] with its types erased.
pub trait DynIntake: Send {
    /// See [`Intake::run`].
    fn run(self: Box<Self>, sink: IntakeSink, stop: Stop) -> BoxFuture<'static, Result<(), ProviderError>>;
}

impl<I: Intake> DynIntake for I {
    fn run(self: Box<Self>, sink: IntakeSink, stop: Stop) -> BoxFuture<'static, Result<(), ProviderError>> {
        Box::pin(Intake::run(*self, sink, stop))
    }
}

/// What an outsider's job may be: the types that the config's workers do, and what is special about each.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    types: Vec<TypeInfo>,
}

/// A type of the [`Catalog`].
#[derive(Clone, Debug, Default)]
pub struct TypeInfo {
    /// The type's name.
    pub kind: CompactString,
    /// Whether its worker runs commands that the job names.
    pub runs_commands: bool,
    /// The params in which its jobs carry jobs.
    pub carries: &'static [&'static str],
    /// Checks the params of its jobs.
    pub params: ParamsCheck,
}

/// How deep jobs may carry jobs.
pub const CARRY_MAX: usize = 8;

impl Catalog {
    /// A catalog of these types.
    pub fn new(types: Vec<TypeInfo>) -> Self {
        Catalog { types }
    }

    /// A type, if a worker here does it.
    pub fn get(&self, kind: &str) -> Option<&TypeInfo> {
        self.types.iter().find(|info| info.kind == kind)
    }

    /// The names of all types.
    pub fn names(&self) -> Vec<&str> {
        self.types.iter().map(|info| info.kind.as_str()).collect()
    }

    /// Holds a job's params against the worker that does its type here; a type that others do is theirs to judge.
    ///
    /// # Errors
    /// What is wrong, in a sentence that names the type and the field.
    pub fn check_params(&self, job: &Job) -> Result<(), String> {
        self.get(&job.kind).map_or(Ok(()), |info| info.params.check(job))
    }

    /// The job and all jobs that it carries, to any depth: what an intake's `accept` list is held against.
    ///
    /// # Errors
    /// A carried job that is malformed, or carried deeper than [`CARRY_MAX`].
    pub fn unpack(&self, job: &Job) -> Result<Vec<CompactString>, crate::Malformed> {
        let mut kinds = vec![job.kind.clone()];
        self.unpack_into(job, 1, &mut kinds)?;
        Ok(kinds)
    }

    fn unpack_into(
        &self,
        job: &Job,
        depth: usize,
        kinds: &mut Vec<CompactString>,
    ) -> Result<(), crate::Malformed> {
        let carries = self.get(&job.kind).map_or(&[][..], |info| info.carries);
        if carries.is_empty() {
            return Ok(());
        }
        if depth > CARRY_MAX {
            return Err(crate::Malformed::whole(format!("jobs carry jobs deeper than {CARRY_MAX} levels")));
        }
        let params: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(job.params_text()).unwrap_or_default();
        for (key, value) in params {
            if !carries.iter().any(|name| name.eq_ignore_ascii_case(&key)) {
                continue;
            }
            // The text once more: an object's keys must be read as the worker will read them.
            let carried = Job::from_json(value.to_string().as_bytes())?;
            kinds.push(carried.kind.clone());
            self.unpack_into(&carried, depth + 1, kinds)?;
        }
        Ok(())
    }
}
