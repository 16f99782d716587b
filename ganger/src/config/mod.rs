//! The config file: one file in JSON, TOML or YAML, read into a [`Config`] that fits together, or into a
//! [`ConfigError`] that says what does not, and where.

mod check;
mod entry;
mod error;
mod interpolate;
mod json;
mod mask;
mod node;
mod read;
mod schema;
mod stats;
mod toml;
mod top;
mod yaml;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ganger_core::Registry;

pub use entry::{SourceEntry, SourceOptions, WorkerEntry};
#[cfg(feature = "cli")]
pub(crate) use error::suggest;
pub use error::{ConfigError, Problem};
pub use read::Syntax;
#[cfg(feature = "cli")]
pub(crate) use schema::resolve;
pub use stats::StatsConfig;

use node::Span;

/// What ganger does without a config file.
pub const DEFAULT_CONFIG: &str = include_str!("default.toml");

/// A config that was read and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file; `None` for the default config, or one given as text.
    pub file: Option<PathBuf>,
    /// Whether it is the default config.
    pub is_default: bool,
    /// Where jobs come from.
    pub sources: Vec<SourceEntry>,
    /// Who does them.
    pub workers: Vec<WorkerEntry>,
    /// What happens to dead jobs, in this order.
    pub handlers: Vec<WorkerEntry>,
    /// Where figures and health are read.
    pub stats: StatsConfig,
    /// How long a shutdown waits for running jobs.
    pub grace: Option<Duration>,
    /// How much of a run's output is kept, in bytes.
    pub output_max: Option<u64>,
    /// Whether jobs of a type that nobody does are dead rather than set aside.
    pub unknown_is_dead: bool,
    /// What the reader may want to know: settings without effect, addresses that were filled in.
    pub notes: Vec<String>,
    /// What is dangerous about it.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or does not fit: with places.
    pub fn load(file: &Path, registry: &Registry) -> Result<Config, ConfigError> {
        let fault = |text: String, problem: Problem| ConfigError {
            file: Some(file.to_owned()),
            text,
            problems: vec![problem],
        };
        let syntax = Syntax::of(file).map_err(|problem| fault(String::new(), problem))?;
        let bytes = read_bounded(file).map_err(|error| {
            let problem = Problem::whole(format!("cannot be read: {error}"));
            let help = (error.kind() == std::io::ErrorKind::NotFound)
                .then(|| "check the path, or leave `-c` out: ganger works without a config file".to_owned());
            fault(String::new(), problem.maybe_help(help))
        })?;
        let text = read::text(bytes)
            .map_err(|(text, problem)| fault(mask::blot(&text, &mask::words(&text)), problem))?;
        Config::read(Some(file), &text, syntax, registry)
    }

    /// Reads a config from its text.
    ///
    /// # Errors
    /// It does not fit: with places.
    pub fn parse(text: &str, syntax: Syntax, registry: &Registry) -> Result<Config, ConfigError> {
        Config::read(None, text, syntax, registry)
    }

    /// The config without a file. What it names and the program was built without is left out.
    ///
    /// # Panics
    /// Never: the text is part of the program and tested.
    pub fn default_for(registry: &Registry) -> Config {
        let mut config = top::read_default(registry).expect("the default config is tested");
        config.is_default = true;
        for source in &mut config.sources {
            source.configured = false;
        }
        config.stats.configured = false;
        config
    }

    fn read(
        file: Option<&Path>,
        text: &str,
        syntax: Syntax,
        registry: &Registry,
    ) -> Result<Config, ConfigError> {
        let mut hidden: Vec<Span> = Vec::new();
        top::read(text, syntax, registry, false, &mut hidden)
            .map(|config| Config { file: file.map(Path::to_owned), ..config })
            .map_err(|problems| ConfigError {
                file: file.map(Path::to_owned),
                text: mask::blot(text, &hidden),
                problems,
            })
    }

    /// The provider of a name; `None` for the name is the one that takes jobs in by default: the first `disk`
    /// provider, else the first that takes jobs in.
    pub fn provider(&self, name: Option<&str>) -> Option<&SourceEntry> {
        let mut providers = self.providers();
        match name {
            Some(name) => providers.find(|source| source.name == name),
            None => self
                .providers()
                .find(|source| source.plugin.name == "disk")
                .or_else(|| providers.find(|source| can_sink(source))),
        }
    }

    /// The providers, without the intakes.
    pub fn providers(&self) -> impl Iterator<Item = &SourceEntry> {
        self.sources.iter().filter(|source| matches!(source.generic, SourceOptions::Provider(_)))
    }

    /// The keys of providers in the figures, by their names: GoWorker's, where it had one.
    pub fn stats_keys(&self) -> Vec<(String, String)> {
        self.sources.iter().filter_map(|source| Some((source.name.clone(), stats_key(source)?))).collect()
    }

    /// The name of its file for people.
    pub fn name(&self) -> String {
        match &self.file {
            Some(file) => file.display().to_string(),
            None if self.is_default => "the default config".to_owned(),
            None => "the config".to_owned(),
        }
    }
}

fn stats_key(source: &SourceEntry) -> Option<String> {
    let schema = source.plugin.config_schema();
    let option = |name: &str| {
        let default = || schema.as_value().pointer(&format!("/properties/{name}/default"));
        source.options.get(name).or_else(default).and_then(|value| value.as_str()).map(str::to_owned)
    };
    match source.plugin.name {
        "http" => Some(format!("http_{}{}", option("listen_on")?, option("endpoint")?)),
        "redis" => Some(format!("redis_{}", option("job_list")?)),
        _ => None,
    }
}

fn can_sink(source: &SourceEntry) -> bool {
    matches!(source.plugin.role, ganger_core::Role::Provider { capabilities, .. } if capabilities.sink)
}

/// The file's bytes, one more than allowed at most, so that a device or a huge file does no harm.
fn read_bounded(file: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(read::FILE_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
