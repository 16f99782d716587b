//! The options of a `process` entry in the config.

use std::time::Duration;

use ganger_child::{Env, Text};
use ganger_core::{Backoff, ByteSize, Period};
use schemars::JsonSchema;
use serde::Deserialize;

/// Options of a `process` entry.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The program: a name that is looked up in PATH, or a path. One runs for each of the entry's `workers`.
    pub command: String,
    /// Its arguments.
    #[serde(default)]
    pub params: Vec<Text>,
    /// Variables for its environment.
    #[serde(default)]
    pub env: Env,
    /// Variables of ganger's own environment that it gets too, beside PATH, HOME, USER, LANG, LC_*, TZ and TMPDIR. A
    /// name may end in `*`: `AWS_*`.
    #[serde(default)]
    pub env_pass: Vec<String>,
    /// The directory in which it runs. Default: ganger's own.
    #[serde(default)]
    pub cwd: Option<String>,
    /// How long it may take from its start to its `hello`.
    #[serde(default = "start_timeout")]
    pub start_timeout: Period,
    /// While a job runs, a program that answers pings is sent one so often.
    #[serde(default = "ping_every")]
    pub ping_every: Period,
    /// How long it may take to answer one: longer, and it hangs.
    #[serde(default = "ping_timeout")]
    pub ping_timeout: Period,
    /// How long it may take to end a job that it was told to cancel, and to end itself when its input is closed, before
    /// it is killed.
    #[serde(default = "grace")]
    pub grace: Period,
    /// After so many jobs it is replaced by a new one. Default: never.
    #[serde(default)]
    pub recycle_after: Option<u64>,
    /// With more resident memory than this, it is replaced by a new one when its job has ended. Default: no limit.
    #[serde(default)]
    pub memory_max: Option<ByteSize>,
    /// How long to wait before it is started again after it died, ever longer until a job is finished.
    #[serde(default = "backoff")]
    pub backoff: Backoff,
    /// After so many deaths with no finished job between them, jobs wait and readiness says why, until a new start
    /// succeeds. One that cannot be started at all counts at once.
    #[serde(default = "breaker")]
    pub breaker: u32,
    /// The longest line that it may send.
    #[serde(default = "line_max")]
    pub line_max: ByteSize,
    /// With no sign of life from ganger for so long (stopped, or starved), it is killed: others may have taken over its
    /// jobs by then. Keep it at two thirds of the shortest lease.
    #[serde(default = "orphan_after")]
    pub orphan_after: Period,
}

fn start_timeout() -> Period {
    Period::secs(20)
}

fn ping_every() -> Period {
    Period::secs(10)
}

fn ping_timeout() -> Period {
    Period::secs(30)
}

fn grace() -> Period {
    Period::secs(5)
}

fn backoff() -> Backoff {
    Backoff { initial: Period::millis(200), max: Period::secs(30), ..Backoff::default() }
}

fn breaker() -> u32 {
    5
}

fn line_max() -> ByteSize {
    ByteSize::new(8 << 20)
}

/// Two thirds of the default lease.
fn orphan_after() -> Period {
    Duration::from_secs(10).into()
}
