#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod config;
mod provider;

pub use config::DiskConfig;
pub use provider::DiskProvider;

/// The plugin, as `ganger/src/plugins.rs` loads it.
pub const PLUGIN: ganger_core::Plugin =
    ganger_core::Plugin::provider::<DiskProvider>(include_str!("../README.md"));
