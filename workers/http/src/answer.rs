//! What an answer means for the job.

use std::time::{Duration, SystemTime};

use ganger_core::{JobError, Output, OutputBuffer, Timestamp};
use hyper::{
    HeaderMap, StatusCode,
    header::{CONTENT_TYPE, DATE, HeaderName, RETRY_AFTER},
};

use crate::{Statuses, client::Answer, request::Call};

/// Reads an answer to its end, so that its connection serves the next request; keeps `max` bytes of it.
///
/// # Errors
/// The connection broke: retried. What had come is kept.
pub(crate) async fn read(call: &Call, mut answer: Answer, max: usize) -> Result<Output, JobError> {
    let content_type =
        answer.head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok().map(str::to_owned));
    let mut kept = OutputBuffer::new(max);
    let broke = loop {
        match answer.frame().await {
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    kept.write(bytes);
                }
            }
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    let output = Output { content_type, ..kept.finish() };
    match broke {
        None => {
            answer.finish().await;
            Ok(output)
        }
        Some(error) => {
            Err(JobError::retry(format!("{}: the answer broke off: {}", call.shown(), chain(&error)))
                .with_output(output))
        }
    }
}

/// The error of an answer with an unexpected status.
pub(crate) fn unexpected(
    shown: &str,
    status: StatusCode,
    headers: &HeaderMap,
    retry_on: &Statuses,
    wait_max: Duration,
) -> JobError {
    let message = format!("{shown}: the answer is {status}");
    if !retry_on.has(status.as_u16()) {
        return JobError::dead(message);
    }
    match retry_after(headers, Timestamp::now()) {
        None => JobError::retry(message),
        Some(wait) => {
            let wait = wait.min(wait_max);
            JobError::retry_after(
                wait,
                format!("{message}; it asks to wait {}", ganger_core::Period::from(wait)),
            )
        }
    }
}

/// What `Retry-After` asks for (RFC 9110, 10.2.3): seconds, or a time, held against the server's own clock where
/// it tells that. `None` where there is nothing to wait for.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds)).filter(|wait| !wait.is_zero());
    }
    let at = httpdate::parse_http_date(text).ok()?;
    let ours = || SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(now.as_millis()).unwrap_or(0));
    let now = time(headers, &DATE).unwrap_or_else(ours);
    at.duration_since(now).ok().filter(|wait| !wait.is_zero())
}

fn time(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

/// An error with its causes, each once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ganger_core::Advice;
    use hyper::header::HeaderValue;

    fn wait(pairs: &[(HeaderName, &str)]) -> Option<Duration> {
        let headers =
            pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect();
        retry_after(&headers, "2026-11-24T10:00:00Z".parse().unwrap())
    }

    #[test]
    fn reads_retry_after_as_seconds_and_as_a_time() {
        assert_eq!(wait(&[(RETRY_AFTER, "120")]), Some(Duration::from_secs(120)));
        assert_eq!(wait(&[(RETRY_AFTER, "Tue, 24 Nov 2026 10:01:00 GMT")]), Some(Duration::from_secs(60)));
        let skewed =
            [(DATE, "Tue, 24 Nov 2026 12:00:00 GMT"), (RETRY_AFTER, "Tue, 24 Nov 2026 12:00:30 GMT")];
        assert_eq!(wait(&skewed), Some(Duration::from_secs(30)));
        for nothing in ["0", "soon", "-3", "Tue, 24 Nov 2026 09:00:00 GMT", "99999999999999999999999"] {
            assert_eq!(wait(&[(RETRY_AFTER, nothing)]), None, "{nothing}");
        }
    }

    #[test]
    fn what_a_server_asks_for_is_bounded() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("86400"))]);
        let hour = Duration::from_secs(3600);
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let error = unexpected("GET http://x/", status, &headers, &Statuses::range(500, 599), hour);
        assert_eq!(error.advice(), Advice::RetryAfter(hour));
        assert!(
            error.message().contains("503 Service Unavailable") && error.message().contains("1h"),
            "{error}"
        );
        let error =
            unexpected("GET http://x/", StatusCode::NOT_FOUND, &headers, &Statuses::range(500, 599), hour);
        assert_eq!(error.advice(), Advice::Dead);
    }
}
