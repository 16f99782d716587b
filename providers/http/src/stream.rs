//! `?stream`: a job's output as it comes, and its fate at the end.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use ganger_core::{Ended, Enqueued, Follower, JobId, Live, State, cut_note};
use http_body_util::{Either, Full};
use hyper::{
    HeaderMap, Response, StatusCode,
    body::{Body, Frame},
    header::{HeaderValue, TRAILER},
};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::{
    answer::{ATTEMPTS, Answer, ERROR, JOB_ID, Refusal, STATE, fit, set, with_body},
    fate,
    intake::Door,
    query::Wish,
    wait,
};

/// The body of an answer.
pub(crate) type AnswerBody = Either<Full<Bytes>, Streamed>;

/// A body that comes piece by piece. What `hold` is given is dropped with it.
pub(crate) struct Streamed {
    frames: mpsc::Receiver<Frame<Bytes>>,
    held: Option<Box<dyn Send>>,
}

impl Streamed {
    /// Keeps this until the body has been sent.
    pub(crate) fn hold(&mut self, what: impl Send + 'static) {
        self.held = Some(Box::new(what));
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.frames.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// How a job's output is streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    /// The client takes trailers.
    pub trailers: bool,
    /// The fate is a last line of the body too.
    pub last_line: bool,
}

/// How a job ended, as the last line.
#[derive(Serialize)]
struct Fate<'a> {
    id: &'a JobId,
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Answers with the output of a job that is stored, until its end or the limit. Returns whether the client stayed.
pub(crate) async fn carry(
    door: &Arc<Door>,
    stored: &Enqueued,
    follower: Follower,
    wish: Wish,
    limit: Duration,
    answered: oneshot::Sender<Result<Answer, Refusal>>,
) -> bool {
    let Some(stream) = wish.stream else { return true };
    let (frames, body) = mpsc::channel(1);
    if answered.send(Ok(head(&stored.id, stream, body))).is_err() {
        return false;
    }
    let mut teller = Teller { frames, follower, printed: false, line_open: false };
    let ended = door.ends.until_end(&stored.id, limit);
    let Some(ended) = teller.tell_until(ended).await else { return false };
    let Some(()) = teller.tell_rest().await else { return false };
    let fate = match ended {
        Some(ended) => Ok(ended),
        None => Err(wait::state(door, &stored.id).await.unwrap_or(stored.state)),
    };
    teller.finish(door, &stored.id, stream, fate).await.is_some()
}

fn head(id: &JobId, stream: Stream, frames: mpsc::Receiver<Frame<Bytes>>) -> Answer {
    let plain =
        with_body(StatusCode::OK, HeaderValue::from_static("text/plain; charset=utf-8"), Bytes::new());
    let (parts, _) = plain.into_parts();
    let mut answer = Response::from_parts(parts, Either::Right(Streamed { frames, held: None }));
    set(&mut answer, JOB_ID, &id.to_string());
    if stream.trailers {
        let names = HeaderValue::from_static("ganger-state, ganger-attempts, ganger-error");
        answer.headers_mut().insert(TRAILER, names);
    }
    answer
}

/// Tells one client. `None` of its functions is a client that has gone.
struct Teller {
    frames: mpsc::Sender<Frame<Bytes>>,
    follower: Follower,
    /// Something was told of what the last run printed.
    printed: bool,
    /// What was told last had no end of line.
    line_open: bool,
}

impl Teller {
    /// Tells what comes until the end is known.
    async fn tell_until<T>(&mut self, end: impl Future<Output = T>) -> Option<T> {
        let mut end = std::pin::pin!(end);
        loop {
            let closed = self.frames.clone();
            tokio::select! {
                biased;
                () = closed.closed() => return None,
                live = self.follower.next() => self.tell(live).await?,
                ended = &mut end => return Some(ended),
            }
        }
    }

    async fn tell_rest(&mut self) -> Option<()> {
        while let Some(live) = self.follower.try_next() {
            self.tell(live).await?;
        }
        Some(())
    }

    async fn tell(&mut self, live: Live) -> Option<()> {
        match live {
            Live::Output { stream: ganger_core::Stream::Stdout, bytes, .. } => self.write(bytes).await,
            Live::Missed { stream: ganger_core::Stream::Stdout, bytes } => {
                self.write(cut_note(bytes).into_bytes()).await
            }
            Live::State { state: State::Running, .. } => {
                self.printed = false;
                Some(())
            }
            // A standard error that is kept apart is no part of the output.
            _ => Some(()),
        }
    }

    async fn write(&mut self, bytes: Vec<u8>) -> Option<()> {
        let Some(last) = bytes.last() else { return Some(()) };
        (self.printed, self.line_open) = (true, *last != b'\n');
        self.frames.send(Frame::data(bytes.into())).await.ok()
    }

    /// Tells the fate: how the job ended, or its state while it has not.
    async fn finish(
        &mut self,
        door: &Door,
        id: &JobId,
        stream: Stream,
        mut fate: Result<Ended, State>,
    ) -> Option<()> {
        // What ran elsewhere, or was returned rather than printed, is stored.
        if let Ok(ended) = &mut fate
            && !self.printed
        {
            let max = usize::try_from(door.config.output_max.get()).unwrap_or(usize::MAX);
            let output = fate::capped(ended.output.take().unwrap_or_default(), max);
            let (head, tail) = output.bytes.split_at(output.cut_at.min(output.bytes.len()));
            let note = if output.cut > 0 { cut_note(output.cut) } else { String::new() };
            self.write([head, note.as_bytes(), tail].concat()).await?;
        }
        let (state, attempts, error) = match &fate {
            Ok(ended) => {
                (ended.state.map_or("unknown", State::as_str), Some(ended.runs), ended.error.as_deref())
            }
            Err(state) => (state.as_str(), None, None),
        };
        let error = error.filter(|_| state != State::Done.as_str());
        if stream.last_line {
            let mut line = if self.line_open { vec![b'\n'] } else { Vec::new() };
            serde_json::to_writer(&mut line, &Fate { id, state, attempts, error })
                .expect("the fields of a fate are texts and numbers");
            line.push(b'\n');
            self.frames.send(Frame::data(line.into())).await.ok()?;
        }
        if stream.trailers {
            let mut trailers = HeaderMap::new();
            let attempts = attempts.map(|attempts| attempts.to_string());
            for (name, text) in [(STATE, Some(state)), (ATTEMPTS, attempts.as_deref()), (ERROR, error)] {
                if let Some(value) = text.and_then(fit) {
                    trailers.insert(name, value);
                }
            }
            self.frames.send(Frame::trailers(trailers)).await.ok()?;
        }
        Some(())
    }
}
