//! Makes a command ready to start: its program found, its arguments and environment written down, its input in
//! place.

use std::{
    borrow::Cow,
    ffi::CString,
    fs::File,
    io::{self, Seek, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use ganger_child::{
    Base, Confinement, Keeper, Nul, Refusal, Spawn, Strings, check_name, explain, find, shortened,
};
use ganger_core::{JobContext, JobError, OptionsError};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    process::Pid,
};

use crate::{
    config::{Config, UnknownParams},
    environment,
    exits::Exits,
    params::{NAMES, Params, Umask},
};

/// What all commands of an entry have in common.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) config: Config,
    pub(crate) base: Base,
    pub(crate) exits: Exits,
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
    /// Reads what the job asks for.
    ///
    /// # Errors
    /// The job is dead at once: what it asks for can never be started.
    pub(crate) fn new(common: &'a Common, params: &'a Params, job: &'a JobContext) -> Result<Self, JobError> {
        let config = &common.config;
        // The params of a failure-handler job are its config entry, with all options in it.
        if job.input().is_none() {
            refuse_unknown(config, params).map_err(|error| job.unfit(&error))?;
        }
        let name = name_of(config, params).map_err(|error| job.unfit(&error))?;
        // The arguments belong to the command, so they come from where it comes from, unless the job has its own.
        let arguments = match params.params.is_empty() && params.command.is_none() {
            true => &config.params,
            false => &params.params,
        };
        let mut argv = Strings::default();
        for argument in [name].into_iter().chain(arguments.iter().map(|text| text.0.as_str())) {
            argv.push(&[argument.as_bytes()]).map_err(|Nul| {
                JobError::dead("`command` or `params` has a NUL byte, which no program can be given")
            })?;
        }
        let (env, path) = environment::of(&common.base, &params.env, job)?;
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
        let program = find(name, &path).map_err(JobError::dead)?;
        let umask = params.umask.or(config.umask).map(|Umask(mask)| mask);
        Ok(Command { common, name, program, argv, env, cwd, umask, stdin })
    }

    /// Starts it, with `output` as its standard output and standard error.
    ///
    /// # Errors
    /// As the system gave it; see [`Command::explain`].
    pub(crate) fn start(&self, keeper: &mut Keeper, output: BorrowedFd<'_>) -> io::Result<Pid> {
        let stdin = self.stdin.as_deref().map(file_of).transpose()?;
        keeper.set_umask(self.umask);
        keeper.start(&Spawn {
            program: &self.program,
            argv: &self.argv,
            env: &self.env,
            cwd: self.cwd.as_deref(),
            stdin: stdin.as_ref().map_or(self.common.nothing.as_fd(), File::as_fd),
            stdout: output,
            stderr: output,
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
    refuse_unknown(config, params)?;
    name_of(config, params)?;
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
    names.collect::<Result<_, _>>().map_err(OptionsError::whole)
}

fn refuse_unknown(config: &Config, params: &Params) -> Result<(), OptionsError> {
    match params.unknown.first() {
        Some(_) if config.unknown_params == UnknownParams::Ignore => Ok(()),
        Some(unknown) if unknown.eq_ignore_ascii_case("timeout") => Err(OptionsError::whole(
            "`timeout` is no param of a command: it is a field of the job itself, beside `params`",
        )),
        Some(unknown) => Err(OptionsError::whole(format!(
            "`{}` is no param of a command; there are `{}`",
            shortened(unknown),
            NAMES.join("`, `")
        ))),
        None => Ok(()),
    }
}

/// The program's name, from the job or from the config.
fn name_of<'a>(config: &'a Config, params: &'a Params) -> Result<&'a str, OptionsError> {
    match (&params.command, &config.command) {
        (Some(command), _) | (None, Some(command)) if !command.is_empty() => Ok(command),
        _ => Err(OptionsError::whole("the job names no `command`, and its worker's config has none")),
    }
}

/// A file in memory to read from: a command that does not read its input cannot hold ganger up, nor can one that
/// reads it slowly.
fn file_of(text: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"ganger-stdin", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}
