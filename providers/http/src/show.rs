//! A job's state, asked with GET.

use std::time::Duration;

use ganger_core::{JobId, JobView, State, Timestamp};
use hyper::StatusCode;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    answer::{Answer, JOB_ID, Refusal, STATE, json, set},
    intake::Door,
    wait,
};

/// The longest wait for the store.
const STORE_LIMIT: Duration = Duration::from_secs(10);

/// What is told of a job. Its params are not: who may ask for a state need not be who sent the job.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
struct Shown<'a> {
    id: &'a JobId,
    state: State,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    retrying: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
}

/// Tells the state of the job that a path names.
pub(crate) async fn show(door: &Door, path: &str) -> Result<Answer, Refusal> {
    let text = percent_decode_str(path).decode_utf8_lossy();
    let id: JobId = text.parse().map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("`{}`: {error}", text.escape_debug()))
    })?;
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, format!("no job `{id}` is known (any more)"));
    let Some(admin) = &door.sink.admin else {
        let state = wait::state(door, &id).await.ok_or_else(unknown)?;
        return Ok(answer(&id, state, None));
    };
    match timeout(STORE_LIMIT, admin.show(&id)).await {
        Ok(Ok(Some(view))) => Ok(answer(&id, view.state, Some(&view))),
        Ok(Ok(None)) => Err(unknown()),
        Ok(Err(error)) => {
            tracing::warn!(intake = door.name, %error, "the store does not show a job");
            Err(Refusal::busy("the store does not answer now"))
        }
        Err(_) => Err(Refusal::busy("the store does not answer now")),
    }
}

fn answer(id: &JobId, state: State, view: Option<&JobView>) -> Answer {
    let job = view.and_then(|view| view.job.as_ref());
    let last = view.and_then(|view| view.attempts.last());
    let shown = Shown {
        id,
        state,
        kind: job.map(|job| job.kind.as_str()),
        name: job.and_then(|job| job.name.as_deref()),
        attempts: view.map(|_| last.map_or(0, |attempt| attempt.number)),
        retrying: view.is_some_and(|view| view.retrying),
        run_at: view.and_then(|view| view.run_at),
        ended_at: view.and_then(|view| view.ended_at),
        reason: view.and_then(|view| view.reason.as_deref()),
        error: last.and_then(|attempt| attempt.error.as_deref()),
        output: view.and_then(|view| view.output.as_ref()).map(|output| output.text()),
    };
    let mut answer = json(StatusCode::OK, &shown);
    set(&mut answer, JOB_ID, &id.to_string());
    set(&mut answer, STATE, state.as_str());
    answer
}
