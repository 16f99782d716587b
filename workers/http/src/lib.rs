#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod answer;
mod client;
mod config;
mod connection;
mod guard;
mod idle;
mod params;
mod request;
mod resolve;
mod status;
mod worker;

use ganger_core::Plugin;

pub use config::{HttpConfig, UnknownParams};
pub use params::HttpParams;
pub use status::{StatusError, Statuses};
pub use worker::{Http, HttpShared};

/// The plugin's value: one line in `ganger/src/plugins.rs` loads it.
pub const PLUGIN: Plugin = Plugin::worker::<Http>(include_str!("../README.md"));
