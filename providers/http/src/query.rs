//! What a request asks for beside its job: to wait, how long, and what its going away means.

use std::time::Duration;

use ganger_core::Period;
use hyper::{HeaderMap, StatusCode, Uri, header::TE};
use percent_encoding::percent_decode_str;

use crate::{answer::Refusal, stream::Stream};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// How long to wait for the job's end; `None` is not at all.
    pub wait: Option<Duration>,
    /// Whether the job is cancelled when the client goes away.
    pub cancel_on_disconnect: bool,
    /// Whether the `Prefer` header was followed.
    pub preferred: bool,
    /// Whether the output comes while the job runs, and how its fate is told.
    pub stream: Option<Stream>,
}

impl Wish {
    /// Reads the query and the `Prefer` header (RFC 7240), of which the query counts more. Nobody waits longer
    /// than `most`.
    ///
    /// # Errors
    /// A parameter that is not known, or a value that cannot be read.
    pub(crate) fn read(uri: &Uri, headers: &HeaderMap, most: Duration) -> Result<Self, Refusal> {
        let mut wish = Wish { wait: Some(most), cancel_on_disconnect: false, preferred: false, stream: None };
        for value in headers.get_all("prefer") {
            for preference in value.to_str().unwrap_or_default().split([',', ';']) {
                wish.prefer(preference.trim(), most);
            }
        }
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8_lossy();
            match &*percent_decode_str(key).decode_utf8_lossy() {
                "wait" => wish.wait = wait(&value, most)?,
                "cancel_on_disconnect" => wish.cancel_on_disconnect = flag("cancel_on_disconnect", &value)?,
                "stream" => wish.stream = stream(&value, headers)?,
                other => {
                    return Err(wrong(format!(
                        "there is no parameter `{}` (there is `wait`, `stream`, `cancel_on_disconnect`)",
                        other.escape_debug()
                    )));
                }
            }
        }
        if wish.stream.is_some() && wish.wait.is_none() {
            return Err(wrong("`stream` waits for the job: it does not go with `wait=false`".to_owned()));
        }
        Ok(wish)
    }

    fn prefer(&mut self, preference: &str, most: Duration) {
        if preference.eq_ignore_ascii_case("respond-async") {
            (self.wait, self.preferred) = (None, true);
        } else if let Some(seconds) =
            preference.strip_prefix("wait=").and_then(|text| text.trim().parse().ok())
            && !self.preferred
        {
            self.wait = Some(Duration::from_secs(seconds).min(most));
        }
    }
}

fn wait(value: &str, most: Duration) -> Result<Option<Duration>, Refusal> {
    match value {
        "" | "true" | "1" => Ok(Some(most)),
        "false" | "0" => Ok(None),
        period => match period.parse::<Period>() {
            Ok(period) => Ok(Some(period.get().min(most))),
            Err(error) => Err(wrong(format!("`wait`: {error}, or `false`"))),
        },
    }
}

/// Reads `stream`: with a last line, or with the value `trailers` with trailers alone. A client that takes trailers has
/// them in any case.
fn stream(value: &str, headers: &HeaderMap) -> Result<Option<Stream>, Refusal> {
    let accepted = headers.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    let mut accepted = accepted.flat_map(|value| value.split(','));
    let trailers = accepted.any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    match value {
        "trailers" if trailers => Ok(Some(Stream { trailers, last_line: false })),
        "trailers" => Err(wrong("`stream=trailers` needs the header `TE: trailers`".to_owned())),
        value => Ok(flag("stream", value)?.then_some(Stream { trailers, last_line: true })),
    }
}

fn flag(name: &str, value: &str) -> Result<bool, Refusal> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(wrong(format!("`{name}`: `{}` is neither `true` nor `false`", other.escape_debug()))),
    }
}

fn wrong(message: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    const MOST: Duration = Duration::from_secs(300);

    fn read(query: &str, prefer: Option<&str>) -> Result<Wish, Refusal> {
        let headers = prefer
            .map(|value| (HeaderName::from_static("prefer"), HeaderValue::from_str(value).unwrap()))
            .into_iter()
            .collect();
        Wish::read(&format!("/job/add{query}").parse().unwrap(), &headers, MOST)
    }

    #[test]
    fn reads_what_a_request_asks_for() {
        let wait = |query, prefer| read(query, prefer).unwrap().wait;
        assert_eq!(wait("", None), Some(MOST));
        assert_eq!(wait("?wait=false", None), None);
        assert_eq!(wait("?wait=10s", None), Some(Duration::from_secs(10)));
        assert_eq!(wait("?wait=10h", None), Some(MOST));
        assert_eq!(wait("", Some("respond-async, wait=10")), None);
        assert_eq!(wait("", Some("wait=10")), Some(Duration::from_secs(10)));
        assert_eq!(wait("?wait=20s", Some("respond-async")), Some(Duration::from_secs(20)));
        assert!(read("?cancel_on_disconnect", None).unwrap().cancel_on_disconnect);
        assert!(!read("?cancel_on_disconnect=false", None).unwrap().cancel_on_disconnect);
        for wrong in
            ["?waits=1s", "?wait=soon", "?cancel_on_disconnect=perhaps", "?stream=no", "?stream&wait=false"]
        {
            assert_eq!(read(wrong, None).unwrap_err().status, StatusCode::BAD_REQUEST, "{wrong}");
        }
    }
}
