//! Makes a command ready to start: its program found, its arguments and environment written down, its input in
//! place.

use std::{
    borrow::Cow,
    ffi::{CStr, CString},
    fs::File,
    io::{self, Seek, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use ganger_child::{
    Base, Confinement, Keeper, Nul, Refusal, Spawn, Strings, Umask, check_name, explain, find,
};
use ganger_core::{JobContext, JobError, OptionsError};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    process::Pid,
};

use crate::{
    allow,
    config::Config,
    environment,
    exits::Exits,
    keep::Keep,
    line::{Line, Template},
    params::Params,
};

/// What all commands of an entry have in common.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) config: Config,
    pub(crate) template: Option<Template>,
    pub(crate) base: Base,
    pub(crate) exits: Exits,
    /// Where the whole output goes too.
    pub(crate) keep: Option<Arc<Keep>>,
    pub(crate) confinement: Option<Arc<Confinement>>,
    /// `/dev/null`, opened once.
    pub(crate) nothing: OwnedFd,
}

/// A command that can be started, and started again where the system is short of something.
pub(crate) struct Command<'a> {
    common: &'a Common,
    name: &'a str,
    program: CString,
    argv: Strings,
    env: Strings,
    cwd: Option<CString>,
    umask: Option<u32>,
    stdin: Option<Cow<'a, str>>,
}

impl<'a> Command<'a> {
    /// Reads what the job asks for; `limit` is how long it may take.
    ///
    /// # Errors
    /// The job is dead at once: what it asks for can never be started.
    pub(crate) fn new(
        common: &'a Common,
        params: &'a Params,
        job: &'a JobContext,
        limit: Option<Duration>,
    ) -> Result<Self, JobError> {
        let config = &common.config;
        let line = Line::of(config, common.template.as_ref(), params, Some(job));
        let Line { name, arguments, is_chosen } = line.map_err(|error| job.unfit(&error))?;
        let mut argv = Strings::default();
        for argument in [name].into_iter().chain(arguments.iter().map(AsRef::as_ref)) {
            argv.push(&[argument.as_bytes()]).map_err(|Nul| {
                JobError::dead("the command or an argument has a NUL byte, which no program can be given")
            })?;
        }
        let (env, path) = environment::of(&common.base, params, job, limit)?;
        let cwd = params.cwd.as_ref().or(config.cwd.as_ref());
        let cwd = cwd
            .map(|cwd| CString::new(cwd.as_str()))
            .transpose()
            .map_err(|_| JobError::dead("`cwd` has a NUL byte in it"))?;
        let stdin = match (&params.stdin, job.input()) {
            (Some(text), _) => Some(Cow::Borrowed(text.0.as_str())),
            (None, Some(record)) => Some(Cow::Owned(format!("{}\n", record.get()))),
            (None, None) => None,
        };
        let program = match (&config.allow, is_chosen) {
            (Some(allow), true) => chosen(allow, name, &common.base, cwd.as_deref()),
            (None, true) => find(name, &path),
            // The config chose it, and no PATH of the job's makes it another.
            (_, false) => find(name, common.base.path()),
        };
        let program = program.map_err(JobError::dead)?;
        let umask = params.umask.or(config.umask).map(|Umask(mask)| mask);
        Ok(Command { common, name, program, argv, env, cwd, umask, stdin })
    }

    /// Starts it, with these as its standard output and standard error.
    ///
    /// # Errors
    /// As the system gave it; see [`Command::explain`].
    pub(crate) fn start(
        &self,
        keeper: &mut Keeper,
        stdout: BorrowedFd<'_>,
        stderr: BorrowedFd<'_>,
    ) -> io::Result<Pid> {
        let stdin = self.stdin.as_deref().map(file_of).transpose()?;
        keeper.set_umask(self.umask);
        keeper.start(&Spawn {
            program: &self.program,
            argv: &self.argv,
            env: &self.env,
            cwd: self.cwd.as_deref(),
            stdin: stdin.as_ref().map_or(self.common.nothing.as_fd(), File::as_fd),
            stdout,
            stderr,
        })
    }

    /// What an error of [`Command::start`] means for the job; `None` where the system is only short of something,
    /// and may not be in a moment.
    pub(crate) fn explain(&self, error: &io::Error) -> Option<JobError> {
        match explain(error, self.name, &self.program, self.cwd.as_deref()) {
            Refusal::Shortage => None,
            Refusal::Once(why) => Some(JobError::retry(why)),
            Refusal::Always(why) => Some(JobError::dead(why)),
        }
    }
}

/// What is wrong with params, whatever surrounds the run.
pub(crate) fn check(config: &Config, params: &Params) -> Result<(), OptionsError> {
    let template = Template::of(config);
    let line = Line::of(config, template.as_ref(), params, None)?;
    let fault = |name: &str| OptionsError::of(name, "a NUL byte, which no program can be given");
    let nul = |text: &String| text.contains('\0');
    if params.command.as_ref().is_some_and(nul) {
        return Err(fault("command"));
    }
    if params.params.iter().any(|text| nul(&text.0)) {
        return Err(fault("params"));
    }
    if params.cwd.as_ref().is_some_and(nul) {
        return Err(fault("cwd"));
    }
    if params.env.0.iter().any(|(_, value)| nul(&value.0)) {
        return Err(fault("env"));
    }
    let names = params.env.0.iter().map(|(name, _)| check_name(name));
    names.collect::<Result<(), _>>().map_err(OptionsError::whole)?;
    let Some(allow) = config.allow.as_deref().filter(|_| line.is_chosen) else { return Ok(()) };
    let base = Base::new(std::env::vars_os(), &config.env_pass, &config.env, b"");
    if find(line.name, base.path()).is_err() {
        // Not here, or not yet: the run says so.
        return Ok(());
    }
    let cwd = params.cwd.as_ref().or(config.cwd.as_ref()).and_then(|cwd| CString::new(cwd.as_str()).ok());
    let admitted = chosen(allow, line.name, &base, cwd.as_deref());
    admitted.map(drop).map_err(|why| OptionsError::of("command", why))
}

/// The program for the name that a job chose.
fn chosen(allow: &[String], name: &str, base: &Base, cwd: Option<&CStr>) -> Result<CString, String> {
    // The entry's own PATH: by one of the job's own a name would mean another program.
    let path = base.path();
    allow::admit(allow, name, &find(name, path)?, path, cwd)
}

/// A file in memory to read from: a command that does not read its input cannot hold ganger up, nor can one that
/// reads it slowly.
fn file_of(text: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"ganger-stdin", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}
