//! The thread of a slot: starts a command, reads what it prints, waits for its end.
//!
//! A thread, and not a task: a spawn holds its thread until exec has happened, and a wait in poll(2) costs
//! less than to register each pipe with a reactor (see `docs/decisions`).

use std::{
    borrow::Cow,
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use ganger_child::{Ask, End, Keeper, Killer, Over, Reaped, Watch, await_end, describe, has_ended, may_pass};
use ganger_core::{JobContext, JobError, LeaseRef, Output};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::{
    command::{Command, Common},
    params::Params,
    pipes::{Pipes, Ready},
    printed::Printed,
    turns::Turns,
    verdict,
};

/// How long the output of a command that has ended is still read, where something holds its end open: what it
/// left behind in its group may be printing its last lines.
const LINGER: Duration = Duration::from_millis(250);

/// How often is looked for what no file tells: that a group was killed, or (without a handle of it) that a command
/// has ended.
const LOOK: Duration = Duration::from_millis(20);

/// How long a command waits for the system to have a process or a file for it again.
const SHORTAGE_MAX: Duration = Duration::from_secs(30);

/// How much is read at once.
const READ_MAX: usize = 64 << 10;

/// A run that a slot is to make.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) params: Params,
    pub(crate) job: JobContext,
    /// How long it may take from its beginning on, if that is limited.
    pub(crate) limit: Option<Duration>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// What became of the command, had nobody asked it to stop.
    pub(crate) result: Result<Output, JobError>,
    /// What it was asked before it ended.
    pub(crate) asked: Option<Ask>,
    /// How it ended, in words; `None` where it never started, or nobody knows.
    pub(crate) how: Option<Cow<'static, str>>,
}

/// The near side of a slot's thread. Dropped, what runs is killed, nothing more is begun, and the thread ends.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) turns: Arc<Turns<Order, Ended>>,
    /// What the thread has, to begin one after the other without a word from here.
    pub(crate) ahead: VecDeque<Handed>,
}

/// A job that was handed to the slot's thread.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) number: u64,
    pub(crate) lease: LeaseRef,
    /// The limit among its params.
    pub(crate) longest: Option<Duration>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.turns.kill();
        self.turns.close();
    }
}

impl Slot {
    /// Starts the thread.
    pub(crate) fn start(
        name: &str,
        common: Arc<Common>,
        killer: Arc<Killer>,
        watch: &Arc<Watch>,
    ) -> io::Result<Slot> {
        let keeper =
            Keeper::new(watch).stopped_by(common.config.kill_signal).confined(common.confinement.clone());
        let turns = Arc::new(Turns::new(Arc::clone(keeper.group())));
        let orders = Orders(Arc::clone(&turns));
        let mut far = Far { common, killer, keeper, buffer: vec![0; READ_MAX].into() };
        thread::Builder::new().name(format!("ganger-{name}")).stack_size(256 << 10).spawn(move || {
            while let Some((number, Order { params, job, limit })) = orders.0.next() {
                let ended = far.run(&params, &job, limit);
                let urgent = job.is_waited_for();
                // Before it is told, so that a job's params and context do not outlive its run.
                drop((params, job));
                orders.0.ended(number, ended, urgent);
            }
        })?;
        Ok(Slot { turns, ahead: VecDeque::new() })
    }
}

/// The thread's end of its orders: when it is gone, they are over.
struct Orders(Arc<Turns<Order, Ended>>);

impl Drop for Orders {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The thread's own side.
struct Far {
    common: Arc<Common>,
    killer: Arc<Killer>,
    keeper: Keeper,
    buffer: Box<[u8]>,
}

impl Far {
    fn run(&mut self, params: &Params, job: &JobContext, limit: Option<Duration>) -> Ended {
        let since = Instant::now();
        let ended = self.run_untimed(params, job, limit);
        job.lasted(since.elapsed());
        ended
    }

    fn run_untimed(&mut self, params: &Params, job: &JobContext, limit: Option<Duration>) -> Ended {
        let common = Arc::clone(&self.common);
        let started = Command::new(&common, params, job, limit).and_then(|command| self.start(&command));
        let (leader, mut pipes) = match started {
            Ok(started) => started,
            Err(error) => return Ended { result: Err(error), asked: self.keeper.never_started(), how: None },
        };
        let mut printed = Printed::new(&common, job);
        self.attend(leader, &mut pipes, &mut printed);
        drop(pipes);
        let returned = printed.end();
        let End { asked, reaped, over } = self.keeper.end(leader);
        if asked.is_some() {
            self.kill_strays(job);
        }
        let (result, how) = match reaped {
            Ok(reaped) => {
                job.used(reaped.usage());
                self.judge(&reaped, over, job)
            }
            Err(error) => (Err(JobError::lost(format!("nobody knows how the command ended: {error}"))), None),
        };
        Ended { result: result.map(|()| returned), asked, how }
    }

    fn judge(
        &self,
        reaped: &Reaped,
        over: Option<Over>,
        job: &JobContext,
    ) -> (Result<(), JobError>, Option<Cow<'static, str>>) {
        tracing::trace!(
            job = %job.id(),
            cpu_ms = reaped.cpu.as_millis() as u64,
            max_rss_kib = reaped.max_rss_kib,
            "the command ended"
        );
        match reaped.status.success() {
            true => (Ok(()), Some("exit status 0".into())),
            false => {
                let limits = self.common.config.limits.as_ref();
                let verdict = verdict::of(reaped, &self.common.exits, limits, over, &self.killer);
                (verdict, Some(describe(reaped.status).into()))
            }
        }
    }

    /// Starts a command; waits where the system is short of processes, files or memory.
    fn start(&mut self, command: &Command<'_>) -> Result<(Pid, Pipes), JobError> {
        let since = Instant::now();
        let mut pause = Duration::from_millis(10);
        loop {
            let error = match self.try_start(command) {
                Ok(started) => return Ok(started),
                Err(error) => error,
            };
            if let Some(fate) = command.explain(&error).filter(|_| !may_pass(&error)) {
                return Err(fate);
            }
            if since.elapsed() > SHORTAGE_MAX {
                return Err(JobError::lost(format!(
                    "no command could be started for {} s: {error}",
                    SHORTAGE_MAX.as_secs()
                )));
            }
            if self.keeper.group().wait_asked(pause).is_some() {
                return Err(JobError::retry("it was stopped before it could be started"));
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    fn try_start(&mut self, command: &Command<'_>) -> io::Result<(Pid, Pipes)> {
        let (pipes, theirs) = Pipes::new(self.common.config.streams)?;
        let leader = command.start(&mut self.keeper, theirs.stdout(), theirs.stderr())?;
        Ok((leader, pipes))
    }

    /// Reads the output of a command until both it and its output have ended, or only it has and time is up.
    fn attend(&mut self, leader: Pid, pipes: &mut Pipes, printed: &mut Printed<'_>) {
        let started = Instant::now();
        let mut handle = None;
        loop {
            match self.look(leader, handle.as_ref(), pipes, printed) {
                Seen::Ended => return self.read_the_rest(pipes, printed),
                Seen::Closed => return await_end(leader),
                // Most commands have ended before a handle is worth its making.
                Seen::Other if handle.is_none() && started.elapsed() >= LOOK => {
                    handle = pidfd_open(leader, PidfdFlags::empty()).ok();
                }
                Seen::Other => {}
            }
        }
    }

    /// Waits until something happens, for a short time only where there is no handle; and reads.
    fn look(
        &mut self,
        leader: Pid,
        handle: Option<&OwnedFd>,
        pipes: &mut Pipes,
        printed: &mut Printed<'_>,
    ) -> Seen {
        let ready = pipes.wait(handle, handle.is_none().then_some(LOOK));
        if ready.timed_out && has_ended(leader) {
            return Seen::Ended;
        }
        self.read_some(pipes, ready, printed);
        match (pipes.are_closed(), ready.ended) {
            (true, _) => Seen::Closed,
            (false, true) => Seen::Ended,
            (false, false) => Seen::Other,
        }
    }

    /// What is there is read; what may still come is given a short time. One who was asked to stop has the time
    /// that its grace leaves for the rest of its group.
    fn read_the_rest(&mut self, pipes: &mut Pipes, printed: &mut Printed<'_>) {
        let end = Instant::now() + LINGER;
        loop {
            let wait = match self.keeper.group().asked() {
                Some(Ask::Kill) => Duration::ZERO,
                Some(Ask::Stop) => LOOK,
                None => LOOK.min(end.saturating_duration_since(Instant::now())),
            };
            let ready = pipes.wait(None, Some(wait));
            self.read_some(pipes, ready, printed);
            if pipes.are_closed() || ready.timed_out && wait.is_zero() {
                return;
            }
            let over = Instant::now() >= end;
            match self.keeper.group().asked() {
                None if over => return,
                // Killed, and yet something prints on: it is in no group of ours.
                Some(Ask::Kill) if over => return,
                _ => {}
            }
        }
    }

    fn read_some(&mut self, pipes: &mut Pipes, ready: Ready, printed: &mut Printed<'_>) {
        pipes.read(ready, &mut self.buffer, |stream, bytes| printed.take(stream, bytes));
    }

    /// Kills what a stopped command had sent into a session of its own.
    fn kill_strays(&self, job: &JobContext) {
        let id = format!("GANGER_JOB_ID={}", job.id());
        self.keeper.kill_marked(id.as_bytes());
    }
}

/// What a look at a command shows.
enum Seen {
    /// It has ended; its output may not have.
    Ended,
    /// Its output has ended; it may not have.
    Closed,
    Other,
}
