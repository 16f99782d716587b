//! A program that runs: the pipes to and from it, and what is known of it.

use std::{
    collections::VecDeque,
    ffi::CString,
    io,
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    time::{Duration, Instant},
};

use ganger_child::{Ask, Env, Strings, find};
use ganger_core::{JobContext, JobId};
use rustix::{
    param::clock_ticks_per_second,
    pipe::{PipeFlags, fcntl_getpipe_size, pipe_with},
    process::Pid,
};
use tokio::{
    net::unix::pipe,
    task::{coop::consume_budget, yield_now},
    time::{Sleep, sleep_until, timeout, timeout_at},
};

use crate::{
    fault::Fault,
    lines::Lines,
    message::{Hello, OurHello, PROTOCOL, Said, excerpt, json, type_of},
    talk::hear_last,
    warden::{Ended, Order, TERM_GRACE, Warden},
    worker::Entry,
};

/// How long a killed program may take to be gone; a process that waits for a device cannot be killed.
const KILL_MAX: Duration = Duration::from_secs(5);

/// How long one whose pipe has closed may take to be seen as ended.
const END_MAX: Duration = Duration::from_secs(1);

/// How often what it has used is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Who sends so many bytes at once lets others have their turn before there is more.
const GUSH: usize = 16 << 10;

/// How much a pipe holds, unless somebody has made it larger.
const PIPE: usize = 64 << 10;

/// The variable that marks one program and what it starts.
const MARK: &str = "GANGER_PROCESS";

/// A program that runs. Dropped while it is at a job, it is killed; otherwise its input is closed, and it has its grace
/// to end.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) hello: Hello,
    pub(crate) grace: Duration,
    pub(crate) warden: Warden,
    pub(crate) lines: Lines,
    /// Closed when it is to end.
    input: Option<pipe::Sender>,
    output: pipe::Receiver,
    line_max: u64,
    pid: Pid,
    /// What is to be written, and how much of it has been.
    pub(crate) out: Vec<u8>,
    written: usize,
    /// There was much to read.
    gushes: bool,
    /// Its output has come to its end, or it has.
    pub(crate) over: bool,
    /// The number of the last job that it was handed.
    pub(crate) sent: u64,
    /// The job that it is at.
    pub(crate) current: Option<u64>,
    /// Jobs that it was handed to do after it.
    pub(crate) ahead: VecDeque<(u64, JobContext)>,
    /// It was asked to give back jobs up to this number, and has not answered.
    pub(crate) recalling: Option<u64>,
    /// There may be more to be taken ahead.
    pub(crate) more: bool,
    pub(crate) pings: u64,
    pub(crate) ping_at: Instant,
    /// By when it must have answered the last ping.
    pub(crate) pong_due: Option<Instant>,
    /// When what it has used is looked at next, and whether it was too much.
    look_at: Instant,
    worn: bool,
    timer: Pin<Box<Sleep>>,
}

/// What a wait for a program came to.
pub(crate) enum Event<T> {
    /// There may be more to read, or less to write.
    Moved,
    /// What else was waited for.
    Other(T),
    /// The time is there.
    Time,
}

impl Child {
    /// Starts a program and waits for its `hello`, which must name the type that is wanted.
    ///
    /// # Errors
    /// Why there is none, in words. It is killed.
    pub(crate) async fn start(entry: &Entry, slot: u32, wanted: Option<&str>) -> Result<Child, String> {
        let until = tokio::time::Instant::now() + entry.config.start_timeout.get();
        let Pipes { input, output, stdin, stdout } =
            pipes().map_err(|error| format!("no pipe for `{}`: {error}", entry.config.command))?;
        let order = order(entry, stdin, stdout)?;
        let (warden, told) = Warden::start(entry.keeper(), order, format!("{}-{slot}", entry.name))
            .map_err(|error| format!("no thread for `{}`: {error}", entry.config.command))?;
        let mut starting = Starting(Some(warden));
        let late = || format!("it said no `hello` within `start_timeout` ({})", entry.config.start_timeout);
        let pid = match timeout_at(until, told).await {
            Ok(Ok(told)) => told?,
            Ok(Err(_)) => return Err("its thread ended before it was started".to_owned()),
            Err(_) => return Err(late()),
        };
        let now = Instant::now();
        let mut child = Child {
            hello: Hello::none(),
            grace: entry.config.grace.get(),
            warden: starting.0.take().ok_or("it was started twice")?,
            lines: Lines::new(entry.line_max()),
            input: Some(input),
            output,
            line_max: entry.config.line_max.get(),
            pid,
            out: Vec::new(),
            written: 0,
            gushes: false,
            over: false,
            sent: 0,
            // Until its hello it is at something: dropped before, it is killed.
            current: Some(0),
            ahead: VecDeque::new(),
            recalling: None,
            more: false,
            pings: 0,
            ping_at: now + entry.config.ping_every.get(),
            pong_due: None,
            look_at: now,
            worn: false,
            timer: Box::pin(sleep_until(until)),
        };
        let why = match timeout_at(until, child.greet(entry, slot, wanted)).await {
            Ok(Ok(hello)) => {
                child.hello = hello;
                child.current = None;
                tracing::debug!(program = entry.name, slot, pid = pid.as_raw_nonzero(), hello = ?child.hello, "a program is ready");
                return Ok(child);
            }
            Ok(Err(why)) => why,
            Err(_) => late(),
        };
        let was_over = child.over;
        let ended = child.kill().await.filter(|_| was_over);
        Err(child.with_tail(ended.map_or_else(|| why.clone(), |ended| format!("{why} ({})", ended.how))))
    }

    /// Says hello and waits for the answer.
    async fn greet(&mut self, entry: &Entry, slot: u32, wanted: Option<&str>) -> Result<Hello, String> {
        let hello = OurHello {
            kind: "hello",
            protocol: PROTOCOL,
            ganger: env!("CARGO_PKG_VERSION"),
            job_type: type_of(&entry.name),
            slot,
            line_max: self.line_max,
            ping_timeout_ms: entry.config.ping_timeout.get().as_millis() as u64,
            grace_ms: self.grace.as_millis() as u64,
        };
        json(&mut self.out, &hello);
        self.out.push(b'\n');
        loop {
            self.flush().map_err(|fault| fault.words())?;
            match self.lines.next() {
                Err(_) => return Err(Fault::TooLong(self.line_max).words()),
                Ok(Some(line)) => {
                    let line = self.lines.get(line);
                    return match Said::read(line) {
                        Ok(Said::Hello) => Hello::read(line, wanted),
                        _ => {
                            Err(format!("the first line that it printed is no `hello`: `{}`", excerpt(line)))
                        }
                    };
                }
                Ok(None) if self.over => {
                    let rest = excerpt(self.lines.rest());
                    let also = if rest.is_empty() { String::new() } else { format!(", with `{rest}`") };
                    return Err(format!("its output ended before its `hello`{also}"));
                }
                Ok(None) => {}
            }
            let _: Event<()> = self.wait(std::future::pending(), None).await;
        }
    }

    /// The end of what it complained, behind what it did wrong.
    fn with_tail(&self, why: String) -> String {
        let tail = self.warden.tail();
        match String::from_utf8_lossy(&tail).lines().rev().find(|line| !line.trim().is_empty()) {
            Some(last) => format!("{why}; its last words: {}", excerpt(last.as_bytes())),
            None => why,
        }
    }

    /// Writes as much as it takes.
    ///
    /// # Errors
    /// It has closed its input.
    pub(crate) fn flush(&mut self) -> Result<(), Fault> {
        while self.written < self.out.len() {
            let Some(input) = &self.input else { break };
            match input.try_write(&self.out[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Fault::Closed("input")),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Waits until there is something to read, room to write, its end, the time, or something else; reads what there is.
    pub(crate) async fn wait<T>(&mut self, other: impl Future<Output = T>, at: Option<Instant>) -> Event<T> {
        if let Some(at) = at {
            let (at, set) = (tokio::time::Instant::from_std(at), self.timer.deadline());
            // A timer that rings too early costs less than one that is set anew each time.
            if at < set || self.timer.is_elapsed() {
                self.timer.as_mut().reset(at);
            }
        }
        // One that writes without end must not keep others of this thread from their turn.
        match std::mem::take(&mut self.gushes) {
            true => yield_now().await,
            false => consume_budget().await,
        }
        let writes = self.written < self.out.len();
        tokio::select! {
            biased;
            other = other => Event::Other(other),
            _ = self.output.readable() => {
                self.read();
                Event::Moved
            }
            () = writable(self.input.as_ref()), if writes => Event::Moved,
            _ = self.warden.ended.changed() => {
                self.read_now();
                self.over = true;
                Event::Moved
            }
            () = &mut self.timer, if at.is_some() => Event::Time,
        }
    }

    /// Reads what is there, once.
    pub(crate) fn read(&mut self) {
        match self.output.try_read_buf(self.lines.space()) {
            Ok(0) => self.over = true,
            Ok(n) => self.gushes = n >= GUSH,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.over = true,
        }
    }

    /// Reads all that is in the pipe at this moment, past what the reactor knows: also that it is at its end. What is
    /// added meanwhile, perhaps without end, is not waited for.
    pub(crate) fn read_now(&mut self) {
        let mut bytes = [0; 4096];
        let mut left = fcntl_getpipe_size(&self.output).unwrap_or(PIPE) + bytes.len();
        while left > 0 {
            match rustix::io::read(self.output.as_fd(), &mut bytes) {
                Ok(0) => return self.over = true,
                Ok(n) => {
                    self.lines.space().extend_from_slice(&bytes[..n]);
                    left = left.saturating_sub(n);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Its next line.
    pub(crate) fn line(&mut self) -> Result<Option<Range<usize>>, Fault> {
        self.lines.next().map_err(|_| Fault::TooLong(self.line_max))
    }

    /// Why its output is over.
    pub(crate) async fn why_over(&mut self) -> Fault {
        match self.await_end(END_MAX).await {
            Some(ended) => Fault::Died(ended),
            None => Fault::Closed("output"),
        }
    }

    /// What a fault in writing is about: it may simply have ended.
    pub(crate) async fn why(&mut self, fault: Fault) -> Fault {
        match fault {
            Fault::Closed(_) => match self.await_end(END_MAX).await {
                Some(ended) => Fault::Died(ended),
                None => fault,
            },
            fault => fault,
        }
    }

    async fn await_end(&mut self, time: Duration) -> Option<Ended> {
        let ended = timeout(time, self.warden.ended.wait_for(Option::is_some)).await;
        ended.ok().and_then(Result::ok).and_then(|ended| ended.clone())
    }

    /// Kills it with all its group, and waits until it is gone; `None` if it cannot be killed.
    pub(crate) async fn kill(&mut self) -> Option<Ended> {
        self.warden.group.ask(Ask::Kill);
        self.await_end(KILL_MAX).await
    }

    /// Closes its input and hears it out; `None` if it has not ended by then, and is told to, and killed.
    pub(crate) async fn close(mut self, time: Duration) -> Option<Ended> {
        self.input = None;
        if let Ok(ended) = timeout(time, self.last_words()).await {
            return ended;
        }
        self.warden.group.ask(Ask::Stop);
        if timeout(TERM_GRACE, self.last_words()).await.is_err() {
            self.kill().await;
        }
        None
    }

    /// Hears what it says until it has ended: one that nobody hears waits for a reader, or dies of it.
    async fn last_words(&mut self) -> Option<Ended> {
        self.over = false;
        while !self.over {
            let _: Event<()> = self.wait(std::future::pending(), None).await;
            loop {
                match self.lines.next() {
                    Ok(Some(line)) => hear_last(self.lines.get(line)),
                    Ok(None) => break,
                    Err(_) => self.lines.forget(),
                }
            }
        }
        self.warden.ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone())
    }

    /// Whether it has ended, as far as is known.
    pub(crate) fn has_ended(&self) -> bool {
        self.over || self.warden.ended.borrow().is_some()
    }

    /// Whether it is to be replaced: it has done its number of jobs, grown too large, or used so much processor time that
    /// it would meet its limit in a job that is not to blame.
    pub(crate) fn is_worn(&mut self, entry: &Entry) -> bool {
        if entry.config.recycle_after.is_some_and(|max| self.sent >= max.max(1)) {
            return true;
        }
        let (memory_max, cpu_max) = (entry.config.memory_max, entry.config.cpu_max());
        let now = Instant::now();
        if (memory_max.is_none() && cpu_max.is_none()) || now < self.look_at {
            return self.worn;
        }
        self.look_at = now + LOOK_EVERY;
        self.worn |= memory_max.is_some_and(|max| resident(self.pid).is_some_and(|bytes| bytes > max.get()))
            || cpu_max.is_some_and(|max| cpu_used(self.pid).is_some_and(|used| used >= max));
        self.worn
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.current.is_some() || !self.ahead.is_empty() || self.has_ended() {
            self.warden.group.ask(Ask::Kill);
        } else {
            self.warden.leave(self.grace);
        }
    }
}

async fn writable(input: Option<&pipe::Sender>) {
    match input {
        // Whatever hinders it is seen when it is written.
        Some(input) => drop(input.writable().await),
        None => std::future::pending().await,
    }
}

/// A program whose start is under way: it does not outlive the wait for it.
struct Starting(Option<Warden>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(warden) = &self.0 {
            warden.group.ask(Ask::Kill);
        }
    }
}

/// The two pipes, and their ends that the program gets.
struct Pipes {
    input: pipe::Sender,
    output: pipe::Receiver,
    stdin: OwnedFd,
    stdout: OwnedFd,
}

fn pipes() -> io::Result<Pipes> {
    let (stdin, input) = pipe_with(PipeFlags::CLOEXEC)?;
    let (output, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    for ours in [&input, &output] {
        rustix::io::ioctl_fionbio(ours, true)?;
    }
    let (input, output) = (pipe::Sender::from_owned_fd(input)?, pipe::Receiver::from_owned_fd(output)?);
    Ok(Pipes { input, output, stdin, stdout })
}

/// What is to be started.
fn order(entry: &Entry, stdin: OwnedFd, stdout: OwnedFd) -> Result<Order, String> {
    let (mut env, path) = entry.base.with(&Env::default())?;
    let mark = format!("{MARK}={}", JobId::new());
    let nul = |_| "a variable of its environment has a NUL byte in it".to_owned();
    env.push(&[mark.as_bytes()]).map_err(nul)?;
    let command = entry.config.command.clone();
    let program = find(&command, &path)?;
    let cwd = entry.config.cwd.as_deref().map(CString::new).transpose();
    let cwd = cwd.map_err(|_| "`cwd` has a NUL byte in it".to_owned())?;
    let limits = entry.config.limits.clone();
    Ok(Order { argv: arguments(entry)?, command, program, env, cwd, stdin, stdout, mark, limits })
}

fn arguments(entry: &Entry) -> Result<Strings, String> {
    let mut argv = Strings::default();
    let params = entry.config.params.iter().map(|text| text.0.as_str());
    for argument in [entry.config.command.as_str()].into_iter().chain(params) {
        let nul = |_| "`command` or `params` has a NUL byte, which no program can be given".to_owned();
        argv.push(&[argument.as_bytes()]).map_err(nul)?;
    }
    Ok(argv)
}

/// The resident memory of a process, in bytes.
fn resident(pid: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// The processor time that a process has used, without what it started.
fn cpu_used(pid: Pid) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // Its name, in parentheses, may have anything in it; behind it, user and system time are the 12th and the 13th.
    let mut times = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || times.next()?.parse::<u64>().ok();
    let ticks = ticks()?.saturating_add(ticks()?);
    Some(Duration::from_millis(ticks.saturating_mul(1000) / clock_ticks_per_second().max(1)))
}
