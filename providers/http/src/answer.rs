//! Answers, and refusals that say what to do.

use std::time::Duration;

use bytes::Bytes;
use ganger_core::{JobId, Malformed, Refused, RefusedKind};
use http_body_util::{Either, Full};
use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS},
};
use serde::Serialize;

use crate::stream::AnswerBody;

/// An answer.
pub(crate) type Answer = Response<AnswerBody>;

/// The id of the job.
pub(crate) const JOB_ID: HeaderName = HeaderName::from_static("ganger-job-id");
/// Its state.
pub(crate) const STATE: HeaderName = HeaderName::from_static("ganger-state");
/// How many runs it had.
pub(crate) const ATTEMPTS: HeaderName = HeaderName::from_static("ganger-attempts");
/// Its last error.
pub(crate) const ERROR: HeaderName = HeaderName::from_static("ganger-error");
/// How many bytes of its output were cut out.
pub(crate) const OUTPUT_CUT: HeaderName = HeaderName::from_static("ganger-output-cut");

/// Why a request or a job was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub message: String,
    /// Where in the body, from 1.
    pub position: Option<(usize, usize)>,
    /// When to come again.
    pub retry_after: Option<Duration>,
    /// Of a duplicate: the job that holds its unique key.
    pub holder: Option<JobId>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Refusal { status, message: message.into(), position: None, retry_after: None, holder: None }
    }

    /// No room now: come again.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Refusal {
            retry_after: Some(Duration::from_secs(1)),
            ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }

    /// Bytes that are no job.
    pub(crate) fn malformed(fault: Malformed) -> Self {
        let position = (fault.line > 0).then_some((fault.line, fault.column));
        Refusal { position, ..Refusal::new(StatusCode::BAD_REQUEST, fault.message) }
    }

    /// What the store said.
    pub(crate) fn by_store(refused: Refused) -> Self {
        let status = match refused.kind {
            RefusedKind::Unsupported => StatusCode::UNPROCESSABLE_ENTITY,
            RefusedKind::Conflict | RefusedKind::Duplicate => StatusCode::CONFLICT,
            RefusedKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            RefusedKind::Malformed => StatusCode::BAD_REQUEST,
            RefusedKind::Full => StatusCode::INSUFFICIENT_STORAGE,
        };
        let retry_after = (refused.kind == RefusedKind::Full).then_some(Duration::from_secs(5));
        Refusal { retry_after, holder: refused.holder, ..Refusal::new(status, refused.message) }
    }

    /// The refusal as the answer to a request.
    pub(crate) fn answer(&self) -> Answer {
        let mut answer = json(self.status, &self.body());
        if let Some(wait) = self.retry_after {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        answer
    }

    /// The refusal as JSON, without its status.
    pub(crate) fn body(&self) -> RefusalBody<'_> {
        let (line, column) = self.position.unzip();
        RefusalBody { error: &self.message, line, column, holder: self.holder.as_ref() }
    }
}

/// The JSON form of a [`Refusal`].
#[derive(Serialize)]
pub(crate) struct RefusalBody<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<&'a JobId>,
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let mut text = serde_json::to_vec(body).expect("the fields of an answer are texts and numbers");
    text.push(b'\n');
    with_body(status, HeaderValue::from_static("application/json"), text)
}

/// An answer with a body that no browser will take for a page.
pub(crate) fn with_body(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(body.into())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("content-security-policy", HeaderValue::from_static("sandbox; default-src 'none'"));
    answer
}

/// Sets a header, its text made fit for one.
pub(crate) fn set(answer: &mut Answer, name: HeaderName, text: &str) {
    if let Some(value) = fit(text) {
        answer.headers_mut().insert(name, value);
    }
}

/// A text made fit for a header: control characters and what is not ASCII become `?`, and it is cut.
pub(crate) fn fit(text: &str) -> Option<HeaderValue> {
    let fit: String = text
        .chars()
        .map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' })
        .take(HEADER_MAX)
        .collect();
    HeaderValue::from_str(&fit).ok()
}

/// The longest text in a header: an id fits, an error is cut.
const HEADER_MAX: usize = 500;
