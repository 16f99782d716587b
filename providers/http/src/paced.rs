//! A stream whose other side must send its requests and take its answers in time.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From the connection, or the first byte of a later request, to the end of the request's head.
    pub head: Duration,
    /// From an answer to the first byte of the next request.
    pub idle: Duration,
    /// To take the next piece of an answer.
    pub write: Duration,
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A request's head comes.
    Head,
    /// A request is read, carried out, and answered.
    Busy,
    /// The next request has not begun.
    Idle,
}

/// The phase of a connection, for all who have a part in it: its number says which it is (modulo 3), and tells it
/// from others of its kind.
#[derive(Clone, Default)]
pub(crate) struct Turn(Arc<AtomicU32>);

impl Turn {
    /// A phase begins.
    pub(crate) fn begin(&self, phase: Phase) {
        let now = self.0.load(Ordering::Acquire);
        let ahead = (phase as u32 + 3 - now % 3) % 3;
        self.0.store(now.wrapping_add(if ahead == 0 { 3 } else { ahead }) % TURNS, Ordering::Release);
    }

    fn get(&self) -> (u32, Phase) {
        let now = self.0.load(Ordering::Acquire);
        (now, [Phase::Head, Phase::Busy, Phase::Idle][now as usize % 3])
    }
}

/// Where the numbers begin again: a multiple of 3.
const TURNS: u32 = 3 << 29;

/// Watches over how long a client takes to send its requests.
pub(crate) struct Watch {
    limits: Limits,
    turn: Turn,
    seen: u32,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    pub(crate) fn new(limits: Limits, turn: Turn) -> Self {
        Watch { limits, turn, seen: 0, timer: None }
    }

    /// Ready when the client has taken too long. To be polled after whatever may change the phase.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (turn, phase) = self.turn.get();
        if turn != self.seen {
            (self.seen, self.timer) = (turn, None);
        }
        let limit = match phase {
            Phase::Head => self.limits.head,
            Phase::Busy => return Poll::Pending,
            Phase::Idle => self.limits.idle,
        };
        self.timer.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(cx)
    }
}

/// A connection that fails when the other side takes nothing for too long: a client that does not read its answer
/// would hold it for ever.
pub(crate) struct Paced {
    stream: TcpStream,
    limit: Duration,
    turn: Turn,
    waiting: Option<Pin<Box<Sleep>>>,
    /// The turn that lasts until what is written is taken.
    writing: Option<u32>,
}

impl Paced {
    pub(crate) fn new(stream: TcpStream, limits: Limits, turn: Turn) -> Self {
        Paced { stream, limit: limits.write, turn, waiting: None, writing: None }
    }

    /// `written`, unless it is pending for too long. The client is idle when it has taken the last byte.
    fn paced<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let (turn, phase) = self.turn.get();
        if written.is_ready() {
            if phase == Phase::Idle || self.writing == Some(turn) {
                self.turn.begin(Phase::Idle);
            }
            (self.waiting, self.writing) = (None, None);
            return written;
        }
        if phase == Phase::Idle {
            self.turn.begin(Phase::Busy);
            self.writing = Some(self.turn.get().0);
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() && self.turn.get().1 == Phase::Idle {
            self.turn.begin(Phase::Head);
        }
        read
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.paced(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.paced(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
