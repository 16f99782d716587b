//! The options of a `cli` entry in the config.

use std::time::Duration;

use ganger_child::{Env, Text};
use ganger_core::Period;
use schemars::JsonSchema;
use serde::Deserialize;

/// Options of a `cli` entry.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Variables of ganger's own environment that commands get too, beside PATH, HOME, USER, LANG, LC_*, TZ and
    /// TMPDIR. A name may end in `*`: `AWS_*`.
    pub env_pass: Vec<String>,
    /// How long a command that is told to stop (TERM) may take, before its whole group is killed.
    pub grace: Period,
    /// The directory in which commands run, for jobs that name none. Default: ganger's own.
    pub cwd: Option<String>,
    /// With no sign of life from ganger for so long (stopped, or starved), its commands are killed: others may
    /// have taken over its jobs by then. Keep it at two thirds of the shortest lease.
    pub orphan_after: Period,
    /// The command of jobs that name none; what runs as failure handler.
    pub command: Option<String>,
    /// The arguments that go with `command`.
    pub params: Vec<Text>,
    /// Variables for every command; a job's own `env` goes before.
    pub env: Env,
    /// What becomes of a job with a param that is not known: `refuse` makes it dead, `ignore` runs it.
    pub unknown_params: UnknownParams,
}

/// What becomes of a job with a param that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownParams {
    /// It is dead, with the param's name in the error.
    #[default]
    Refuse,
    /// It runs as if the param were not there, as GoWorker's did.
    Ignore,
}

/// The default of [`Config::grace`].
pub const GRACE: Duration = Duration::from_secs(5);

/// The default of [`Config::orphan_after`]: two thirds of the default lease.
pub const ORPHAN_AFTER: Duration = Duration::from_secs(10);

impl Default for Config {
    fn default() -> Self {
        Config {
            env_pass: Vec::new(),
            grace: GRACE.into(),
            cwd: None,
            orphan_after: ORPHAN_AFTER.into(),
            command: None,
            params: Vec::new(),
            env: Env::default(),
            unknown_params: UnknownParams::default(),
        }
    }
}
