//! The job's JSON form: a superset of GoWorker's.

use std::{borrow::Cow, fmt, time::Duration};

use compact_str::CompactString;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::value::RawValue;

use crate::{
    Backoff, Job, JobId, Limit, Period, Rare, Timestamp, Unique, in_words,
    job::{canonical_kind, name_fault},
    plugin::path_of,
};

/// How deep arrays and objects may nest in a job.
pub const DEPTH_MAX: usize = 128;

/// Bytes that are no job; the message says why, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Malformed {
    /// What is wrong.
    pub message: String,
    /// The line it is on, from 1; 0 when it is about the whole.
    pub line: usize,
    /// The column it is at, from 1; 0 when it is about the whole.
    pub column: usize,
}

impl Malformed {
    /// A fault of the whole entry.
    pub fn whole(message: impl Into<String>) -> Self {
        Malformed { message: message.into(), line: 0, column: 0 }
    }
}

impl From<serde_json::Error> for Malformed {
    fn from(error: serde_json::Error) -> Self {
        Malformed { message: error.to_string(), line: error.line(), column: error.column() }
    }
}

impl Job {
    /// Reads a job from its JSON text.
    ///
    /// Keys match exactly or else without case, as in GoWorker (`Type`, `PARAMS`). Unknown fields are kept. A
    /// field given twice, in whatever case, is an error, since nobody could say which was meant; so are `delay` beside
    /// `run_at` and `max_age` beside `expires_at`. A negative `retries` is 0. GoWorker's type names `cli.cli`, `http.http` and `disk.disk` become the plain ones.
    ///
    /// # Errors
    /// [`Malformed`] with line and column: no JSON, no object, a field of the wrong form, nesting deeper than
    /// [`DEPTH_MAX`], no `type`.
    ///
    /// ```
    /// use ganger_core::Job;
    /// let job = Job::from_json(br#"{"type":"cli.cli","params":{"command":"date"},"retries":3}"#).unwrap();
    /// assert_eq!(job.kind, "cli");
    /// let error = Job::from_json(br#"{"type":"cli","retries":"3"}"#).unwrap_err();
    /// assert_eq!((error.line, error.column), (1, 27));
    /// ```
    pub fn from_json(text: &[u8]) -> Result<Job, Malformed> {
        // Shallow texts cannot be deep: each level costs two bytes.
        if text.len() > 2 * DEPTH_MAX {
            refuse_deep(text)?;
        }
        serde_json::from_slice(text).map_err(|error| explained(text, error))
    }

    /// The job's JSON text, in one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a job's fields are texts, numbers and JSON that was read as such")
    }
}

/// The fault with the name of its field, which costs a second reading.
fn explained(text: &[u8], error: serde_json::Error) -> Malformed {
    let mut again = serde_json::Deserializer::from_slice(text);
    let path = match serde_path_to_error::deserialize::<_, Job>(&mut again) {
        Err(error) if error.inner().is_data() => path_of(error.path()).join("."),
        _ => String::new(),
    };
    let mut fault = Malformed::from(error);
    fault.message = in_words(&fault.message);
    if !path.is_empty() && !fault.message.contains("field `") {
        fault.message = format!("field `{path}`: {}", fault.message);
    }
    fault
}

/// Refuses nesting that would overflow a recursive reader further on.
fn refuse_deep(text: &[u8]) -> Result<(), Malformed> {
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    let (mut line, mut line_start) = (1, 0);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'\n' => (line, line_start) = (line + 1, at + 1),
            _ if in_text => {}
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    let column = at - line_start + 1;
                    let message =
                        format!("nested deeper than {DEPTH_MAX} levels at line {line} column {column}");
                    return Err(Malformed { message, line, column });
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// The fields of the wire form, in the order in which they are written.
const FIELDS: [&str; 20] = [
    "id",
    "type",
    "params",
    "name",
    "queue",
    "retries",
    "priority",
    "capture_output",
    "timeout",
    "run_at",
    "expires_at",
    "created_at",
    "delay",
    "max_age",
    "backoff",
    "unique",
    "limit",
    "after",
    "headers",
    "keep",
];

/// The place of a key in [`FIELDS`]: as written, or else without case.
fn field(key: &str) -> Option<usize> {
    let exact = FIELDS.iter().position(|name| *name == key);
    exact.or_else(|| FIELDS.iter().position(|name| name.eq_ignore_ascii_case(key)))
}

/// A key borrowed from the text where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl<'de> Deserialize<'de> for Job {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(JobVisitor)
    }
}

struct JobVisitor;

impl<'de> Visitor<'de> for JobVisitor {
    type Value = Job;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a job: an object with a `type`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Job, A::Error> {
        let mut job = Job::default();
        let mut seen = 0u32;
        while let Some(Key(key)) = map.next_key()? {
            let Some(at) = field(&key) else {
                keep_unknown(&mut job, &key, &mut map)?;
                continue;
            };
            if seen & (1 << at) != 0 {
                return Err(de::Error::custom(format_args!("field `{key}` is given twice")));
            }
            seen |= 1 << at;
            read_field(&mut job, FIELDS[at], &mut map)?;
        }
        if job.kind.is_empty() {
            return Err(de::Error::custom("missing field `type`: it names the worker that does the job"));
        }
        match said_twice(&job) {
            Some((span, time)) => Err(de::Error::custom(format_args!(
                "fields `{span}` and `{time}` both say when: give one of them"
            ))),
            None => Ok(job),
        }
    }
}

/// The two fields that say one time, where a job has both: nobody could say which was meant.
fn said_twice(job: &Job) -> Option<(&'static str, &'static str)> {
    let rare = job.rare.as_ref()?;
    if rare.delay.is_some() && job.run_at.is_some() {
        return Some(("delay", "run_at"));
    }
    (rare.max_age.is_some() && job.expires_at.is_some()).then_some(("max_age", "expires_at"))
}

fn keep_unknown<'de, A: MapAccess<'de>>(job: &mut Job, key: &str, map: &mut A) -> Result<(), A::Error> {
    let value = map.next_value::<Box<RawValue>>()?;
    let unknown = &mut job.rare_mut().unknown;
    if unknown.iter().any(|(known, _)| known == key) {
        return Err(de::Error::custom(format_args!("field `{key}` is given twice")));
    }
    unknown.push((key.into(), value));
    Ok(())
}

fn read_field<'de, A: MapAccess<'de>>(job: &mut Job, field: &str, map: &mut A) -> Result<(), A::Error> {
    match field {
        "type" => {
            let Key(kind) = map.next_value()?;
            job.kind = named::<A::Error>("type", canonical_kind(&kind))?;
        }
        "params" => {
            let raw: Box<RawValue> = map.next_value()?;
            job.params = (raw.get() != "null").then_some(raw);
        }
        "id" => job.id = map.next_value()?,
        "name" => job.name = map.next_value::<Option<CompactString>>()?.filter(|name| !name.is_empty()),
        "queue" => {
            if let Some(Key(queue)) = map.next_value()? {
                job.queue = Some(named::<A::Error>("queue", &queue)?);
            }
        }
        "retries" => {
            if let Some(retries) = map.next_value::<Option<i64>>()? {
                job.retries = Some(retries.clamp(0, i64::from(u32::MAX)) as u32);
            }
        }
        "priority" => job.priority = map.next_value::<Option<i32>>()?.unwrap_or(0),
        "capture_output" => job.capture_output = map.next_value::<Option<bool>>()?.unwrap_or(false),
        "timeout" => {
            job.timeout = period(map)?;
            if job.timeout.is_some_and(|limit| limit.is_zero()) {
                return Err(de::Error::custom(
                    "field `timeout`: no run ends in no time: leave it out for no limit",
                ));
            }
        }
        "run_at" => job.run_at = map.next_value()?,
        "expires_at" => job.expires_at = map.next_value()?,
        "created_at" => job.created_at = map.next_value::<Option<Timestamp>>()?,
        _ => read_rare(job.rare_mut(), field, map)?,
    }
    Ok(())
}

fn read_rare<'de, A: MapAccess<'de>>(rare: &mut Rare, field: &str, map: &mut A) -> Result<(), A::Error> {
    match field {
        "delay" => rare.delay = period(map)?,
        "max_age" => rare.max_age = period(map)?,
        "backoff" => rare.backoff = map.next_value::<Option<Backoff>>()?,
        "unique" => rare.unique = map.next_value::<Option<Unique>>()?,
        "limit" => rare.limit = map.next_value::<Option<Limit>>()?,
        "after" => rare.after = map.next_value::<Option<Vec<JobId>>>()?.unwrap_or_default(),
        "keep" => rare.keep = period(map)?,
        "headers" => {
            rare.headers = map.next_value::<Option<Headers>>()?.map(|headers| headers.0).unwrap_or_default()
        }
        other => unreachable!("`{other}` is not among FIELDS"),
    }
    Ok(())
}

fn period<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<Duration>, A::Error> {
    Ok(map.next_value::<Option<Period>>()?.map(Period::get))
}

fn named<E: de::Error>(field: &str, name: &str) -> Result<CompactString, E> {
    match name_fault(name) {
        None => Ok(CompactString::new(name)),
        Some(fault) => Err(E::custom(format_args!("field `{field}`: {fault}"))),
    }
}

/// `headers`: an object of texts.
struct Headers(Vec<(CompactString, String)>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Headers;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("headers: an object whose values are texts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut pairs: Vec<(CompactString, String)> = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    let key = named::<A::Error>("headers", &key)?;
                    let value: String = map.next_value()?;
                    if value.chars().any(|c| c == '\0' || c == '\r' || c == '\n') {
                        return Err(de::Error::custom(format_args!(
                            "header `{key}` has a line break or NUL in it"
                        )));
                    }
                    if pairs.iter().any(|(known, _)| *known == key) {
                        return Err(de::Error::custom(format_args!("header `{key}` is given twice")));
                    }
                    pairs.push((key, value));
                }
                Ok(Headers(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

impl Serialize for Job {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        fn put<M: SerializeMap, T: Serialize>(
            map: &mut M,
            key: &str,
            value: &Option<T>,
        ) -> Result<(), M::Error> {
            value.as_ref().map_or(Ok(()), |value| map.serialize_entry(key, value))
        }
        let rare = self.rare();
        put(&mut map, "id", &self.id)?;
        map.serialize_entry("type", &self.kind)?;
        put(&mut map, "params", &self.params)?;
        put(&mut map, "name", &self.name)?;
        put(&mut map, "queue", &self.queue)?;
        put(&mut map, "retries", &self.retries)?;
        put(&mut map, "priority", &(self.priority != 0).then_some(self.priority))?;
        put(&mut map, "capture_output", &self.capture_output.then_some(true))?;
        put(&mut map, "timeout", &self.timeout.map(Period::from))?;
        put(&mut map, "run_at", &self.run_at)?;
        put(&mut map, "expires_at", &self.expires_at)?;
        put(&mut map, "created_at", &self.created_at)?;
        put(&mut map, "delay", &rare.delay.map(Period::from))?;
        put(&mut map, "max_age", &rare.max_age.map(Period::from))?;
        put(&mut map, "backoff", &rare.backoff)?;
        put(&mut map, "unique", &rare.unique)?;
        put(&mut map, "limit", &rare.limit)?;
        put(&mut map, "after", &(!rare.after.is_empty()).then_some(&rare.after))?;
        put(&mut map, "headers", &(!rare.headers.is_empty()).then_some(HeadersText(&rare.headers)))?;
        put(&mut map, "keep", &rare.keep.map(Period::from))?;
        for (key, value) in &rare.unknown {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

struct HeadersText<'a>(&'a [(CompactString, String)]);

impl Serialize for HeadersText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault(text: &str) -> Malformed {
        Job::from_json(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn reads_goworkers_job() {
        let job = Job::from_json(
            br#"{"Name":"n","TYPE":"http.http","capture_output":true,"params":{"url":"x"},"retries":-1}"#,
        )
        .unwrap();
        assert_eq!((job.kind.as_str(), job.name.as_deref()), ("http", Some("n")));
        assert_eq!((job.retries, job.capture_output), (Some(0), true));
        assert_eq!(job.params_text(), r#"{"url":"x"}"#);
    }

    #[test]
    fn every_field_survives_the_round_trip() {
        let spans = r#"{"type":"t","delay":"1m","max_age":"1h"}"#;
        assert_eq!(Job::from_json(spans.as_bytes()).unwrap().to_json(), spans);
        let text = concat!(
            r#"{"id":"a","type":"t","params":[1, 2],"name":"n","queue":"q","retries":2,"priority":-3,"#,
            r#""capture_output":true,"timeout":"30s","run_at":"2026-01-02T03:04:05.006Z","#,
            r#""expires_at":"2026-01-03T00:00:00.000Z","created_at":"2026-01-01T00:00:00.000Z","#,
            r#""backoff":{"initial":"1s","factor":2.0,"max":"1h","jitter":0.2},"unique":{"key":"k","while":["ready"]},"#,
            r#""limit":{"key":"l","concurrency":2,"rate":"10/s"},"after":["b","c"],"headers":{"traceparent":"00-1"},"#,
            r#""keep":"1d","x-note":{"b":1,"a":2}}"#
        );
        let job = Job::from_json(text.as_bytes()).unwrap();
        assert_eq!(job.to_json(), text);
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        assert!(fault("").message.contains("EOF"));
        assert!(fault("[1]").message.contains("a job: an object with a `type`"));
        assert!(fault("{}").message.contains("missing field `type`"));
        assert!(fault(r#"{"type":"a b"}"#).message.contains("no spaces"));
        assert!(fault(r#"{"type":"t","Type":"u"}"#).message.contains("given twice"));
        assert!(fault(r#"{"type":"t","x":1,"x":2}"#).message.contains("`x` is given twice"));
        assert!(fault(r#"{"type":"t","timeout":"0s"}"#).message.contains("`timeout`"));
        assert!(fault(r#"{"type":"t","timeout":"5 parsecs"}"#).message.contains("no duration"));
        assert!(fault(r#"{"type":"t"} x"#).message.contains("trailing characters"));
        assert!(fault(r#"{"type":"t","headers":{"a":"b\nc"}}"#).message.contains("line break"));
        assert!(fault("{\"type\":\"t\",\"params\":\"\u{0}\"}").message.contains("control character"));
        assert_eq!(fault("{\n \"type\": 7}").line, 2);
        for (text, message) in [
            (r#"{"type":7}"#, "field `type`: invalid type: integer `7`, expected a text at line 1 column 9"),
            (
                r#"{"type":"t","retries":"3"}"#,
                "field `retries`: invalid type: string \"3\", expected a whole number",
            ),
            (
                r#"{"type":"t","backoff":{"factor":"x"}}"#,
                "field `backoff.factor`: invalid type: string \"x\"",
            ),
            (
                r#"{"type":"t","headers":{"a":1}}"#,
                "field `headers.a`: invalid type: integer `1`, expected a text",
            ),
            (r#"{"type":"t","priority":3000000000}"#, "field `priority`: invalid value"),
        ] {
            assert!(fault(text).message.starts_with(message), "{}", fault(text).message);
        }
        let invalid = Job::from_json(b"{\"type\":\"\xff\"}").unwrap_err();
        assert!(invalid.message.contains("unicode"), "{invalid}");
    }

    #[test]
    fn a_time_is_said_once() {
        for (span, time) in [("delay", "run_at"), ("max_age", "expires_at")] {
            let both = format!(r#"{{"type":"t","{time}":"2026-01-01T00:00:00Z","{span}":"5s"}}"#);
            let said = format!("fields `{span}` and `{time}` both say when: give one of them");
            assert!(fault(&both).message.starts_with(&said), "{}", fault(&both).message);
            let none = format!(r#"{{"type":"t","{time}":"2026-01-01T00:00:00Z","{span}":null}}"#);
            assert!(Job::from_json(none.as_bytes()).is_ok(), "a null says nothing");
        }
    }

    #[test]
    fn refuses_deep_nesting() {
        let deep = format!(r#"{{"type":"t","params":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(fault(&deep).message.contains("nested deeper than 128 levels"));
        let brackets = format!(r#"{{"type":"t","params":"{}"}}"#, "[\\\"".repeat(1_000));
        assert!(Job::from_json(brackets.as_bytes()).is_ok(), "brackets in a text are no nesting");
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes: Vec<u8>) {
            let _ = Job::from_json(&bytes);
        }

        #[test]
        fn what_was_read_reads_again(name in "[a-z]{1,8}", retries: Option<u32>, priority: i32, key in "[a-z-]{1,12}") {
            let job = Job {
                kind: name.into(),
                retries,
                priority,
                rare: Some(Box::new(Rare {
                    unknown: vec![(format!("x-{key}").into(), RawValue::from_string("[1,  {}]".into()).unwrap())],
                    ..Rare::default()
                })),
                ..Job::default()
            };
            let again = Job::from_json(job.to_json().as_bytes()).unwrap();
            prop_assert_eq!(again.to_json(), job.to_json());
        }
    }
}
