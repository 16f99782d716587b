//! The calls for which neither the standard library nor rustix has a safe form: wait4, memory shared with a fork, and
//! the fork itself. All unsafe code of this crate is here and in [`crate::spawn`].
#![allow(unsafe_code)]

use std::{
    ffi::{c_int, c_void},
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::process::ExitStatusExt,
    },
    process::ExitStatus,
    ptr::NonNull,
    sync::atomic::{AtomicI32, AtomicU64},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, WaitId, WaitIdOptions, waitid},
};

/// How a child ended, and what it had used.
#[derive(Clone, Copy, Debug)]
pub struct Reaped {
    /// Its exit status, or the signal that killed it.
    pub status: ExitStatus,
    /// User and system time, with that of the children it waited for.
    pub cpu: Duration,
    /// The most memory it, or one of the children it waited for, had at once, in KiB; no less than ganger's own,
    /// whose memory it shared until exec.
    pub max_rss_kib: u64,
}

/// Waits for a child and lets the system forget it.
pub(crate) fn reap(pid: Pid) -> io::Result<Reaped> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both are valid for writes.
        let reaped = unsafe { libc::wait4(pid.as_raw_nonzero().get(), &mut status, 0, usage.as_mut_ptr()) };
        if reaped > 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: wait4 filled it; all zero it was valid before.
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    Ok(Reaped {
        status: ExitStatus::from_raw(status),
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        max_rss_kib: usage.ru_maxrss.unsigned_abs(),
    })
}

/// CLONE_INTO_CGROUP, which the C library's own constants have no room for.
#[cfg(target_arch = "x86_64")]
const INTO_CGROUP: u64 = 1 << 33;

/// What clone(2) does with CLONE_VM | CLONE_VFORK, with a child that is in a control group from its first moment on.
///
/// clone3(2) has no wrapper in the C library, and a child on a stack of its own cannot return from one.
///
/// # Safety
/// As for clone(2): the stack from `bottom` to `top`, a multiple of 16, is the child's alone, and `run` does what a
/// child on its parent's memory may do, and exits.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn clone_into(
    group: BorrowedFd<'_>,
    run: extern "C" fn(*mut c_void) -> c_int,
    bottom: *mut c_void,
    top: *mut c_void,
    argument: *mut c_void,
) -> io::Result<Pid> {
    // SAFETY: all zero is a valid value: nothing is asked for.
    let mut args: libc::clone_args = unsafe { MaybeUninit::zeroed().assume_init() };
    args.flags = (libc::CLONE_VM | libc::CLONE_VFORK) as u64 | INTO_CGROUP;
    args.exit_signal = libc::SIGCHLD as u64;
    args.stack = bottom.addr() as u64;
    args.stack_size = (top.addr() - bottom.addr()) as u64;
    args.cgroup = group.as_raw_fd() as u64;
    let pid: i64;
    // SAFETY: the child leaves this at once for `run`, on its own stack, and never comes back; the parent finds every
    // register as it was but those named.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => pid,
            in("rdi") &raw const args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") argument,
            in("r13") run,
            out("rcx") _,
            out("r11") _,
        );
    }
    let pid = i32::try_from(pid).unwrap_or(-libc::EINVAL);
    Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(|| io::Error::from_raw_os_error(-pid))
}

/// Not on this machine: the child goes to its group by itself.
///
/// # Safety
/// Does nothing.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn clone_into(
    _group: BorrowedFd<'_>,
    _run: extern "C" fn(*mut c_void) -> c_int,
    _bottom: *mut c_void,
    _top: *mut c_void,
    _argument: *mut c_void,
) -> io::Result<Pid> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// The most memory that this process has had at once, in KiB: what a child is said to have had at least.
pub(crate) fn own_max_rss_kib() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: valid for writes, and all zero a valid value.
    unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init().ru_maxrss.unsigned_abs()
    }
}

/// Waits for the end of a child; it can still be reaped.
pub fn await_end(pid: Pid) {
    // Anything but an interruption means that it has ended, or is no child any more.
    while matches!(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT), Err(Errno::INTR))
    {
    }
}

/// Whether a child has ended; it can still be reaped.
pub fn has_ended(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // Interrupted is not ended; any other error means that it is no child any more.
    match waitid(WaitId::Pid(pid), options) {
        Ok(status) => status.is_some(),
        Err(error) => error != Errno::INTR,
    }
}

/// Where the host program ignores SIGCHLD, the system forgets children before anyone can ask how they ended.
/// Takes that back, and says whether it had to.
pub fn listen_to_children() -> bool {
    // SAFETY: the action is read before it is looked at; SIG_DFL is a valid handler.
    unsafe {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        if libc::sigaction(libc::SIGCHLD, std::ptr::null(), action.as_mut_ptr()) != 0 {
            return false;
        }
        let action = action.assume_init();
        let ignored = action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0;
        if ignored {
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        }
        ignored
    }
}

/// How far this process may raise a limit; `None` where there is no bound.
pub(crate) fn hard_limit(resource: c_int) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: valid for writes.
    unsafe { libc::getrlimit(resource as _, &mut limit) };
    (limit.rlim_max != libc::RLIM_INFINITY).then_some(limit.rlim_max)
}

/// How many groups the board has room for: far more than slots that a machine could feed.
pub(crate) const SEATS: usize = 4096;

/// What ganger and its watcher both see.
#[derive(Debug)]
pub(crate) struct Notes {
    /// When ganger last gave a sign of life: milliseconds of the monotonic clock.
    pub(crate) beat: AtomicU64,
    /// How old `beat` may become, in milliseconds.
    pub(crate) patience: AtomicU64,
    /// The groups that run, 0 where none does.
    pub(crate) groups: [AtomicI32; SEATS],
}

/// Memory that stays shared with a fork: to tell the watcher of a group costs one store.
#[derive(Debug)]
pub(crate) struct Board(NonNull<Notes>);

// SAFETY: `Notes` is all atomics, and the mapping lives as long as the board.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: a new anonymous mapping, page-aligned and zeroed, and zero is a valid `Notes`.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Notes>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        match NonNull::new(mapped) {
            Some(notes) if mapped != libc::MAP_FAILED => Ok(Board(notes.cast())),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(crate) fn notes(&self) -> &Notes {
        // SAFETY: mapped until `self` is dropped, and only ever read and written as atomics.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<Notes>()) };
    }
}

/// The monotonic clock in milliseconds, the same in every process.
pub(crate) fn monotonic_millis() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: valid for writes; the clock exists everywhere.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec.unsigned_abs() * 1000 + time.tv_nsec.unsigned_abs() / 1_000_000
}

/// Where this process was given [`crate::environment::RUN`] by another ganger: the watcher blots it out in its
/// own copy, so that the other's watcher does not take it for a command.
fn inherited_mark() -> Option<NonNull<libc::c_char>> {
    // SAFETY: a read of the environment before the fork, as `std::env::var` makes it.
    NonNull::new(unsafe { libc::getenv(c"GANGER_RUN".as_ptr()) })
}

/// Forks a process that belongs to nobody, keeps only `keep` open, has its own session, blocks every signal that
/// can be blocked, and runs `body`.
///
/// It is a grandchild, so that the caller neither sees it in a wait for its children nor owes it one.
///
/// `body` runs in the copy of a process of many threads, of which only this one is there: it must neither
/// allocate nor take locks nor panic. What rustix calls on Linux are bare system calls; atomics are free to use.
pub(crate) fn fork_watcher(keep: BorrowedFd<'_>, body: impl FnOnce()) -> io::Result<()> {
    let keep = keep.as_raw_fd();
    let mark = inherited_mark();
    // SAFETY: the child makes only async-signal-safe calls until it exits (see above), and never returns.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: as above; `mark` is this process's own copy, and the length is not changed.
            unsafe {
                libc::setsid();
                // Handed on by the fork: nobody sees the watcher without its name.
                libc::prctl(libc::PR_SET_NAME, c"ganger-watch".as_ptr());
                match libc::fork() {
                    0 => {}
                    -1 => libc::_exit(1),
                    _ => libc::_exit(0),
                }
                let mut signals = MaybeUninit::uninit();
                libc::sigfillset(signals.as_mut_ptr());
                libc::sigprocmask(libc::SIG_SETMASK, signals.as_ptr(), std::ptr::null_mut());
                libc::chdir(c"/".as_ptr());
                close_all_but(keep);
                if let Some(mark) = mark {
                    blot(mark.as_ptr());
                }
            }
            body();
            // SAFETY: ends the process without a destructor of the parent's.
            unsafe { libc::_exit(0) }
        }
        child => match Pid::from_raw(child).map(reap) {
            Some(Ok(reaped)) if !reaped.status.success() => {
                Err(io::Error::other("the system refused the second fork"))
            }
            // Not being told how it ended is as good: the host program waits for all its children.
            _ => Ok(()),
        },
    }
}

/// # Safety
/// `text` ends in a NUL and is this process's own.
unsafe fn blot(mut text: *mut libc::c_char) {
    // SAFETY: stays before the NUL.
    unsafe {
        while *text != 0 {
            *text = b'-' as libc::c_char;
            text = text.add(1);
        }
    }
}

/// # Safety
/// Nothing that runs afterwards uses another file.
unsafe fn close_all_but(keep: c_int) {
    let close = |from: c_int, to: c_int| {
        // SAFETY: closes numbers; what held them is never used again.
        let done = unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        if done != 0 {
            // Before Linux 5.9: as many as a process is commonly allowed.
            // SAFETY: as above.
            (from..=to.min(65_535)).for_each(|number| unsafe {
                libc::close(number);
            });
        }
    };
    if keep > 0 {
        close(0, keep - 1);
    }
    close(keep + 1, c_int::MAX);
}
