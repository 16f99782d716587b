#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod config;
mod provider;
mod sink;
mod store;

pub use config::MemoryConfig;
pub use provider::MemoryProvider;

/// The plugin, as `ganger/src/plugins.rs` loads it.
pub const PLUGIN: ganger_core::Plugin =
    ganger_core::Plugin::provider::<MemoryProvider>(include_str!("../README.md"));
