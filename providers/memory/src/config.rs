//! Options of the memory provider.

use ganger_core::ByteSize;
use schemars::JsonSchema;
use serde::Deserialize;

/// Options of the memory provider.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// What all jobs together may occupy; beyond it an enqueue is refused as full.
    pub bytes_max: ByteSize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        MemoryConfig { bytes_max: ByteSize::new(256 << 20) }
    }
}
