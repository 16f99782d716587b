//! What a job asks for: a command, its arguments, its input and surroundings.

use std::fmt;

use ganger_child::{Env, Text, Umask};
use ganger_core::Period;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

/// The params of a `cli` job.
///
/// Names match exactly or without case, as in GoWorker. A name that is none of these fails the job, unless an
/// argument of the config names it (`{params.width}`), and except in a failure-handler job, whose params are its config
/// entry.
#[derive(Clone, Debug, Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Params {
    /// The program: a path, or a name that is looked up in PATH. There is no shell.
    pub command: Option<String>,
    /// Text for the shell that the worker's config switches on, in place of a `command`.
    pub script: Option<String>,
    /// Its arguments, one by one: texts, or numbers as they are written.
    #[schemars(default)]
    pub params: Vec<Text>,
    /// What it reads on standard input: a text as it is, anything else as JSON. Default: nothing.
    pub stdin: Option<Stdin>,
    /// Variables for its environment. Names that begin with `GANGER_` are ganger's own.
    #[schemars(default)]
    pub env: Env,
    /// The directory in which it runs.
    pub cwd: Option<String>,
    /// The longest that it may run, where the job's own field `timeout` does not say less.
    pub timeout: Option<Period>,
    /// Which permissions files that it makes do not get, in octal.
    pub umask: Option<Umask>,
    /// What are no params of its own; an entry may name some in its arguments.
    #[schemars(skip)]
    pub(crate) unknown: Vec<(String, Box<RawValue>)>,
}

/// The names that params have.
pub(crate) const NAMES: [&str; 8] =
    ["command", "script", "params", "stdin", "env", "cwd", "timeout", "umask"];

impl<'de> Deserialize<'de> for Params {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Fields)
    }
}

struct Fields;

impl<'de> de::Visitor<'de> for Fields {
    type Value = Params;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `command` and `params`")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Params, E> {
        Ok(Params::default())
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Params, A::Error> {
        let mut params = Params::default();
        let mut seen = [false; NAMES.len()];
        while let Some(key) = map.next_key::<String>()? {
            let Some(known) = NAMES.iter().position(|name| name.eq_ignore_ascii_case(&key)) else {
                params.unknown.push((key, map.next_value()?));
                continue;
            };
            if std::mem::replace(&mut seen[known], true) {
                return Err(de::Error::duplicate_field(NAMES[known]));
            }
            match NAMES[known] {
                "command" => params.command = map.next_value()?,
                "script" => params.script = map.next_value()?,
                "params" => params.params = map.next_value::<Option<_>>()?.unwrap_or_default(),
                "stdin" => params.stdin = map.next_value()?,
                "env" => params.env = map.next_value::<Option<_>>()?.unwrap_or_default(),
                "cwd" => params.cwd = map.next_value()?,
                "timeout" => params.timeout = map.next_value()?,
                _ => params.umask = map.next_value()?,
            }
        }
        Ok(params)
    }
}

/// What a command reads on standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stdin(pub String);

impl<'de> Deserialize<'de> for Stdin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        match raw.get().as_bytes().first() {
            Some(b'"') => serde_json::from_str(raw.get()).map(Stdin).map_err(de::Error::custom),
            _ => Ok(Stdin(raw.get().to_owned())),
        }
    }
}

impl JsonSchema for Stdin {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Stdin".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "a text as it is, anything else as JSON" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Params, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn goworkers_params_are_read_in_any_case() {
        let params = read(r#"{"Command":"echo","PARAMS":["a","b"]}"#).unwrap();
        assert_eq!(params.command.as_deref(), Some("echo"));
        assert_eq!(params.params, [Text("a".into()), Text("b".into())]);
    }

    #[test]
    fn a_number_keeps_every_digit() {
        let params = read(r#"{"command":"x","params":[12345678901234567890123, 1.50, -0]}"#).unwrap();
        let texts: Vec<_> = params.params.iter().map(|text| text.0.as_str()).collect();
        assert_eq!(texts, ["12345678901234567890123", "1.50", "-0"]);
    }

    #[test]
    fn stdin_is_a_text_or_json() {
        assert_eq!(read(r#"{"stdin":"a\nb"}"#).unwrap().stdin, Some(Stdin("a\nb".into())));
        assert_eq!(read(r#"{"stdin":{"a": [1]}}"#).unwrap().stdin, Some(Stdin(r#"{"a": [1]}"#.into())));
        assert_eq!(read(r#"{"stdin":null}"#).unwrap().stdin, None);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (text, part) in [
            (r#"{"command":1}"#, "string"),
            (r#"{"params":[true]}"#, "`true`"),
            (r#"{"params":[["a"]]}"#, "text or a number"),
            (r#"{"params":"a b"}"#, "sequence"),
            (r#"{"env":{"A":null}}"#, "text or a number"),
            (r#"{"command":"a","Command":"b"}"#, "duplicate"),
            (r#"[]"#, "an object with `command`"),
            (r#""echo""#, "an object with `command`"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn unknown_names_are_kept_for_the_one_who_decides() {
        let params = read(r#"{"command":"a","shell":true,"x":{"y": 1}}"#).unwrap();
        let unknown: Vec<_> =
            params.unknown.iter().map(|(name, value)| (name.as_str(), value.get())).collect();
        assert_eq!(unknown, [("shell", "true"), ("x", r#"{"y": 1}"#)]);
    }
}
