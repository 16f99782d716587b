//! Which programs jobs may choose.

use std::{
    ffi::{CStr, CString, OsStr},
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use ganger_child::{find, shortened};

/// What of an entry's list cannot work.
pub(crate) fn fault(allow: &[String]) -> Option<String> {
    let wrong =
        allow.iter().find(|entry| entry.is_empty() || entry.contains('/') && !entry.starts_with('/'))?;
    Some(format!(
        "`allow` has `{}`: it takes names (`convert`), paths (`/usr/bin/convert`) and directories with a `/` at \
         their end (`/opt/jobs/`)",
        shortened(wrong)
    ))
}

/// The program to run for the name that a job gives, if it is allowed: what was looked at, so that nobody can put
/// another in its place by a link of his own.
///
/// `found` is where the name leads, `path` the entry's own PATH, `cwd` where a relative path counts from.
///
/// # Errors
/// It is not allowed, in words.
pub(crate) fn admit(
    allow: &[String],
    name: &str,
    found: &CStr,
    path: &OsStr,
    cwd: Option<&CStr>,
) -> Result<CString, String> {
    let refused = || {
        format!(
            "command `{}` is not allowed: no entry of `allow` in the worker's config has it",
            shortened(name)
        )
    };
    let full = absolute(found, cwd).ok_or_else(refused)?;
    let by_name = |entry: &String| match entry.contains('/') {
        // As it is written: a link to it is another, and may be taken for another by a program of many names.
        true => full.as_os_str() == OsStr::new(entry),
        false => {
            entry == name
                || find(entry, path).is_ok_and(|program| program.as_bytes() == full.as_os_str().as_bytes())
        }
    };
    if allow.iter().any(by_name) {
        return c_path(full).ok_or_else(refused);
    }
    // Both the file and the link that leads to it must lie there.
    let (Ok(real), Some(Ok(lies_in))) = (fs::canonicalize(&full), full.parent().map(fs::canonicalize)) else {
        return Err(refused());
    };
    let has = |entry: &String| {
        entry.ends_with('/')
            && fs::canonicalize(entry)
                .is_ok_and(|directory| real.starts_with(&directory) && lies_in.starts_with(&directory))
    };
    match allow.iter().any(has) {
        true => c_path(real).ok_or_else(refused),
        false => Err(refused()),
    }
}

fn absolute(found: &CStr, cwd: Option<&CStr>) -> Option<PathBuf> {
    let found = Path::new(OsStr::from_bytes(found.to_bytes()));
    if found.is_absolute() {
        return Some(found.to_owned());
    }
    let own = std::env::current_dir().ok()?;
    Some(match cwd {
        Some(cwd) => own.join(OsStr::from_bytes(cwd.to_bytes())).join(found),
        None => own.join(found),
    })
}

fn c_path(path: PathBuf) -> Option<CString> {
    CString::new(path.into_os_string().into_vec()).ok()
}
