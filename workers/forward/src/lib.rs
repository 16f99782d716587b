#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod config;
mod worker;

use ganger_core::Plugin;

pub use config::{ForwardConfig, ForwardParams};
pub use worker::{Forward, ForwardShared};

/// The plugin's value: one line in `ganger/src/plugins.rs` loads it.
pub const PLUGIN: Plugin = Plugin::worker::<Forward>(include_str!("../README.md"));
