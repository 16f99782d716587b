//! The thread that starts a program, reads its standard error, and waits for its end.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use ganger_child::{Ask, End, Group, Keeper, Limits, Refusal, Spawn, Strings, describe, explain, has_ended};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, read},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::sync::{oneshot, watch};

use crate::message::printable;

/// How often it looks whether a program that is to leave has had its time, and without a handle for its end.
const LOOK: Duration = Duration::from_millis(100);

/// How often it looks otherwise.
const REST: Duration = Duration::from_secs(1);

/// How long a program that was told to end (TERM) may take before it is killed.
pub(crate) const TERM_GRACE: Duration = Duration::from_secs(1);

/// How much of its standard error is kept for the job in which it dies.
const TAIL: usize = 4 << 10;

/// A longer line is logged in pieces.
const LINE: usize = 4 << 10;

/// So many lines a second are logged; the others are counted.
const LINES_A_SECOND: u32 = 100;

/// What is to be started.
pub(crate) struct Order {
    pub(crate) command: String,
    pub(crate) program: CString,
    pub(crate) argv: Strings,
    pub(crate) env: Strings,
    pub(crate) cwd: Option<CString>,
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    /// The variable (`NAME=value`) that this program alone has.
    pub(crate) mark: String,
    /// What it is held to, for the words about its end.
    pub(crate) limits: Option<Limits>,
}

/// How a program ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// In words.
    pub(crate) how: String,
    /// By SIGKILL, and not ganger's.
    pub(crate) was_killed: bool,
}

impl Ended {
    fn of(end: End, limits: Option<&Limits>) -> Self {
        let reaped = match end.reaped {
            Ok(reaped) => reaped,
            Err(error) => return Ended { how: format!("nobody knows how: {error}"), was_killed: false },
        };
        let how = describe(reaped.status);
        let is_killed = reaped.status.signal() == Some(9) && end.asked.is_none();
        let over = limits.filter(|_| !reaped.status.success() && end.asked.is_none());
        match over.and_then(|limits| limits.over(&reaped, end.over)) {
            // Out of the memory that it had with all that it started: as lost as one that the kernel kills for its own.
            Some(over) => Ended {
                how: format!("{how}: {over}"),
                was_killed: is_killed && end.over.is_some_and(|over| over.memory),
            },
            None => Ended { how, was_killed: is_killed },
        }
    }
}

/// The near side.
#[derive(Debug)]
pub(crate) struct Warden {
    pub(crate) group: Arc<Group>,
    pub(crate) ended: watch::Receiver<Option<Ended>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    leaving: Mutex<Option<Instant>>,
    tail: Mutex<Vec<u8>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Warden {
    /// Starts a program; its number comes when it runs, or why it does not.
    ///
    /// # Errors
    /// No thread, or no pipe.
    pub(crate) fn start(
        mut keeper: Keeper,
        order: Order,
        who: String,
    ) -> io::Result<(Warden, oneshot::Receiver<Result<Pid, String>>)> {
        let (stderr, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&stderr, true)?;
        let group = Arc::clone(keeper.group());
        let shared = Arc::new(Shared::default());
        let (tell, told) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        group.begin();
        let far = Far { shared: Arc::clone(&shared), stderr, log: Log::new(who) };
        let name = "ganger-process".to_owned();
        thread::Builder::new().name(name).stack_size(256 << 10).spawn(move || {
            match start(&mut keeper, &order, &theirs) {
                Err(why) => {
                    keeper.never_started();
                    let _ = tell.send(Err(why));
                }
                Ok(leader) => {
                    let Order { mark, stdin, stdout, limits, .. } = order;
                    drop((theirs, stdin, stdout));
                    let _ = tell.send(Ok(leader));
                    let ended = far.attend(&mut keeper, leader);
                    keeper.kill_marked(mark.as_bytes());
                    let _ = end.send(Some(Ended::of(ended, limits.as_ref())));
                }
            }
        })?;
        Ok((Warden { group, ended, shared }, told))
    }

    /// From now on it has this long to end by itself.
    pub(crate) fn leave(&self, grace: Duration) {
        *lock(&self.shared.leaving) = Some(Instant::now() + grace);
    }

    /// The end of its standard error.
    pub(crate) fn tail(&self) -> Vec<u8> {
        lock(&self.shared.tail).clone()
    }
}

fn start(keeper: &mut Keeper, order: &Order, stderr: &OwnedFd) -> Result<Pid, String> {
    let spawn = Spawn {
        program: &order.program,
        argv: &order.argv,
        env: &order.env,
        cwd: order.cwd.as_deref(),
        stdin: order.stdin.as_fd(),
        stdout: order.stdout.as_fd(),
        stderr: stderr.as_fd(),
    };
    keeper.start(&spawn).map_err(|error| {
        match explain(&error, &order.command, &order.program, order.cwd.as_deref()) {
            Refusal::Shortage => format!("`{}` cannot be started for now: {error}", order.command),
            Refusal::Once(why) | Refusal::Always(why) => why,
        }
    })
}

/// The thread's own side.
struct Far {
    shared: Arc<Shared>,
    stderr: OwnedFd,
    log: Log,
}

impl Far {
    /// Reads its standard error until it has ended.
    fn attend(mut self, keeper: &mut Keeper, leader: Pid) -> End {
        let handle = pidfd_open(leader, PidfdFlags::empty()).ok();
        let mut open = true;
        loop {
            let mut files = Vec::with_capacity(2);
            files.extend(handle.as_ref().map(|handle| PollFd::new(handle, PollFlags::IN)));
            files.extend(open.then(|| PollFd::new(&self.stderr, PollFlags::IN)));
            let looks = handle.is_none() || lock(&self.shared.leaving).is_some();
            let wait = if looks { LOOK } else { REST };
            let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
            // Interrupted or timed out: whatever it is, it is looked at below.
            let _ = poll(&mut files, Some(&wait));
            drop(files);
            open = open && self.read();
            if has_ended(leader) {
                break;
            }
            self.hurry(keeper.group());
        }
        let end = keeper.end(leader);
        self.read();
        self.log.finish();
        end
    }

    /// One that is to leave and has had its time is told so, and then killed.
    fn hurry(&self, group: &Group) {
        let leaving = *lock(&self.shared.leaving);
        let Some(late) = leaving.and_then(|at| Instant::now().checked_duration_since(at)) else { return };
        match group.asked() {
            None => group.ask(Ask::Stop),
            Some(_) if late > TERM_GRACE => group.ask(Ask::Kill),
            Some(_) => false,
        };
    }

    /// Reads what is there; false at the end.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 8192];
        // A program that writes without end must not keep its warden from its other duties.
        for _ in 0..16 {
            match read(&self.stderr, &mut bytes) {
                Ok(0) => return false,
                Ok(n) => {
                    self.log.take(&bytes[..n]);
                    let mut tail = lock(&self.shared.tail);
                    tail.extend_from_slice(&bytes[..n]);
                    let over = tail.len().saturating_sub(TAIL);
                    tail.drain(..over);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

/// Puts a program's standard error into ganger's log, line by line and not too many.
struct Log {
    who: String,
    line: Vec<u8>,
    since: Instant,
    count: u32,
}

impl Log {
    fn new(who: String) -> Self {
        Log { who, line: Vec::new(), since: Instant::now(), count: 0 }
    }

    fn take(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") || self.line.len() >= LINE {
                self.write();
            }
        }
    }

    fn write(&mut self) {
        let line = std::mem::take(&mut self.line);
        if self.since.elapsed() >= Duration::from_secs(1) {
            self.tell_left_out();
            self.since = Instant::now();
            self.count = 0;
        }
        self.count += 1;
        if self.count <= LINES_A_SECOND {
            let text: String =
                String::from_utf8_lossy(line.trim_ascii_end()).chars().flat_map(printable).collect();
            tracing::info!(program = self.who, "{text}");
        }
    }

    fn tell_left_out(&self) {
        let left_out = self.count.saturating_sub(LINES_A_SECOND);
        if left_out > 0 {
            tracing::warn!(program = self.who, lines = left_out, "lines of its standard error are left out");
        }
    }

    fn finish(&mut self) {
        if !self.line.is_empty() {
            self.write();
        }
        self.tell_left_out();
    }
}
