//! What the config and a job may say.

use compact_str::CompactString;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Options of a `forward` entry.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ForwardConfig {
    /// The provider that jobs go to, by its name in this config, for jobs that do not say.
    pub to: Option<String>,
}

/// Arguments of a `forward` job; as a failure handler, options of its entry.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ForwardParams {
    /// The provider that the job goes to, by its name in this config.
    pub to: Option<String>,
    /// The job to hand on. Not for a failure handler, whose job is the one that failed.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub job: Option<Box<RawValue>>,
    /// As a failure handler: hand on a job of this type whose params are the whole failure record. Without it the
    /// failed job itself is handed on, as a new job.
    #[serde(rename = "type")]
    #[schemars(with = "Option<String>")]
    pub kind: Option<CompactString>,
}
