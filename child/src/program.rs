//! Which program a name means, and why one does not start.

use std::{
    ffi::{CStr, CString, OsStr},
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
};

use rustix::{
    fs::{Access, access},
    io::Errno,
};

use crate::text::shortened;

/// Why a program was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The system has no process, file or memory left, and may have in a moment.
    Shortage,
    /// In words; what is missing may be there another time.
    Once(String),
    /// In words; it would be the same again.
    Always(String),
}

/// Finds a program: a name with a slash is a path (from the directory in which it runs), any other is looked up
/// in `path`. Empty and relative parts of `path` are passed over: they mean a directory that nobody named.
///
/// # Errors
/// There is none, or none that may be executed: in words.
pub fn find(name: &str, path: &OsStr) -> Result<CString, String> {
    let program = |bytes: &[u8]| CString::new(bytes).map_err(|_| "PATH has a NUL byte in it".to_owned());
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
        None => {
            Err(format!("command `{}` is not found in PATH ({})", shortened(name), path.to_string_lossy()))
        }
    }
}

/// What an error of [`crate::Keeper::start`] means, for a program that `name` names.
pub fn explain(error: &io::Error, name: &str, program: &CStr, cwd: Option<&CStr>) -> Refusal {
    let errno = Errno::from_io_error(error);
    if errno.is_some_and(is_shortage) {
        return Refusal::Shortage;
    }
    if let Some(cwd) = cwd.filter(|cwd| !path_of(cwd).is_dir()) {
        // What is missing may be mounted again.
        return Refusal::Once(format!("no directory `{}` to run in", cwd.to_string_lossy()));
    }
    let name = shortened(name);
    let program = path_of(program);
    Refusal::Always(match errno {
        Some(Errno::NOENT) if program.exists() => {
            format!("`{name}` cannot run: the interpreter that its first line names, or a loader, is missing")
        }
        Some(Errno::NOENT | Errno::NOTDIR) => format!("command `{name}` is not found"),
        Some(Errno::ACCESS | Errno::PERM | Errno::ISDIR) => not_executable(&name, program),
        Some(Errno::NOEXEC) => {
            format!("`{name}` is no program for this machine (a script needs a first line like `#!/bin/sh`)")
        }
        Some(Errno::TOOBIG) => format!(
            "the arguments and environment of `{name}` are longer than the system allows: pass it on `stdin`"
        ),
        Some(Errno::LOOP | Errno::NAMETOOLONG) => format!("`{name}` cannot run: {error}"),
        _ => return Refusal::Once(format!("`{name}` cannot be started: {error}")),
    })
}

/// Whether an error of the system is a shortage that may pass: no file, process or memory is left, for now.
pub fn may_pass(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(is_shortage)
}

fn is_shortage(errno: Errno) -> bool {
    [Errno::AGAIN, Errno::MFILE, Errno::NFILE, Errno::NOMEM].contains(&errno)
}

fn not_executable(name: &str, path: &Path) -> String {
    match path.is_dir() {
        true => format!("command `{name}` is a directory"),
        false => format!("command `{name}` is not executable (`{}`)", path.display()),
    }
}

fn path_of(path: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(path.to_bytes()))
}
