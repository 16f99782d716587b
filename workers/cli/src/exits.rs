//! What an exit status means for the job.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use crate::config::Config;

/// The exit status of a command that failed: 1 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCode(pub u8);

impl<'de> Deserialize<'de> for ExitCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = i64::deserialize(deserializer)?;
        match u8::try_from(code) {
            Ok(code) if code > 0 => Ok(ExitCode(code)),
            _ => Err(de::Error::custom(format!("{code} is no exit status of a failure: those are 1 to 255"))),
        }
    }
}

impl JsonSchema for ExitCode {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ExitCode".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": 255 })
    }
}

/// What sysexits.h says of codes that another run would not change.
const DEAD: [(u8, &str); 6] = [
    (64, "EX_USAGE"),
    (65, "EX_DATAERR"),
    (67, "EX_NOUSER"),
    (68, "EX_NOHOST"),
    (77, "EX_NOPERM"),
    (78, "EX_CONFIG"),
];

/// What it says of one that passes with time.
const LATER: (u8, &str) = (75, "EX_TEMPFAIL");

/// What becomes of a job whose command ended so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Retry,
    /// A retry, after this time.
    Later(Duration),
    Discard,
    Dead,
}

/// The fates of all exit statuses, by an entry's config.
#[derive(Debug)]
pub(crate) struct Exits([Exit; 256]);

#[derive(Clone, Copy, Debug)]
struct Exit {
    fate: Fate,
    /// Its name, where the fate follows from that.
    name: Option<&'static str>,
}

impl Exits {
    pub(crate) fn new(config: &Config) -> Self {
        let mut exits = [Exit { fate: Fate::Retry, name: None }; 256];
        for (code, name) in DEAD {
            exits[usize::from(code)] = Exit { fate: Fate::Dead, name: Some(name) };
        }
        exits[usize::from(LATER.0)] =
            Exit { fate: Fate::Later(config.retry_later.get()), name: Some(LATER.1) };
        for (fate, _, codes) in lists(config) {
            for code in codes {
                exits[usize::from(code.0)] = Exit { fate, name: None };
            }
        }
        Exits(exits)
    }

    /// What an exit status means, and its name where it has one.
    pub(crate) fn of(&self, code: u8) -> (Fate, Option<&'static str>) {
        let exit = self.0[usize::from(code)];
        (exit.fate, exit.name)
    }
}

fn lists(config: &Config) -> [(Fate, &'static str, &[ExitCode]); 3] {
    [
        (Fate::Retry, "retry_on", &config.retry_on),
        (Fate::Discard, "discard_on", &config.discard_on),
        (Fate::Dead, "dead_on", &config.dead_on),
    ]
}

/// An exit status that stands in two lists.
pub(crate) fn fault(config: &Config) -> Option<String> {
    let lists = lists(config);
    for (at, (_, name, codes)) in lists.iter().enumerate() {
        for (_, other, others) in &lists[at + 1..] {
            if let Some(code) = codes.iter().find(|code| others.contains(code)) {
                return Some(format!("exit status {} stands in both `{name}` and `{other}`", code.0));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, String> {
        serde_json::from_str(text).map_err(|error: serde_json::Error| error.to_string())
    }

    #[test]
    fn b19_no_failure_is_done_unless_the_config_discards_it() {
        let exits = Exits::new(&Config::default());
        for code in 1..=255 {
            let fate = match code {
                64 | 65 | 67 | 68 | 77 | 78 => Fate::Dead,
                75 => Fate::Later(crate::RETRY_LATER),
                _ => Fate::Retry,
            };
            assert_eq!(exits.of(code).0, fate, "exit status {code}");
        }
        let exits = Exits::new(
            &config(r#"{"retry_on":[65,75],"discard_on":[3,78],"dead_on":[1],"retry_later":"2m"}"#).unwrap(),
        );
        for (code, fate) in [
            (65, Fate::Retry),
            (75, Fate::Retry),
            (3, Fate::Discard),
            (78, Fate::Discard),
            (1, Fate::Dead),
            (64, Fate::Dead),
            (2, Fate::Retry),
        ] {
            assert_eq!(exits.of(code).0, fate, "exit status {code}");
        }
    }

    #[test]
    fn a_list_that_makes_no_sense_is_refused() {
        for (text, part) in [
            (r#"{"dead_on":[0]}"#, "0 is no exit status of a failure"),
            (r#"{"retry_on":[256]}"#, "256 is no exit status"),
            (r#"{"discard_on":[-1]}"#, "-1 is no exit status"),
            (r#"{"retry_on":[1,9],"dead_on":[8,9]}"#, "9 stands in both `retry_on` and `dead_on`"),
            (r#"{"discard_on":[7],"dead_on":[7]}"#, "7 stands in both `discard_on` and `dead_on`"),
        ] {
            let error = config(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
