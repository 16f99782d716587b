//! A bare loop that spawns `/bin/true`: what a manager of commands cannot beat by much.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_char},
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    sync::atomic::{AtomicI64, Ordering},
};

const PROGRAM: &CStr = c"/bin/true";

/// Runs `/bin/true` `n` times in `slots` threads: each child in a group of its own, its two pipes read to their
/// end, its status and usage fetched with wait4(2).
///
/// # Errors
/// The system refuses a pipe or a child, or `/bin/true` fails.
pub(crate) fn trues(n: u64, slots: usize) -> io::Result<()> {
    let left = AtomicI64::new(i64::try_from(n).unwrap_or(i64::MAX));
    std::thread::scope(|scope| {
        let run = || -> io::Result<()> {
            while left.fetch_sub(1, Ordering::Relaxed) > 0 {
                one()?;
            }
            Ok(())
        };
        let slots: Vec<_> = (0..slots).map(|_| scope.spawn(run)).collect();
        slots.into_iter().try_for_each(|slot| slot.join().expect("the loop does not panic"))
    })
}

fn one() -> io::Result<()> {
    let (mut stdout, stdout_end) = io::pipe()?;
    let (mut stderr, stderr_end) = io::pipe()?;
    let pid = spawn(&OwnedFd::from(stdout_end), &OwnedFd::from(stderr_end))?;
    let mut bytes = [0; 4096];
    while stdout.read(&mut bytes)? > 0 {}
    while stderr.read(&mut bytes)? > 0 {}
    let mut status = 0;
    // SAFETY: both are valid for writes; `rusage` is plain data.
    let reaped = unsafe {
        let mut usage = std::mem::zeroed();
        libc::wait4(pid, &mut status, 0, &mut usage)
    };
    match (reaped == pid, status) {
        (true, 0) => Ok(()),
        (true, status) => Err(io::Error::other(format!("/bin/true ended with wait status {status}"))),
        (false, _) => Err(io::Error::last_os_error()),
    }
}

fn spawn(stdout: &OwnedFd, stderr: &OwnedFd) -> io::Result<libc::pid_t> {
    let mut pid = 0;
    // SAFETY: the attributes and actions are initialised before use and destroyed once; the argument list ends in
    // a null; the environment is this process's, which nothing here changes.
    let failed = unsafe {
        let mut attributes = std::mem::zeroed();
        let mut actions = std::mem::zeroed();
        libc::posix_spawnattr_init(&mut attributes);
        libc::posix_spawn_file_actions_init(&mut actions);
        libc::posix_spawnattr_setpgroup(&mut attributes, 0);
        libc::posix_spawnattr_setflags(&mut attributes, libc::POSIX_SPAWN_SETPGROUP as _);
        libc::posix_spawn_file_actions_adddup2(&mut actions, stdout.as_raw_fd(), 1);
        libc::posix_spawn_file_actions_adddup2(&mut actions, stderr.as_raw_fd(), 2);
        let argv = [PROGRAM.as_ptr().cast_mut(), ptr::null_mut()];
        let failed = libc::posix_spawn(
            &mut pid,
            PROGRAM.as_ptr(),
            &actions,
            &attributes,
            argv.as_ptr(),
            environ.cast::<*mut c_char>(),
        );
        libc::posix_spawn_file_actions_destroy(&mut actions);
        libc::posix_spawnattr_destroy(&mut attributes);
        failed
    };
    if failed == 0 { Ok(pid) } else { Err(io::Error::from_raw_os_error(failed)) }
}

unsafe extern "C" {
    static environ: *const *const c_char;
}
