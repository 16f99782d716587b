//! What the config and a job may say.

use std::path::PathBuf;

use ganger_core::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

/// Options of a `disk` worker or failure handler.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiskConfig {
    /// The file that jobs and records are stored in. It is made if it does not exist, its folder is not. Relative
    /// to the folder that ganger is started in.
    pub db_name: PathBuf,
    /// The queue in the file, for jobs that name none, and for the records of a failure handler.
    pub bucket: Option<String>,
}

impl Default for DiskConfig {
    fn default() -> Self {
        DiskConfig { db_name: "ganger.db".into(), bucket: None }
    }
}

/// Arguments of a `disk` job. A failure handler needs none.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiskParams {
    /// When the job is run: seconds since 1970, or a time like `2026-11-24T09:30:00Z`. Without it as soon as
    /// there is a worker. GoWorker's spelling `exicution_time` is the same option.
    #[serde(alias = "exicution_time")]
    pub execution_time: Option<When>,
    /// The job to store.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub job: Option<Box<RawValue>>,
}

/// A time: seconds since 1970, or as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When(pub Timestamp);

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Time;
        impl de::Visitor<'_> for Time {
            type Value = When;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a time: seconds since 1970, or a text like `2026-11-24T09:30:00Z`")
            }
            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<When, E> {
                Ok(When(Timestamp::from_millis(seconds.saturating_mul(1000))))
            }
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<When, E> {
                self.visit_i64(i64::try_from(seconds).unwrap_or(i64::MAX))
            }
            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<When, E> {
                Ok(When(Timestamp::from_millis((seconds * 1000.0).round() as i64)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<When, E> {
                text.parse().map(When).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Time)
    }
}

impl JsonSchema for When {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "When".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["number", "string"], "description": "seconds since 1970, or RFC 3339" })
    }
}
