//! Plugins as values, and the registry that finds them by name.

use std::{marker::PhantomData, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    BoxFuture, Capabilities, DynIntake, DynProvider, Intake, IntakeContext, OptionsError, ParamsCheck,
    Provider, ProviderContext, ProviderError, Slots, Worker, WorkerContext, WorkerError, WorkerTraits,
    Workers, erase_provider, erase_slots,
};

/// A plugin: a value that its crate exports as `PLUGIN`, loaded by one line in `ganger/src/plugins.rs`.
///
/// ```text
/// pub const PLUGIN: Plugin = Plugin::provider::<MyProvider>(include_str!("../README.md"));
/// ```
#[derive(Clone, Copy)]
pub struct Plugin {
    /// Its name in the config file.
    pub name: &'static str,
    /// Its README: the first line after the title says what it does.
    pub readme: &'static str,
    /// What it is, and how it is made.
    pub role: Role,
    config_schema: fn() -> Schema,
    check: fn(&Value) -> Result<(), OptionsError>,
}

/// What a plugin is, and how it is made.
#[derive(Clone, Copy)]
pub enum Role {
    /// A source of jobs that can be leased.
    Provider {
        /// What it can do.
        capabilities: Capabilities,
        /// Opens it.
        open: OpenProvider,
    },
    /// Takes jobs in.
    Intake {
        /// Gets it ready.
        open: OpenIntake,
    },
    /// Does jobs.
    Worker {
        /// What is special about it.
        traits: WorkerTraits,
        /// The arguments of its jobs.
        params_schema: fn() -> Schema,
        /// Checks the arguments of a job without running it.
        check_params: fn(&Value) -> Result<(), OptionsError>,
        /// Makes what checks the params of jobs that come in, from the worker's options.
        params_check: MakeParamsCheck,
        /// What is worth a word about an entry, from the worker's options.
        about: fn(&Value) -> Option<String>,
        /// Makes its shared part.
        share: ShareWorker,
    },
}

/// Opens a provider from its options.
pub type OpenProvider =
    fn(Value, ProviderContext) -> BoxFuture<'static, Result<Arc<dyn DynProvider>, ProviderError>>;
/// Gets an intake ready from its options.
pub type OpenIntake =
    fn(Value, IntakeContext) -> BoxFuture<'static, Result<Box<dyn DynIntake>, ProviderError>>;
/// Makes the check of a worker's params from its options.
pub type MakeParamsCheck = fn(Value) -> Result<ParamsCheck, OptionsError>;
/// Makes a worker's shared part from its options.
pub type ShareWorker = fn(Value, WorkerContext) -> BoxFuture<'static, Result<Arc<dyn Slots>, WorkerError>>;

impl Plugin {
    /// A provider's plugin value.
    pub const fn provider<P: Provider>(readme: &'static str) -> Self {
        Plugin {
            name: P::NAME,
            readme,
            role: Role::Provider { capabilities: P::CAPABILITIES, open: open_provider::<P> },
            config_schema: schema::<P::Config>,
            check: check::<P::Config>,
        }
    }

    /// An intake's plugin value.
    pub const fn intake<I: Intake>(readme: &'static str) -> Self {
        Plugin {
            name: I::NAME,
            readme,
            role: Role::Intake { open: open_intake::<I> },
            config_schema: schema::<I::Config>,
            check: check::<I::Config>,
        }
    }

    /// A worker's plugin value.
    pub const fn worker<W: Worker>(readme: &'static str) -> Self {
        Plugin {
            name: W::NAME,
            readme,
            role: Role::Worker {
                traits: WorkerTraits::of::<W>(),
                params_schema: schema::<W::Params>,
                check_params: check::<W::Params>,
                params_check: params_check::<W>,
                about: about::<W>,
                share: share_worker::<W>,
            },
            config_schema: schema::<W::Config>,
            check: check::<W::Config>,
        }
    }

    /// `provider`, `intake` or `worker`.
    pub const fn role_name(&self) -> &'static str {
        match self.role {
            Role::Provider { .. } => "provider",
            Role::Intake { .. } => "intake",
            Role::Worker { .. } => "worker",
        }
    }

    /// What it does, in a line: the first paragraph of its README after the title.
    pub fn summary(&self) -> &'static str {
        self.readme
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with('#'))
            .unwrap_or("")
    }

    /// What it can do, if it is a provider.
    pub fn can(&self) -> Option<Capabilities> {
        match self.role {
            Role::Provider { capabilities, .. } => Some(capabilities),
            _ => None,
        }
    }

    /// The JSON Schema of its own options; those that every entry has come on top.
    pub fn config_schema(&self) -> Schema {
        (self.config_schema)()
    }

    /// What is worth a word about an entry with these options, which fit.
    pub fn about(&self, options: &Value) -> Option<String> {
        match self.role {
            Role::Worker { about, .. } => about(options),
            _ => None,
        }
    }

    /// Checks its own options without opening anything.
    ///
    /// # Errors
    /// [`OptionsError`] with the option's path.
    pub fn check(&self, options: &Value) -> Result<(), OptionsError> {
        (self.check)(options)
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plugin({} {})", self.role_name(), self.name)
    }
}

fn schema<T: JsonSchema>() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<T>()
}

fn check<T: DeserializeOwned>(options: &Value) -> Result<(), OptionsError> {
    read_options::<T>(options.clone()).map(drop)
}

fn params_check<W: Worker>(options: Value) -> Result<ParamsCheck, OptionsError> {
    read_options::<W::Config>(options).map(ParamsCheck::worker::<W>)
}

fn about<W: Worker>(options: &Value) -> Option<String> {
    W::about(&read_options::<W::Config>(options.clone()).ok()?)
}

/// Reads options, keeping the path of what does not fit.
///
/// # Errors
/// [`OptionsError`] with the option's path.
pub fn read_options<T: DeserializeOwned>(options: Value) -> Result<T, OptionsError> {
    serde_path_to_error::deserialize(options)
        .map_err(|error| OptionsError { path: path_of(error.path()), message: error.inner().to_string() })
}

pub(crate) fn path_of(path: &serde_path_to_error::Path) -> Vec<String> {
    let name = |segment: &serde_path_to_error::Segment| match segment {
        serde_path_to_error::Segment::Unknown => None,
        other => Some(other.to_string().trim_matches(['[', ']']).to_owned()),
    };
    path.iter().filter_map(name).collect()
}

/// serde's words for types, in words.
pub fn in_words(message: &str) -> String {
    const WORDS: [(&str, &str); 12] = [
        ("expected u8", "expected a whole number, not below 0"),
        ("expected u16", "expected a whole number, not below 0"),
        ("expected u32", "expected a whole number, not below 0"),
        ("expected u64", "expected a whole number, not below 0"),
        ("expected usize", "expected a whole number, not below 0"),
        ("expected i32", "expected a whole number"),
        ("expected i64", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("expected a boolean", "expected true or false"),
        ("expected a sequence", "expected a list"),
        ("expected a string", "expected a text"),
        ("expected a map", "expected a set of keys"),
    ];
    WORDS.iter().fold(message.to_owned(), |message, (theirs, ours)| message.replace(theirs, ours))
}

/// serde_json's message without the position, where the path says it better.
pub(crate) fn without_position(message: &str) -> &str {
    message.rsplit_once(" at line ").map_or(message, |(message, _)| message)
}

fn open_provider<P: Provider>(
    options: Value,
    cx: ProviderContext,
) -> BoxFuture<'static, Result<Arc<dyn DynProvider>, ProviderError>> {
    Box::pin(async move {
        let config =
            read_options::<P::Config>(options).map_err(|error| ProviderError::fatal(error.to_string()))?;
        Ok(erase_provider(Arc::new(P::open(config, &cx).await?)))
    })
}

fn open_intake<I: Intake>(
    options: Value,
    cx: IntakeContext,
) -> BoxFuture<'static, Result<Box<dyn DynIntake>, ProviderError>> {
    Box::pin(async move {
        let config =
            read_options::<I::Config>(options).map_err(|error| ProviderError::fatal(error.to_string()))?;
        Ok(Box::new(I::open(config, cx).await?) as Box<dyn DynIntake>)
    })
}

fn share_worker<W: Worker>(
    options: Value,
    cx: WorkerContext,
) -> BoxFuture<'static, Result<Arc<dyn Slots>, WorkerError>> {
    Box::pin(async move {
        let config =
            read_options::<W::Config>(options).map_err(|error| WorkerError::new(error.to_string()))?;
        Ok(erase_slots::<W>(W::share(config, &cx).await?))
    })
}

/// A worker plugin with its options: the [`Workers`] of one config entry.
pub struct ConfiguredWorkers {
    plugin: Plugin,
    options: Value,
}

impl ConfiguredWorkers {
    /// The workers of an entry; `None` if the plugin is no worker.
    pub fn new(plugin: Plugin, options: Value) -> Option<Self> {
        matches!(plugin.role, Role::Worker { .. }).then_some(ConfiguredWorkers { plugin, options })
    }
}

impl Workers for ConfiguredWorkers {
    fn traits(&self) -> WorkerTraits {
        match self.plugin.role {
            Role::Worker { traits, .. } => traits,
            _ => WorkerTraits::default(),
        }
    }

    fn params_check(&self) -> ParamsCheck {
        match self.plugin.role {
            // Options that do not fit are refused where they are read.
            Role::Worker { params_check, .. } => params_check(self.options.clone()).unwrap_or_default(),
            _ => ParamsCheck::default(),
        }
    }

    fn share<'a>(&'a self, cx: &'a WorkerContext) -> BoxFuture<'a, Result<Arc<dyn Slots>, WorkerError>> {
        match self.plugin.role {
            Role::Worker { share, .. } => share(self.options.clone(), cx.clone()),
            _ => Box::pin(async { Err(WorkerError::new("this plugin is no worker")) }),
        }
    }
}

/// A worker type with its config as a value: the [`Workers`] of a program that embeds ganger.
pub struct TypedWorkers<W: Worker> {
    config: W::Config,
    worker: PhantomData<fn() -> W>,
}

impl<W: Worker> TypedWorkers<W>
where
    W::Config: Clone,
{
    /// Workers of type `W`, made with `config`.
    pub fn new(config: W::Config) -> Self {
        TypedWorkers { config, worker: PhantomData }
    }
}

impl<W: Worker> Workers for TypedWorkers<W>
where
    W::Config: Clone,
{
    fn traits(&self) -> WorkerTraits {
        WorkerTraits::of::<W>()
    }

    fn params_check(&self) -> ParamsCheck {
        ParamsCheck::worker::<W>(self.config.clone())
    }

    fn share<'a>(&'a self, cx: &'a WorkerContext) -> BoxFuture<'a, Result<Arc<dyn Slots>, WorkerError>> {
        Box::pin(async move { Ok(erase_slots::<W>(W::share(self.config.clone(), cx).await?)) })
    }
}

/// The plugins of a program, found by role and name.
#[derive(Clone, Debug, Default)]
pub struct Registry(Vec<Plugin>);

impl Registry {
    /// Adds a plugin. An intake and a provider share one space of names, since both stand among the providers.
    ///
    /// # Errors
    /// The name is taken.
    pub fn add(&mut self, plugin: Plugin) -> Result<(), WorkerError> {
        let is_worker = matches!(plugin.role, Role::Worker { .. });
        if self.find(is_worker, plugin.name).is_some() {
            return Err(WorkerError::new(format!(
                "two plugins are both the {} `{}`: load only one of them",
                plugin.role_name(),
                plugin.name
            )));
        }
        self.0.push(plugin);
        Ok(())
    }

    /// All plugins, in the order in which they were added.
    pub fn all(&self) -> &[Plugin] {
        &self.0
    }

    /// A worker by name.
    pub fn worker(&self, name: &str) -> Option<Plugin> {
        self.find(true, name)
    }

    /// A provider or intake by name.
    pub fn provider(&self, name: &str) -> Option<Plugin> {
        self.find(false, name)
    }

    fn find(&self, is_worker: bool, name: &str) -> Option<Plugin> {
        let fits =
            |plugin: &&Plugin| plugin.name == name && matches!(plugin.role, Role::Worker { .. }) == is_worker;
        self.0.iter().find(fits).copied()
    }
}
