//! Sets of HTTP status codes: `200`, `2xx`, `200-204`, or a list of these.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

/// A set of HTTP status codes.
///
/// ```
/// use ganger_worker_http::Statuses;
/// let expected: Statuses = serde_json::from_str(r#"["2xx", 404, "500-503"]"#).unwrap();
/// assert!(expected.has(204) && expected.has(404) && expected.has(502) && !expected.has(504));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<(u16, u16)>);

impl Statuses {
    /// Those between two codes, both included.
    pub fn range(first: u16, last: u16) -> Self {
        Statuses(vec![(first, last)])
    }

    /// Adds those of another set.
    pub fn and(mut self, other: Statuses) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Whether a code is in the set.
    pub fn has(&self, status: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }
}

/// A text that names no status codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusError(String);

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` names no HTTP status (write it like `200`, `2xx` or `200-204`)", self.0)
    }
}

impl std::error::Error for StatusError {}

impl FromStr for Statuses {
    type Err = StatusError;

    fn from_str(text: &str) -> Result<Self, StatusError> {
        let fail = || StatusError(text.chars().take(40).collect());
        let code = |text: &str| text.trim().parse::<u16>().ok().filter(|code| (100..=999).contains(code));
        let trimmed = text.trim();
        if let Some(class) = trimmed.strip_suffix("xx").or_else(|| trimmed.strip_suffix("XX")) {
            let hundred = class.parse::<u16>().ok().filter(|hundred| (1..=9).contains(hundred));
            return hundred
                .map(|hundred| Statuses::range(hundred * 100, hundred * 100 + 99))
                .ok_or_else(fail);
        }
        match trimmed.split_once('-') {
            None => code(trimmed).map(|code| Statuses::range(code, code)),
            Some((first, last)) => code(first)
                .zip(code(last))
                .filter(|(first, last)| first <= last)
                .map(|(first, last)| Statuses::range(first, last)),
        }
        .ok_or_else(fail)
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Set;
        impl<'de> de::Visitor<'de> for Set {
            type Value = Statuses;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an HTTP status like `200`, `2xx` or `200-204`, or a list of these")
            }
            fn visit_u64<E: de::Error>(self, code: u64) -> Result<Statuses, E> {
                code.to_string().parse().map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Statuses, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Statuses, A::Error> {
                let mut all = Statuses(Vec::new());
                while let Some(some) = list.next_element::<Statuses>()? {
                    all = all.and(some);
                }
                Ok(all)
            }
        }
        deserializer.deserialize_any(Set)
    }
}

impl JsonSchema for Statuses {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Statuses".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "HTTP status codes: `200`, `2xx`, `200-204`, or a list of these",
            "type": ["integer", "string", "array"],
            "items": { "type": ["integer", "string"] }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_codes_classes_and_ranges() {
        let read = |text: &str| serde_json::from_str::<Statuses>(text);
        assert!(read("201").unwrap().has(201));
        assert!(read(r#""4xx""#).unwrap().has(404));
        assert!(!read("[]").unwrap().has(200));
        for wrong in [
            "99",
            "1000",
            r#""0xx""#,
            r#""20""#,
            r#""200-""#,
            r#""abc""#,
            r#""204-200""#,
            "true",
            "{}",
            "-200",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
