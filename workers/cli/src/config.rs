//! The options of a `cli` entry in the config.

use std::time::Duration;

use ganger_child::{Env, Limits, StopSignal, Text, Umask, Wanted};
use ganger_core::Period;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::{
    allow,
    exits::{self, ExitCode},
    keep::KeepOutput,
    line,
};

/// Options of a `cli` entry.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, remote = "Self")]
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
    /// The arguments that go with `command`. One that is `{params.NAME}`, `{id}` or `{name}` as a whole is a value of
    /// the job; then jobs bring those values, and neither `command` nor `params` of their own.
    pub params: Vec<Text>,
    /// Whether a value of the job in `params` may begin with `-`, so that the command may take it for an option.
    pub options_from_jobs: bool,
    /// The programs that jobs may name: names that are looked up in PATH (`convert`), paths (`/usr/bin/convert`), and
    /// directories with a `/` at their end (`/opt/jobs/`). Default: any. `command` is always allowed.
    pub allow: Option<Vec<String>>,
    /// The shell that runs the `script` of jobs, like `sh`. Default: none, and jobs with a script are refused. Whoever
    /// may enqueue can then run anything.
    pub shell: Option<String>,
    /// Variables for every command; a job's own `env` goes before.
    pub env: Env,
    /// What becomes of a job with a param that is not known: `refuse` makes it dead, `ignore` runs it.
    pub unknown_params: UnknownParams,
    /// Exit statuses that are retried, also where the default is another.
    pub retry_on: Vec<ExitCode>,
    /// Exit statuses after which the job ends done, its error kept: the work is no longer wanted.
    pub discard_on: Vec<ExitCode>,
    /// Exit statuses that another run would not change: the job is dead at once. Beside 64, 65, 67, 68, 77 and 78,
    /// which sysexits.h has for that.
    pub dead_on: Vec<ExitCode>,
    /// How long a job waits for its retry, in place of its backoff, when its command ended with 75 (EX_TEMPFAIL: it
    /// passes with time).
    pub retry_later: Period,
    /// The signal that tells a command to stop.
    pub kill_signal: StopSignal,
    /// How far a command may go.
    pub limits: Option<Limits>,
    /// The user that commands run as, by name or number: takes a ganger that runs as root. HOME and USER are that
    /// one's.
    pub user: Option<Text>,
    /// The group that commands run as, by name or number. Default: the user's own, with all that the user is in.
    pub group: Option<Text>,
    /// How nice commands are: -20 (served first) to 19 (served last). Below ganger's own it takes a privilege.
    pub nice: Option<i32>,
    /// Commands, and what they start, gain no privilege by exec: `sudo` and its like do not work.
    pub no_new_privs: bool,
    /// Which permissions files that commands make do not get, in octal. Default: ganger's own mask.
    pub umask: Option<Umask>,
    /// Whether standard output and standard error are one, in the order in which they were printed, or two.
    pub streams: Streams,
    /// Whether lines of the output may be directives: `::progress 40 text`, `::result {json}`,
    /// `::header content-type=text/html`.
    pub directives: bool,
    /// Where the whole output of each run is kept: `"store"` keeps it with the job's record, as if each job said
    /// `capture_output`; a table names a folder for files.
    pub keep_output: Option<KeepOutput>,
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
        if let Some(KeepOutput::Files(keep)) = &self.keep_output
            && (keep.dir.is_empty() || keep.max_size.get() == 0)
        {
            return Some("`keep_output` needs a `dir`, and a `max_size` that is not 0".to_owned());
        }
        if self.shell.is_some() && self.allow.is_some() {
            return Some(
                "`shell` lets jobs run anything, whatever `allow` says: leave one of them out".to_owned(),
            );
        }
        if self.shell.as_ref().is_some_and(String::is_empty) {
            return Some("`shell` names no shell: write one, like \"sh\"".to_owned());
        }
        let listed = self.allow.as_deref().and_then(allow::fault).or_else(|| line::fault(self));
        listed.or_else(|| exits::fault(self)).or_else(|| self.limits.as_ref()?.fault())
    }

    /// What commands are to be held to.
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

/// What becomes of the two streams of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Streams {
    /// Both are the job's output: one pipe keeps the order in which things were printed.
    #[default]
    Merged,
    /// Only standard output is the job's output; the end of standard error is in the record of the run.
    Apart,
}

/// The default of [`Config::grace`].
pub const GRACE: Duration = Duration::from_secs(5);

/// The default of [`Config::orphan_after`]: two thirds of the default lease.
pub const ORPHAN_AFTER: Duration = Duration::from_secs(10);

/// The default of [`Config::retry_later`].
pub const RETRY_LATER: Duration = Duration::from_secs(60);

impl Default for Config {
    fn default() -> Self {
        Config {
            env_pass: Vec::new(),
            grace: GRACE.into(),
            cwd: None,
            orphan_after: ORPHAN_AFTER.into(),
            command: None,
            params: Vec::new(),
            options_from_jobs: false,
            allow: None,
            shell: None,
            env: Env::default(),
            unknown_params: UnknownParams::default(),
            retry_on: Vec::new(),
            discard_on: Vec::new(),
            dead_on: Vec::new(),
            retry_later: RETRY_LATER.into(),
            kill_signal: StopSignal::default(),
            limits: None,
            user: None,
            group: None,
            nice: None,
            no_new_privs: false,
            umask: None,
            streams: Streams::default(),
            directives: false,
            keep_output: None,
        }
    }
}
