//! The pipes that a command prints into: one for both of its streams, or one for each.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use ganger_core::Stream;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionbio, read},
    pipe::{PipeFlags, pipe_with},
};

use crate::config::Streams;

/// The ends that are read, by stream. `None` where there is none, or it has come to its end.
pub(crate) struct Pipes([Option<OwnedFd>; 2]);

/// The ends that the command gets.
pub(crate) struct Theirs {
    stdout: OwnedFd,
    /// Where it is not the same.
    stderr: Option<OwnedFd>,
}

impl Theirs {
    pub(crate) fn stdout(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }

    pub(crate) fn stderr(&self) -> BorrowedFd<'_> {
        self.stderr.as_ref().unwrap_or(&self.stdout).as_fd()
    }
}

/// What a wait has come to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ready {
    /// The streams that can be read, or have ended.
    streams: [bool; 2],
    /// The command has ended.
    pub(crate) ended: bool,
    /// The time is over, and nothing was seen.
    pub(crate) timed_out: bool,
}

impl Pipes {
    pub(crate) fn new(streams: Streams) -> io::Result<(Pipes, Theirs)> {
        let pipe = || {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            ioctl_fionbio(&ours, true)?;
            io::Result::Ok((ours, theirs))
        };
        let (out, stdout) = pipe()?;
        let (err, stderr) = match streams {
            // The kernel keeps the order in which things were printed.
            Streams::Merged => (None, None),
            Streams::Apart => pipe().map(|(ours, theirs)| (Some(ours), Some(theirs)))?,
        };
        Ok((Pipes([Some(out), err]), Theirs { stdout, stderr }))
    }

    /// Whether all have come to their end.
    pub(crate) fn are_closed(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Waits until there is something to read, or the process of `handle` has ended; `None` waits without a limit.
    /// An interrupted wait sees nothing.
    pub(crate) fn wait(&self, handle: Option<&OwnedFd>, limit: Option<Duration>) -> Ready {
        let [out, err] = &self.0;
        let all = [out.as_ref(), err.as_ref(), handle];
        let Some(any) = all.into_iter().flatten().next() else { return Ready::default() };
        let mut fds: [_; 3] = std::array::from_fn(|_| PollFd::new(any, PollFlags::empty()));
        let mut n = 0;
        for fd in all.into_iter().flatten() {
            fds[n] = PollFd::new(fd, PollFlags::IN);
            n += 1;
        }
        let limit = limit.map(|limit| Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        let timed_out = match poll(&mut fds[..n], limit.as_ref()) {
            Ok(ready) => ready == 0,
            Err(_) => return Ready::default(),
        };
        let mut seen = fds.iter().map(|fd| !fd.revents().is_empty());
        let [out, err, ended] = all.map(|fd| fd.is_some() && seen.next().unwrap_or_default());
        Ready { streams: [out, err], ended, timed_out }
    }

    /// Reads once from each that is ready.
    pub(crate) fn read(&mut self, ready: Ready, buffer: &mut [u8], mut take: impl FnMut(Stream, &[u8])) {
        for stream in Stream::ALL.into_iter().filter(|stream| ready.streams[*stream as usize]) {
            let end = &mut self.0[stream as usize];
            match end.as_ref().map(|end| read(end, &mut *buffer)) {
                Some(Ok(0)) => *end = None,
                Some(Ok(n)) => take(stream, &buffer[..n]),
                Some(Err(Errno::AGAIN | Errno::INTR)) | None => {}
                Some(Err(_)) => *end = None,
            }
        }
    }
}
