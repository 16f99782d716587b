//! What a config file says, with the place of every word of it: the same for JSON, TOML and YAML.

use std::ops::Range;

use serde_json::{Map, Number, Value};

/// A place in the file, in bytes.
pub(crate) type Span = Range<usize>;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
    /// A text that `${…}` put together: never shown in an error.
    pub(crate) interpolated: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn new(span: Span, kind: Kind) -> Self {
        Node { span, kind, interpolated: false }
    }

    /// The same without places.
    pub(crate) fn value(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Number(number) => Value::Number(number.clone()),
            Kind::Text(text) => Value::String(text.clone()),
            Kind::List(items) => Value::Array(items.iter().map(Node::value).collect()),
            Kind::Map(entries) => Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), entry.value.value())).collect::<Map<_, _>>(),
            ),
        }
    }

    /// What it is, in words.
    pub(crate) fn what(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "true or false",
            Kind::Number(_) => "a number",
            Kind::Text(_) => "a text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a set of keys",
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn entries(&self) -> Option<&[Entry]> {
        match &self.kind {
            Kind::Map(entries) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn items(&self) -> Option<&[Node]> {
        match &self.kind {
            Kind::List(items) => Some(items),
            _ => None,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries()?.iter().find(|entry| entry.key == key)
    }

    /// The node at a path, as far as it can be followed.
    pub(crate) fn at(&self, path: &[String]) -> &Node {
        let Some((first, rest)) = path.split_first() else { return self };
        let next = match &self.kind {
            Kind::Map(_) => self.get(first).map(|entry| &entry.value),
            Kind::List(items) => first.parse().ok().and_then(|at: usize| items.get(at)),
            _ => None,
        };
        next.map_or(self, |node| node.at(rest))
    }

    /// The same, to change it.
    pub(crate) fn at_mut(&mut self, path: &[String]) -> &mut Node {
        let Some((first, rest)) = path.split_first() else { return self };
        let found = match &self.kind {
            Kind::Map(entries) => entries.iter().position(|entry| entry.key == *first),
            Kind::List(items) => first.parse().ok().filter(|at| *at < items.len()),
            _ => None,
        };
        let Some(at) = found else { return self };
        match &mut self.kind {
            Kind::Map(entries) => entries[at].value.at_mut(rest),
            Kind::List(items) => items[at].at_mut(rest),
            _ => unreachable!("only maps and lists were looked into"),
        }
    }

    /// Calls `see` with every text in it.
    pub(crate) fn texts_mut(&mut self, see: &mut impl FnMut(&mut Node)) {
        match &mut self.kind {
            Kind::Text(_) => see(self),
            Kind::List(items) => items.iter_mut().for_each(|item| item.texts_mut(see)),
            Kind::Map(entries) => entries.iter_mut().for_each(|entry| entry.value.texts_mut(see)),
            _ => {}
        }
    }

    /// Calls `see` with every text in it.
    pub(crate) fn texts(&self, see: &mut impl FnMut(&Node)) {
        match &self.kind {
            Kind::Text(_) => see(self),
            Kind::List(items) => items.iter().for_each(|item| item.texts(see)),
            Kind::Map(entries) => entries.iter().for_each(|entry| entry.value.texts(see)),
            _ => {}
        }
    }

    /// Calls `see` with every value in it that is no list and no set of keys.
    pub(crate) fn scalars(&self, see: &mut impl FnMut(&Node)) {
        match &self.kind {
            Kind::List(items) => items.iter().for_each(|item| item.scalars(see)),
            Kind::Map(entries) => entries.iter().for_each(|entry| entry.value.scalars(see)),
            _ => see(self),
        }
    }
}
