//! Takes a request's body apart: one job, a JSON array of jobs, or JSON lines.

use ganger_core::{Job, Malformed};
use hyper::StatusCode;
use serde::de::{Deserializer as _, SeqAccess, Visitor};
use serde_json::{Deserializer, value::RawValue};

use crate::answer::Refusal;

/// What a body holds.
#[derive(Debug)]
pub(crate) enum Entries<'a> {
    /// One job, which a request may wait for.
    One(&'a [u8]),
    /// Jobs of an array or of JSON lines, in order.
    Many(Vec<Entry<'a>>),
}

/// The text of one job, and where it begins in the body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    text: &'a [u8],
    line: usize,
    column: usize,
}

impl<'a> Entries<'a> {
    /// Takes a body apart. `as_lines` is set where its media type says that it is JSON lines.
    ///
    /// # Errors
    /// Nothing in it; an array that is no JSON, with the position; more jobs than `most`.
    pub(crate) fn read(body: &'a [u8], as_lines: bool, most: usize) -> Result<Self, Refusal> {
        let Some(start) = body.iter().position(|b| !b.is_ascii_whitespace()) else {
            let message = r#"there is no job in the request: send one like {"type":"http","params":{"url":"http://example.org/"}}"#;
            return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
        };
        if as_lines {
            return lines(body, most);
        }
        if body[start] == b'[' {
            return array(body, most);
        }
        let mut values = Deserializer::from_slice(body).into_iter::<&RawValue>();
        let is_lines = match values.next() {
            Some(Ok(_)) => {
                let rest = &body[values.byte_offset()..];
                let gap = rest.iter().take_while(|b| b.is_ascii_whitespace()).count();
                gap < rest.len() && rest[..gap].contains(&b'\n')
            }
            // One line of many is wrong, or the only job is.
            _ => body.split(|b| *b == b'\n').any(|line| Job::from_json(line).is_ok()),
        };
        if is_lines { lines(body, most) } else { Ok(Entries::One(body)) }
    }
}

impl<'a> Entry<'a> {
    /// The only job of a body.
    pub(crate) fn whole(text: &'a [u8]) -> Self {
        Entry { text, line: 1, column: 0 }
    }

    /// How long its text is.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// The job.
    ///
    /// # Errors
    /// 400, with the position in the whole body.
    pub(crate) fn job(&self) -> Result<Job, Refusal> {
        Job::from_json(self.text).map_err(|fault| Refusal::malformed(self.moved(fault)))
    }

    /// A fault in this text as one of the whole body.
    fn moved(&self, fault: Malformed) -> Malformed {
        if fault.line == 0 {
            return fault;
        }
        let own = format!(" at line {} column {}", fault.line, fault.column);
        let column = if fault.line == 1 { self.column + fault.column } else { fault.column };
        let line = self.line + fault.line - 1;
        let what = fault.message.strip_suffix(&own).unwrap_or(&fault.message);
        Malformed { message: format!("{what} at line {line} column {column}"), line, column }
    }
}

fn lines(body: &[u8], most: usize) -> Result<Entries<'_>, Refusal> {
    let mut entries = Vec::new();
    for (at, line) in body.split(|b| *b == b'\n').enumerate() {
        let column = line.iter().take_while(|b| b.is_ascii_whitespace()).count();
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        if entries.len() == most {
            return Err(too_many(most));
        }
        entries.push(Entry { text, line: at + 1, column });
    }
    Ok(Entries::Many(entries))
}

fn array(body: &[u8], most: usize) -> Result<Entries<'_>, Refusal> {
    let mut reader = Deserializer::from_slice(body);
    let values = reader.deserialize_seq(Values { most }).and_then(|values| reader.end().map(|()| values));
    let values = values.map_err(|error| Refusal::malformed(error.into()))?;
    if values.len() > most {
        return Err(too_many(most));
    }
    if values.is_empty() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "the array has no job in it"));
    }
    let mut place = Place { at: 0, line: 1, line_start: 0 };
    let entry = |value: &'_ RawValue| value.get().as_ptr() as usize - body.as_ptr() as usize;
    Ok(Entries::Many(
        values
            .into_iter()
            .map(|value| {
                place.advance(body, entry(value));
                Entry { text: value.get().as_bytes(), line: place.line, column: place.at - place.line_start }
            })
            .collect(),
    ))
}

fn too_many(most: usize) -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("more than {most} jobs in a request (`max_jobs`): send them in several"),
    )
}

/// A place in a text, moved forward only.
struct Place {
    at: usize,
    line: usize,
    line_start: usize,
}

impl Place {
    fn advance(&mut self, body: &[u8], to: usize) {
        for (offset, byte) in body[self.at..to].iter().enumerate() {
            if *byte == b'\n' {
                self.line += 1;
                self.line_start = self.at + offset + 1;
            }
        }
        self.at = to;
    }
}

/// The values of an array as their texts; those beyond `most` are passed over, all but the first.
struct Values {
    most: usize,
}

impl<'de> Visitor<'de> for Values {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of jobs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element::<&RawValue>()? {
            if values.len() <= self.most {
                values.push(value);
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(body: &str) -> Vec<Result<String, (usize, usize)>> {
        match Entries::read(body.as_bytes(), false, 100).unwrap() {
            Entries::Many(entries) => entries
                .iter()
                .map(|entry| {
                    entry
                        .job()
                        .map(|job| job.kind.to_string())
                        .map_err(|refusal| refusal.position.unwrap_or_default())
                })
                .collect(),
            Entries::One(_) => panic!("one job: {body}"),
        }
    }

    fn is_one(body: &str) -> bool {
        matches!(Entries::read(body.as_bytes(), false, 100), Ok(Entries::One(_)))
    }

    #[test]
    fn tells_one_job_from_many() {
        assert!(is_one(r#"{"type":"a"}"#));
        assert!(is_one("\n {\"type\":\n\"a\"}\n\n"));
        assert!(is_one(r#"{"type":"a"} trailing"#));
        assert!(is_one("{\"type\":\n"), "broken, but one");
        assert_eq!(many(r#"[{"type":"a"},{"type":"b"}]"#), [Ok("a".into()), Ok("b".into())]);
        assert_eq!(many("{\"type\":\"a\"}\r\n\n{\"type\":\"b\"}\n"), [Ok("a".into()), Ok("b".into())]);
        let one_line = Entries::read(br#"{"type":"a"}"#, true, 100).unwrap();
        assert!(matches!(one_line, Entries::Many(entries) if entries.len() == 1));
    }

    #[test]
    fn a_broken_job_disturbs_no_other_and_its_place_is_told() {
        assert_eq!(many("{\"type\":}\n{\"type\":\"b\"}"), [Err((1, 9)), Ok("b".into())]);
        assert_eq!(many("{\"type\":\"a\"}\n  {\"type\":7}"), [Ok("a".into()), Err((2, 11))]);
        assert_eq!(
            many("[{\"type\":\"a\"},\n {},\n {\"type\":\n7}]"),
            [Ok("a".into()), Err((2, 3)), Err((4, 1))]
        );
    }

    #[test]
    fn refuses_what_holds_no_jobs() {
        let refusal = |body: &str| Entries::read(body.as_bytes(), false, 2).unwrap_err();
        assert_eq!(refusal("").status, StatusCode::BAD_REQUEST);
        assert_eq!(refusal(" \n ").status, StatusCode::BAD_REQUEST);
        assert_eq!(refusal("[]").status, StatusCode::BAD_REQUEST);
        assert_eq!(refusal("[{},\n{]").position, Some((2, 2)));
        assert_eq!(refusal("[{}] x").position, Some((1, 6)));
        assert_eq!(refusal("[{},{},{}]").status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(refusal("{\"type\":\"a\"}\n{}\n{}").status, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
