//! A job's events as they happen, as Server-Sent Events.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::stream;
use ganger_core::{
    BoxFuture, Ended, Follower, Found, JobId, JobView, Live, Output, PIECE_MAX, Sink, State, Stream,
    Timestamp,
};
use serde_json::{Value, json};
use tokio::{sync::OwnedSemaphorePermit, time::sleep};

use crate::{line::Line, serve::Desk};

/// How long to leave a store alone that does not tell of a job's end.
const AGAIN: Duration = Duration::from_secs(1);

/// Answers a request for a job's events.
pub(crate) async fn answer(desk: &Arc<Desk>, line: Line, id: &str, headers: &HeaderMap) -> Response {
    let id: JobId = match id.parse() {
        Ok(id) => id,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let Ok(place) = desk.listeners.clone().try_acquire_owned() else {
        let later = [(header::RETRY_AFTER, "5")];
        return (StatusCode::SERVICE_UNAVAILABLE, later, "enough listen already: come again\n")
            .into_response();
    };
    // It follows before it looks, so that nothing is missed in between.
    let mut follower = desk.status.follow(&id);
    if let Some(place) = headers.get("last-event-id").and_then(|value| value.to_str().ok()) {
        follower.resume(place);
    }
    let found = match desk.status.find(&id).await {
        Ok(found) => found,
        // What runs here can be followed all the same.
        Err(error) if follower.attempt().is_none() => {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("the store does not answer: {error}\n"))
                .into_response();
        }
        Err(_) => None,
    };
    if found.is_none() && follower.attempt().is_none() {
        return (StatusCode::NOT_FOUND, format!("no job {id} is known (any more)\n")).into_response();
    }
    let listener = Listener::new(desk.clone(), line, place, follower, found);
    let frames = stream::unfold(listener, |mut listener| async {
        let frame = listener.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(frame)), listener))
    });
    let head = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (head, Body::from_stream(frames)).into_response()
}

/// One who listens to a job.
struct Listener {
    desk: Arc<Desk>,
    line: Line,
    _place: OwnedSemaphorePermit,
    follower: Follower,
    /// Waits for the job's end in its store; `None` where only the manager tells of it.
    ended: Option<BoxFuture<'static, Option<Ended>>>,
    frames: VecDeque<String>,
    over: bool,
    /// The state that was told last.
    state: State,
    /// Of each stream: the last run known of has printed something that was told.
    printed: [bool; 2],
    /// Of each stream: the beginning of a character whose rest has not come.
    carry: [Vec<u8>; 2],
    /// Of each stream: the run that is told of, and how much of it has come; `None` for what is stored.
    place: [Option<(u32, u64)>; 2],
}

impl Listener {
    fn new(
        desk: Arc<Desk>,
        line: Line,
        place: OwnedSemaphorePermit,
        follower: Follower,
        found: Option<Found>,
    ) -> Self {
        let (view, sink) = found.map(|found| (found.view, found.sink)).unzip();
        let ended = sink.flatten().map(|sink| until_end(sink, follower.id().clone()));
        let attempt = follower.attempt();
        let mut listener = Listener {
            desk,
            line,
            _place: place,
            follower,
            ended,
            frames: VecDeque::new(),
            over: false,
            state: State::Ready,
            printed: [false; 2],
            carry: Default::default(),
            place: [None; 2],
        };
        match view {
            Some(view) if view.state.is_end() => listener.tell_end(Some(&view), None),
            view => {
                // Its store may not have it yet that it runs.
                let state = view.as_ref().map(|view| view.state);
                let state = state.filter(|state| *state != State::Ready || attempt.is_none());
                let state = state.unwrap_or(State::Running);
                listener.tell_state(
                    Timestamp::now(),
                    state,
                    attempt.filter(|_| state == State::Running),
                    None,
                );
            }
        }
        listener
    }

    /// The next frame; `None` when all is told.
    async fn next(&mut self) -> Option<String> {
        // Whoever asks for a frame has taken those before.
        self.line.last(self.desk.stall);
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Some(frame);
            }
            if self.over {
                return None;
            }
            let ended = async {
                match &mut self.ended {
                    Some(ended) => ended.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                live = self.follower.next() => self.tell(live),
                ended = ended => self.finish(ended).await,
                () = sleep(self.desk.heartbeat) => return Some(":\n\n".to_owned()),
            }
        }
    }

    /// Tells what is left, once the job has ended.
    async fn finish(&mut self, ended: Option<Ended>) {
        while let Some(live) = self.follower.try_next() {
            self.tell(live);
        }
        let found = self.desk.status.find(self.follower.id()).await;
        let view = found.ok().flatten().map(|found| found.view);
        self.tell_end(view.as_ref(), ended);
    }

    fn tell(&mut self, live: Live) {
        match live {
            Live::Output { attempt, stream, start, bytes } => {
                if self.place[stream as usize] != Some((attempt, start)) {
                    self.flush(stream);
                }
                self.printed[stream as usize] = true;
                self.place[stream as usize] = Some((attempt, start + bytes.len() as u64));
                self.tell_output(stream, &bytes);
            }
            Live::Progress { percent, message } => {
                self.event("progress", None, &json!({ "percent": percent, "message": message }));
            }
            Live::Missed { stream, bytes } => {
                self.printed[stream as usize] = true;
                self.tell_missed(stream, bytes);
            }
            Live::Skipped(states) => {
                self.event("missed", None, &json!({ "bytes": 0, "states": states }));
            }
            Live::State { at, state, attempt, error } => {
                self.flush_all();
                if attempt.is_some() {
                    self.printed = [false; 2];
                }
                self.tell_state(at, state, attempt, error.as_deref());
                if state.is_end() && self.ended.is_none() {
                    let end = json!({ "state": state, "error": error });
                    self.event("end", None, &end);
                    self.over = true;
                }
            }
        }
    }

    fn tell_state(&mut self, at: Timestamp, state: State, attempt: Option<u32>, error: Option<&str>) {
        self.state = state;
        let id = self.follower.id().clone();
        let mut data = json!({ "id": id, "state": state, "at": at });
        if let Some(attempt) = attempt {
            data["attempt"] = json!(attempt);
        }
        if let Some(error) = error {
            data["error"] = json!(error);
        }
        self.event("state", None, &data);
    }

    /// As text what is text; a character that is cut waits for its rest.
    fn tell_output(&mut self, stream: Stream, bytes: &[u8]) {
        let carry = &mut self.carry[stream as usize];
        let mut bytes = [&std::mem::take(carry)[..], bytes].concat();
        if let Err(error) = std::str::from_utf8(&bytes)
            && error.error_len().is_none()
        {
            *carry = bytes.split_off(error.valid_up_to());
        }
        self.output_event(stream, bytes);
    }

    fn tell_missed(&mut self, stream: Stream, bytes: u64) {
        self.flush(stream);
        self.event("missed", None, &of(stream, json!({ "bytes": bytes, "states": 0 })));
    }

    fn flush(&mut self, stream: Stream) {
        let carry = std::mem::take(&mut self.carry[stream as usize]);
        self.output_event(stream, carry);
    }

    fn flush_all(&mut self) {
        Stream::ALL.into_iter().for_each(|stream| self.flush(stream));
    }

    fn output_event(&mut self, stream: Stream, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let behind = [self.carry[0].len(), self.carry[1].len()];
        let place = self.place[stream as usize].and_then(|_| self.follower.place(behind));
        self.event("output", place.as_deref(), &of(stream, piece(bytes)));
    }

    /// The end, and before it what is stored of an output that was not told as it came.
    fn tell_end(&mut self, view: Option<&JobView>, ended: Option<Ended>) {
        self.flush_all();
        if let Some(view) = view {
            self.tell_stored(view);
        }
        let ended = ended.as_ref();
        let last = view.and_then(|view| view.attempts.last());
        // A store that keeps no record of it cannot say how it ended, but the manager has.
        let told = Some(self.state).filter(|state| state.is_end());
        let state = ended.and_then(|ended| ended.state).or(view.map(|view| view.state)).or(told);
        let mut end = json!({ "state": state.map_or("unknown", State::as_str) });
        if let Some(attempts) = ended.map(|ended| ended.runs).or(last.map(|last| last.number)) {
            end["attempts"] = json!(attempts);
        }
        let error =
            ended.and_then(|ended| ended.error.as_ref()).or(last.and_then(|last| last.error.as_ref()));
        if let Some(error) = error.filter(|_| state != Some(State::Done)) {
            end["error"] = json!(error);
        }
        self.event("end", None, &end);
        self.over = true;
    }

    /// Tells of the streams that were not told as they came what is stored of them.
    fn tell_stored(&mut self, view: &JobView) {
        let [told, complained] = self.printed;
        let last = view.attempts.last();
        if !told {
            let tail = || last.map(|last| Output::new(last.output.as_str())).unwrap_or_default();
            self.tell_whole(Stream::Stdout, &view.output.clone().unwrap_or_else(tail));
        }
        if let Some(last) = last.filter(|_| !complained) {
            self.tell_whole(Stream::Stderr, &Output::new(last.stderr.as_str()));
        }
    }

    fn tell_whole(&mut self, stream: Stream, output: &Output) {
        let cut_at = if output.cut > 0 { output.cut_at.min(output.bytes.len()) } else { output.bytes.len() };
        let (head, tail) = output.bytes.split_at(cut_at);
        self.place[stream as usize] = None;
        head.chunks(PIECE_MAX).for_each(|piece| self.tell_output(stream, piece));
        if output.cut > 0 {
            self.tell_missed(stream, output.cut);
        }
        tail.chunks(PIECE_MAX).for_each(|piece| self.tell_output(stream, piece));
        self.flush(stream);
    }

    fn event(&mut self, name: &str, place: Option<&str>, data: &Value) {
        let id = place.map(|place| format!("id: {place}\n")).unwrap_or_default();
        // JSON has no line breaks of its own.
        self.frames.push_back(format!("event: {name}\n{id}data: {data}\n\n"));
    }
}

/// What is said of a stream; that it is standard output goes without saying.
fn of(stream: Stream, mut data: Value) -> Value {
    if stream != Stream::Stdout {
        data["stream"] = json!(stream.as_str());
    }
    data
}

/// A piece of output.
fn piece(bytes: Vec<u8>) -> Value {
    match String::from_utf8(bytes) {
        Ok(text) => json!({ "text": text }),
        Err(error) => json!({ "base64": STANDARD.encode(error.as_bytes()) }),
    }
}

/// Waits until the store says that a job has ended.
fn until_end(sink: Arc<dyn Sink>, id: JobId) -> BoxFuture<'static, Option<Ended>> {
    Box::pin(async move {
        let ids = [id];
        loop {
            match sink.ended(&ids).await {
                Ok(ended) => return ended.into_iter().next(),
                Err(error) => {
                    tracing::debug!(job = %ids[0], %error, "the store does not tell of a job's end; asked again");
                    sleep(AGAIN).await;
                }
            }
        }
    })
}
