//! Takes jobs in: durable in the sink before anything is answered.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use ganger_core::{Batch, Enqueued, Job, JobId, Period, Refused, State};
use http_body_util::BodyExt;
use hyper::{
    Request, StatusCode,
    body::{Body, Incoming},
    header::{CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HeaderMap, HeaderValue, LOCATION},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::timeout,
};

use crate::{
    answer::{Answer, JOB_ID, Refusal, STATE, json, set, with_body},
    entries::{Entries, Entry},
    fate,
    intake::Door,
    query::Wish,
    stream, wait,
};

/// The longest wait for the store.
const STORE_LIMIT: Duration = Duration::from_secs(30);

/// How much longer than the wait the record of a job's end stays, so that a waiter that comes late finds it.
const KEEP_SLACK: Duration = Duration::from_secs(300);

/// How much of a body that is too large is read and thrown away, so that its client hears the answer.
const DRAIN_MAX: usize = 128 << 20;

/// An id in a path: `/` stays, since the rest of the path is the id.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// A job that was stored, or was not, as one line of an answer.
#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Stored {
        id: &'a JobId,
        state: State,
        #[serde(skip_serializing_if = "Option::is_none")]
        existed: Option<bool>,
    },
    Refused {
        #[serde(flatten)]
        refusal: crate::answer::RefusalBody<'a>,
        status: u16,
    },
}

impl<'a> Line<'a> {
    fn stored(stored: &'a Enqueued) -> Self {
        Line::Stored { id: &stored.id, state: stored.state, existed: stored.existed.then_some(true) }
    }

    fn refused(refusal: &'a Refusal) -> Self {
        Line::Refused { refusal: refusal.body(), status: refusal.status.as_u16() }
    }
}

/// A request that posts jobs.
pub(crate) async fn post(door: &Arc<Door>, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let wish = Wish::read(request.uri(), request.headers(), door.config.wait.get())?;
    let as_lines = check_media(request.headers())?;
    let body = read_body(door, request).await?;
    match Entries::read(&body, as_lines, door.config.max_jobs as usize)? {
        Entries::One(text) => one(door, text, wish).await,
        Entries::Many(_) if wish.stream.is_some() => {
            Err(Refusal::new(StatusCode::BAD_REQUEST, "`stream` is for a single job"))
        }
        Entries::Many(entries) => many(door, &entries).await,
    }
}

/// Whether the body says that it is JSON lines.
fn check_media(headers: &HeaderMap) -> Result<bool, Refusal> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        let message = format!("bodies are read as they are, not as {}", encoding.to_str().unwrap_or("?"));
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    Ok(matches!(
        media.as_str(),
        "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/json-lines"
            | "application/jsonlines"
    ))
}

/// The body, whole.
async fn read_body(door: &Door, request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let (limit, most) = (door.config.body_timeout, door.config.max_body);
    let max = usize::try_from(most.get()).unwrap_or(usize::MAX);
    let too_large = || {
        let message = format!("the request is larger than {most} (`max_body`): send its jobs in several");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let asks_first = request.headers().contains_key(EXPECT);
    let mut body = request.into_body();
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > max && asks_first {
        return Err(too_large());
    }
    let mut kept = BytesMut::with_capacity(announced.min(max));
    let mut seen = 0;
    let reading = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Refusal::new(StatusCode::BAD_REQUEST, format!("the request's body broke off: {error}"))
            })?;
            let Some(bytes) = frame.data_ref() else { continue };
            seen += bytes.len();
            if seen <= max && announced <= max {
                kept.extend_from_slice(bytes);
            } else if seen > DRAIN_MAX {
                break;
            }
        }
        Ok(())
    };
    match timeout(limit.get(), reading).await {
        Ok(read) => read?,
        Err(_) => {
            let message = format!("the request's body was not there within {limit} (`body_timeout`)");
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, message));
        }
    }
    if seen > max { Err(too_large()) } else { Ok(kept.freeze()) }
}

/// One job, which the client may wait for.
async fn one(door: &Arc<Door>, text: &[u8], wish: Wish) -> Result<Answer, Refusal> {
    let mut job = read_job(door, Entry::whole(text)).await?;
    let id = job.id.get_or_insert_with(JobId::new).clone();
    let place = match wish.wait {
        None => None,
        Some(wait) => {
            let place = door.waiting.clone().try_acquire_owned().map_err(|_| {
                let most = door.config.max_waiting;
                Refusal::busy(format!("{most} requests wait for their jobs already (`max_waiting`): send `?wait=false` and ask later"))
            })?;
            job.keep_at_least(Period::from(wait + KEEP_SLACK));
            job.capture_output = true;
            Some(place)
        }
    };
    // In a task of its own, which a client that goes away does not cut off.
    let (answered, answer) = oneshot::channel();
    tokio::spawn(carry(door.clone(), job, id, wish, place, answered));
    answer.await.unwrap_or_else(|_| Err(Refusal::busy("the intake stops")))
}

/// Stores a job and waits for its end, for a client that may go away.
async fn carry(
    door: Arc<Door>,
    job: Job,
    id: JobId,
    wish: Wish,
    _place: Option<OwnedSemaphorePermit>,
    mut answered: oneshot::Sender<Result<Answer, Refusal>>,
) {
    // From before it is stored, so that nothing is missed.
    let follower = wish.stream.map(|_| door.sink.events.follow(&id));
    let stored = match store(&door, vec![job]).await.map(|answers| answers.into_iter().next()) {
        Ok(Some(Ok(stored))) => stored,
        Ok(Some(Err(refused))) => return drop(answered.send(Err(Refusal::by_store(refused)))),
        Ok(None) => return drop(answered.send(Err(Refusal::busy("the store gave no answer for the job")))),
        Err(refusal) => return drop(answered.send(Err(refusal))),
    };
    let Some(limit) = wish.wait else {
        return drop(answered.send(Ok(accepted(&door, &stored.id, stored.state, wish))));
    };
    if let Some(follower) = follower {
        let stayed = stream::carry(&door, &stored, follower, wish, limit, answered).await;
        if !stayed && wish.cancel_on_disconnect {
            wait::cancel(&door, &id).await;
        }
        return;
    }
    tokio::select! {
        biased;
        ended = door.ends.until_end(&id, limit) => {
            let answer = match ended {
                Some(ended) => fate::answer(ended, usize::try_from(door.config.output_max.get()).unwrap_or(usize::MAX)),
                None => accepted(&door, &id, wait::state(&door, &id).await.unwrap_or(stored.state), wish),
            };
            drop(answered.send(Ok(answer)));
        }
        () = answered.closed() => {
            if wish.cancel_on_disconnect {
                wait::cancel(&door, &id).await;
            }
        }
    }
}

/// Several jobs: stored together, a line for each, in order.
async fn many(door: &Arc<Door>, entries: &[Entry<'_>]) -> Result<Answer, Refusal> {
    let mut jobs = Vec::with_capacity(entries.len());
    let mut refusals: Vec<Option<Refusal>> = Vec::with_capacity(entries.len());
    for entry in entries {
        match read_job(door, *entry).await {
            Ok(job) => {
                jobs.push(job);
                refusals.push(None);
            }
            Err(refusal) => refusals.push(Some(refusal)),
        }
    }
    let mut stored = if jobs.is_empty() { Vec::new() } else { store(door, jobs).await? }.into_iter();
    let mut body = Vec::with_capacity(entries.len() * 64);
    for refusal in refusals {
        let answer = match refusal {
            Some(refusal) => Err(refusal),
            None => stored.next().map_or_else(
                || Err(Refusal::busy("the store gave no answer for the job")),
                |one| one.map_err(Refusal::by_store),
            ),
        };
        let line = match &answer {
            Ok(stored) => Line::stored(stored),
            Err(refusal) => Line::refused(refusal),
        };
        serde_json::to_writer(&mut body, &line).expect("the fields of a line are texts and numbers");
        body.push(b'\n');
    }
    Ok(with_body(StatusCode::ACCEPTED, HeaderValue::from_static("application/x-ndjson"), body))
}

/// A job that is taken.
async fn read_job(door: &Door, entry: Entry<'_>) -> Result<Job, Refusal> {
    let most = door.config.max_job;
    if entry.len() as u64 > most.get() {
        let message = format!("a job of {} bytes is larger than {most} (`max_job`)", entry.len());
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    let mut job = entry.job()?;
    door.admission.check(&job, &*door.sink.sink).await?;
    job.rare_mut().via = Some(door.name.as_str().into());
    Ok(job)
}

async fn store(door: &Door, jobs: Vec<Job>) -> Result<Vec<Result<Enqueued, Refused>>, Refusal> {
    let unknown = "the jobs may be stored or not: sent again with the same ids, they are stored once";
    match timeout(STORE_LIMIT, door.sink.sink.enqueue(Batch::new(jobs))).await {
        Ok(Ok(answers)) => Ok(answers),
        Ok(Err(error)) => {
            tracing::warn!(intake = door.name, store = door.sink.name, %error, "jobs could not be stored");
            Err(Refusal::busy(format!("the store `{}` does not take jobs now; {unknown}", door.sink.name)))
        }
        Err(_) => Err(Refusal::busy(format!(
            "the store `{}` did not answer within {}; {unknown}",
            door.sink.name,
            Period::from(STORE_LIMIT)
        ))),
    }
}

/// The job is taken, and this is where to ask for it.
fn accepted(door: &Door, id: &JobId, state: State, wish: Wish) -> Answer {
    let text = id.to_string();
    let location = format!("{}/{}", door.endpoint.trim_end_matches('/'), utf8_percent_encode(&text, PATH));
    let mut answer = json(StatusCode::ACCEPTED, &Line::Stored { id, state, existed: None });
    set(&mut answer, JOB_ID, &text);
    set(&mut answer, STATE, state.as_str());
    if let Ok(location) = HeaderValue::from_str(&location) {
        answer.headers_mut().insert(LOCATION, location);
    }
    if wish.preferred && wish.wait.is_none() {
        answer.headers_mut().insert("preference-applied", HeaderValue::from_static("respond-async"));
    }
    answer
}
