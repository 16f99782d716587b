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

use crate::{cgroup::refused, confine::Confinement, strings::Strings, sys::clone_into};

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

/// The control group that a child is to be in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// From its first moment on: the group's directory.
    Born(BorrowedFd<'a>),
    /// The child goes there itself, by the group's `cgroup.procs`. Where nothing moved just before, the kernel waits
    /// for all processors to notice: 10 ms.
    Moves(BorrowedFd<'a>),
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
    /// The child's own, from what it is held to, chdir or exec, or that of making it.
    pub(crate) fn spawn(
        &mut self,
        command: &Spawn<'_>,
        confinement: Option<&Confinement>,
        umask: Option<u32>,
        place: Option<Place<'_>>,
    ) -> io::Result<Pid> {
        let (argv, env) = (command.argv.pointers(), command.env.pointers());
        let files = [command.stdin, command.stdout, command.stderr];
        // One that is among the first three itself would be overwritten before it has its place.
        let mut moved = [const { None }; 3];
        for (file, moved) in files.iter().zip(&mut moved).filter(|(file, _)| file.as_raw_fd() < 3) {
            *moved = Some(fcntl_dupfd_cloexec(file, 3)?);
        }
        let number = |at: usize| moved[at].as_ref().map_or(files[at].as_raw_fd(), OwnedFd::as_raw_fd);
        let errand = Errand {
            signals: &self.signals,
            program: command.program.as_ptr(),
            argv: argv.as_ptr().cast(),
            env: env.as_ptr().cast(),
            cwd: command.cwd.map_or(ptr::null(), CStr::as_ptr),
            files: [number(0), number(1), number(2)],
            confinement,
            umask,
            place,
            failed: None,
        };
        run(&mut self.stack, errand)
    }

    /// Tries what children are to be held to, in a child that does nothing else.
    pub(crate) fn try_out(
        &mut self,
        confinement: Option<&Confinement>,
        place: Option<Place<'_>>,
    ) -> io::Result<()> {
        let errand = Errand {
            signals: &[],
            program: ptr::null(),
            argv: ptr::null(),
            env: ptr::null(),
            cwd: ptr::null(),
            files: [0, 1, 2],
            confinement,
            umask: None,
            place,
            failed: None,
        };
        // It exits at once.
        let _ = crate::sys::reap(run(&mut self.stack, errand)?);
        Ok(())
    }
}

/// Makes a child that does an errand.
fn run(stack: &mut [MaybeUninit<u8>], mut errand: Errand<'_>) -> io::Result<Pid> {
    // A stack grows down, and starts at a multiple of 16.
    let top = stack.as_mut_ptr_range().end;
    let top = top.wrapping_sub(top.addr() % 16).cast::<c_void>();
    // SAFETY: the stack and the errand are the child's alone until it has execed or exited, for until then
    // this thread stands still (CLONE_VFORK). With every signal blocked no handler runs on the child's
    // stack. `in_child` keeps to what a child of a process of many threads may do.
    let pid = unsafe {
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        let argument = ptr::from_mut(&mut errand).cast();
        let pid = match errand.place {
            Some(Place::Born(group)) => {
                clone_into(group, in_child, stack.as_mut_ptr().cast(), top, argument).map_err(refused)
            }
            _ => {
                let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
                let pid = libc::clone(in_child, top, flags, argument);
                Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(io::Error::last_os_error)
            }
        };
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
        pid?
    };
    // SAFETY: the child wrote it, if it did, while this thread stood still.
    let failed = unsafe { ptr::from_ref(&errand.failed).read_volatile() };
    let Some((step, error)) = failed else { return Ok(pid) };
    // It exited at once. Where the host program waits for all its children, that was done already.
    let _ = crate::sys::reap(pid);
    Err(match errand.confinement {
        Some(confinement) => confinement.error_of(step, error),
        None => io::Error::from_raw_os_error(error),
    })
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
    /// Null where there is nothing to run.
    program: *const c_char,
    argv: *const *const c_char,
    env: *const *const c_char,
    cwd: *const c_char,
    /// What become standard input, output and error; none of them is one of these.
    files: [c_int; 3],
    confinement: Option<&'a Confinement>,
    umask: Option<u32>,
    place: Option<Place<'a>>,
    /// What it could not do, and the system's reason.
    failed: Option<(Step, c_int)>,
}

/// What can fail in a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// To go to its control group.
    Place,
    Files,
    /// One of the limits, by its place.
    Limit(usize),
    Nice,
    NoNewPrivs,
    User,
    /// To go to its directory, or exec.
    Exec,
}

/// What runs in the child, on memory that is the parent's: system calls alone.
extern "C" fn in_child(errand: *mut c_void) -> c_int {
    // SAFETY: the parent's errand, which nobody else touches meanwhile; its pointers are what exec takes.
    unsafe {
        let errand = errand.cast::<Errand<'_>>();
        if let Err(step) = become_command(&*errand) {
            (*errand).failed = Some((step, *libc::__errno_location()));
        }
        libc::_exit(127)
    }
}

/// `Err` with errno set. Well done only if there is nothing to run.
///
/// # Safety
/// Called in the child alone.
unsafe fn become_command(errand: &Errand<'_>) -> Result<(), Step> {
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
        // Before a user changes, and a file is overwritten.
        if let Some(Place::Moves(procs)) = errand.place
            && libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1
        {
            return Err(Step::Place);
        }
        if errand.program.is_null() {
            return errand.confinement.map_or(Ok(()), |confinement| confine(confinement));
        }
        let placed = libc::setpgid(0, 0) == 0
            && libc::dup2(errand.files[0], 0) == 0
            && libc::dup2(errand.files[1], 1) == 1
            && libc::dup2(errand.files[2], 2) == 2;
        if !placed {
            return Err(Step::Files);
        }
        if let Some(umask) = errand.umask {
            libc::umask(umask);
        }
        if let Some(confinement) = errand.confinement {
            confine(confinement)?;
        }
        if (errand.cwd.is_null() || libc::chdir(errand.cwd) == 0)
            && libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) == 0
        {
            libc::execve(errand.program, errand.argv, errand.env);
        }
        Err(Step::Exec)
    }
}

/// Applies what the child is held to, while it still may.
///
/// The calls for user and groups are made past the C library, whose own forms change all threads of the process that
/// they believe to be in. As a side effect of the shared memory, ganger itself is no longer dumpable afterwards:
/// whom the child becomes can neither trace it nor read its memory.
///
/// # Safety
/// Called in the child alone.
unsafe fn confine(confinement: &Confinement) -> Result<(), Step> {
    // SAFETY: system calls on values that live as long as the errand.
    unsafe {
        for (at, limit) in confinement.limits.iter().enumerate() {
            if libc::setrlimit(limit.resource as _, &limit.value) != 0 {
                return Err(Step::Limit(at));
            }
        }
        if let Some(nice) = confinement.nice
            && libc::setpriority(libc::PRIO_PROCESS, 0, nice) != 0
        {
            return Err(Step::Nice);
        }
        if confinement.no_new_privs && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(Step::NoNewPrivs);
        }
        if let Some(account) = &confinement.account {
            let (uid, gid) = (account.uid, account.gid);
            let changed = libc::syscall(libc::SYS_setgroups, account.groups.len(), account.groups.as_ptr())
                == 0
                && libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
                && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0;
            if !changed {
                return Err(Step::User);
            }
        }
        Ok(())
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
        let spawn = Spawn {
            program: c"/bin/sh",
            argv: &strings(&["sh", "-c", "echo said; echo complained >&2; read line || echo ended"]),
            env: &strings(&["A=1"]),
            cwd: None,
            stdin: nothing.as_fd(),
            stdout: out_theirs.as_fd(),
            stderr: err_theirs.as_fd(),
        };
        let pid = Spawner::new().spawn(&spawn, None, None, None).unwrap();
        drop((out_theirs, err_theirs));
        let read = |file: OwnedFd| {
            let mut text = String::new();
            File::from(file).read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!((read(out).as_str(), read(err).as_str()), ("said\nended\n", "complained\n"));
        assert!(reap(pid).unwrap().status.success());
    }

    /// A control group of this test's own, where this user may make one.
    struct Group(std::path::PathBuf);

    impl Group {
        fn new() -> Option<Self> {
            let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
            let mount =
                mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?.split(' ').nth(1)?;
            let dir = format!("{mount}/ganger-test-{}", std::process::id());
            std::fs::create_dir(&dir).ok().map(|()| Group(dir.into()))
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir(&self.0);
        }
    }

    #[test]
    #[allow(clippy::print_stdout, reason = "a test that is not tried says so")]
    fn a_child_is_in_its_control_group_whichever_way() {
        let Some(group) = Group::new() else {
            println!("not tried: this user may make no control group");
            return;
        };
        let nothing = File::open("/dev/null").unwrap();
        let dir = File::open(&group.0).unwrap();
        let procs = File::options().write(true).open(group.0.join("cgroup.procs")).unwrap();
        let name = group.0.file_name().unwrap().to_str().unwrap();
        for place in [Place::Moves(procs.as_fd()), Place::Born(dir.as_fd())] {
            if matches!(place, Place::Born(_)) && Spawner::new().try_out(None, Some(place)).is_err() {
                println!("not tried: no child can be made in a group here");
                return;
            }
            let (out, theirs) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            let spawn = Spawn {
                program: c"/bin/cat",
                argv: &strings(&["cat", "/proc/self/cgroup"]),
                env: &strings(&[]),
                cwd: None,
                stdin: nothing.as_fd(),
                stdout: theirs.as_fd(),
                stderr: theirs.as_fd(),
            };
            let pid = Spawner::new().spawn(&spawn, None, None, Some(place)).unwrap();
            drop(theirs);
            let mut text = String::new();
            File::from(out).read_to_string(&mut text).unwrap();
            assert!(reap(pid).unwrap().status.success());
            assert!(
                text.lines().any(|line| line.starts_with("0::") && line.ends_with(name)),
                "{place:?}: {text}"
            );
        }
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        assert!(!own.contains(name), "{own}");
    }
}
