//! ganger inside another program.

use std::{path::PathBuf, sync::Arc};

use ganger_core::{Admin, Events, Plugin, Provider, ProviderOptions, Registry, Sink, Status};
use ganger_manager::{Manager, Plan};
use serde_json::Value;

use crate::{
    Config, Error, Ports, Signals,
    config::{ConfigError, Problem, Syntax},
    plan::{opener, plan_of},
    plugins::{PLUGINS, function::CodeWorker},
};

/// ganger with every plugin that this program was built with.
pub fn builtin() -> Ganger {
    PLUGINS.iter().fold(empty(), |ganger, plugin| ganger.plugin(*plugin))
}

/// ganger with no plugins at all.
pub fn empty() -> Ganger {
    Ganger { registry: Registry::default(), fault: None, source: Source::Default, additions: Vec::new() }
}

/// A ganger to be: plugins, a config, and what the program adds of its own.
///
/// Without a config and without a provider of its own it does what the binary does without a config file.
pub struct Ganger {
    registry: Registry,
    fault: Option<Error>,
    source: Source,
    additions: Vec<Addition>,
}

enum Source {
    /// The default config, unless the program adds a provider.
    Default,
    File(PathBuf),
    Text(String, Syntax),
}

type Addition = Box<dyn FnOnce(Plan) -> Plan + Send>;

impl Ganger {
    /// Loads a plugin: this program's own, or a stranger's.
    pub fn plugin(mut self, plugin: Plugin) -> Self {
        if let Err(error) = self.registry.add(plugin) {
            self.fault.get_or_insert(error.into());
        }
        self
    }

    /// Takes the set-up from a config file.
    pub fn config_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.source = Source::File(file.into());
        self
    }

    /// Takes the set-up from a config's text.
    pub fn config_str(mut self, text: impl Into<String>, syntax: Syntax) -> Self {
        self.source = Source::Text(text.into(), syntax);
        self
    }

    /// Adds a worker made in the program, as by [`function`](crate::function).
    pub fn worker(self, worker: CodeWorker) -> Self {
        self.add(move |plan| plan.worker(&worker.name, worker.options, worker.workers))
    }

    /// Adds a provider of a loaded plugin, with its options as in a config entry.
    ///
    /// ```no_run
    /// let ganger = ganger::builtin().provider("disk", serde_json::json!({ "db_name": "jobs.db" }));
    /// ```
    pub fn provider(self, plugin: &str, options: Value) -> Self {
        let found = self.registry.provider(plugin).and_then(|found| {
            let checked = found.check(&options);
            Some((opener(found, options.clone())?, checked))
        });
        match found {
            Some((open, Ok(()))) => {
                let name = plugin.to_owned();
                self.add(move |plan| plan.provider(&name, ProviderOptions::default(), open))
            }
            Some((_, Err(error))) => {
                self.fail(format!("provider `{plugin}`, `{}`: {error}", error.path.join(".")))
            }
            None => self.fail(format!("there is no provider `{plugin}` among the plugins of this program")),
        }
    }

    /// Adds a provider that is open already.
    pub fn opened<P: Provider>(self, name: &str, provider: Arc<P>) -> Self {
        let name = name.to_owned();
        self.add(move |plan| plan.opened(&name, ProviderOptions::default(), provider))
    }

    fn add(mut self, addition: impl FnOnce(Plan) -> Plan + Send + 'static) -> Self {
        self.additions.push(Box::new(addition));
        self
    }

    fn fail(mut self, message: String) -> Self {
        let problems = vec![Problem { message, span: None, help: None }];
        self.fault.get_or_insert(ConfigError { file: None, text: String::new(), problems }.into());
        self
    }

    /// The plan, to look at or to change before it is run.
    ///
    /// # Errors
    /// The config cannot be used, or plugins clash.
    pub fn plan(self) -> Result<Plan, Error> {
        Ok(self.prepare()?.0)
    }

    fn prepare(self) -> Result<(Plan, Option<Config>), Error> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let added = self.additions.into_iter().fold(Plan::new(), |plan, add| add(plan));
        let config = match self.source {
            Source::Default if !added.providers.is_empty() => None,
            Source::Default => Some(Config::default_for(&self.registry)),
            Source::File(file) => Some(Config::load(&file, &self.registry)?),
            Source::Text(text, syntax) => Some(Config::parse(&text, syntax, &self.registry)?),
        };
        let mut plan = match &config {
            Some(config) => plan_of(config, &self.registry, Ports::Open),
            None => Plan { host: crate::host_name(), ..Plan::new() },
        };
        plan.providers.extend(added.providers);
        plan.workers.extend(added.workers);
        Ok((plan, config))
    }

    /// Starts, and returns at once.
    ///
    /// # Errors
    /// The config cannot be used, or something cannot be set up.
    pub async fn start(self) -> Result<Running, Error> {
        let (plan, config) = self.prepare()?;
        start(plan, config.as_ref()).await
    }

    /// Starts, and works until SIGTERM or SIGINT: the first lets running jobs finish, the second does not.
    ///
    /// # Errors
    /// As [`start`](Ganger::start), and what stopped it otherwise.
    pub async fn run(self) -> Result<(), Error> {
        let signals = Signals::listen()?;
        let running = self.start().await?;
        running.until(signals).await
    }
}

/// Starts a plan, and what its config wants besides.
pub(crate) async fn start(plan: Plan, config: Option<&Config>) -> Result<Running, Error> {
    for note in config.iter().flat_map(|config| &config.notes) {
        tracing::info!("{note}");
    }
    for warning in config.iter().flat_map(|config| &config.warnings) {
        tracing::warn!("{warning}");
    }
    let manager = Manager::start(plan).await?;
    #[cfg(feature = "console")]
    let console = match config {
        Some(config) => serve_stats(&config.stats, config.stats_keys(), manager.status()).await?,
        None => None,
    };
    Ok(Running {
        manager,
        #[cfg(feature = "console")]
        _console: console,
    })
}

/// Serves figures and health, if they are wanted and their address is free.
#[cfg(feature = "console")]
pub(crate) async fn serve_stats(
    stats: &crate::config::StatsConfig,
    keys: Vec<(String, String)>,
    status: Arc<dyn Status>,
) -> Result<Option<ganger_console::Console>, Error> {
    let Some(listen) = &stats.listen else { return Ok(None) };
    let options = ganger_console::Options {
        token: stats.token.clone(),
        hosts: stats.hosts.clone(),
        keys,
        ..ganger_console::Options::new(listen)
    };
    match ganger_console::Console::open(options, status).await {
        Ok(console) => Ok(Some(console)),
        Err(error) if error.is_taken() && !stats.configured => {
            tracing::warn!("{error}: figures are not served; name another `stats_port`, or \"off\"");
            Ok(None)
        }
        Err(error) => Err(Error::Stats(error.to_string())),
    }
}

/// ganger at work inside a program. Dropped without [`drain`](Running::drain), it ends at once.
pub struct Running {
    pub(crate) manager: ganger_manager::Running,
    #[cfg(feature = "console")]
    pub(crate) _console: Option<ganger_console::Console>,
}

impl Running {
    /// Where jobs are put in: a provider's sink, the default one for `None`. `None` while it is not open yet.
    pub fn sink(&self, name: Option<&str>) -> Option<Arc<dyn Sink>> {
        self.manager.sink(name)
    }

    /// Looks at a provider's jobs and changes them; the default one's for `None`.
    pub fn admin(&self, name: Option<&str>) -> Option<Arc<dyn Admin>> {
        self.manager.admin(name)
    }

    /// Its figures and its readiness.
    pub fn status(&self) -> Arc<dyn Status> {
        self.manager.status()
    }

    /// What happens to its jobs.
    pub fn events(&self) -> Events {
        self.manager.events()
    }

    /// Begins to end: running jobs may finish within the grace. Returns at once.
    pub fn drain(&self) {
        self.manager.drain();
    }

    /// Ends without the grace; everything is still handed back. Returns at once.
    pub fn hurry(&self) {
        self.manager.hurry();
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// What stopped it, if it was not asked to.
    pub async fn ended(&self) -> Result<(), Error> {
        Ok(self.manager.ended().await?)
    }

    /// Works until a signal: the first lets running jobs finish, the second does not.
    ///
    /// # Errors
    /// What stopped it otherwise.
    pub async fn until(&self, mut signals: Signals) -> Result<(), Error> {
        let mut asked = false;
        let mut ended = std::pin::pin!(self.ended());
        loop {
            let signal = std::pin::pin!(signals.next());
            match futures_util::future::select(ended.as_mut(), signal).await {
                futures_util::future::Either::Left((end, _)) => return end,
                futures_util::future::Either::Right(_) if asked => {
                    tracing::warn!("a second signal: stopping running jobs now");
                    self.hurry();
                }
                futures_util::future::Either::Right((signal, _)) => {
                    tracing::info!(?signal, "finishing running jobs; a second signal stops them");
                    asked = true;
                    self.drain();
                }
            }
        }
    }
}
