//! Reads JSON, keeping the place of every value.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    error::Problem,
    node::{Entry, Kind, Node, Span},
    read::{DEPTH_MAX, duplicate},
};

pub(super) fn read(text: &str) -> Result<Node, Problem> {
    let whole: &RawValue = serde_json::from_str(text).map_err(|error| {
        let at = offset(text, error.line(), error.column());
        Problem::at(at..at, format!("not JSON from here on: {}", plain(&error)))
    })?;
    node(text, whole, 0)
}

/// The raw values are slices of the text: their place is where they are in memory.
fn span(text: &str, part: &str) -> Span {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

fn node(text: &str, raw: &RawValue, depth: usize) -> Result<Node, Problem> {
    let part = raw.get();
    let span = span(text, part);
    if depth > DEPTH_MAX {
        return Err(Problem::at(span, format!("nested deeper than {DEPTH_MAX} levels")));
    }
    let fault = |error: serde_json::Error| Problem::at(span.clone(), plain(&error));
    let kind = match part.as_bytes().first() {
        Some(b'{') => {
            Kind::Map(entries(text, serde_json::from_str::<Pairs<'_>>(part).map_err(fault)?, depth)?)
        }
        Some(b'[') => {
            let items: Items<'_> = serde_json::from_str(part).map_err(fault)?;
            Kind::List(items.0.into_iter().map(|item| node(text, item, depth + 1)).collect::<Result<_, _>>()?)
        }
        Some(b'"') => Kind::Text(serde_json::from_str(part).map_err(fault)?),
        Some(b't' | b'f') => Kind::Bool(part == "true"),
        Some(b'n') => Kind::Null,
        _ => Kind::Number(serde_json::from_str(part).map_err(fault)?),
    };
    Ok(Node::new(span, kind))
}

fn entries(text: &str, pairs: Pairs<'_>, depth: usize) -> Result<Vec<Entry>, Problem> {
    let mut entries: Vec<Entry> = Vec::with_capacity(pairs.0.len());
    for (raw_key, raw_value) in pairs.0 {
        let key_span = span(text, raw_key.get());
        let key: String = serde_json::from_str(raw_key.get())
            .map_err(|error| Problem::at(key_span.clone(), plain(&error)))?;
        if entries.iter().any(|entry| entry.key == key) {
            return Err(duplicate(&key, key_span));
        }
        entries.push(Entry { key, key_span, value: node(text, raw_value, depth + 1)? });
    }
    Ok(entries)
}

/// serde_json's message without the position, which the report shows itself.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

/// The byte at a line and column as serde_json counts them: lines from 1, columns in bytes from 1.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let mut at = (start + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

struct Items<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Items<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Items<'de>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

struct Pairs<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
