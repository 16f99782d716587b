#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod admin;
mod bell;
mod bits;
mod config;
mod ends;
mod envelope;
mod error;
mod exchange;
mod keep;
mod link;
mod opening;
mod overflow;
mod pack;
mod provider;
mod recover;
mod renew;
mod scan;
mod script;
mod sink;
mod store;
mod unique;

pub use config::{Lists, RedisConfig, WeightedList};
pub use provider::RedisProvider;

/// The plugin, as `ganger/src/plugins.rs` loads it.
pub const PLUGIN: ganger_core::Plugin =
    ganger_core::Plugin::provider::<RedisProvider>(include_str!("../README.md"));
