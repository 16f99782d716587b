//! Reads TOML, keeping the place of every value.

use serde_json::Number;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    error::Problem,
    node::{Entry, Kind, Node, Span},
    read::{DEPTH_MAX, duplicate, no_number},
};

pub(super) fn read(text: &str) -> Result<Node, Problem> {
    let table = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        if error.message() == "duplicate key" {
            return duplicate(text.get(span.clone()).unwrap_or_default(), span);
        }
        Problem::at(span, format!("not TOML from here on: {}", error.message()))
    })?;
    let span = table.span();
    Ok(Node::new(span, Kind::Map(entries(table.get_ref(), 0)?)))
}

fn entries(table: &DeTable<'_>, depth: usize) -> Result<Vec<Entry>, Problem> {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| {
            let value = node(value, depth + 1)?;
            Ok(Entry { key: key.get_ref().to_string(), key_span: key.span(), value })
        })
        .collect::<Result<_, Problem>>()?;
    // The table is kept sorted; people meant the order in which they wrote.
    entries.sort_by_key(|entry| entry.key_span.start);
    Ok(entries)
}

fn node(value: &Spanned<DeValue<'_>>, depth: usize) -> Result<Node, Problem> {
    let span = value.span();
    if depth > DEPTH_MAX {
        return Err(Problem::at(span, format!("nested deeper than {DEPTH_MAX} levels")));
    }
    let kind = match value.get_ref() {
        DeValue::String(text) => Kind::Text(text.to_string()),
        DeValue::Boolean(value) => Kind::Bool(*value),
        DeValue::Integer(integer) => {
            let value = i64::from_str_radix(integer.as_str(), integer.radix());
            Kind::Number(value.map_err(|_| no_number(span.clone()))?.into())
        }
        DeValue::Float(float) => Kind::Number(float_number(float.as_str(), &span)?),
        DeValue::Datetime(time) => Kind::Text(time.to_string()),
        DeValue::Array(items) => {
            Kind::List(items.iter().map(|item| node(item, depth + 1)).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => Kind::Map(entries(table, depth)?),
    };
    Ok(Node::new(span, kind))
}

fn float_number(text: &str, span: &Span) -> Result<Number, Problem> {
    text.parse().ok().and_then(Number::from_f64).ok_or_else(|| no_number(span.clone()))
}
