#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod config;
mod worker;

pub use config::{DiskConfig, DiskParams, When};
pub use worker::{Disk, DiskShared};

/// The plugin, as `ganger/src/plugins.rs` loads it.
pub const PLUGIN: ganger_core::Plugin = ganger_core::Plugin::worker::<Disk>(include_str!("../README.md"));
