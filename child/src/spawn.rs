//! Starts a program as posix_spawn(3) does, in fewer system calls.
//!
//! The child is made with clone(2) and CLONE_VM | CLONE_VFORK: until exec it borrows the memory of this process, of
//! which only the thread that made it stands still, so that nothing is copied. glibc's own form asks in each child
//! for the disposition of every signal there is, and maps and unmaps a stack for it: an eighth of all that a
//! `/bin/true` costs (see `docs/decisions`). Here a slot keeps the stack, and knows which signals matter.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};

use rustix::{io::fcntl_dupfd_cloexec, process::Pid};

use crate::strings::Strings;

/// Far more than the calls of a child take: none of them nests.
const STACK: usize = 32 << 10;

/// Signals that a command has back at their default, for an ignored one stays ignored through exec: Rust ignores
/// SIGPIPE, nohup SIGHUP, and a shell SIGINT and SIGQUIT for what it starts in the background.
const COMMONLY_IGNORED: [c_int; 12] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGPIPE,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCHLD,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// A program, ready to start.
#[derive(Clone, Copy, Debug)]
pub struct Spawn<'a> {
    /// Its path, as [`crate::find`] gives it.
    pub program: &'a CStr,
    /// Its arguments, the first being what it is called.
    pub argv: &'a Strings,
    /// Its environment; the mark of [`crate::Base::with`] must be in it.
    pub env: &'a Strings,
    /// The directory in which it runs. Default: ganger's own.
    pub cwd: Option<&'a CStr>,
    /// What it reads.
    pub stdin: BorrowedFd<'a>,
    /// Where it prints.
    pub stdout: BorrowedFd<'a>,
    /// Where it complains; may be the same file.
    pub stderr: BorrowedFd<'a>,
}

/// Starts programs, one at a time.
#[derive(Debug)]
pub(crate) struct Spawner {
    stack: Box<[MaybeUninit<u8>]>,
    /// The signals whose disposition is set back: those above, and those that had a handler when this was made. A
    /// child has no handler of this process's, which would run on this process's memory.
    signals: Box<[c_int]>,
}

impl Spawner {
    pub(crate) fn new() -> Self {
        let handled = (1..=libc::SIGRTMAX()).filter(|signal| is_handled(*signal));
        let mut signals: Vec<_> = COMMONLY_IGNORED.into_iter().chain(handled).collect();
        signals.sort_unstable();
        signals.dedup();
        Spawner { stack: Box::new_uninit_slice(STACK), signals: signals.into() }
    }

    /// Starts a program as [`crate::Keeper::start`] says. It inherits no other file: all that Rust opens is
    /// close-on-exec.
    ///
    /// # Errors
    /// The child's own, from chdir or exec, or that of making it.
    pub(crate) fn spawn(&mut self, command: &Spawn<'_>) -> io::Result<Pid> {
        let (argv, env) = (command.argv.pointers(), command.env.pointers());
        let files = [command.stdin, command.stdout, command.stderr];
        // One that is among the first three itself would be overwritten before it has its place.
        let mut moved = [const { None }; 3];
        for (file, moved) in files.iter().zip(&mut moved).filter(|(file, _)| file.as_raw_fd() < 3) {
            *moved = Some(fcntl_dupfd_cloexec(file, 3)?);
        }
        let number = |at: usize| moved[at].as_ref().map_or(files[at].as_raw_fd(), OwnedFd::as_raw_fd);
        let mut errand = Errand {
            signals: &self.signals,
            program: command.program.as_ptr(),
            argv: argv.as_ptr().cast(),
            env: env.as_ptr().cast(),
            cwd: command.cwd.map_or(ptr::null(), CStr::as_ptr),
            files: [number(0), number(1), number(2)],
            error: 0,
        };
        // A stack grows down, and starts at a multiple of 16.
        let top = self.stack.as_mut_ptr_range().end;
        let top = top.wrapping_sub(top.addr() % 16).cast::<c_void>();
        // SAFETY: the stack and the errand are the child's alone until it has execed or exited, for until then
        // this thread stands still (CLONE_VFORK). With every signal blocked no handler runs on the child's
        // stack. `in_child` keeps to what a child of a process of many threads may do.
        let pid = unsafe {
            let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
            let pid = libc::clone(in_child, top, flags, ptr::from_mut(&mut errand).cast());
            let error = io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
            Pid::from_raw(pid).filter(|_| pid > 0).ok_or(error)?
        };
        // SAFETY: the child wrote it, if it did, while this thread stood still.
        match unsafe { ptr::from_ref(&errand.error).read_volatile() } {
            0 => Ok(pid),
            error => {
                // It exited at once. Where the host program waits for all its children, that was done already.
                let _ = crate::sys::reap(pid);
                Err(io::Error::from_raw_os_error(error))
            }
        }
    }
}

/// Whether a signal has a handler in this process.
fn is_handled(signal: c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: valid for writes, and all zero a valid value, which a refused signal leaves.
    let action = unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction)
}

/// What a child is to do.
struct Errand<'a> {
    signals: &'a [c_int],
    program: *const c_char,
    argv: *const *const c_char,
    env: *const *const c_char,
    cwd: *const c_char,
    /// What become standard input, output and error; none of them is one of these.
    files: [c_int; 3],
    /// Why it could not; 0 if it could.
    error: c_int,
}

/// What runs in the child, on memory that is the parent's: system calls alone.
extern "C" fn in_child(errand: *mut c_void) -> c_int {
    // SAFETY: the parent's errand, which nobody else touches meanwhile; its pointers are what exec takes.
    unsafe {
        let errand = errand.cast::<Errand<'_>>();
        become_command(&*errand);
        (*errand).error = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// Returns only if it failed, with errno set.
///
/// # Safety
/// Called in the child alone.
unsafe fn become_command(errand: &Errand<'_>) {
    // SAFETY: system calls on values of the errand's and of this frame; all zero is SIG_DFL, an empty set and no
    // flags.
    unsafe {
        let default = MaybeUninit::<libc::sigaction>::zeroed();
        for signal in errand.signals {
            // Nothing can be wrong with it, and if it were, exec would be no worse for it.
            libc::sigaction(*signal, default.as_ptr(), ptr::null_mut());
        }
        let mut none = MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        let placed = libc::setpgid(0, 0) == 0
            && libc::dup2(errand.files[0], 0) == 0
            && libc::dup2(errand.files[1], 1) == 1
            && libc::dup2(errand.files[2], 2) == 2
            && (errand.cwd.is_null() || libc::chdir(errand.cwd) == 0)
            && libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) == 0;
        if placed {
            libc::execve(errand.program, errand.argv, errand.env);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, os::fd::AsFd};

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;
    use crate::sys::reap;

    fn strings(texts: &[&str]) -> Strings {
        let mut strings = Strings::default();
        texts.iter().for_each(|text| strings.push(&[text.as_bytes()]).unwrap());
        strings
    }

    #[test]
    fn the_three_files_are_three() {
        let nothing = File::open("/dev/null").unwrap();
        let (out, out_theirs) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (err, err_theirs) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let pid = Spawner::new()
            .spawn(&Spawn {
                program: c"/bin/sh",
                argv: &strings(&["sh", "-c", "echo said; echo complained >&2; read line || echo ended"]),
                env: &strings(&["A=1"]),
                cwd: None,
                stdin: nothing.as_fd(),
                stdout: out_theirs.as_fd(),
                stderr: err_theirs.as_fd(),
            })
            .unwrap();
        drop((out_theirs, err_theirs));
        let read = |file: OwnedFd| {
            let mut text = String::new();
            File::from(file).read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!((read(out).as_str(), read(err).as_str()), ("said\nended\n", "complained\n"));
        assert!(reap(pid).unwrap().status.success());
    }
}
