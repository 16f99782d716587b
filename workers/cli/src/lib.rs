#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod command;
mod config;
mod environment;
mod group;
mod marked;
mod params;
mod slot;
mod spawn;
mod strings;
mod sys;
mod verdict;
mod watch;
mod worker;

use ganger_core::Plugin;

pub use config::{Config, GRACE, ORPHAN_AFTER, UnknownParams};
pub use params::{Env, Params, Stdin, Text};
pub use worker::{Cli, Entry};

/// The plugin: load it in `ganger/src/plugins.rs`.
pub const PLUGIN: Plugin = Plugin::worker::<Cli>(include_str!("../README.md"));
