//! How a job's end is answered.

use ganger_core::{Ended, Output, OutputBuffer, State};
use hyper::{StatusCode, header::HeaderValue};

use crate::answer::{ATTEMPTS, Answer, ERROR, JOB_ID, OUTPUT_CUT, STATE, set, with_body};

/// The status that tells a job's end.
pub(crate) fn status(state: Option<State>) -> StatusCode {
    match state {
        Some(State::Done) => StatusCode::OK,
        Some(State::Cancelled) => StatusCode::CONFLICT,
        Some(State::Expired) => StatusCode::GATEWAY_TIMEOUT,
        // It ended, and somebody removed its record.
        None => StatusCode::GONE,
        Some(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The end of a job: its last run's output, its fate in status and headers.
pub(crate) fn answer(ended: Ended, output_max: usize) -> Answer {
    let output = capped(ended.output.unwrap_or_default(), output_max);
    let content_type = content_type(&output);
    let body =
        if output.cut > 0 && is_text(&content_type) { output.text().into_bytes() } else { output.bytes };
    let mut answer = with_body(status(ended.state), content_type, body);
    set(&mut answer, JOB_ID, &ended.id.to_string());
    set(&mut answer, STATE, ended.state.map_or("unknown", State::as_str));
    set(&mut answer, ATTEMPTS, &ended.runs.to_string());
    if let Some(error) = ended.error.filter(|_| ended.state != Some(State::Done)) {
        set(&mut answer, ERROR, &error);
    }
    if output.cut > 0 {
        set(&mut answer, OUTPUT_CUT, &output.cut.to_string());
    }
    answer
}

/// The output, its middle cut out where it is longer than `max`.
pub(crate) fn capped(output: Output, max: usize) -> Output {
    if output.bytes.len() <= max {
        return output;
    }
    let Output { bytes, cut, cut_at, content_type } = output;
    if cut == 0 {
        let mut buffer = OutputBuffer::new(max);
        buffer.write(&bytes);
        return Output { content_type, ..buffer.finish() };
    }
    let (head, tail) = bytes.split_at(cut_at.min(bytes.len()));
    let tail_kept = tail.len().min(max / 2);
    let head_kept = head.len().min(max - tail_kept);
    let kept = [&head[..head_kept], &tail[tail.len() - tail_kept..]].concat();
    let cut = cut + (bytes.len() - kept.len()) as u64;
    Output { bytes: kept, cut, cut_at: head_kept, content_type }
}

/// The worker's media type, or else plain text where it is text.
fn content_type(output: &Output) -> HeaderValue {
    let known = output.content_type.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
    known.unwrap_or_else(|| match std::str::from_utf8(&output.bytes) {
        Ok(_) => HeaderValue::from_static("text/plain; charset=utf-8"),
        // A cut may go through a character.
        Err(_) if output.cut > 0 && !output.bytes.contains(&0) => {
            HeaderValue::from_static("text/plain; charset=utf-8")
        }
        Err(_) => HeaderValue::from_static("application/octet-stream"),
    })
}

fn is_text(content_type: &HeaderValue) -> bool {
    let text = content_type.to_str().unwrap_or_default();
    text.starts_with("text/") || text.contains("json") || text.contains("xml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(bytes: &[u8], cut: u64, cut_at: usize) -> Output {
        Output { bytes: bytes.to_vec(), cut, cut_at, content_type: None }
    }

    #[test]
    fn caps_whole_and_cut_output() {
        assert_eq!(capped(output(b"0123456789", 0, 0), 10), output(b"0123456789", 0, 0));
        assert_eq!(capped(output(b"0123456789", 0, 0), 4), output(b"0189", 6, 2));
        assert_eq!(capped(output(b"0123456789", 5, 5), 4), output(b"0189", 11, 2));
        assert_eq!(capped(output(b"0123456789", 5, 9), 4), output(b"0129", 11, 3));
    }

    #[test]
    fn every_end_has_a_status_of_its_own() {
        let ends = [Some(State::Done), Some(State::Dead), Some(State::Cancelled), Some(State::Expired), None];
        assert_eq!(ends.map(|state| status(state).as_u16()), [200, 500, 409, 504, 410]);
    }
}
