//! The messages of the protocol, as `docs/guide/extend/process.md` has them.

use std::{borrow::Cow, io::Write, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use ganger_core::{HANDLER_PREFIX, JobContext, JobError, Output, StopReason};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The version of the protocol.
pub(crate) const PROTOCOL: u32 = 1;

/// The most that a program may be handed at once.
pub(crate) const PIPELINE_MAX: u32 = 1024;

/// ganger's `hello`.
#[derive(Serialize)]
pub(crate) struct OurHello<'a> {
    pub(crate) kind: &'static str,
    pub(crate) protocol: u32,
    pub(crate) ganger: &'static str,
    #[serde(rename = "type")]
    pub(crate) job_type: &'a str,
    pub(crate) slot: u32,
    pub(crate) line_max: u64,
    pub(crate) ping_timeout_ms: u64,
    pub(crate) grace_ms: u64,
}

/// A program's `hello`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) protocol: u32,
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) version: Option<String>,
    #[serde(default)]
    pub(crate) client: Option<String>,
    /// The types of jobs that it does; any, where it does not say.
    #[serde(default)]
    pub(crate) types: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) can: Vec<String>,
    #[serde(default)]
    pub(crate) pipeline: Option<u32>,
}

impl Hello {
    /// Before it has said any.
    pub(crate) fn none() -> Self {
        Hello {
            protocol: PROTOCOL,
            name: None,
            version: None,
            client: None,
            types: None,
            can: Vec::new(),
            pipeline: None,
        }
    }

    pub(crate) fn can(&self, what: &str) -> bool {
        self.can.iter().any(|can| can == what)
    }

    /// How many jobs it takes at once.
    pub(crate) fn pipeline(&self) -> usize {
        self.pipeline.unwrap_or(1).clamp(1, PIPELINE_MAX) as usize
    }

    /// Reads one, and holds it against what is wanted of it.
    pub(crate) fn read(line: &[u8], job_type: Option<&str>) -> Result<Hello, String> {
        let hello: Hello = serde_json::from_slice(line)
            .map_err(|error| format!("its `hello` cannot be read ({error}): `{}`", excerpt(line)))?;
        if hello.protocol != PROTOCOL {
            return Err(format!(
                "it speaks version {} of the protocol, and ganger speaks {PROTOCOL}: update the older of the two",
                hello.protocol
            ));
        }
        if hello.pipeline == Some(0) {
            return Err("its `hello` has `pipeline` 0: it must take one job at least".to_owned());
        }
        if hello.pipeline() > 1 && !hello.can("recall") {
            return Err(
                "its `hello` has `pipeline` above 1, for which it must be able to `recall`".to_owned()
            );
        }
        match (job_type, &hello.types) {
            (Some(wanted), Some(types)) if types.is_empty() => {
                Err(format!("it does no type of jobs, and not `{wanted}`: it has no worker, or not yet"))
            }
            (Some(wanted), Some(types)) if !types.iter().any(|name| name == wanted) => Err(format!(
                "it does `{}` and not `{wanted}`: name the entry after one of its types, or the type after the entry",
                types.join("`, `")
            )),
            _ => Ok(hello),
        }
    }
}

/// A message that a program sent.
#[derive(Debug)]
pub(crate) enum Said<'a> {
    Hello,
    Done {
        job: u64,
        given: Given<'a>,
        follow: Vec<&'a RawValue>,
    },
    Fail {
        job: u64,
        error: JobError,
    },
    Progress {
        job: u64,
        percent: u8,
        message: Cow<'a, str>,
    },
    Log {
        job: Option<u64>,
        level: Cow<'a, str>,
        message: Cow<'a, str>,
    },
    Output {
        job: u64,
        given: Given<'a>,
    },
    Recalled {
        from: u64,
    },
    Pong {
        ping: u64,
    },
    /// Of a kind that a later version may know.
    Unknown,
}

/// Bytes, in one of the ways in which a program may give them.
#[derive(Debug, Default)]
pub(crate) struct Given<'a> {
    json: Option<&'a RawValue>,
    text: Option<Cow<'a, str>>,
    base64: Option<Cow<'a, str>>,
    content_type: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    job: Option<u64>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    text: Option<Cow<'a, str>>,
    base64: Option<Cow<'a, str>>,
    content_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    follow: Vec<&'a RawValue>,
    error: Option<Cow<'a, str>>,
    then: Option<Then>,
    after_ms: Option<u64>,
    percent: Option<f64>,
    message: Option<Cow<'a, str>>,
    level: Option<Cow<'a, str>>,
    from: Option<u64>,
    ping: Option<u64>,
}

#[derive(Deserialize)]
struct KindOnly<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Then {
    #[default]
    Retry,
    Discard,
    Dead,
}

const KINDS: [&str; 8] = ["hello", "done", "fail", "progress", "log", "output", "recalled", "pong"];

impl<'a> Said<'a> {
    /// Reads a line.
    ///
    /// # Errors
    /// It is no message: why, in words.
    pub(crate) fn read(line: &'a [u8]) -> Result<Said<'a>, String> {
        let incoming: Incoming<'a> = match serde_json::from_slice(line) {
            Ok(incoming) => incoming,
            Err(error) => {
                // What a later version has under a kind of its own is none of ours.
                let kind = serde_json::from_slice::<KindOnly<'_>>(line).map(|only| only.kind);
                return match kind {
                    Ok(kind) if kind == "hello" => Ok(Said::Hello),
                    Ok(kind) if !KINDS.contains(&&*kind) => Ok(Said::Unknown),
                    _ => Err(error.to_string()),
                };
            }
        };
        incoming.sort()
    }
}

impl<'a> Incoming<'a> {
    fn sort(self) -> Result<Said<'a>, String> {
        let missing = |key: &str| format!("a message of kind `{}` has no `{key}`", self.kind);
        let job = self.job.ok_or_else(|| missing("job"));
        let given = Given {
            json: self.output,
            text: self.text,
            base64: self.base64,
            content_type: self.content_type,
        };
        Ok(match &*self.kind {
            "done" => Said::Done { job: job?, given: given.checked()?, follow: self.follow },
            "fail" => {
                let message = self.error.ok_or_else(|| missing("error"))?.into_owned();
                let error = match (self.then.unwrap_or_default(), self.after_ms) {
                    (Then::Retry, None) => JobError::retry(message),
                    (Then::Retry, Some(ms)) => JobError::retry_after(Duration::from_millis(ms), message),
                    (Then::Discard, _) => JobError::discard(message),
                    (Then::Dead, _) => JobError::dead(message),
                };
                let output = given.take()?;
                Said::Fail {
                    job: job?,
                    error: if output.is_empty() { error } else { error.with_output(output) },
                }
            }
            "progress" => Said::Progress {
                job: job?,
                // A cast of any number ends between the two.
                percent: self.percent.ok_or_else(|| missing("percent"))?.clamp(0.0, 100.0) as u8,
                message: self.message.unwrap_or_default(),
            },
            "log" => Said::Log {
                job: self.job,
                level: self.level.unwrap_or(Cow::Borrowed("info")),
                message: self.message.ok_or_else(|| missing("message"))?,
            },
            "output" => Said::Output { job: job?, given: given.checked()? },
            "recalled" => Said::Recalled { from: self.from.ok_or_else(|| missing("from"))? },
            "pong" => Said::Pong { ping: self.ping.ok_or_else(|| missing("ping"))? },
            "hello" => Said::Hello,
            _ => Said::Unknown,
        })
    }
}

impl Given<'_> {
    fn checked(self) -> Result<Self, String> {
        let ways = [self.json.is_some(), self.text.is_some(), self.base64.is_some()];
        match ways.into_iter().filter(|way| *way).count() {
            0 | 1 => Ok(self),
            _ => Err("of `output`, `text` and `base64` there may be one".to_owned()),
        }
    }

    /// The bytes.
    pub(crate) fn take(self) -> Result<Output, String> {
        let Given { json, text, base64, content_type } = self.checked()?;
        let (bytes, kind) = match (json, text, base64) {
            (Some(json), ..) => (json.get().as_bytes().to_vec(), Some("application/json")),
            (_, Some(text), _) => (text.into_owned().into_bytes(), None),
            (.., Some(base64)) => {
                let bytes = BASE64_STANDARD.decode(base64.as_bytes());
                (bytes.map_err(|error| format!("`base64` is none: {error}"))?, None)
            }
            _ => return Ok(Output::default()),
        };
        let content_type = content_type.map(Cow::into_owned).or_else(|| kind.map(str::to_owned));
        Ok(Output { content_type, ..Output::new(bytes) })
    }
}

/// A type as its program knows it: a failure handler goes by its entry's name.
pub(crate) fn type_of(kind: &str) -> &str {
    kind.strip_prefix(HANDLER_PREFIX).unwrap_or(kind)
}

/// Writes the message that hands a job over.
pub(crate) fn write_job(out: &mut Vec<u8>, number: u64, job: &JobContext, timeout: Option<Duration>) {
    let inner = job.job();
    let rare = inner.rare();
    write(out, format_args!("{{\"kind\":\"job\",\"job\":{number},\"id\":"));
    json(out, job.id());
    out.extend_from_slice(b",\"type\":");
    json(out, type_of(&inner.kind));
    write(out, format_args!(",\"attempt\":{}", job.attempt()));
    if let Some(timeout) = timeout {
        // Up, so that what lies a moment back is still the time that was meant.
        let millis = timeout.as_micros().div_ceil(1000);
        write(out, format_args!(",\"timeout_ms\":{millis}"));
    }
    if let Some(name) = &inner.name {
        out.extend_from_slice(b",\"name\":");
        json(out, &**name);
    }
    if let Some(queue) = &inner.queue {
        out.extend_from_slice(b",\"queue\":");
        json(out, &**queue);
    }
    if !rare.headers.is_empty() {
        out.extend_from_slice(b",\"headers\":{");
        for (at, (name, value)) in rare.headers.iter().enumerate() {
            out.extend_from_slice(if at == 0 { b"" } else { b"," });
            json(out, &**name);
            out.push(b':');
            json(out, value);
        }
        out.push(b'}');
    }
    // The params of a failure handler's job are its config entry, which is none of the program's business.
    let (key, value) = match job.input() {
        Some(input) => ("input", input.get()),
        None => ("params", inner.params_text()),
    };
    write(out, format_args!(",\"{key}\":"));
    one_line(out, value);
    out.extend_from_slice(b"}\n");
}

/// Writes the message that asks for the end of a job.
pub(crate) fn write_cancel(out: &mut Vec<u8>, number: u64, reason: StopReason, grace: Duration) {
    let reason = match reason {
        StopReason::Cancel => "cancel",
        StopReason::Timeout => "timeout",
        StopReason::Fenced => "lease",
        StopReason::Shutdown => "shutdown",
    };
    let grace = grace.as_millis();
    write(
        out,
        format_args!(
            "{{\"kind\":\"cancel\",\"job\":{number},\"reason\":\"{reason}\",\"grace_ms\":{grace}}}\n"
        ),
    );
}

/// Writes a message that has one number, or none.
pub(crate) fn write_ping(out: &mut Vec<u8>, ping: u64) {
    write(out, format_args!("{{\"kind\":\"ping\",\"ping\":{ping}}}\n"));
}

pub(crate) const RECALL: &[u8] = b"{\"kind\":\"recall\"}\n";

fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("memory takes all that is written");
}

pub(crate) fn json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("texts and numbers are JSON");
}

/// JSON in one line: a line's end stands in it only between its parts, where a space does as well.
fn one_line(out: &mut Vec<u8>, text: &str) {
    let from = out.len();
    out.extend_from_slice(text.as_bytes());
    let mut rest = &mut out[from..];
    while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
        rest[at] = b' ';
        rest = &mut rest[at + 1..];
    }
}

/// The beginning of what a program sent, safe to show.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 120;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN)]);
    let mut shown: String = text.trim().chars().take(SHOWN).flat_map(printable).collect();
    if text.trim().chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// A character as it is, or escaped where it would steer a terminal.
pub(crate) fn printable(c: char) -> impl Iterator<Item = char> {
    let (plain, escaped) = match c.is_control() && c != '\t' {
        true => (None, Some(c.escape_default())),
        false => (Some(c), None),
    };
    plain.into_iter().chain(escaped.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use ganger_core::{Advice, Job};

    use super::*;

    fn written(job: &str) -> String {
        let job = JobContext::detached(Job::from_json(job.as_bytes()).unwrap());
        let mut out = Vec::new();
        write_job(&mut out, 7, &job, Some(Duration::from_micros(1500)));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_job_is_one_line_whatever_its_params_look_like() {
        let text = written(
            "{\"id\":\"j1\",\"type\":\"t\",\"name\":\"a \\\"b\\\"\",\"headers\":{\"h\":\"x \\\"y\"},\"params\":{\r\n  \"a\": \"\\n\u{e4}\",\n\"b\":[1,\n2]}}",
        );
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!text.contains('\r'));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["params"], serde_json::json!({"a": "\n\u{e4}", "b": [1, 2]}));
        assert_eq!((&value["timeout_ms"], &value["job"], &value["id"]), (&2.into(), &7.into(), &"j1".into()));
        assert_eq!((&value["name"], &value["headers"]["h"]), (&"a \"b\"".into(), &"x \"y".into()));
    }

    #[test]
    fn kinds_and_keys_of_later_versions_are_passed_over() {
        assert!(matches!(Said::read(br#"{"kind":"metrics","job":"x","error":7}"#), Ok(Said::Unknown)));
        assert!(matches!(
            Said::read(br#"{"kind":"done","job":1,"later":[]}"#),
            Ok(Said::Done { job: 1, .. })
        ));
    }

    #[test]
    fn what_is_no_message_is_told_so() {
        for line in [
            "hello",
            "7",
            "[]",
            "{}",
            r#"{"kind":"done"}"#,
            r#"{"kind":"done","job":-1}"#,
            r#"{"kind":"fail","job":1}"#,
            r#"{"kind":"done","job":1,"text":"a","output":1}"#,
            r#"{"kind":"fail","job":1,"error":"x","then":"again"}"#,
            "{\"kind\":\"done\",\"job\":1,\"text\":\"\u{1}\"}",
        ] {
            assert!(Said::read(line.as_bytes()).is_err(), "{line}");
        }
        assert!(Said::read(b"{\"kind\":\"done\",\"job\":1,\"text\":\"\xff\"}").is_err());
    }

    #[test]
    fn a_failure_says_what_becomes_of_the_job() {
        let advice = |line: &str| match Said::read(line.as_bytes()).unwrap() {
            Said::Fail { error, .. } => error.advice(),
            other => panic!("{other:?}"),
        };
        assert_eq!(advice(r#"{"kind":"fail","job":1,"error":"x"}"#), Advice::Retry);
        let after = Advice::RetryAfter(Duration::from_millis(1500));
        assert_eq!(advice(r#"{"kind":"fail","job":1,"error":"x","after_ms":1500}"#), after);
        assert_eq!(advice(r#"{"kind":"fail","job":1,"error":"x","then":"discard"}"#), Advice::Discard);
        assert_eq!(advice(r#"{"kind":"fail","job":1,"error":"x","then":"dead"}"#), Advice::Dead);
    }

    #[test]
    fn what_steers_a_terminal_is_shown_escaped() {
        assert_eq!(excerpt(b"a\x1b[2Jb\xff"), "a\\u{1b}[2Jb\u{fffd}");
        assert_eq!(excerpt("x".repeat(500).as_bytes()).chars().count(), 121);
    }
}
