//! Reads YAML, keeping the place of every value.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::Number;
use serde_saphyr::{Location, Spanned};

use super::{
    error::Problem,
    node::{Entry, Kind, Node, Span},
    read::{DEPTH_MAX, duplicate, no_number},
};

pub(super) fn read(text: &str) -> Result<Node, Problem> {
    if text.trim().is_empty() {
        return Ok(Node::new(0..0, Kind::Map(Vec::new())));
    }
    let raw: Spanned<Raw> = serde_saphyr::from_str(text).map_err(|error| {
        let span = error.location().map_or(0..0, |location| span(text, location));
        if let Some(rest) = error.without_snippet().to_string().split("duplicate mapping key: ").nth(1) {
            let key = rest.split(", set DuplicateKeyPolicy").next().unwrap_or(rest);
            return duplicate(key, span);
        }
        let message = error.without_snippet().to_string();
        let plain = message.rsplit_once(" at line ").map_or(message.as_str(), |(plain, _)| plain);
        Problem::at(span, format!("not YAML from here on: {plain}"))
    })?;
    node(text, raw, 0)
}

/// The bytes of a place; where the reader gives only characters, they are counted out.
fn span(text: &str, location: Location) -> Span {
    let place = location.span();
    if let (Some(offset), Some(len)) = (place.byte_offset(), place.byte_len()) {
        let start = (offset as usize).min(text.len());
        return start..(start + len as usize).min(text.len());
    }
    let byte_of = |chars: u64| {
        text.char_indices().nth(usize::try_from(chars).unwrap_or(usize::MAX)).map_or(text.len(), |(at, _)| at)
    };
    byte_of(place.offset())..byte_of(place.offset().saturating_add(place.len()))
}

fn node(text: &str, raw: Spanned<Raw>, depth: usize) -> Result<Node, Problem> {
    let span = span(text, raw.referenced);
    if depth > DEPTH_MAX {
        return Err(Problem::at(span, format!("nested deeper than {DEPTH_MAX} levels")));
    }
    let kind = match raw.value {
        Raw::Null => Kind::Null,
        Raw::Bool(value) => Kind::Bool(value),
        Raw::Number(number) => Kind::Number(number.ok_or_else(|| no_number(span.clone()))?),
        Raw::Text(value) => Kind::Text(value),
        Raw::List(items) => {
            Kind::List(items.into_iter().map(|item| node(text, item, depth + 1)).collect::<Result<_, _>>()?)
        }
        Raw::Map(pairs) => Kind::Map(entries(text, pairs, depth)?),
    };
    Ok(Node::new(span, kind))
}

fn entries(
    text: &str,
    pairs: Vec<(Spanned<String>, Spanned<Raw>)>,
    depth: usize,
) -> Result<Vec<Entry>, Problem> {
    let mut entries: Vec<Entry> = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let key_span = span(text, key.referenced);
        if entries.iter().any(|entry| entry.key == key.value) {
            return Err(duplicate(&key.value, key_span));
        }
        entries.push(Entry { key: key.value, key_span, value: node(text, value, depth + 1)? });
    }
    Ok(entries)
}

enum Raw {
    Null,
    Bool(bool),
    /// `None` is a number that JSON cannot say (`.inf`, `.nan`).
    Number(Option<Number>),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(Any)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(Some(value.into())))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(Some(value.into())))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Number(Number::from_f64(value)))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }
    fn visit_string<E>(self, text: String) -> Result<Raw, E> {
        Ok(Raw::Text(text))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Raw::Map(pairs))
    }
}
