//! Options that every entry of a kind has in the config, whatever its plugin.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{Backoff, CRASHES_MAX, Period};

/// Options of every provider entry.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ProviderOptions {
    /// Renames the instance, so that a plugin may appear twice.
    pub name: Option<String>,
    /// At most so many jobs a second from this provider; 0 is no limit.
    pub target: f64,
    /// How the provider's bytes are read as jobs.
    pub format: Format,
    /// How long a lease lasts: 15 s unless it is said. It is renewed at a third of it; jobs of a manager that died run
    /// elsewhere after it.
    pub lease: Option<Period>,
}

/// Options of every intake entry.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IntakeOptions {
    /// Renames the instance, so that a plugin may appear twice.
    pub name: Option<String>,
    /// The provider that the jobs are stored in: its name in this config. Default: the `disk` provider.
    pub into: Option<String>,
}

/// How a provider's bytes are read as jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// ganger's and GoWorker's job JSON.
    #[default]
    Json,
}

/// Options of every worker and failure-handler entry.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WorkerOptions {
    /// Renames the instance: the `type` of the jobs it does.
    pub name: Option<String>,
    /// How many jobs of this type run at once.
    pub workers: u32,
    /// How often a failed job is run again, for jobs that do not say.
    pub retries: u32,
    /// How long to wait before each retry, for jobs that do not say.
    pub backoff: Backoff,
    /// The longest single run, for jobs that do not say.
    pub timeout: Option<Period>,
    /// After so many lost runs a job is dead as `crashed`.
    pub max_crashes: u32,
}

/// GoWorker's default number of workers of a type.
pub const SLOTS: u32 = 20;

impl Default for WorkerOptions {
    fn default() -> Self {
        WorkerOptions {
            name: None,
            workers: SLOTS,
            retries: 0,
            backoff: Backoff::default(),
            timeout: None,
            max_crashes: CRASHES_MAX,
        }
    }
}
