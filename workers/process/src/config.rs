//! The options of a `process` entry in the config.

use std::time::Duration;

use ganger_child::{Env, Limits, StopSignal, Text, Umask, Wanted};
use ganger_core::{Backoff, ByteSize, Period};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

/// Options of a `process` entry.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
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
    /// The signal that tells it to end, where it has not ended within `grace` although its input is closed.
    #[serde(default)]
    pub kill_signal: StopSignal,
    /// How far each process of a program may go. `cpu` counts over the life of the program: with half of it used, it is
    /// replaced by a new one when its job has ended.
    #[serde(default)]
    pub limits: Option<Limits>,
    /// The user that programs run as, by name or number: takes a ganger that runs as root. HOME and USER are that one's.
    #[serde(default)]
    pub user: Option<Text>,
    /// The group that programs run as, by name or number. Default: the user's own, with all that the user is in.
    #[serde(default)]
    pub group: Option<Text>,
    /// How nice programs are: -20 (served first) to 19 (served last). Below ganger's own it takes a privilege.
    #[serde(default)]
    pub nice: Option<i32>,
    /// Programs, and what they start, gain no privilege by exec: `sudo` and its like do not work.
    #[serde(default)]
    pub no_new_privs: bool,
    /// Which permissions files that programs make do not get, in octal. Default: ganger's own mask.
    #[serde(default)]
    pub umask: Option<Umask>,
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let config = Config::deserialize(deserializer)?;
        config.fault().map_or(Ok(config), |why| Err(serde::de::Error::custom(why)))
    }
}

impl Config {
    /// What of it cannot work, as far as it shows without starting anything.
    fn fault(&self) -> Option<String> {
        if let Some(nice) = self.nice.filter(|nice| !(-20..=19).contains(nice)) {
            return Some(format!("`nice` is {nice}: it goes from -20 to 19"));
        }
        self.limits.as_ref()?.fault()
    }

    /// With so much processor time used a program is replaced between jobs: what it may use in all its life would
    /// otherwise end in a job that is not to blame.
    pub(crate) fn cpu_max(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.limits.as_ref()?.cpu_seconds()?) / 2)
    }

    /// What programs are to be held to.
    pub(crate) fn wanted(&self) -> Wanted<'_> {
        Wanted {
            limits: self.limits.as_ref(),
            nice: self.nice,
            no_new_privs: self.no_new_privs,
            user: self.user.as_ref(),
            group: self.group.as_ref(),
        }
    }
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
