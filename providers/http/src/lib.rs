#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod address;
mod admission;
mod answer;
mod browser;
mod config;
mod connections;
mod entries;
mod fate;
mod intake;
mod paced;
mod post;
mod query;
mod routes;
mod show;
mod stream;
mod wait;

use ganger_core::Plugin;

pub use config::HttpIntakeConfig;
pub use intake::HttpIntake;

/// The plugin's value: one line in `ganger/src/plugins.rs` loads it.
pub const PLUGIN: Plugin = Plugin::intake::<HttpIntake>(include_str!("../README.md"));
