//! Makes a command ready to start: its program found, its arguments and environment written down, its input in
//! place.

use std::{
    borrow::Cow,
    ffi::{CStr, CString, OsStr},
    fs::File,
    io::{self, Seek, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use ganger_core::{JobContext, JobError, OptionsError};
use rustix::{
    fs::{Access, MemfdFlags, access, memfd_create},
    io::Errno,
    process::Pid,
};

use crate::{
    config::{Config, UnknownParams},
    environment::{Base, check_name},
    params::{NAMES, Params, shortened},
    spawn::{Spawn, Spawner},
    strings::{Nul, Strings},
};

/// What all commands of an entry have in common.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) config: Config,
    pub(crate) base: Base,
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
        let (env, path) = common.base.of(&params.env, job)?;
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
        let program = find(name, &path)?;
        Ok(Command { common, name, program, argv, env, cwd, stdin })
    }

    /// Starts it, with `output` as its standard output and standard error.
    ///
    /// # Errors
    /// As the system gave it; see [`Command::explain`].
    pub(crate) fn start(&self, spawner: &mut Spawner, output: BorrowedFd<'_>) -> io::Result<Pid> {
        let stdin = self.stdin.as_deref().map(file_of).transpose()?;
        spawner.spawn(&Spawn {
            program: &self.program,
            argv: &self.argv,
            env: &self.env,
            cwd: self.cwd.as_deref(),
            stdin: stdin.as_ref().map_or(self.common.nothing.as_fd(), File::as_fd),
            output,
        })
    }

    /// What an error of [`Command::start`] means for the job; `None` where the system is only short of something,
    /// and may not be in a moment.
    pub(crate) fn explain(&self, error: &io::Error) -> Option<JobError> {
        let errno = Errno::from_io_error(error);
        if errno.is_some_and(is_shortage) {
            return None;
        }
        if let Some(cwd) = self.cwd.as_deref().filter(|cwd| !path_of(cwd).is_dir()) {
            // Not dead: what is missing may be mounted again.
            return Some(JobError::retry(format!("no directory `{}` to run in", text_of(cwd))));
        }
        let name = shortened(self.name);
        let program = path_of(&self.program);
        Some(match errno {
            Some(Errno::NOENT) if program.exists() => JobError::dead(format!(
                "`{name}` cannot run: the interpreter that its first line names, or a loader, is missing"
            )),
            Some(Errno::NOENT | Errno::NOTDIR) => not_found(&name),
            Some(Errno::ACCESS | Errno::PERM | Errno::ISDIR) => not_executable(&name, program),
            Some(Errno::NOEXEC) => JobError::dead(format!(
                "`{name}` is no program for this machine (a script needs a first line like `#!/bin/sh`)"
            )),
            Some(Errno::TOOBIG) => JobError::dead(format!(
                "the arguments and environment of `{name}` are longer than the system allows: pass it on `stdin`"
            )),
            Some(Errno::LOOP | Errno::NAMETOOLONG) => JobError::dead(format!("`{name}` cannot run: {error}")),
            _ => JobError::retry(format!("`{name}` cannot be started: {error}")),
        })
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
        Some(unknown) if config.unknown_params == UnknownParams::Refuse => Err(OptionsError::whole(format!(
            "`{}` is no param of a command; there are `{}`",
            shortened(unknown),
            NAMES.join("`, `")
        ))),
        _ => Ok(()),
    }
}

/// The program's name, from the job or from the config.
fn name_of<'a>(config: &'a Config, params: &'a Params) -> Result<&'a str, OptionsError> {
    match (&params.command, &config.command) {
        (Some(command), _) | (None, Some(command)) if !command.is_empty() => Ok(command),
        _ => Err(OptionsError::whole("the job names no `command`, and its worker's config has none")),
    }
}

/// Errors that say nothing of the job: no file, process or memory is left, for now.
fn is_shortage(errno: Errno) -> bool {
    [Errno::AGAIN, Errno::MFILE, Errno::NFILE, Errno::NOMEM].contains(&errno)
}

/// Whether an error of the system is a shortage that may pass.
pub(crate) fn may_pass(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(is_shortage)
}

fn not_found(name: &str) -> JobError {
    JobError::dead(format!("command `{name}` is not found"))
}

fn not_executable(name: &str, path: &Path) -> JobError {
    match path.is_dir() {
        true => JobError::dead(format!("command `{name}` is a directory")),
        false => JobError::dead(format!("command `{name}` is not executable (`{}`)", path.display())),
    }
}

/// Finds a program: a name with a slash is a path (from the directory in which it runs), any other is looked up
/// in `path`. Empty and relative parts of `path` are passed over: they mean a directory that nobody named.
fn find(name: &str, path: &OsStr) -> Result<CString, JobError> {
    let program = |bytes: &[u8]| CString::new(bytes).map_err(|_| JobError::dead("PATH has a NUL byte in it"));
    if name.contains('/') {
        return program(name.as_bytes());
    }
    let mut refused = None;
    for directory in path.as_bytes().split(|byte| *byte == b':').filter(|part| part.starts_with(b"/")) {
        let candidate = program(&[directory, b"/", name.as_bytes()].concat())?;
        match access(candidate.as_c_str(), Access::EXEC_OK) {
            Ok(()) if path_of(&candidate).is_file() => return Ok(candidate),
            Err(Errno::ACCESS) => refused = Some(candidate),
            Ok(()) | Err(_) => {}
        }
    }
    match refused {
        Some(candidate) => Err(not_executable(&shortened(name), path_of(&candidate))),
        None => Err(JobError::dead(format!(
            "command `{}` is not found in PATH ({})",
            shortened(name),
            path.to_string_lossy()
        ))),
    }
}

fn path_of(path: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(path.to_bytes()))
}

fn text_of(path: &CStr) -> Cow<'_, str> {
    path.to_string_lossy()
}

/// A file in memory to read from: a command that does not read its input cannot hold ganger up, nor can one that
/// reads it slowly.
fn file_of(text: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"ganger-stdin", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}
